"""The governor as a table: what it is told, and what becomes of the alert."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.alert import Fate, Outcome
from perennial.domain.governor import DAY, LOOK_AGAIN, RULES, DataFacts, RunFacts, decide, run_id_after
from perennial.spec.parts import DriftTrigger
from tests.unit.core.alerting import NOW, alert_of

POLICY = DriftTrigger.model_validate(
    {
        "cooldown": "6h",
        "max_runs_per_day": 2,
        "min_new_rows": 100,
        "stop_after_rejections": 3,
        "resume_after": "7d",
        "give_up_after": "2d",
    }
)
HOUR = timedelta(hours=1)
NO = timedelta(0)
ALERT = alert_of(received_at=NOW)
AGES_AGO = NOW - 30 * DAY

ACTIVE = {"active": "nightly"}
SERVED = {"served": "nightly"}
PAUSED = {"paused": True}
SEEN = {"judged_at": NOW - HOUR}
OLD = 2 * DAY
STOPPED = {"rejections": 3, "last_for_alert_at": NOW - DAY}
FEW = {"new_rows": 99}
COOL = {"ended_at": NOW - HOUR}
BUSY = {"alert_starts": (NOW - 23 * HOUR, NOW - 8 * HOUR)}
MORE = (NOW - 23 * HOUR,)
REFUSED, COALESCED, DEFERRED, STARTED = Fate.REFUSED, Fate.COALESCED, Fate.DEFERRED, Fate.STARTED

TABLE: list[tuple[str, dict[str, Any], dict[str, Any], timedelta, Fate, timedelta | None]] = [
    # rule, facts of runs, facts of the data, how long the alert has waited, fate, until (from now)
    ("", {}, {}, NO, STARTED, None),
    ("", {"ended_at": NOW - 6 * HOUR}, {"new_rows": 100, "rejections": 2}, NO, STARTED, None),
    ("", {"alert_starts": (NOW - DAY, NOW - HOUR)}, {}, NO, STARTED, None),
    ("", {"failed": NOW - HOUR / 2}, SEEN, NO, STARTED, None),
    ("", {}, {"rejections": 3, "last_for_alert_at": NOW - 7 * DAY}, NO, STARTED, None),
    ("", {}, {"rejections": 2, "last_for_alert_at": NOW - HOUR}, NO, STARTED, None),
    ("", {}, {}, OLD - HOUR, STARTED, None),
    ("active_run", ACTIVE, {}, NO, COALESCED, None),
    ("later_run", SERVED, {}, NO, COALESCED, None),
    ("paused", PAUSED, {}, NO, REFUSED, None),
    ("nothing_new", {}, SEEN, NO, REFUSED, None),
    ("nothing_new", {"failed": NOW - 2 * HOUR}, SEEN, NO, REFUSED, None),
    ("gave_up", {}, {}, OLD, REFUSED, None),
    ("stopped", {}, STOPPED, NO, REFUSED, None),
    ("stopped", {"alert_starts": (NOW - HOUR,)}, {**STOPPED, "last_for_alert_at": AGES_AGO}, NO, REFUSED, None),
    ("min_new_rows", {}, FEW, NO, DEFERRED, LOOK_AGAIN),
    ("min_new_rows", {}, FEW, OLD - LOOK_AGAIN / 3, DEFERRED, LOOK_AGAIN / 3),
    ("cooldown", COOL, {}, NO, DEFERRED, 5 * HOUR),
    ("cooldown", COOL, {}, OLD - HOUR, DEFERRED, HOUR),
    ("max_runs_per_day", BUSY, {}, NO, DEFERRED, HOUR),
    ("max_runs_per_day", {"alert_starts": (NOW - 8 * HOUR, NOW - 9 * HOUR, *MORE)}, {}, NO, DEFERRED, 15 * HOUR),
]  # fmt: skip


def _decide(runs: dict[str, Any], data: dict[str, Any], waited: timedelta = timedelta(0)) -> Outcome:
    alert = alert_of(received_at=NOW - waited)
    outcome = decide(alert, RunFacts(**runs), DataFacts(**data), POLICY, NOW)
    assert outcome is not None
    return outcome


@pytest.mark.parametrize(("rule", "runs", "data", "waited", "fate", "until"), TABLE)
def test_facts_lead_to_the_rule_that_speaks_first(
    rule: str, runs: dict[str, Any], data: dict[str, Any], waited: timedelta, fate: Fate, until: timedelta | None
) -> None:
    outcome = _decide(runs, data, waited)
    assert (outcome.rule, outcome.fate, outcome.at) == (rule, fate, NOW)
    assert outcome.until == (None if until is None else NOW + until)
    assert outcome.reason.endswith(".")
    runs_named = {STARTED: run_id_after("toy", None), COALESCED: "nightly"}
    assert outcome.run_id == runs_named.get(fate)


def test_rules_are_asked_in_their_order() -> None:
    """Each rule's facts beside those of all that come after it."""
    runs_facts = {
        "active_run": ACTIVE,
        "later_run": SERVED,
        "paused": PAUSED,
        "cooldown": COOL,
        "max_runs_per_day": BUSY,
    }
    data_facts = {"nothing_new": SEEN, "stopped": STOPPED, "min_new_rows": FEW}
    order = [rule for rule in RULES if rule not in ("not_enabled", "no_dag", "not_created")]
    for place, rule in enumerate(order):
        standing = order[place:]
        runs = {name: value for r in standing for name, value in runs_facts.get(r, {}).items()}
        data = {name: value for r in standing for name, value in data_facts.get(r, {}).items()}
        assert _decide(runs, data, OLD if "gave_up" in standing else timedelta(0)).rule == rule


