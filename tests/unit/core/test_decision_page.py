"""The decision page: verdict first, nothing loaded from elsewhere, every value escaped, drawings that cannot lie."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.evaluation import Cost, EvaluationResult, MetricComparison, MetricEstimate, SliceResult
from perennial.domain.gate import Decision, decide
from perennial.domain.gate_history import GateHistory
from perennial.domain.references import EvaluationRef, Verdict
from perennial.domain.wording import digits_for, number, plain
from perennial.reports.decision_page import decision_page
from perennial.spec.parts import Approval
from tests.unit.core import judged_figures as figures
from tests.unit.core.judging import Bench

MODEL = {
    "model_uri": "models:/m-1",
    "run_id": "run-1",
    "digest": "d" * 64,
    "training_start": "2013-01-01T00:00:00Z",
    "training_end": "2013-02-28T00:00:00Z",
}
REFERENCE = EvaluationRef(
    uri="s3://b/e.json",
    sha256="e" * 64,
    scores_uri="s3://b/s.parquet",
    holdout_sha256="h" * 64,
    rows=9000,
    champion_version="3",
)


def _compared(metric: str, value: float, base: float, reach: float | None = 0.01) -> MetricComparison:
    def estimate(at: float) -> MetricEstimate:
        low, high = (None, None) if reach is None else (at - reach, at + reach)
        return MetricEstimate(value=at, low=low, high=high)

    return MetricComparison(
        metric=metric, challenger=estimate(value), champion=estimate(base), difference=estimate(value - base)
    )


def _evaluation(**given: Any) -> EvaluationResult:
    values: dict[str, Any] = {
        "model": "flights_delay",
        "champion_version": "3",
        "rows": 9000,
        "clusters": 14,
        "confidence": 0.9,
        "comparisons": {
            "brier": _compared("brier", 0.18, 0.2),
            "roc_auc": _compared("roc_auc", 0.712, 0.676),
            "log_loss": _compared("log_loss", 0.6, 0.55),
        },
        "slices": (SliceResult(column="origin", value="<b>JFK</b>", rows=4500, challenger=0.71, champion=None),),
        "holdout": ("2013-03-01T00:00:00Z", "2013-03-15T00:00:00Z"),
        "holdout_sha256": "h" * 64,
        "challenger": {**MODEL, "digest": "c" * 64},
        "champion": MODEL,
    }
    return EvaluationResult(**{**values, **given})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _page(bench: Bench, evaluation: EvaluationResult, run_url: str | None = None) -> str:
    history = GateHistory(as_of=bench.request.as_of)
    decision = decide(bench.spec.gate, evaluation, primary="roc_auc", history=history)
    content = decision_page(
        bench.spec, bench.request, reference=REFERENCE, evaluation=evaluation, decision=decision, run_url=run_url
    )
    return content.decode()


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.rsplit("</style>", maxsplit=1)[-1]))


def test_verdict_meaning_and_first_reason_come_first(bench: Bench) -> None:
    text = text_of(_page(bench, _evaluation()))
    assert text.index("PROMOTE") < text.index("is to take over from champion version 3")
    assert text.index("take over") < text.index("Challenger&#39;s roc_auc is 0.712") < text.index("What the gate asked")


@pytest.mark.parametrize(
    ("comparison", "meaning"),
    [
        (_compared("roc_auc", 0.712, 0.676), "is to take over from champion version 3"),
        (_compared("roc_auc", 0.62, 0.676), "Champion version 3 stays."),
        (_compared("roc_auc", 0.68, 0.676), "does not decide, so champion version 3 stays"),
    ],
)
def test_each_verdict_says_what_happens_to_production(bench: Bench, comparison: MetricComparison, meaning: str) -> None:
    comparisons = {**_evaluation().comparisons, "roc_auc": comparison}
    assert meaning in text_of(_page(bench, _evaluation(comparisons=comparisons)))


def test_page_without_a_champion_has_no_column_for_one(bench: Bench) -> None:
    alone = MetricComparison(
        metric="roc_auc", challenger=MetricEstimate(value=0.7, low=0.6, high=0.8), champion=None, difference=None
    )
    page = _page(bench, _evaluation(champion_version=None, champion=None, comparisons={"roc_auc": alone}))
    assert "There was no champion; the challenger is to become the first." in page
    assert "Difference" not in page
    assert "against its floor" in page


def test_page_loads_and_runs_nothing(bench: Bench) -> None:
    page = _page(bench, _evaluation(), run_url="https://mlflow.example/#/runs/1")
    assert "<script" not in page
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {"https://mlflow.example/#/runs/1"}
    assert "url(" not in page
    assert "default-src 'none'" in page or "default-src &#39;none&#39;" in page


def test_values_are_escaped(bench: Bench) -> None:
    bench.request = replace(bench.request, reason="<script>alert(1)</script>", requested_by='"><img src=x>')
    page = _page(bench, _evaluation(notes=("<i>note</i>",)))
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>JFK" not in page
    assert "<i>note" not in page


@pytest.mark.parametrize("url", ["javascript:alert(1)", "memory://runs/1"])
def test_run_url_that_is_no_web_page_istext_of(bench: Bench, url: str) -> None:
    assert "href" not in _page(bench, _evaluation(), run_url=url)


def test_same_inputs_give_the_same_bytes(bench: Bench) -> None:
    assert _page(bench, _evaluation()) == _page(bench, _evaluation())


def test_metrics_stand_in_the_specs_order_and_say_which_way_is_better(bench: Bench) -> None:
    text = text_of(_page(bench, _evaluation())).split("Metrics on the holdout")[1]
    assert text.index("roc_auc primary") < text.index("log_loss") < text.index("brier")
    assert "worse" in text[text.index("log_loss") : text.index("brier")]
    assert "better" in text[text.index("brier") :]


def test_missing_values_and_intervals_are_said_to_be_missing(bench: Bench) -> None:
    lost = MetricComparison(
        metric="roc_auc",
        challenger=MetricEstimate(value=None, low=None, high=None),
        champion=MetricEstimate(value=0.6, low=None, high=None),
        difference=MetricEstimate(value=None, low=None, high=None),
    )
    text = text_of(_page(bench, _evaluation(comparisons={"roc_auc": lost})))
    assert "INCONCLUSIVE" in text
    assert "not available" in text
    assert "no interval" in text


def test_defects_and_notes_are_shown(bench: Bench) -> None:
    text = text_of(_page(bench, _evaluation(defects=("One score for all.",), notes=("Labels are missing.",))))
    assert "REJECT" in text
    assert "One score for all." in text
    assert "Labels are missing." in text


def told_page(bench: Bench, decision: Decision | None = None, **given: Any) -> str:
    """The page of a busy night."""
    bench.respec(gate={**figures.GATE, **given.pop("gate", {})})
    approval = Approval.model_validate(given.pop("approval", {}))
    bench.spec = bench.spec.model_copy(update={"approval": approval})
    page = decision_page(
        bench.spec,
        given.pop("request", bench.request),
        reference=REFERENCE,
        evaluation=given.pop("evaluation", figures.an_evaluation()),
        decision=decision or figures.a_decision(),
        run_url=None,
        **{"history": figures.a_history(), **given},
    )
    return page.decode()


def section_of(page: str, title: str) -> str:
    [found] = [part for part in page.split("<section") if f"<h2>{title}</h2>" in part]
    return found


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("growth of the gap", ["FAIL", "(origin, roc_auc)", "at most 0.02", "0.052", "[0.023, 0.081]", "11,722 rows"]),
        (
            "slice not worse",
            ["UNDECIDED", "origin = LGA", "more than -0.03", "-0.030", "[-0.056, -0.004]", "3,012 rows"],
        ),
        ("evidence over all nights", ["UNDECIDED", "at least 60.0", "41.3", "23 units"]),
        ("enough rows", ["PASS", "at least 2,000", "11,872"]),
        ("enough clusters", ["PASS", "at least 5", "14"]),
        ("never taken back", ["PASS", "The challenger was never taken back from production."]),
        ("better than the champion", ["PASS", "more than +0.002", "+0.036", "[0.025, 0.047]"]),
        ("no slice worse", ["PASS", "2 of 3 slices", "2 slices"]),
        ("time for one row", ["PASS", "at most 50 ms", "5.71 ms"]),
        ("size, against", ["PASS", "at most 2\u00d7", "1.79\u00d7"]),
        ("champion&#39;s time in production", ["PASS", "at least 3d", "14d 6h"]),
        ("promotions within seven days", ["PASS", "fewer than 2", "1"]),
        (">floor ", ["PASS", "(roc_auc)", "at least 0.55", "0.712", "[0.700, 0.720]", "11,872 rows"]),
    ],
)
def test_every_rule_is_told_with_what_was_asked_and_found(bench: Bench, name: str, texts: list[str]) -> None:
    rows = section_of(told_page(bench), "What the gate asked, and what it found").split("<tr ")
    [row] = [row for row in rows if name in row]
    for text in texts:
        assert text in text_of(row), text


def test_rules_that_stand_in_the_way_come_first(bench: Bench) -> None:
    text = text_of(section_of(told_page(bench), "What the gate asked, and what it found"))
    assert text.index("FAIL") < text.index("UNDECIDED") < text.index("PASS")


def test_rule_that_this_page_does_not_know_is_shown_all_the_same(bench: Bench) -> None:
    strange = [
        figures.a_rule("moon_phase", "FAIL", threshold=0.5, estimate=0.25, low=0.1, high=0.4, subject="<b>full</b>"),
        figures.a_rule("vibes", "UNDECIDED"),
        figures.a_rule("latency", "UNDECIDED", threshold=50.0, estimate=None),
        figures.a_rule("floor", "UNDECIDED", threshold=float("nan"), metric="roc_auc", estimate=float("nan")),
    ]
    page = told_page(bench, figures.a_decision(rules=tuple(strange), evidence=None))
    text = text_of(page)
    for shown in ("moon phase", "0.250", "[0.100, 0.400]", "vibes", "About vibes.", "not available", "About floor."):
        assert shown in text
    assert "<b>full" not in page


def test_broken_glass_is_the_first_thing_on_the_page(bench: Bench) -> None:
    request = replace(bench.request, break_glass="The old one <b>burns</b>")
    reasons = ("OVERRIDDEN: ada breaks the glass.", "The gap is too large.")
    decision = figures.a_decision(verdict=Verdict.PROMOTE, reasons=reasons)
    page = told_page(bench, decision, request=request, gate_verdict=Verdict.REJECT, approval={"required": True})
    text = text_of(page)
    places = [text.index(part) for part in ("The glass was broken", "ada overrides", "REJECT", "is to take over")]
    assert places == sorted(places)
    assert "<b>burns" not in page
    assert "The gap is too large." in text
    assert "has to approve" not in text
    assert 'class="card card-bad glass"' in page
    assert 'class="card card-bad glass"' not in told_page(bench)


def test_broken_glass_to_no_purpose_does_not_claim_a_promotion(bench: Bench) -> None:
    request = replace(bench.request, break_glass="why not")
    decision = figures.a_decision(reasons=("ada breaks the glass, and nothing comes of it.",))
    text = text_of(told_page(bench, decision, request=request, gate_verdict=Verdict.REJECT))
    assert "overrides gate" not in text
    assert "Champion version 3 stays. ada breaks the glass, and nothing comes of it." in text


def test_promotion_that_waits_for_a_person_says_so_first(bench: Bench) -> None:
    decision = figures.a_decision(verdict=Verdict.PROMOTE)
    text = text_of(told_page(bench, decision, approval={"required": True, "timeout": "12h"}))
    assert text.index("Someone has to approve it in Airflow") < text.index("What the gate asked")
    assert "has to approve" not in text_of(told_page(bench, figures.a_decision(), approval={"required": True}))


def test_gaps_between_groups_are_shown_with_every_group(bench: Bench) -> None:
    text = text_of(section_of(told_page(bench), "Gaps between groups"))
    for shown in ("roc_auc by origin", "LGA 3,012 0.660 0.690", "0.061 [0.041, 0.081]", "+0.042 [0.017, 0.067]"):
        assert shown in text


def test_costs_of_both_models_stand_side_by_side(bench: Bench) -> None:
    text = text_of(section_of(told_page(bench), "Cost to serve"))
    assert "5.71 ms 5.2 ms 1.10\u00d7" in text
    assert "2.5 MB 1.4 MB 1.79\u00d7" in text
    unknown = figures.an_evaluation(costs={"challenger": Cost(latency_p95_ms=None, size_bytes=10)})
    assert "95th percentile \u2013 \u2013 \u2013" in text_of(
        section_of(told_page(bench, evaluation=unknown), "Cost to serve")
    )


def test_curves_of_both_models_are_drawn_and_told_in_words(bench: Bench) -> None:
    section = section_of(told_page(bench), "How the scores behave")
    assert section.count("<polyline") == 4
    assert section.count("<circle") == 20
    assert 'aria-label="ROC; area below it: challenger 0.712, champion 0.676"' in section
    assert "365 to 932 rows a group" in section
    none = told_page(bench, evaluation=figures.an_evaluation(curves={}))
    assert "How the scores behave" not in none


def test_evidence_and_the_champions_past_aretold_page(bench: Bench) -> None:
    page = told_page(bench)
    text = text_of(section_of(page, "Evidence over all nights"))
    for shown in ("About evidence.", "since 2013-02-20 06:00 UTC against champion version 3; each day counts once"):
        assert shown in text
    facts = text_of(section_of(page, "For the record"))
    assert "version 3 since 2013-03-01 00:00 UTC, 14d 6h before this run, by a rollback" in facts
    assert "0 promotions within the seven days before" in facts
    without = told_page(bench, figures.a_decision(evidence=None), history=None)
    assert "Evidence over all nights" not in without
    assert "In production" not in without


def test_rows_without_clusters_are_said_to_be_independent(bench: Bench) -> None:
    page = told_page(bench, gate={"cluster_by": None})
    assert "DeLong or a closed form" in page
    assert "independent of each other, as the spec says" in page
    assert "None" not in text_of(page)


def test_hostile_text_stays_text_wherever_it_stands(bench: Bench) -> None:
    evil = "<script>alert(1)</script>"
    bench.request = replace(bench.request, reason=evil, requested_by=evil, break_glass=evil)
    part = replace(figures.an_evaluation().slices[0], value=f'">{evil}')
    groups = tuple(replace(group, group=evil) for group in figures.an_evaluation().fairness[0].groups)
    found = figures.an_evaluation(
        slices=(part,), notes=(evil,), fairness=(replace(figures.an_evaluation().fairness[0], groups=groups),)
    )
    rules = (figures.a_rule(evil, subject=evil, sentence=evil), figures.a_rule("vibes", sentence=evil))
    page = told_page(bench, figures.a_decision(reasons=(evil, evil), rules=rules), evaluation=found)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10


def test_record_tells_an_auditor_who_when_by_which_data_and_policy(bench: Bench) -> None:
    snapshot = {"snapshot_sha256": "5" * 64}
    model = {**figures.an_evaluation().challenger, **snapshot}
    page = told_page(bench, policy="a" * 64, evaluation=figures.an_evaluation(challenger=model))
    record = text_of(section_of(page, "For the record"))
    for shown in ("ada, trigger: manual, run manual__1", "ops-ml", "5" * 64, "d" * 64, "c" * 64, "4" * 64, "e" * 64):
        assert shown in record
    assert f"Policy sha256 {'a' * 64}" in record
    assert "Policy" not in text_of(section_of(told_page(bench), "For the record"))


@pytest.mark.parametrize(
    ("values", "apart_from", "digits"),
    [
        ([0.025, 0.036, 0.048], 0.002, 3),
        ([0.00201, 0.01, 0.02], 0.002, 5),
        ([0.0004, 0.0005, 0.0006], None, 5),
        ([12.0, 35.0, 61.0], None, 3),
        ([1200.0, 3500.0], None, 1),
        ([None, float("nan")], 0.5, 3),
        ([0.5], 0.5, 3),
        ([0.1 + 0.2], 0.3, 3),
    ],
)
def test_numbers_have_the_digits_that_tell_them_apart(
    values: list[float | None], apart_from: float | None, digits: int
) -> None:
    assert digits_for(values, apart_from=apart_from) == digits


def test_numbers_read_well() -> None:
    assert number(-0.0001, 3, sign=True) == "+0.000"
    assert number(12345.678, 1) == "12,345.7"
    assert number(None, 3) == number(float("nan"), 3) == "not available"
    assert [plain(x) for x in (0.002, 1.0, 0.00001, -0.5, 1200.0)] == ["0.002", "1", "0.00001", "-0.5", "1200"]
