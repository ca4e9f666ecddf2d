from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from airflow.triggers.base import TriggerEvent

from perennial.errors import StoreUnavailableError
from perennial.stages.landing import LandingState, landing_state, mark_seen
from perennial_airflow.sensors import landing as sensor_module
from perennial_airflow.sensors.landing import LandingSensor
from perennial_airflow.triggers import landing as module
from perennial_airflow.triggers.landing import LandingTrigger
from tests.unit.airflow.conftest import make_context
from tests.unit.core.world import LANDING, ROOT, World

pytestmark = pytest.mark.airflow


def make_trigger(**changes: Any) -> LandingTrigger:
    return LandingTrigger(**{"model": "toy", "landing": LANDING, "poll_s": 0.01, "quiet_s": 0.0, **changes})


def fired(trigger: LandingTrigger, states: Sequence[LandingState]) -> list[Any]:
    """Payloads of the events that these listings give, when they are the stream that all watchers share."""

    async def collect() -> list[TriggerEvent]:
        async def stream() -> AsyncIterator[LandingState]:
            for state in states:
                yield state

        return [event async for event in trigger.filter_shared_stream(stream())]

    return [event.payload for event in asyncio.run(collect())]


def first_event(trigger: LandingTrigger) -> Any:
    async def first() -> Any:
        async for event in trigger.run():
            return event.payload
        return None

    return asyncio.run(asyncio.wait_for(first(), 20))


def test_data_that_landed_fires_once_however_often_it_is_listed(world: World) -> None:
    world.land(range(2))
    state = landing_state(world.store, LANDING)
    [payload] = fired(make_trigger(), [state, state, state])
    assert payload["model"] == "toy"
    assert payload["digest"] == state.digest


def test_more_data_fires_again(world: World) -> None:
    world.land(range(2))
    before = landing_state(world.store, LANDING)
    world.land(range(2, 3))
    assert len(fired(make_trigger(), [before, landing_state(world.store, LANDING)])) == 2


def test_data_that_a_run_looked_at_does_not_fire(world: World) -> None:
    world.land(range(2))
    state = landing_state(world.store, LANDING)
    mark_seen(world.store, ROOT, "toy", state)
    assert fired(make_trigger(), [state]) == []


def test_data_that_another_models_run_looked_at_still_fires(world: World) -> None:
    world.land(range(2))
    state = landing_state(world.store, LANDING)
    mark_seen(world.store, ROOT, "other", state)
    assert len(fired(make_trigger(), [state])) == 1


def test_zone_that_is_not_quiet_does_not_fire(world: World) -> None:
    world.land(range(2))
    assert fired(make_trigger(quiet_s=3600.0), [landing_state(world.store, LANDING)]) == []


def test_data_that_was_told_and_that_the_run_saw_otherwise_is_told_again(world: World) -> None:
    """The run's listing fell into an upload, so the marker holds a listing that never comes back."""
    world.land(range(2))
    told = landing_state(world.store, LANDING)
    world.store.write(f"{LANDING}a.parquet.partial", b"half", content_type="x")
    half_landed = landing_state(world.store, LANDING)

    async def collect() -> list[str]:
        async def stream() -> AsyncIterator[LandingState]:
            yield told
            yield told
            mark_seen(world.store, ROOT, "toy", half_landed)
            yield told
            yield told

        return [event.payload["digest"] async for event in make_trigger().filter_shared_stream(stream())]

    assert asyncio.run(collect()) == [told.digest, told.digest]


def busy(minute: int) -> LandingState:
    """A zone in which an object lands every minute."""
    newest = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    return LandingState(digest=f"d{minute}", objects=minute, newest=newest)


def clock(monkeypatch: pytest.MonkeyPatch, target: Any) -> list[datetime]:
    """Times that the module reads, one after the other."""
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute, seconds=1) for minute in range(100)]

    class Clock(datetime):
        @classmethod
        def now(cls, _zone: Any = None) -> datetime:
            return times.pop(0)

    monkeypatch.setattr(target, "datetime", Clock)
    return times