def test_spec_without_the_trigger_refuses_whatever_is_known() -> None:
    for runs in (None, RunFacts(active="nightly")):
        outcome = decide(ALERT, runs, None, None, NOW)
        assert outcome is not None
        assert (outcome.fate, outcome.rule) == (REFUSED, "not_enabled")


def test_dag_that_is_not_there_yet_is_waited_for_and_given_up_in_the_end() -> None:
    outcome = decide(ALERT, None, None, POLICY, NOW)
    assert outcome is not None
    assert (outcome.fate, outcome.rule, outcome.until) == (DEFERRED, "no_dag", NOW + LOOK_AGAIN)
    outcome = decide(ALERT, None, None, POLICY, NOW + OLD)
    assert outcome is not None
    assert (outcome.fate, outcome.rule) == (REFUSED, "gave_up")


@pytest.mark.parametrize("runs", [ACTIVE, SERVED, PAUSED])
def test_what_the_runs_settle_needs_no_look_at_the_data(runs: dict[str, Any]) -> None:
    assert decide(ALERT, RunFacts(**runs), None, POLICY, NOW) is not None
    assert decide(ALERT, RunFacts(**COOL), None, POLICY, NOW) is None


def test_one_alert_is_let_through_when_the_stop_is_over_and_the_next_rejection_stops_anew() -> None:
    assert _decide({}, {"rejections": 3, "last_for_alert_at": NOW - 7 * DAY}).fate is STARTED
    again = _decide({}, {"rejections": 4, "last_for_alert_at": NOW - HOUR})
    assert (again.rule, again.fate) == ("stopped", REFUSED)
    assert "4 challengers in a row" in again.reason
    assert "limit 3" in again.reason


def test_run_id_is_one_for_all_who_see_the_same_run_and_fit_for_airflow() -> None:
    created = datetime.fromisoformat("2026-03-01T13:00:00.5+01:00")
    run_id = run_id_after("toy", ("manual__2026-03-01T12:00:00+00:00", created))
    assert run_id == "drift__20260301T120000Z__" + run_id[-8:]
    assert run_id == run_id_after("toy", ("manual__2026-03-01T12:00:00+00:00", created))
    others = {
        run_id_after("other", ("manual__2026-03-01T12:00:00+00:00", created)),
        run_id_after("toy", ("manual__2026-03-01T12:00:01+00:00", created)),
        run_id_after("toy", (run_id, created)),
        run_id_after("toy", None),
    }
    assert len(others | {run_id}) == 5
    assert run_id_after("toy", None).startswith("drift__first__")


TIMES = st.none() | st.timedeltas(timedelta(0), timedelta(days=20)).map(lambda ago: NOW - ago)
RUNS = st.builds(
    RunFacts,
    paused=st.booleans(),
    active=st.none() | st.just("r"),
    served=st.none() | st.just("s"),
    ended_at=TIMES,
    failed=TIMES,
    alert_starts=st.lists(TIMES.filter(bool), max_size=6).map(tuple),
)
DATA = st.builds(
    DataFacts,
    judged_at=TIMES,
    new_rows=st.none() | st.integers(0, 200),
    rejections=st.integers(0, 5),
    last_for_alert_at=TIMES,
)


@given(st.none() | RUNS, DATA, st.timedeltas(timedelta(0), timedelta(days=5)))
def test_whatever_is_known_the_answer_is_complete_and_a_deferral_ends(
    runs: RunFacts | None, data: DataFacts, waited: timedelta
) -> None:
    outcome = decide(alert_of(received_at=NOW - waited), runs, data, POLICY, NOW)
    assert outcome is not None
    assert (outcome.rule == "") == (outcome.fate is STARTED)
    assert outcome.rule in ("", *RULES)
    assert (outcome.run_id is not None) == (outcome.fate in (STARTED, COALESCED))
    assert (outcome.until is not None) == (outcome.fate is DEFERRED)
    if outcome.until is not None:
        assert NOW < outcome.until <= NOW - waited + POLICY.give_up_after
    if runs is not None and outcome.fate is STARTED:
        assert not runs.paused
        assert runs.active is None
        assert sum(start > NOW - DAY for start in runs.alert_starts) < POLICY.max_runs_per_day
