"""A crash, or a server that does not answer, at every single point of a look; then another look. One right end."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perennial.errors import TransientError
from tests.unit.core.faulty import Fault, ProcessDied, crashing, unavailable
from tests.unit.core.monitored import DAY, FIRST, Monitored, monitored_spec

MOST_CALLS = 300
ALERTS = {"data_drift", "prediction_drift"}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Monitored:
    """A calm day was looked at; two days of drift are due."""
    world = Monitored(tmp_path_factory.mktemp("origin"), monitored_spec(min_rows=50))
    world.train()
    world.serve(0, rows=8)
    world.look_at(0)
    for day in (1, 2):
        world.serve(day, rows=8, shift=2.0)
    world.clock.advance(2 * DAY)
    return world


def _copied(origin: Monitored, folder: Path) -> Monitored:
    shutil.copytree(origin.folder, folder, copy_function=shutil.copy2)
    registry = copy.deepcopy(origin.registry)
    return Monitored(folder, spec=origin.spec, registry=registry, clock=copy.deepcopy(origin.clock))


def _look(world: Monitored, make: Callable[..., tuple[Any, Any]], fault: Fault) -> None:
    store, registry = make(world.store, world.registry, fault)
    with contextlib.suppress(ProcessDied, TransientError):
        world.observe(store=store, registry=registry)


def _assert_one_right_end(world: Monitored) -> None:
    for day in (1, 2):
        report = world.objects.report(FIRST + (day + 1) * DAY)
        assert report is not None
        assert world.objects.is_done(report)
        assert world.store.head(report.page_uri) is not None
    assert {each["signal"] for each in world.report(2)["alerts"] if each["opened_now"]} == ALERTS
    assert len(world.report(2)["history"]) == len({each["window_end"] for each in world.report(2)["history"]})
    ((_, steps),) = world.registry.monitoring.items()  # type: ignore[attr-defined]
    newest, before = (steps[step] for step in sorted(steps, reverse=True)[:2])
    assert newest.keys() == before.keys()


@pytest.mark.parametrize(
    ("make", "fatal", "after"),
    [(crashing, True, False), (crashing, True, True), (unavailable, False, False)],
    ids=["crash before", "crash after", "no answer"],
)
def test_fault_anywhere_in_a_look_loses_and_doubles_nothing(
    origin: Monitored, tmp_path: Path, make: Callable[..., tuple[Any, Any]], fatal: bool, after: bool
) -> None:
    for at in range(1, MOST_CALLS):
        world = _copied(origin, tmp_path / str(at))
        fault = Fault(at=at, after=after, fatal=fatal)
        _look(world, make, fault)
        if not fault.struck:
            break
        world.observe()
        _assert_one_right_end(world)
        assert {item.signal for item in world.outbox} == ALERTS, (at, fault.calls[-1])
        assert len(world.outbox) == len(ALERTS)
    else:
        raise AssertionError(f"a look makes more than {MOST_CALLS} calls")
    assert at > 10


def test_alert_that_was_sent_before_the_next_look_does_not_come_back(origin: Monitored, tmp_path: Path) -> None:
    world = _copied(origin, tmp_path / "sent")
    world.observe()
    for item in world.outbox:
        world.objects.remember(item, {"posted": True})
    world.observe()
    assert [item.delivery for item in world.outbox] == [{"posted": True}] * 2
    for item in world.outbox:
        world.objects.delivered(item)
    world.observe()
    assert world.outbox == ()


def test_two_that_look_at_once_leave_one_report_and_one_alert_a_signal(origin: Monitored, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    world = _copied(origin, tmp_path / "race")
    with ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(world.observe) for _ in range(2)]]
    assert len({seen.sha256 for seen in found}) == 1
    assert {item.signal for item in world.outbox} == ALERTS
    _assert_one_right_end(world)


def test_half_a_report_of_a_crash_is_written_anew(origin: Monitored, tmp_path: Path) -> None:
    world = _copied(origin, tmp_path / "half")
    world.observe()
    newest = world.objects.newest(world.clock.now())
    assert newest is not None
    world.store.write(newest.uri, b'{"format": 1, "mod', content_type="application/json")
    assert world.observe().windows == 1
    _assert_one_right_end(world)