def test_zone_that_is_never_quiet_fires_after_an_hour_by_trigger_and_by_sensor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [busy(minute) for minute in range(100)]
    left = clock(monkeypatch, module)
    [payload, *_] = fired(make_trigger(quiet_s=600.0, once=True), states)
    by_trigger = 100 - len(left)
    left = clock(monkeypatch, sensor_module)
    monkeypatch.setattr("perennial.stages.landing.landing_state", lambda *_: states[100 - len(left)])
    sensor = make_sensor(quiet_s=600.0)
    while not sensor.poke(make_context()):
        assert left
    assert 100 - len(left) == by_trigger == 61
    assert "not quiet" in payload["why"]


def test_hours_of_an_empty_zone_are_no_reason_to_hurry(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    empty = LandingState(digest="none", objects=0, newest=None)
    clock(monkeypatch, module)
    assert fired(make_trigger(quiet_s=600.0), [*[empty] * 70, busy(70), busy(71)]) == []


def test_restarted_trigger_tells_again_what_no_run_looked_at(world: World) -> None:
    world.land(range(2))
    state = landing_state(world.store, LANDING)
    assert len(fired(make_trigger(), [state])) == len(fired(make_trigger(), [state])) == 1


def test_event_that_got_lost_is_told_again_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.land(range(2))
    state = landing_state(world.store, LANDING)
    monkeypatch.setattr(module, "AGAIN_AFTER", timedelta(0))
    assert len(fired(make_trigger(), [state, state])) == 2


def test_store_that_fails_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.land(range(2))
    listing, calls = world.store.list, []

    def flaky(prefix_uri: str) -> Any:
        calls.append(prefix_uri)
        if len(calls) == 1:
            raise StoreUnavailableError("not now")
        return listing(prefix_uri)

    monkeypatch.setattr(world.store, "list", flaky)
    assert first_event(make_trigger(once=True))["landing"] == LANDING
    assert len(calls) >= 2


def test_trigger_survives_its_serialisation() -> None:
    path, arguments = make_trigger().serialize()
    assert path == "perennial_airflow.triggers.landing.LandingTrigger"
    assert LandingTrigger(**arguments).serialize() == (path, arguments)


def test_watchers_of_one_zone_share_a_stream_and_a_sensor_has_its_own() -> None:
    assert make_trigger(model="a").shared_stream_key() == make_trigger(model="b").shared_stream_key()
    assert make_trigger(once=True).shared_stream_key() is None


def make_sensor(**changes: Any) -> LandingSensor:
    return LandingSensor(**{"task_id": "wait", "model": "toy", "landing": LANDING, "quiet_s": 0.0, **changes})


def test_sensor_with_unseen_data_is_done_at_once(world: World) -> None:
    world.land(range(2))
    assert make_sensor().poke(make_context())
    assert make_sensor(deferrable=True).execute(make_context()) is None


def test_deferrable_sensor_without_data_waits_in_the_triggerer(world: World) -> None:
    with pytest.raises(TaskDeferred) as caught:
        make_sensor(deferrable=True, poke_interval=60, timeout=3600).execute(make_context())
    trigger = caught.value.trigger
    assert isinstance(trigger, LandingTrigger)
    assert trigger.once
    assert trigger.poll_s == 60
    assert caught.value.timeout == timedelta(hours=1)


def test_sensor_and_trigger_agree(world: World) -> None:
    world.land(range(1))
    mark_seen(world.store, ROOT, "toy", landing_state(world.store, LANDING))
    assert not make_sensor().poke(make_context())
    assert fired(make_trigger(), [landing_state(world.store, LANDING)]) == []
    world.land(range(1, 2))
    assert make_sensor().poke(make_context())
    assert datetime.fromisoformat(first_event(make_trigger(once=True))["newest"]) <= datetime.now(UTC)
