"""Slices on the decision page: every judged one with its test, and the rules stay readable however many there are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.evaluation import EvaluationResult, SliceResult
from perennial.domain.gate import Decision, decide
from perennial.domain.gate_history import GateHistory
from perennial.reports.decision_page import SHOWN_OBSTACLES, decision_page
from perennial.reports.estimate_words import p_value
from perennial.reports.interval_plot import WIDTH
from perennial.reports.slice_tables import SHOWN_JUDGED, SHOWN_SLICES
from tests.unit.core import judged_figures as figures
from tests.unit.core.judging import Bench
from tests.unit.core.test_decision_page import REFERENCE, section_of, text_of

RULES = "What the gate asked, and what it found"
SLICES = "roc_auc by slice"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _page(bench: Bench, evaluation: EvaluationResult, decision: Decision, **gate: Any) -> str:
    bench.respec(gate={**figures.GATE, **gate})
    content = decision_page(
        bench.spec,
        bench.request,
        reference=REFERENCE,
        evaluation=evaluation,
        decision=decision,
        run_url=None,
        history=figures.a_history(),
    )
    return content.decode()


def _row(section: str, value: str) -> str:
    return next(row for row in section.split("<tr>") if re.search(rf'<th scope="row">{value}(?:<|$)', row))


def _judged(bench: Bench, slices: tuple[SliceResult, ...], **gate: Any) -> tuple[str, Decision]:
    """The page as the gate itself judges these slices."""
    bench.respec(gate={**figures.GATE, "fairness": (), "false_promotions": None, **gate})
    evaluation = figures.an_evaluation(slices=slices, fairness=())
    history = GateHistory(as_of=figures.NOW, reigns=figures.a_history().reigns)
    decision = decide(bench.spec.gate, evaluation, primary="roc_auc", history=history, slice_columns=("origin",))
    return _page(bench, evaluation, decision, fairness=(), false_promotions=None, **gate), decision


def _slices(count: int, **changes: Any) -> tuple[SliceResult, ...]:
    return tuple(
        replace(figures.a_slice(f"A{place:03}", 900 - place, 0.71, 0.69, 0.015), **{"p_safe": 0.0001, **changes})
        for place in range(count)
    )


def test_slices_show_both_models_difference_verdict_and_a_drawing_on_one_scale(bench: Bench) -> None:
    section = section_of(_page(bench, figures.an_evaluation(), figures.a_decision()), SLICES)
    assert "4,510 0.721 [0.703, 0.739] 0.680 +0.041 [0.023, 0.059]" in text_of(_row(section, "JFK"))
    assert "PASS" in _row(section, "JFK")
    assert "UNDECIDED" in _row(section, "LGA")
    assert "not judged" in _row(section, "HPN")
    assert "no interval" in _row(section, "HPN")
    assert section.index(">LGA<") < section.index(">JFK<")  # what did not pass comes first
    limits = re.findall(r'class="limit" x1="([\d.]+)"', section)
    assert len(limits) == 3
    assert len(set(limits)) == 1
    assert float(limits[0]) < WIDTH / 2  # a loss is to the left
    assert "(1 UNDECIDED, 2 PASS, 1 not judged)" in text_of(section)


def test_each_tested_slice_shows_its_p_value_before_and_after_holm(bench: Bench) -> None:
    page, decision = _judged(
        bench,
        (
            figures.a_slice("JFK", 4510, 0.721, 0.68, 0.018),
            replace(figures.a_slice("LGA", 3012, 0.66, 0.67, 0.026), p_safe=0.12),
            replace(figures.a_slice("EWR", 4200, 0.70, 0.69, 0.02), p_safe=0.021),
        ),
    )
    section = section_of(page, SLICES)
    assert "0.001 0.003" in text_of(_row(section, "JFK"))
    assert "0.021 0.042" in text_of(_row(section, "EWR"))
    assert "0.12 0.12" in text_of(_row(section, "LGA"))
    assert "After Holm's correction for 3 slices it has to be at most 0.05." in text_of(section)
    assert {rule.tests for rule in decision.rules if rule.name == "slice"} == {3}


def test_slice_that_fails_only_its_floor_says_that_it_is_the_floor(bench: Bench) -> None:
    page, _ = _judged(bench, (figures.a_slice("JFK", 4510, 0.59, 0.58, 0.01),))
    assert "FAIL floor" in text_of(_row(section_of(page, SLICES), "JFK"))


def test_slices_that_pass_have_no_row_among_the_rules(bench: Bench) -> None:
    page, decision = _judged(bench, _slices(120))
    rules = section_of(page, RULES)
    assert sum(rule.group is not None for rule in decision.rules) == 240
    assert "A000" not in rules
    assert "120 of 120 slices" in text_of(rules)
    assert 'href="#slices"' in rules
    assert "All 120 judged slices are below" in text_of(rules)
    assert '<details>\n<summary>origin <span class="muted">(120 PASS)' in page  # folded: nothing stands in the way


def test_of_many_slices_that_stand_in_the_way_the_rules_show_some_and_count_the_rest(bench: Bench) -> None:
    page, _ = _judged(bench, _slices(12, p_safe=0.4))
    rules = text_of(section_of(page, RULES))
    assert rules.count("slice not worse") == SHOWN_OBSTACLES
    assert f"{12 - SHOWN_OBSTACLES} more that did not pass among them" in rules
    assert text_of(section_of(page, SLICES)).count("UNDECIDED") == 12 + 1  # and the count above the table
    assert '<details open>\n<summary>origin <span class="muted">(12 UNDECIDED)' in page


def test_every_judged_slice_is_shown_and_of_the_others_the_largest(bench: Bench) -> None:
    small = tuple(replace(part, value=f"B{part.value}", rows=150 - place) for place, part in enumerate(_slices(60)))
    page, _ = _judged(bench, (*_slices(60), *small))
    section = section_of(page, SLICES)
    assert section.count('<th scope="row">A') == 60
    assert section.count('<th scope="row">BA') == SHOWN_SLICES
    assert f"{60 - SHOWN_SLICES} more values are in the evaluation" in text_of(section)
    assert SHOWN_JUDGED > 60


def test_slices_that_nobody_judges_have_no_verdict_and_no_p_value(bench: Bench) -> None:
    decision = figures.a_decision(rules=tuple(r for r in figures.a_decision().rules if r.group is None))
    section = section_of(_page(bench, figures.an_evaluation(), decision, slices=None), SLICES)
    for absent in ("PASS", "not judged", "Holm", ">p<"):
        assert absent not in section
    assert "The gate does not judge them." in text_of(section)


def test_slice_is_not_called_passed_where_the_gate_does_not_say_so(bench: Bench) -> None:
    rules = tuple(rule for rule in figures.a_decision().rules if rule.group is None)
    section = section_of(_page(bench, figures.an_evaluation(), figures.a_decision(rules=rules)), SLICES)
    assert "PASS" not in section
    assert section.count("not judged</span>") == 4


def test_slice_with_too_little_for_an_interval_says_of_what(bench: Bench) -> None:
    part = replace(figures.a_slice("LGA", 3012, 0.66, 0.67, None), why_no_interval="3 rows of the positive class")
    page, _ = _judged(bench, (part,))
    assert "has 3 rows of the positive class" in text_of(_row(section_of(page, SLICES), "LGA"))


@pytest.mark.parametrize(
    ("p", "shown"), [(0.0, "< 0.0001"), (0.00012, "0.00012"), (0.04567, "0.046"), (1.0, "1"), (None, "\u2013")]
)
def test_p_values_read_well(p: float | None, shown: str) -> None:
    assert p_value(p) == shown
