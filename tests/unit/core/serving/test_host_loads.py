"""Loads that fail, or take their time: what goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.traffic import Role, plan_uri
from perennial.serving.columns import Batch
from perennial.serving.host import ModelHost, ServedModel
from tests.unit.core.serving.served import MODEL, ROOT, ROW, Adding, ServedWorld, ready, until

pytestmark = pytest.mark.asyncio


@pytest.fixture
def world(tmp_path: Path) -> ServedWorld:
    return ServedWorld(tmp_path)


async def _predicted(served: ServedModel) -> float:
    assert served.champion is not None
    batch = Batch({name: [value] for name, value in ROW.items()}, 1)
    (value,) = await served.champion.batcher.submit(batch, time.monotonic() + 10)
    return float(value)


async def test_version_that_has_failed_for_days_is_still_tried_and_keeps_nothing_from_happening(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perennial.serving.host._BACK_OFF_S", (0.0,))
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    version = world.promote(Adding(broken="crash"))
    await host.refresh(served)
    (failure,) = served.failures.values()
    failure.tries = 5000
    await host.refresh(served)
    assert f'load_failures_total{{model="toy",version="{version}"}} 2.0' in world.metrics.exposition().decode()


async def test_load_that_raises_a_timeout_of_its_own_is_tried_again(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perennial.serving.host._BACK_OFF_S", (0.0,))
    world.promote(Adding(1.0))
    host = world.host()
    fetch, asked = world.registry.fetch, []

    def late(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 1:
            raise TimeoutError("the socket")
        return fetch(*arguments)

    monkeypatch.setattr(world.registry, "fetch", late)
    served = await ready(host)
    assert "the socket" in served.problem
    await host.refresh(served)
    assert await _predicted(served) == 3.5


@pytest.mark.parametrize("hanging", ["champion", "challenger"])
async def test_load_that_hangs_keeps_the_next_look_from_nothing(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    monkeypatch.setattr("perennial.serving.host._LOAD_PATIENCE_S", 0.05)
    Adding.gate.clear()
    hangs = world.add_version(Adding(broken="hang"))
    if hanging == "champion":
        world.registry.point_alias(MODEL, "champion", hangs)
    else:
        world.plan(hangs)
    await host.refresh(served)
    assert await _predicted(served) == 3.5
    better = world.promote(Adding(2.0))
    await until_version(host, served, better)
    assert await _predicted(served) == 4.5
    Adding.gate.set()
    world.store.delete(plan_uri(ROOT, MODEL))
    await until(lambda: all(load.done() for load in served.loads.values()))
    await host.refresh(served)
    assert served.loads == {}


async def until_version(host: ModelHost, served: ServedModel, version: str) -> None:
    """Look until it serves."""
    for _ in range(200):
        await host.refresh(served)
        if served.champion is not None and served.champion.version == version:
            return
    raise AssertionError(f"{version} does not serve")


async def test_store_that_hangs_keeps_no_champion_waiting_and_the_plan_stands(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perennial.serving.host._PATIENCE_S", 0.05)
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)))
    host = world.host()
    served = await ready(host)
    while served.challenger is None:
        await host.refresh(served)
    read, opened, asked = world.store.read, threading.Event(), []

    def hang(uri: str) -> bytes:
        asked.append(uri)
        assert opened.wait(30)
        return read(uri)

    monkeypatch.setattr(world.store, "read", hang)
    better = world.promote(Adding(3.0))
    await until_version(host, served, better)
    await host.refresh(served)
    assert len(asked) == 1  # no thread for each look
    assert served.role("any", world.clock.now()) is Role.CANARY
    world.store.delete(plan_uri(ROOT, MODEL))
    opened.set()
    await until(lambda: served.split is None or served.split.done())
    while served.challenger is not None:
        await host.refresh(served)


async def test_start_with_a_registry_that_hangs_waits_for_the_load_of_what_served_last_alone(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(Adding(1.0))
    await ready(world.host())
    monkeypatch.setattr("perennial.serving.host._PATIENCE_S", 0.01)
    monkeypatch.setattr("perennial.serving.host._LOAD_PATIENCE_S", 0.01)
    answered, imported = threading.Event(), threading.Event()

    class Hanging:
        def open_fetched(self, *arguments: Any) -> Any:
            assert imported.wait(30)
            return world.registry.open_fetched(*arguments)

        def champion(self, model: str) -> Any:
            assert answered.wait(30)
            return world.registry.champion(model)

    host = world.host(registry=Hanging())
    served = host.models[MODEL]
    looking = asyncio.create_task(host.refresh(served))
    await until(lambda: served.loads)
    await asyncio.sleep(0.05)  # the first load of a process takes longer than a look waits for it
    imported.set()
    await until(lambda: served.champion is not None)
    assert await _predicted(served) == 3.5
    answered.set()
    await looking


async def test_start_with_a_new_champion_that_hangs_while_it_is_fetched_serves_what_served_last(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(Adding(1.0))
    await ready(world.host())
    newer = world.promote(Adding(2.0))
    monkeypatch.setattr("perennial.serving.host._PATIENCE_S", 0.01)
    monkeypatch.setattr("perennial.serving.host._LOAD_PATIENCE_S", 0.01)
    fetch, arrived = world.registry.fetch, threading.Event()

    def hang(*arguments: Any) -> Any:
        assert arrived.wait(30)
        return fetch(*arguments)

    monkeypatch.setattr(world.registry, "fetch", hang)
    host = world.host()
    served = host.models[MODEL]
    while served.champion is None:
        await host.refresh(served)
    assert await _predicted(served) == 3.5
    arrived.set()
    await until_version(host, served, newer)
    assert await _predicted(served) == 4.5
