"""The API server dies, or something does not answer, between any two steps: no alert is lost, none starts two runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.alert import Fate
from perennial.errors import StoreUnavailableError, TerminalError, TransientError
from tests.unit.core.alerting import Desk, alert_of, spec_with
from tests.unit.core.faulty import Fault, Faulty, ProcessDied

MOST_CALLS = 60
STORE_EFFECTS = ("write", "delete")
STORE_CALLS = (*STORE_EFFECTS, "read", "head", "list")
STARTER_EFFECTS = ("start", "add_note")
STARTER_CALLS = (*STARTER_EFFECTS, "look", "run")
ALERT = alert_of()


def _active(desk: Desk) -> None:
    desk.starter.add_run("toy", "scheduled__1")


def _cooling(desk: Desk) -> None:
    _active(desk)
    desk.starter.end("toy", "scheduled__1")


def _due(desk: Desk) -> None:
    _cooling(desk)
    assert desk.receive(ALERT).outcome.fate is Fate.DEFERRED
    desk.later(hours=7)


def _pause(desk: Desk) -> None:
    desk.starter.add_dag("toy", paused=True)


@dataclass(frozen=True)
class Case:
    """What is there when the alert comes in, and what it comes to."""

    prepare: Callable[[Desk], None]
    fate: Fate
    runs: int
    ticks: bool = False
    """Whether it is a tick that is struck."""


CASES = {
    "start": Case(lambda desk: None, Fate.STARTED, 1),
    "coalesce": Case(_active, Fate.COALESCED, 0),
    "refuse": Case(_pause, Fate.REFUSED, 0),
    "defer": Case(_cooling, Fate.DEFERRED, 0),
    "tick": Case(_due, Fate.STARTED, 1, ticks=True),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=[False, True], ids=["honest store", "heedless store"])
def heedless(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def _act(desk: Desk, case: Case, fault: Fault | None = None, error: Any = ProcessDied) -> Any:
    if fault is None:
        return desk.tick() if case.ticks else desk.receive(ALERT)
    watched = (STORE_EFFECTS, STARTER_EFFECTS) if fault.fatal else (STORE_CALLS, STARTER_CALLS)
    ports = {
        "store": Faulty(desk.store, watched[0], fault, error),
        "starter": Faulty(desk.starter, watched[1], fault, error),
    }
    return desk.tick(**ports) if case.ticks else desk.receive(ALERT, **ports)


def _assert_one_right_end(desk: Desk, case: Case) -> None:
    record = desk.record(ALERT)
    assert record.newest is not None
    assert record.newest.fate is case.fate
    assert len(desk.runs_of(ALERT)) == case.runs
    if case.fate is Fate.STARTED:
        assert desk.runs_of(ALERT) == [record.newest.run_id]
    assert desk.marks() == ([ALERT.key] if record.open else [])
    assert record.open == (case.fate is Fate.DEFERRED)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_around_every_effect_is_made_good_by_the_sender_who_tries_again(
    case: Case, tmp_path: Path, after: bool, heedless: bool
) -> None:
    for at in range(1, MOST_CALLS):
        desk = Desk(tmp_path / str(at), heedless=heedless)
        case.prepare(desk)
        fault = Fault(at=at, after=after, fatal=True)
        try:
            _act(desk, case, fault)
        except ProcessDied:
            assert len(desk.runs_of(ALERT)) <= case.runs
        desk.later(seconds=30)
        answer = desk.receive(ALERT)
        assert answer.outcome == desk.record(ALERT).outcomes[0]
        desk.tick()
        _assert_one_right_end(desk, case)
        if not fault.struck:
            break
    assert not fault.struck
    assert fault.calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_around_every_effect_is_made_good_by_the_tick_once_the_alert_is_marked(
    case: Case, tmp_path: Path, after: bool, heedless: bool
) -> None:
    for at in range(1, MOST_CALLS):
        desk = Desk(tmp_path / str(at), heedless=heedless)
        case.prepare(desk)
        fault = Fault(at=at, after=after, fatal=True)
        with contextlib.suppress(ProcessDied):
            _act(desk, case, fault)
        noticed = bool(desk.marks()) or desk.alert_ledger.read("toy", ALERT.key) is not None
        assert noticed or (at == 1 and not after), "the first effect is the one that records"
        desk.later(seconds=30)
        desk.tick()
        if noticed:
            _assert_one_right_end(desk, case)
        if not fault.struck:
            break
    assert not fault.struck


def test_death_between_start_and_record_is_found_though_the_run_has_ended_long_ago(tmp_path: Path) -> None:
    for at in range(1, MOST_CALLS):
        desk = Desk(tmp_path / str(at))
        fault = Fault(at=at, after=True, fatal=True)
        with contextlib.suppress(ProcessDied):
            _act(desk, CASES["start"], fault)
        if fault.calls[-1] == "start":
            break
    (started,) = desk.runs_of(ALERT)
    assert desk.record(ALERT).outcomes == ()
    for later in ("drift run", "nightly 1", "nightly 2"):
        if later != "drift run":
            desk.starter.add_run("toy", later)
        desk.later(hours=1)
        desk.starter.end("toy", started if later == "drift run" else later)
    desk.later(days=3)
    (found,) = desk.tick()
    assert (found.outcome.fate, found.outcome.run_id) == (Fate.STARTED, started)
    assert desk.receive(ALERT).outcome == found.outcome
    _assert_one_right_end(desk, CASES["start"])


@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
def test_call_that_is_not_answered_is_transient_and_the_next_try_makes_it_good(
    case: Case, tmp_path: Path, after: bool, heedless: bool
) -> None:
    for at in range(1, MOST_CALLS):
        desk = Desk(tmp_path / str(at), heedless=heedless)
        case.prepare(desk)
        fault = Fault(at=at, after=after, fatal=False)
        try:
            _act(desk, case, fault, error=lambda: StoreUnavailableError("503 SlowDown"))
        except TransientError:
            assert fault.struck
        desk.later(seconds=30)
        _act(desk, case)
        desk.tick()
        _assert_one_right_end(desk, case)
        if not fault.struck:
            break
    assert not fault.struck


def test_store_that_refuses_a_call_for_good_is_no_reason_to_refuse_the_alert(case: Case, tmp_path: Path) -> None:
    for at in range(1, MOST_CALLS):
        desk = Desk(tmp_path / str(at))
        case.prepare(desk)
        fault = Fault(at=at, after=False, fatal=False)
        store = Faulty(desk.store, STORE_CALLS, fault, lambda: TerminalError("403 AccessDenied"))
        with contextlib.suppress(TerminalError):
            desk.tick(store=store) if case.ticks else desk.receive(ALERT, store=store)
        desk.later(seconds=30)
        _act(desk, case)
        desk.tick()
        _assert_one_right_end(desk, case)
        if not fault.struck:
            break
    assert not fault.struck


def test_half_an_object_that_a_crash_left_is_written_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    whole = desk.receive(ALERT).outcome
    uri = f"s3://bucket/store/alerts/toy/{ALERT.key}.json"
    desk.store.write(uri, desk.store.read(uri)[:100], content_type="x")
    again = desk.receive(ALERT)
    assert (again.outcome.fate, again.outcome.run_id) == (Fate.STARTED, whole.run_id)
    _assert_one_right_end(desk, CASES["start"])


def test_alert_of_a_spec_that_asks_for_none_any_more_is_refused_by_the_tick(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    _cooling(desk)
    desk.receive(ALERT)
    desk.later(hours=7)
    desk.spec = spec_with().model_copy(update={"triggers": type(desk.spec.triggers)()})
    (refused,) = desk.tick()
    assert (refused.outcome.fate, refused.outcome.rule) == (Fate.REFUSED, "not_enabled")
    assert desk.marks() == []
