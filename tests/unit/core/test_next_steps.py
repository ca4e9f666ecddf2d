"""What next: after each verdict, what happens by itself, and what a person can do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.gate import RuleOutcome, decide
from perennial.domain.gate_history import GateHistory
from perennial.domain.references import Verdict
from perennial.reports.decision_page import decision_page
from perennial.reports.next_steps import SHOWN, next_steps
from perennial.reports.page import words
from tests.unit.core import judged_figures as figures
from tests.unit.core.judging import SPEC, Bench
from tests.unit.core.test_decision_page import REFERENCE, section_of, text_of

RUN_URL = "https://mlflow.example/base/#/experiments/1/runs/7c3b1f"
SUPERIORITY = {"metric": "roc_auc", "threshold": 0.002, "n": 11872}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _steps(bench: Bench, verdict: Verdict, *rules: RuleOutcome, **given: Any) -> list[str]:
    return next_steps(
        bench.spec,
        given.get("request", bench.request),
        evaluation=given.get("evaluation", figures.an_evaluation()),
        decision=figures.a_decision(verdict=verdict, rules=rules),
        history=given.get("history", figures.a_history()),
    )


def _approval(bench: Bench, **approval: Any) -> None:
    bench.respec()
    bench.spec = bench.spec.model_validate({**SPEC, "approval": approval})


# PROMOTE.


def test_promotion_without_approval_goes_on_by_itself(bench: Bench) -> None:
    first, second = _steps(bench, Verdict.PROMOTE)
    assert first.startswith("The run goes on by itself: ")
    assert "if version 3 is champion still" in first
    assert "`perennial champion flights_delay` tells whether that has happened" in second
    assert "`perennial rollback flights_delay` takes it back" in second


def test_promotion_with_approval_names_who_has_to_answer_and_until_when(bench: Bench) -> None:
    _approval(bench, required=True, approvers=["grace", "ada"], timeout="12h")
    first, second, *_ = _steps(bench, Verdict.PROMOTE)
    assert first.startswith("Someone has to approve it in Airflow (Required actions): grace, ada, within 12h of")
    assert first.endswith("No answer is a No.")
    assert second.startswith("After a Yes the challenger is tried out")
    assert "7d after this decision the verdict expires" in second


def test_approval_by_anybody_says_so(bench: Bench) -> None:
    _approval(bench, required=True)
    assert "anybody who may answer this DAG's tasks" in _steps(bench, Verdict.PROMOTE)[0]


def test_broken_glass_waits_for_nobody(bench: Bench) -> None:
    _approval(bench, required=True)
    request = replace(bench.request, break_glass="it burns")
    assert "goes on by itself" in _steps(bench, Verdict.PROMOTE, request=request)[0]


def _deployed(bench: Bench, **deployment: Any) -> None:
    spec = {**SPEC, "deployment": {"kind": "scoring_service", **deployment}, "approval": {"required": True}}
    bench.spec = bench.spec.model_validate(spec)


def test_promotion_over_shadow_and_canary_tells_what_is_tried_for_how_long_and_how_to_stop_it(bench: Bench) -> None:
    _deployed(bench, shadow={"every": "1h", "max_extend": "1h"}, canary={"steps": [5, 25.5, 100], "every": "30m"})
    text = " ".join(_steps(bench, Verdict.PROMOTE))
    assert "scores a copy of 100 % of the live requests, then answers 5, 25.5 and 100 % of the live requests" in text
    assert "(shadow and canary, at most 5h 30m)" in text  # 2h and 2h 30m, and half an hour each to come up
    assert "if every guardrail holds and version 3 is champion still" in text
    assert "7d 5h after this decision the verdict expires" in text
    assert "`perennial rollback flights_delay --challenger` takes the challenger off live traffic" in text


@pytest.mark.parametrize("without", ["champion", "rollout", "gate"])
def test_promotion_without_anything_to_try_on_live_traffic_tells_of_none(bench: Bench, without: str) -> None:
    _deployed(bench, **({} if without == "rollout" else {"canary": {}}))
    alone = {"evaluation": figures.an_evaluation(champion_version=None, champion=None)} if without == "champion" else {}
    broken = {"request": replace(bench.request, break_glass="it burns")} if without == "gate" else {}
    text = " ".join(_steps(bench, Verdict.PROMOTE, **alone, **broken))
    assert "live" not in text
    assert "--challenger" not in text


def test_first_promotion_has_nothing_to_go_back_to(bench: Bench) -> None:
    alone = figures.an_evaluation(champion_version=None, champion=None)
    assert "rollback" not in " ".join(_steps(bench, Verdict.PROMOTE, evaluation=alone))


# REJECT.


@pytest.mark.parametrize(
    ("rule", "texts"),
    [
        (
            figures.a_rule("fairness_increase", "FAIL", subject="origin", metric="roc_auc", threshold=0.02,
                           estimate=0.052, low=0.02, high=0.08),
            ["growth of the gap (origin, roc_auc), 0.052 where at most 0.02 is asked for", "`gate.fairness`"],
        ),
        (
            figures.a_rule("floor", "FAIL", metric="roc_auc", threshold=0.55, estimate=0.5312, low=0.5, high=0.56),
            ["floor (roc_auc), 0.531 where at least 0.55 is asked for", "`gate.floors`"],
        ),
        (
            figures.a_rule("latency", "FAIL", threshold=50.0, estimate=71.4),
            ["time for one row (95th percentile), 71.4 ms where at most 50 ms", "`gate.cost.max_latency_p95_ms`"],
        ),
        (
            figures.a_rule("superiority", "FAIL", estimate=-0.01, low=-0.02, high=0.0, **SUPERIORITY),
            ["better than the champion (roc_auc), -0.010 where more than +0.002", "newer data, other features"],
        ),
        (figures.a_rule("scores", "FAIL", n=9), ["Repair the estimator `toy:build`"]),
        (figures.a_rule("quarantine", "FAIL"), ["another model", "`perennial rollback flights_delay --to VERSION`"]),
        (figures.a_rule("slice", "FAIL", subject="region", n=0), ["Repair what fails: slice not worse (region)"]),
        (figures.a_rule("moon", "FAIL", threshold=1.0, estimate=2.0), ["Repair what fails: moon"]),
    ],
)  # fmt: skip
def test_rejection_says_which_rule_and_what_would_change_it(bench: Bench, rule: RuleOutcome, texts: list[str]) -> None:
    passed = figures.a_rule("rows", threshold=2000, estimate=11872, n=11872)
    undecided = figures.a_rule("tenure", "UNDECIDED", threshold=86400.0, estimate=3.0)
    step, next_run = _steps(bench, Verdict.REJECT, passed, rule, undecided)
    for text in texts:
        assert text in step
    assert "trigger the DAG" in next_run


def test_many_slices_that_fail_are_one_step(bench: Bench) -> None:
    rules = [
        rule for value in "ABC" for rule in figures.slice_rules(value, 300, -0.2, 0.1, p=0, adjusted=0, verdict="FAIL")
    ]
    step, _ = _steps(bench, Verdict.REJECT, *rules)
    assert step.startswith("What fails: slice not worse (origin = A and 2 more, roc_auc). It takes another challenger")


def test_of_many_obstacles_some_are_told_and_the_rest_counted(bench: Bench) -> None:
    rules = [figures.a_rule(f"rule_{place}", "FAIL") for place in range(SHOWN + 2)]
    steps = _steps(bench, Verdict.REJECT, *rules)
    assert len(steps) == SHOWN + 2
    assert steps[-2] == "2 more obstacles below."


def test_champion_itself_needs_nothing(bench: Bench) -> None:
    champion = {**figures.an_evaluation().challenger, "digest": "d" * 64}
    same = figures.an_evaluation(challenger=champion, champion=champion)
    rule = figures.a_rule("superiority", "FAIL", metric="roc_auc", threshold=0.002, estimate=0.0, low=0.0, high=0.0)
    assert _steps(bench, Verdict.REJECT, rule, evaluation=same)[0].startswith("Nothing: the same data, code and")


# INCONCLUSIVE.


def test_undecided_comparison_says_how_long_a_holdout_it_takes(bench: Bench) -> None:
    rule = figures.a_rule("superiority", "UNDECIDED", estimate=0.012, low=-0.003, high=0.027, **SUPERIORITY)
    step, _ = _steps(bench, Verdict.INCONCLUSIVE, rule)
    # half-width 0.015 over distance 0.010: 2.25 times the 14 days
    assert "a longer `data.windows.holdout` (now 14d, about 32 days would have even odds)" in step


def test_undecided_comparison_is_the_same_where_lower_is_better(bench: Bench) -> None:
    rule = figures.a_rule(
        "superiority", "UNDECIDED", metric="log_loss", threshold=-0.002, estimate=-0.012, low=-0.027, high=0.003, n=9
    )
    assert "about 32 days" in _steps(bench, Verdict.INCONCLUSIVE, rule)[0]


def test_comparison_that_data_would_hardly_settle_says_so(bench: Bench) -> None:
    rule = figures.a_rule("superiority", "UNDECIDED", estimate=0.0021, low=-0.1, high=0.1, **SUPERIORITY)
    assert "More data of this kind would hardly settle it" in _steps(bench, Verdict.INCONCLUSIVE, rule)[0]


def test_comparison_without_figures_points_to_its_reason(bench: Bench) -> None:
    rule = figures.a_rule("superiority", "UNDECIDED", metric="roc_auc")
    assert _steps(bench, Verdict.INCONCLUSIVE, rule)[0].startswith("Not judged: better than the champion (roc_auc)")


def test_too_small_a_holdout_says_what_it_lacks_and_nothing_else(bench: Bench) -> None:
    rows = figures.a_rule("rows", "UNDECIDED", threshold=2000, estimate=1400, n=1400)
    other = figures.a_rule("superiority", "FAIL", estimate=-0.1, low=-0.2, high=-0.01, **SUPERIORITY)
    steps = _steps(bench, Verdict.INCONCLUSIVE, rows, other)
    assert len(steps) == 2
    assert steps[0].startswith("The holdout lacks 600 rows: a longer `data.windows.holdout` (now 14d)")
    assert "`gate.min_rows`" in steps[0]


def test_open_parts_of_the_data_are_one_step(bench: Bench) -> None:
    rules = [
        rule
        for value in "AB"
        for rule in figures.slice_rules(value, 300, 0.0, 0.1, p=0.3, adjusted=0.6, verdict="UNDECIDED")
    ]
    gap = figures.a_rule("fairness_increase", "UNDECIDED", subject="origin", metric="roc_auc", threshold=0.02)
    step, _ = _steps(bench, Verdict.INCONCLUSIVE, *rules, gap)
    assert step.startswith("Open for want of rows: origin = A and 2 more. It takes a longer `data.windows.holdout`")


def test_missing_evidence_comes_by_itself(bench: Bench) -> None:
    rule = figures.a_rule("evidence", "UNDECIDED", metric="roc_auc", threshold=60.0, estimate=41.3, n=23)
    assert _steps(bench, Verdict.INCONCLUSIVE, rule)[0] == (
        "Nothing has to be done for the evidence: each run adds what its new days say."
    )
    lost = figures.a_rule("evidence", "UNDECIDED")
    assert _steps(bench, Verdict.INCONCLUSIVE, lost)[0].startswith("Not judged: evidence over all nights")
    used_up = figures.a_rule("evidence", "UNDECIDED", metric="roc_auc", threshold=float("inf"), estimate=41.3, n=23)
    assert _steps(bench, Verdict.INCONCLUSIVE, used_up)[0].startswith("Wait: the budget of `gate.false_promotions`")


def test_young_champion_says_from_when_on_it_may_be_replaced(bench: Bench) -> None:
    bench.respec(gate={"min_tenure": "20d"})
    rule = figures.a_rule("tenure", "UNDECIDED", threshold=20 * 86400.0, estimate=14.25 * 86400)
    step = _steps(bench, Verdict.INCONCLUSIVE, rule)[0]
    since = figures.a_history().reigns[-1].since
    assert f"From {since + timedelta(days=20):%Y-%m-%d %H:%M} UTC on" in step
    unknown = figures.a_rule("tenure", "UNDECIDED", threshold=20 * 86400.0)
    assert _steps(bench, Verdict.INCONCLUSIVE, unknown, history=None)[0].startswith("Wait: ")


def test_damaged_ledger_names_the_command_that_looks_into_it(bench: Bench) -> None:
    step = _steps(bench, Verdict.INCONCLUSIVE, figures.a_rule("history", "UNDECIDED"))[0]
    assert "`perennial history flights_delay --verify`" in step


@pytest.mark.parametrize(
    ("triggers", "said"),
    [
        ({}, "Nothing starts the next run by itself: trigger the DAG, or `perennial run flights_delay`."),
        ({"schedule": "0 2 * * *"}, "started by the schedule (`0 2 * * *`, in UTC), trains"),
        ({"schedule": "0 2 * * *", "on_new_data": True}, "the schedule (`0 2 * * *`, in UTC) or newly landed data"),
        ({"on_new_data": {"quiet": "1m"}}, "started by newly landed data, trains"),
    ],
)
def test_next_run_is_said_to_come_the_way_the_spec_says(bench: Bench, triggers: dict[str, Any], said: str) -> None:
    bench.spec = bench.spec.model_validate({**SPEC, "triggers": triggers})
    assert said in _steps(bench, Verdict.REJECT, figures.a_rule("scores", "FAIL"))[-1]


# On the page.


def _page(bench: Bench, evaluation: EvaluationResult, run_url: str | None) -> str:
    history = GateHistory(as_of=figures.NOW, reigns=figures.a_history().reigns)
    decision = decide(bench.spec.gate, evaluation, primary="roc_auc", history=history)
    return decision_page(
        bench.spec, bench.request, reference=REFERENCE, evaluation=evaluation, decision=decision, run_url=run_url
    ).decode()


def test_page_tells_verdict_reason_and_next_step_before_everything_else(bench: Bench) -> None:
    text = text_of(_page(bench, figures.an_evaluation(), RUN_URL))
    places = [
        "PROMOTE",
        "is to take over",
        "Challenger&#39;s roc_auc is",
        "What next",
        "goes on by itself",
        "What the gate",
    ]
    assert [text.index(place) for place in places] == sorted(text.index(place) for place in places)


def test_page_links_the_training_run_and_the_champions_version(bench: Bench) -> None:
    section = section_of(_page(bench, figures.an_evaluation(), RUN_URL), "What next")
    assert f'href="{RUN_URL}"' in section
    assert 'href="https://mlflow.example/base/#/models/flights_delay/versions/3"' in section
    assert "no version yet, it is registered on its way to production" in text_of(section)


def test_champion_is_no_link_where_the_run_is_none_of_an_experiment(bench: Bench) -> None:
    section = section_of(_page(bench, figures.an_evaluation(), "https://mlflow.example/run/7"), "What next")
    assert "/versions/" not in section
    assert "Champion: version 3." in text_of(section)
    assert "href" not in section_of(_page(bench, figures.an_evaluation(), None), "What next")


def test_text_between_backticks_is_code_and_everything_is_escaped() -> None:
    assert words("run `a <b>` & 5 % more") == "run <code>a &lt;b&gt;</code> &amp; 5\u202f% more"
    assert words("one ` alone <b>") == "one ` alone &lt;b&gt;"
