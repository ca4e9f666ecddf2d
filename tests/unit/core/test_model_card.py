"""The model card: what it tells, and that no text from outside becomes markup or a secret."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from perennial.cli.entry import _parser
from perennial.domain.evaluation import (
    Cost,
    Curves,
    EvaluationResult,
    FairnessResult,
    GroupValues,
    MetricComparison,
    MetricEstimate,
    SliceResult,
)
from perennial.domain.references import ApprovalRef, ModelRef, RolloutRef, SmokeTestRef, SnapshotRef
from perennial.domain.run_request import training_params
from perennial.domain.times import format_time
from perennial.reports.markdown import code, code_block, escaped, link
from perennial.reports.model_card import SHOWN_SLICES, model_card, reproducing_command
from perennial.stages.frames import load_manifest
from tests.unit.core.judging import HOLDOUT, Bench
from tests.unit.core.landed import (
    DAY,
    DAYS,
    START,
    day_table,
    land,
    landed_store,
    make_spec,
    name_of,
    request_at,
    snap,
    to_bytes,
)

HOSTILE = "<script>alert(1)</script> *b* _i_ [x](javascript:1) `c` | ![p](http://e/x) ~~s~~\n# heading &amp; \\"
PAGE = "https://airflow.example/perennial/ui/perennial__flights_delay__retrain/decisions/abc/page.html"
MODEL = ModelRef(
    model_uri="models:/m-1",
    run_id="run-1",
    digest="d" * 64,
    fingerprint="f" * 64,
    snapshot_sha256="5" * 64,
    training_start=datetime(2013, 1, 1, tzinfo=UTC),
    training_end=datetime(2013, 2, 28, tzinfo=UTC),
    keys_sha256="k" * 64,
)
SNAPSHOT = SnapshotRef(
    uri="s3://bucket/store/snapshots/x.json",
    sha256="5" * 64,
    data_sha256="6" * 64,
    rows=12345,
    files=44,
    watermark=HOLDOUT.end,
    pending_files=0,
    refused_files=0,
)


def _around(value: float, reach: float = 0.01) -> MetricEstimate:
    return MetricEstimate(value=value, low=value - reach, high=value + reach)


def an_evaluation(**changes: Any) -> EvaluationResult:
    facts: dict[str, Any] = {
        "model": "flights_delay",
        "champion_version": "3",
        "rows": 9000,
        "clusters": 14,
        "confidence": 0.9,
        "comparisons": {
            "roc_auc": MetricComparison(
                metric="roc_auc", challenger=_around(0.712), champion=_around(0.676), difference=_around(0.036)
            )
        },
        "slices": (
            SliceResult(
                column="origin", value="JFK", rows=4500, challenger=0.71, champion=0.68, difference=_around(0.03)
            ),
            SliceResult(column="origin", value="EWR", rows=4400, challenger=0.7, champion=None),
        ),
        "holdout": ("2013-03-01T00:00:00Z", "2013-03-15T00:00:00Z"),
        "holdout_sha256": "h" * 64,
        "challenger": {"model_uri": "models:/m-1", "digest": "d" * 64},
        "champion": {"model_uri": "models:/m-0", "digest": "c" * 64},
        "notes": ("12 labels are missing.",),
        "fairness": (
            FairnessResult(
                column="origin",
                metric="roc_auc",
                groups=tuple(GroupValues(group=g, rows=9, challenger=0.7, champion=0.6) for g in ("JFK", "EWR")),
                challenger_gap=_around(0.01),
                champion_gap=_around(0.02),
                increase=_around(-0.01),
            ),
        ),
        "costs": {"challenger": Cost(latency_p95_ms=5.71, size_bytes=2_500_000)},
        "curves": {"challenger": Curves(roc=((0.0, 0.0), (1.0, 1.0)), calibration=((0.2, 0.3, 100), (0.6, 0.6, 300)))},
    }
    return EvaluationResult(**{**facts, **changes})


def a_decision(**changes: Any) -> dict[str, Any]:
    return {
        "verdict": "PROMOTE",
        "reasons": ["Challenger's roc_auc is 0.712, the champion's 0.676."],
        "rules": [{"name": "non_inferiority", "verdict": "PASS", "sentence": "Not worse."}],
        "evaluation": {"uri": "s3://bucket/store/evaluations/e.json", "sha256": "e" * 64},
        **changes,
    }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _card(bench: Bench, **changes: Any) -> str:
    facts: dict[str, Any] = {
        "request": bench.request,
        "model": MODEL,
        "snapshot": SNAPSHOT,
        "evaluation": an_evaluation(),
        "decision": a_decision(),
        "version": "4",
        "code_version": "0123abcd",
        "run_url": "https://mlflow.example/#/experiments/1/runs/run-1",
        "page_address": PAGE,
    }
    return model_card(bench.spec, **{**facts, **changes})


def _html(card: str) -> str:
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(card))


def test_card_has_the_sections_of_a_model_card_and_their_facts(bench: Bench) -> None:
    html = _html(_card(bench))
    sections = [
        "Model details",
        "Intended use",
        "Training data",
        "Evaluation data",
        "Metrics",
        "Decision",
        "Caveats",
        "How to reproduce",
    ]
    places = [html.index(f"<h2>{name}</h2>") for name in sections]
    assert places == sorted(places)
    for fact in (
        "version 4",
        "ops-ml",
        "0123abcd",
        "seed=7",
        "2013-02-28 00:00 UTC",
        SNAPSHOT.sha256,
        "12,345 rows",
        "h" * 64,
        "+0.036 [0.026, 0.046]",
        "origin = JFK",
        "+0.030 [0.020, 0.040]",
        "origin = JFK, EWR",
        "0.025 for the challenger",
        "5.71 ms",
        "2.5 MB",
        "12 labels are missing.",
        "Not worse.",
        '<code class="language-sh">perennial run flights_delay --as-of 2013-03-15T00:00:00Z --force\n</code>',
        "In brackets: 90 % interval (each end one-sided at 95 %).",
        "not worse than the champion",
        f'<a href="{PAGE}">the decision in Airflow</a>',
        "s3://bucket/store/evaluations/e.json",
    ):
        assert fact in html, fact
    assert html.count("<table>") == 4  # metrics, slices, gaps, rules


LANDED_UNTIL = START + DAYS * DAY


@pytest.mark.parametrize("delay", ["0d", "90m", "2d"])
@pytest.mark.parametrize(
    "as_of",
    [
        LANDED_UNTIL - 2 * DAY + timedelta(minutes=5),  # in the midst of the data
        LANDED_UNTIL,
        LANDED_UNTIL + timedelta(days=1, hours=7, microseconds=123456),
        LANDED_UNTIL + 300 * DAY,  # a nightly run on old data
    ],
)
def test_reproducing_command_takes_the_same_data_after_more_has_landed(
    tmp_path: Path, delay: str, as_of: datetime
) -> None:
    spec = make_spec(label_delay=delay)
    store = landed_store(tmp_path / "s3")
    request = request_at(as_of, params={"depth": 5})
    before = snap(store, request, spec=spec)
    windows = load_manifest(store, before).windows
    for day in range(DAYS, DAYS + 4):
        land(store, name_of(day), to_bytes(day_table(day)))
    evaluation = an_evaluation(holdout=(format_time(windows.holdout.start), format_time(windows.holdout.end)))

    program, *words = shlex.split(reproducing_command(spec, request, evaluation))
    asked = _parser().parse_args(words)
    again = request_at(asked.as_of, run_id="again", params=dict(asked.param), force=asked.force)

    assert (program, asked.model, asked.force) == ("perennial", spec.name, True)
    after = snap(store, again, spec=spec)
    assert after.data_sha256 == before.data_sha256
    assert training_params(spec, again) == training_params(spec, request) == {"depth": 5}
    assert asked.as_of <= as_of


def test_time_of_the_run_alone_would_not_reproduce_it(tmp_path: Path) -> None:
    store = landed_store(tmp_path / "s3")
    request = request_at(LANDED_UNTIL + 300 * DAY)
    before = snap(store, request)
    land(store, name_of(DAYS), to_bytes(day_table(DAYS)))
    assert snap(store, replace(request, run_id="again")).data_sha256 != before.data_sha256


def test_overrides_survive_the_shell(bench: Bench) -> None:
    params = {
        "note": 'it\'s `x` $HOME\n"q"  two',
        "depth": 3,
        "rate": 0.1,
        "on": True,
        "like_json": "true",
        "none": None,
    }
    request = replace(bench.request, params=params)
    command = reproducing_command(bench.spec, request, an_evaluation())
    assert dict(_parser().parse_args(shlex.split(command)[1:]).param) == params
    bench.spec = bench.spec.model_copy(
        update={"training": bench.spec.training.model_copy(update={"params": dict.fromkeys(params)})}
    )
    [shown] = re.findall(r'<code class="language-sh">(.*?)\n</code>', _html(_card(bench, request=request)), re.DOTALL)
    assert unescape(shown) == command


def test_card_shows_of_each_slice_what_the_gate_found_and_no_rule_for_each(bench: Bench) -> None:
    bench.respec(gate={"slices": {"margin": 0.03, "min_rows": 200}})
    test = {"name": "slice", "group": "slices", "sentence": "Of one slice."}
    rules = [
        {**test, "subject": "origin = JFK", "verdict": "PASS", "p_adjusted": 0.00001},
        {**test, "subject": "origin = EWR", "verdict": "UNDECIDED", "p_adjusted": 0.25},
        {**test, "subject": "origin = EWR", "verdict": "PASS", "name": "slice_floor"},
        {"name": "slices", "group": None, "verdict": "PASS", "sentence": "1 of 2 slices."},
    ]
    shown = _html(_card(bench, decision=a_decision(rules=rules)))
    assert "Of one slice." not in shown
    assert "1 of 2 slices." in shown
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.split("</?tr>", shown) if "origin = " in row]
    assert [row[2] for row in rows[:2]] == ["EWR", "JFK"]  # what did not pass comes first
    assert rows[0][-2:] == ["UNDECIDED", "0.25"]
    assert rows[1][-3:] == ["PASS", "&lt;", "0.0001"]
    assert "after Holm's correction" in shown


def test_card_counts_the_slices_that_it_leaves_out(bench: Bench) -> None:
    parts = tuple(
        SliceResult(column="origin", value=f"A{place}", rows=900 - place, challenger=0.7, champion=0.6)
        for place in range(SHOWN_SLICES + 7)
    )
    shown = _html(_card(bench, evaluation=an_evaluation(slices=parts)))
    assert "7 more are in the evaluation." in shown
    assert f"origin = A{SHOWN_SLICES}<" not in shown


def test_code_version_that_is_not_known_is_looked_up_in_the_run(bench: Bench) -> None:
    assert "<code>perennial.code_version</code> of the run below" in _html(_card(bench, code_version=""))


def test_card_of_a_first_champion_compares_with_nobody(bench: Bench) -> None:
    alone = MetricComparison(metric="roc_auc", challenger=_around(0.7), champion=None, difference=None)
    found = an_evaluation(champion_version=None, champion=None, comparisons={"roc_auc": alone}, fairness=(), slices=())
    html = _html(_card(bench, evaluation=found))
    assert "There was no champion to compare with." in html
    assert "Champion before" not in html
    assert "<th>Difference" not in html


def test_card_says_who_approved_and_when(bench: Bench) -> None:
    answer = ApprovalRef(
        ledger_uri="s3://x", decision_sha256="d", approved=True, by="grace", at=datetime(2013, 3, 16, 9, tzinfo=UTC)
    )
    assert "Approved by grace, 2013-03-16 09:00 UTC" in _html(_card(bench, approval=answer))
    assert "not asked for by the spec" in _html(_card(bench))


def test_card_tells_how_the_model_did_in_a_clean_process_and_on_live_traffic(bench: Bench) -> None:
    smoke = SmokeTestRef(uri="s3://x", sha256="s", digest="d", passed=True, rows=100)
    canary = RolloutRef(
        phase="canary",
        uri="s3://b/rollout.json",
        sha256="r",
        page_uri="s3://b/page.html",
        ledger_uri="s3://b/9.json",
        passed=True,
        version="4",
        summary="Version 4 passed its canary.",
    )
    html = _html(_card(bench, smoke=smoke, rollouts=[canary]))
    assert "Smoke test in a clean process: passed, scores of 100 rows of the holdout compared" in html
    assert "On live traffic, canary: Version 4 passed its canary. Record: <code>s3://b/rollout.json</code>" in html
    assert "failed, and was overridden" in _html(_card(bench, smoke=replace(smoke, passed=False)))
    assert "live traffic" not in _html(_card(bench))


def test_broken_glass_is_the_first_thing_that_the_card_says(bench: Bench) -> None:
    request = replace(bench.request, break_glass="the old model is on fire")
    html = _html(_card(bench, request=request, decision=a_decision(gate_verdict="REJECT")))
    said = html.index("The glass was broken by ada: the gate's own verdict was REJECT")
    assert said < html.index("the old model is on fire") < html.index("Model details")


def test_text_from_outside_stays_text(bench: Bench) -> None:
    bench.spec = bench.spec.model_copy(update={"description": HOSTILE, "owner": HOSTILE})
    bench.request = replace(bench.request, reason=HOSTILE, requested_by=HOSTILE, break_glass=HOSTILE)
    part = SliceResult(column="origin", value=HOSTILE, rows=3, challenger=0.7, champion=0.6)
    rules = [{"name": HOSTILE, "verdict": "PASS", "sentence": HOSTILE}]
    html = _html(
        _card(
            bench,
            evaluation=an_evaluation(slices=(part,), notes=(HOSTILE,)),
            decision=a_decision(reasons=[HOSTILE], rules=rules),
            code_version=HOSTILE,
        )
    )
    for markup in ("<script", "<em>", "<img", "<s>", "javascript:1</a>", 'href="javascript', "<h1>heading"):
        assert markup not in html, markup
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt; *b* _i_ [x](javascript:1) `c` |") == 11
    assert html.count("<h1>") == 1
    assert html.count("<td>") + html.count("<td ") == html.count("</td>")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:hunter2@mlflow.example/x", "(hidden)@mlflow.example/x"),
        ("javascript:alert(1)", "javascript:alert(1)"),
        ("s3://bucket/store/decisions/x/page.html", "s3://bucket/store/decisions/x/page.html"),
    ],
)
def test_address_that_is_no_plain_web_page_is_no_link(bench: Bench, url: str, shown: str) -> None:
    html = _html(_card(bench, page_address=url, run_url=url))
    assert "href" not in html
    assert "hunter2" not in html
    assert shown in html


def test_user_name_in_an_address_is_hidden_wherever_it_stands(bench: Bench) -> None:
    text = "look at postgres://ada:hunter2@db/x"
    card = _card(bench, request=replace(bench.request, reason=text), evaluation=an_evaluation(notes=(text,)))
    assert "hunter2" not in card
    assert card.count("postgres://(hidden)@db/x") == 2


def test_same_inputs_give_the_same_card(bench: Bench) -> None:
    assert _card(bench) == _card(bench)


def test_code_block_holds_whatever_it_is_given() -> None:
    assert code_block("a `b` ``` c\nd") == "````sh\na `b` ``` c d\n````"
    assert "hunter2" not in code_block("--param 'db=\"postgres://ada:hunter2@db/x\"'")


def test_escaping_is_done_once() -> None:
    assert escaped(escaped("a_b")) == "a\\_b"
    assert code("a_b") == "`a_b`"
    assert code("a`b|c") == "a\\`b\\|c"
    assert link("x_y", "https://a.example/b_c") == "[x\\_y](<https://a.example/b_c>)"


def test_evaluation_as_it_is_stored_gives_the_same_card(bench: Bench) -> None:
    import json

    stored = EvaluationResult.from_dict(json.loads(json.dumps(asdict(an_evaluation()))))
    assert _card(bench, evaluation=stored) == _card(bench)
