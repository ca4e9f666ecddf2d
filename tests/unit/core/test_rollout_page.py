"""The page of a rollout's end: what serves, what was tried, why it ended so, and what a person can do."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from perennial.domain.canary import GUARDRAILS, Reading
from perennial.domain.rollout import RolloutRecord, Step
from perennial.domain.rules.outcome import Outcome, RuleOutcome
from perennial.reports import rollout_page as module
from perennial.reports.rollout_page import LIMIT_AT, WIDTH, rollout_page
from tests.unit.core.rolled_out import (
    BEGAN,
    DEPLOYMENT,
    MINUTE,
    a_trial,
    findings,
    passed,
    spec_of,
    stopped,
    taken_back,
    walked,
)
from tests.unit.core.test_decision_page import section_of, text_of

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
BACK = "perennial rollback flights_delay --to 4 --reason TEXT"


def html_of(record: RolloutRecord, **spec: Any) -> str:
    return rollout_page(spec_of(**spec), record).decode()


def said(record: RolloutRecord, **spec: Any) -> str:
    return _plain(html_of(record, **spec))


def next_of(record: RolloutRecord, **spec: Any) -> str:
    return _plain(section_of(html_of(record, **spec), "What next"))


def _plain(html: str) -> str:
    """As people read it."""
    return re.sub(r" (?=[,.:;)])", "", unescape(text_of(html)).replace("\u202f", " "))


def test_what_serves_and_why_come_before_what_next_and_the_figures() -> None:
    text = said(taken_back())
    places = [
        "CANARY TAKEN BACK",
        "Champion version 3 answers all requests.",
        "Version 4 was taken back from its canary at 25 %: The error rate is 0.1167 over 60 samples",
        "Nothing has to be done for production.",
        "What the guardrails said at the end",
        "What was tried",
        "For the record",
    ]
    assert [text.index(place) for place in places] == sorted(text.index(place) for place in places)


def test_challenger_at_fault_is_in_quarantine_with_the_way_to_put_it_back() -> None:
    told = next_of(taken_back())
    assert "What version 4 raised is in the scoring service's log" in told
    assert "The model is in quarantine" in told
    assert BACK in told
    assert "perennial champion flights_delay" in told


@pytest.mark.parametrize("name", GUARDRAILS)
def test_breach_of_each_guardrail_has_a_place_to_look_at(name: str) -> None:
    last = findings(**{name: Reading(value=9.0, samples=1000)})
    record = taken_back(steps=walked(5, last=last))
    assert module._CAUSES[name](record).replace("`", "") in next_of(record)


def test_guardrail_that_could_not_be_measured_points_at_the_prediction_log() -> None:
    record = taken_back(steps=walked(5, last=findings(latency_p95_ratio=Reading(value=float("nan"), samples=900))))
    assert "could not be measured: does the prediction log reach the store?" in next_of(record)
    assert "not available" in said(record)


def _short(found: tuple[RuleOutcome, ...]) -> str:
    return " ".join(["It had to be over.", *(rule.sentence for rule in found if rule.verdict is Outcome.UNDECIDED)])


def test_too_few_samples_name_the_fields_that_would_help_and_no_quarantine() -> None:
    last = findings(performance_loss=Reading(value=0.01, samples=12), error_rate=Reading(value=0.0, samples=3))
    record = taken_back(at_fault=False, steps=walked(5, 25, last=last), reason=_short(last))
    told = next_of(record)
    assert "a longer deployment.canary.max_extend (now 1h)" in told
    assert "less for error_rate.min_samples, performance_loss.min_samples in deployment.canary.guardrails" in told
    assert "not in quarantine: a new run may try it again" in told
    assert BACK not in told
    assert "12" in section_of(html_of(record), "What the guardrails said at the end")
    assert "too few samples" in said(record)


def test_champion_that_changed_meanwhile_is_the_one_that_answers() -> None:
    record = taken_back(at_fault=False, champion_at_end="5", reason="The champion changed.")
    assert "Champion version 5, which took over meanwhile, answers all requests." in said(record)
    assert "it judges against the version that is champion now" in next_of(record)


def test_alias_that_was_taken_away_is_told_with_the_way_back() -> None:
    record = taken_back(at_fault=False, champion_at_end=None, reason="There is no champion.")
    assert "what served last, version 3, goes on without it" in said(record)
    assert "perennial rollback flights_delay --to 3 puts version 3 back" in next_of(record)


def test_platform_that_never_got_ready_gave_the_challenger_no_requests() -> None:
    text = said(taken_back(at_fault=False, steps=(), reason="No such image."))
    late = taken_back(at_fault=False, steps=walked(5, last=findings(error_rate=Reading(value=0.0, samples=3))))
    assert "Repair what the reason names." in next_of(late)  # whose samples were few as well
    assert "For 12m 40s version 4 was being brought up; it got no requests." in text
    assert "What the guardrails" not in text
    assert "Repair what the reason names." in text


def test_stopped_rollout_names_the_person_and_blames_no_guardrail() -> None:
    text = said(stopped())
    assert "CANARY STOPPED" in text
    assert "Version 4 was taken back from its canary at 5 %: grace took it back: too many complaints." in text
    assert re.search(r"Stopped by\s+grace", text)
    assert "began anew 1 time" in text
    assert "Nothing was read: the step had just begun." in text
    failing = stopped(steps=taken_back().steps)
    assert "raised" not in next_of(failing)


def test_passed_canary_goes_on_to_its_promotion() -> None:
    text = said(passed())
    assert "CANARY PASSED" in text
    assert "Version 4 answers 100 % of the requests and is to take over from champion version 3." in text
    assert "version 4 gets the alias champion, if version 3 is champion still" in next_of(passed())
    assert "Until then perennial rollback flights_delay --challenger takes it back" in next_of(passed())
    assert "quarantine" not in next_of(passed())


def test_passed_shadow_goes_on_with_the_canary_if_there_is_one() -> None:
    record = passed(trial=a_trial(phase="shadow"), steps=walked(100))
    assert "Champion version 3 answers all requests." in said(record)
    assert "goes on by itself with the canary: 5, 25, 50 and 100 % of the requests" in next_of(record)
    assert "perennial rollback flights_delay --challenger" in next_of(record)
    alone = {**DEPLOYMENT, "canary": None}
    assert "version 4 gets the alias" in next_of(record, deployment=alone)


def test_every_step_is_shown_with_its_share_and_how_long_it_lasted() -> None:
    section = section_of(html_of(passed()), "What was tried")
    table = section[: section.index("</table>")]
    assert [float(width) for width in re.findall(r"width: ([\d.]+)%", table)] == [5, 25, 50, 100]
    assert re.findall(r'data-label="Lasted">(\w+)<', table) == ["10m"] * 4
    assert section.count("<details>") == 3  # the last one's guardrails stand above
    assert "It took 40s to bring version 4 up." in text_of(section)


def test_step_that_was_not_ended_lasts_until_the_end() -> None:
    steps = (Step(share=5.0, began_at=BEGAN, findings=findings()),)
    assert "7m" in section_of(html_of(taken_back(steps=steps, ended_at=BEGAN + 7 * MINUTE)), "What was tried")


@pytest.mark.parametrize(
    ("value", "limit", "bar"),
    [(0.005, 0.01, LIMIT_AT / 2), (1.0, 0.01, WIDTH), (-0.3, 0.01, 0.0), (0.5, 0.0, None), (None, 0.01, None)],
)
def test_drawing_ends_at_the_limit_where_the_reading_does(value: float | None, limit: float, bar: float | None) -> None:
    finding = replace(findings()[0], estimate=value, threshold=limit)
    assert module._finding(spec_of(), finding).bar == bar


def test_reading_that_rounds_to_its_limit_is_shown_apart_from_it() -> None:
    finding = replace(findings()[0], estimate=0.010004, threshold=0.01)
    assert module._finding(spec_of(), finding).found == "0.010004"


def test_decision_page_is_linked_as_airflow_serves_it() -> None:
    assert 'href="../../../decisions/abc/123/page.html"' in html_of(passed())
    elsewhere = replace(a_trial().decision, page_uri="")
    assert "href=" not in html_of(passed(trial=a_trial(decision=elsewhere)))


def test_long_reason_is_told_in_full_for_the_record() -> None:
    record = taken_back(reason="Too long. " * 80 + "The end.")
    assert "The end." in said(record)
    assert "The end." not in record.summary


def test_page_is_the_same_each_time_loads_nothing_and_escapes_everything() -> None:
    request = {**a_trial().request, "requested_by": HOSTILE, "run_id": HOSTILE}
    decision = replace(a_trial().decision, summary=HOSTILE, uri=HOSTILE)
    record = stopped(trial=a_trial(request=request, decision=decision), reason=HOSTILE, stopped_by=HOSTILE)
    html = html_of(record, description=HOSTILE)
    assert html == html_of(record, description=HOSTILE)
    assert "<script" not in html
    assert "<img" not in html
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", html)
    assert "default-src 'none'" in html


def test_page_of_a_model_whose_spec_asks_for_no_rollout_any_more_is_told_all_the_same() -> None:
    last = findings(error_rate=Reading(value=0.0, samples=3))
    record = taken_back(at_fault=False, steps=walked(5, last=last), reason=_short(last))
    assert "a longer deployment.canary.max_extend, or less" in next_of(record, deployment=None)
