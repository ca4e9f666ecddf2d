"""A crash, or a server that does not answer, at every single point of a canary and its promotion; then another look."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.references import RolloutRef
from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError, TransientError
from perennial.testing.clock import FixedClock
from tests.unit.core.faulty import Fault, Faulty, ProcessDied, crashing, unavailable
from tests.unit.core.production import MODEL
from tests.unit.core.walking import CANARY, MINUTE, Case, Live, spec_with

PLATFORM = ("deploy", "shift", "status", "promote", "roll_back")
EFFECTS = ("deploy", "shift", "promote", "roll_back")
MOST_CALLS = 600
SECOND = MINUTE / 60
SPEC = spec_with(canary={**CANARY, "steps": [50], "every": "10m"})


def _with_faults(live: Live, make: Callable[..., tuple[Any, Any]], fault: Fault, error: type[BaseException]) -> Live:
    """The same world, seen by a process that the fault is going to strike."""
    struck = copy.copy(live)
    struck.store, struck.registry = make(live.store, live.registry, fault)
    watched = EFFECTS if fault.fatal else PLATFORM
    struck.deployer = Faulty(live.deployer, watched, fault, lambda: error("struck"))
    return struck


def _copy(origin: Live, folder: Path) -> Live:
    """A world of its own; faults come and go there."""
    shutil.copytree(origin.folder, folder, copy_function=shutil.copy2)
    registry, deployer = copy.deepcopy(origin.registry), copy.deepcopy(origin.deployer)
    clock = FixedClock(origin.clock.now())
    return Live(folder, spec=origin.spec, registry=registry, clock=clock, deployer=deployer, logs=origin.logs)


def _go(live: Live, case: Case) -> None:
    """A walk and its promotion: what a process does from now on, knowing nothing but the store."""
    ended: RolloutRef | None = None
    while ended is None:
        ended = live.look(case).ended
        if ended is None:
            live.pass_time(6 * MINUTE)
    if ended.passed:
        live.promote(case, ended)


def _log_ahead(live: Live, *, failed: int) -> None:
    """What the two will log within the next hour, so that a walk has no effects but its own."""
    now = live.clock
    for _ in range(12):
        live.pass_time(5 * MINUTE)
        live.log("1", 8)
        live.log("2", 8, failed=failed, role=Role.CANARY)
    live.clock = now


def _assert_one_right_end(live: Live, *, passed: bool) -> None:
    (entry,) = live.ends()
    assert entry.approved is passed
    assert live.store.read(str(entry.page_uri)).startswith(b"<!doctype html>")
    assert live.champion == ("2" if passed else "1")
    assert len(live.registry.versions(MODEL)) == 2
    assert bool(entry.quarantined) is not passed
    status = live.deployer.status(MODEL)
    assert (status.rollout_id, status.champion) == (None, live.champion)
    promotions = [kind for kind, _, _ in live.moves()]
    assert promotions == ["promotion"] * (2 if passed else 1)
    live.assert_in_step()


@pytest.fixture(scope="module", params=[0, 8], ids=["wins", "breaches"])
def origin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Live, Case]:
    live = Live(tmp_path_factory.mktemp("live"), spec=SPEC)
    case = live.case()
    _log_ahead(live, failed=request.param)
    return request.param, live, case


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_crash_around_every_effect_is_completed_by_the_next_look(
    origin: tuple[int, Live, Case], tmp_path: Path, after: bool
) -> None:
    failed, start, case = origin
    for at in range(1, MOST_CALLS):
        live = _copy(start, tmp_path / str(at))
        fault = Fault(at=at, after=after, fatal=True)
        struck = _with_faults(live, crashing, fault, ProcessDied)
        with contextlib.suppress(ProcessDied):
            _go(struck, case)
        live.clock = struck.clock
        _assert_nothing_half_done(live)
        live.pass_time(MINUTE)
        _go(live, case)
        _assert_one_right_end(live, passed=not failed)
        if not fault.struck:
            break
    assert not fault.struck
    assert len(fault.calls) > 20


def _assert_nothing_half_done(live: Live) -> None:
    """Whatever is on record in between can be read, and production was moved by a passed canary only."""
    for entry in live.ends():
        for uri in (entry.page_uri, entry.references["rollout"]["uri"]):
            assert live.store.head(str(uri)) is not None
    if live.champion == "2":
        assert [entry.approved for entry in live.ends()] == [True]


@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
def test_server_that_does_not_answer_once_at_any_call_is_transient_and_the_next_look_goes_on(
    origin: tuple[int, Live, Case], tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, start, case = origin
    # Every third call, which meets each kind of call.
    for at in range(1, MOST_CALLS, 3):
        live = _copy(start, tmp_path / str(at))
        fault = Fault(at=at, after=after, fatal=False)
        struck = _with_faults(live, unavailable, fault, DeployerUnavailableError)
        monkeypatch.setattr("perennial.lock.time.sleep", lambda _s, w=struck: w.clock.advance(8 * SECOND))
        try:
            _go(struck, case)
        except TransientError:
            assert fault.struck
        live.clock = struck.clock
        monkeypatch.setattr("perennial.lock.time.sleep", lambda _s, w=live: w.clock.advance(8 * SECOND))
        live.pass_time(MINUTE)
        _go(live, case)
        _assert_one_right_end(live, passed=not failed)
        if not fault.struck:
            break
    assert not fault.struck
