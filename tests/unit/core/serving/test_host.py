"""Which version serves: swaps, challengers by plan, and what stays when the new one cannot be had."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.traffic import Role, plan_uri
from perennial.errors import StoreUnavailableError
from perennial.serving.columns import Batch
from perennial.serving.host import ModelHost, ServedModel
from perennial.serving.threads import StillRunningError, in_daemon
from tests.unit.core.serving.served import MODEL, ROOT, ROW, Adding, ServedWorld, ready, until
from tests.unit.core.serving.test_cache import Down

pytestmark = pytest.mark.asyncio


@pytest.fixture
def world(tmp_path: Path) -> ServedWorld:
    return ServedWorld(tmp_path)


async def _predicted(served: ServedModel) -> float:
    assert served.champion is not None
    batch = Batch({name: [value] for name, value in ROW.items()}, 1)
    (value,) = await served.champion.batcher.submit(batch, time.monotonic() + 10)
    return float(value)


async def test_champion_is_loaded_and_named_with_digest_and_time(world: ServedWorld) -> None:
    version = world.promote(Adding(1.0))
    host = world.host()
    assert host.unhealthy() == "models are being loaded"
    served = await ready(host)
    assert await _predicted(served) == 3.5
    digest = world.registry.version(MODEL, version).model.digest
    told = served.to_dict()
    assert told["champion"] == {"version": "1", "digest": digest, "since": "2026-01-01T00:00:00Z", "hangs": False}
    assert (told["challenger"], told["problem"], host.unhealthy()) == (None, None, "")
    assert f'model_info{{digest="{digest}",model="toy",role="champion",version="1"}} 1.0' in _metrics(world)


async def test_moved_alias_swaps_and_the_old_version_finishes_what_it_was_given(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    served = await ready(world.host())
    old = served.champion
    assert old is not None
    Adding.gate.clear()
    batch = Batch({"x": [0.5], "n": [2], "carrier": ["hang"]}, 1)
    waiting = old.batcher.submit(batch, time.monotonic() + 10)
    world.promote(Adding(2.0))
    await _again(world, served)
    assert await _predicted(served) == 4.5
    Adding.gate.set()
    assert await waiting == [3.5]
    assert "perennial_serving_swaps_total" in _metrics(world)


async def test_same_champion_is_not_loaded_again(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    served = await ready(world.host())
    before = served.champion
    await _again(world, served)
    assert served.champion is before


@pytest.mark.parametrize("fault", ["corrupt", "raises", "exits", "by_hand", "alias_gone"])
async def test_last_good_version_stays_when_the_new_one_cannot_be_served(world: ServedWorld, fault: str) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    if fault == "by_hand":
        world.registry.point_alias(MODEL, "champion", world.registry.register_by_hand(MODEL))
    elif fault == "alias_gone":
        world.registry._aliases.clear()
    else:
        version = world.promote(Adding(broken={"raises": "refuse", "exits": "exit"}.get(fault, "")))
        if fault == "corrupt":
            world.registry.corrupt(world.registry.version(MODEL, version).model.model_uri)
    await host.refresh(served)
    assert await _predicted(served) == 3.5
    assert served.champion is not None
    assert served.champion.version == "1"
    assert served.problem
    assert host.unhealthy() == ""


async def test_version_that_failed_is_tried_again_later_and_not_at_each_look(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    version = world.promote(Adding(2.0))
    uri = world.registry.version(MODEL, version).model.model_uri
    intact = dict(world.registry.files[uri])
    world.registry.corrupt(uri)
    for _ in range(3):
        await host.refresh(served)
    assert 'load_failures_total{model="toy",version="2"} 1.0' in _metrics(world)
    assert "was changed" in served.problem
    world.registry.files[uri] = intact
    now = time.monotonic()
    monkeypatch.setattr("perennial.serving.host.time.monotonic", lambda: now + 61)
    await host.refresh(served)
    assert await _predicted_at(served, now) == 4.5
    assert served.problem == ""


async def _predicted_at(served: ServedModel, now: float) -> float:
    assert served.champion is not None
    batch = Batch({name: [value] for name, value in ROW.items()}, 1)
    (value,) = await served.champion.batcher.submit(batch, now + 600)
    return float(value)


async def test_start_without_mlflow_serves_what_served_last(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    await ready(world.host())
    restarted = world.host(registry=Down(world.registry))
    served = await ready(restarted)
    assert await _predicted(served) == 3.5
    assert "did not answer" in served.problem
    assert restarted.unhealthy() == ""


async def test_start_with_a_corrupt_champion_serves_what_served_last(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    await ready(world.host())
    version = world.promote(Adding(2.0))
    world.registry.corrupt(world.registry.version(MODEL, version).model.model_uri)
    served = await ready(world.host())
    assert await _predicted(served) == 3.5
    assert "was changed" in served.problem


async def test_start_with_a_registry_that_hangs_does_not_wait_for_it(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(Adding(1.0))
    await ready(world.host())
    answered = threading.Event()

    class Hanging:
        open_fetched = world.registry.open_fetched

        def champion(self, model: str) -> Any:
            assert answered.wait(30)
            return world.registry.champion(model)

    monkeypatch.setattr("perennial.serving.host._PATIENCE_S", 0.01)
    host = world.host(registry=Hanging())
    looking = asyncio.create_task(host.refresh(host.models[MODEL]))
    await until(lambda: host.unhealthy() == "")
    assert await _predicted(host.models[MODEL]) == 3.5
    answered.set()
    await looking


async def test_start_with_nothing_at_all_says_so(world: ServedWorld) -> None:
    host = world.host()
    served = await ready(host)
    assert served.champion is None
    assert "has no champion" in host.unhealthy()


async def test_mlflow_that_goes_down_later_changes_nothing(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    served = await ready(world.host())
    await world.host(registry=Down(world.registry)).refresh(served)
    assert await _predicted(served) == 3.5


async def test_live_plan_brings_up_a_challenger_and_its_end_takes_it_away(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    world.plan(world.add_version(Adding(2.0)), share=100)
    await host.refresh(served)
    assert served.role("any", world.clock.now()) is Role.CANARY
    assert served.to_dict()["challenger"]["share"] == 100
    assert 'role="canary"' in _metrics(world)
    world.clock.advance(timedelta(minutes=11))
    assert served.role("any", world.clock.now()) is Role.CHAMPION  # at once, not at the next look
    await host.refresh(served)
    assert served.challenger is None
    assert 'role="canary",version="2"} 1.0' not in _metrics(world)


async def test_promoted_challenger_takes_over_without_being_loaded_again(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    version = world.add_version(Adding(2.0))
    world.plan(version)
    await host.refresh(served)
    challenger = served.challenger
    world.registry.point_alias(MODEL, "champion", version)
    await host.refresh(served)
    assert served.champion is challenger
    assert (served.challenger, served.plan) == (None, None)
    assert await _predicted(served) == 4.5


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"model": "toy"}', b"[" * 100_000])
async def test_plan_that_cannot_be_read_leaves_all_to_the_champion_and_is_counted(
    world: ServedWorld, content: bytes
) -> None:
    world.promote(Adding(1.0))
    world.store.write(plan_uri(ROOT, MODEL), content, content_type="application/json")
    served = await ready(world.host())
    assert served.role("any", world.clock.now()) is Role.CHAMPION
    assert 'look_failures_total{model="toy",what="plan"} 1.0' in _metrics(world)


async def test_plan_of_another_model_is_none(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)))
    plan = json.loads(world.store.read(plan_uri(ROOT, MODEL)))
    world.store.write(plan_uri(ROOT, MODEL), json.dumps({**plan, "model": "x"}).encode(), content_type="x")
    served = await ready(world.host())
    assert served.challenger is None


async def test_plan_stands_while_the_store_is_down_until_it_expires(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    world.plan(world.add_version(Adding(2.0)))
    await host.refresh(served)

    class NoStore:
        def read(self, uri: str) -> bytes:
            raise StoreUnavailableError("down")

    without: ModelHost = world.host(store=NoStore())
    await without.refresh(served)
    assert served.role("any", world.clock.now()) is Role.CANARY
    world.clock.advance(timedelta(minutes=11))
    await without.refresh(served)
    assert served.challenger is None


async def test_challenger_that_cannot_be_loaded_leaves_all_to_the_champion(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(broken="crash")))
    served = await ready(world.host())
    assert served.role("any", world.clock.now()) is Role.CHAMPION
    assert await _predicted(served) == 3.5
    assert "version 2 could not be loaded" in served.problem


async def test_replica_is_unhealthy_while_its_champion_hangs(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, hang_after_s=0.05)
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    assert served.champion is not None
    Adding.gate.clear()
    answer = served.champion.batcher.submit(
        Batch({"x": [0.5], "n": [2], "carrier": ["hang"]}, 1), time.monotonic() + 10
    )
    await until(lambda: "hangs" in host.unhealthy())
    Adding.gate.set()
    await answer
    await until(lambda: host.unhealthy() == "")


async def test_one_of_several_models_that_cannot_be_loaded_is_no_reason_to_leave(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, MODEL, "other")
    world.promote(Adding(1.0))
    host = world.host()
    await ready(host)
    assert host.unhealthy() == "models are being loaded"
    await ready(host, "other")
    assert host.unhealthy() == ""


async def test_watching_goes_on_after_an_error_that_nobody_thought_of(world: ServedWorld) -> None:
    looks: list[str] = []

    class Odd:
        def champion(self, model: str) -> Any:
            looks.append(model)
            raise ZeroDivisionError

        def __getattr__(self, name: str) -> Any:
            return getattr(world.registry, name)

    host = world.host(registry=Odd())
    await host.start()
    await until(lambda: len(looks) > 2)
    await host.close()


async def test_thread_that_takes_too_long_is_left_alone() -> None:
    with pytest.raises(StillRunningError):
        await in_daemon(lambda: (Adding.gate.wait(0.2) and None) or time.sleep(0.2), timeout_s=0.01)
    with pytest.raises(RuntimeError, match="SystemExit"):
        await in_daemon(_exit)


def _exit() -> None:
    raise SystemExit(3)


async def _again(world: ServedWorld, served: ServedModel) -> None:
    await world.host().refresh(served)
    await asyncio.sleep(0)


def _metrics(world: ServedWorld) -> str:
    return world.metrics.exposition().decode()


@pytest.mark.parametrize("what", ["plan", "challenger"])
async def test_plan_that_raises_what_nobody_thought_of_keeps_no_champion_out(world: ServedWorld, what: str) -> None:
    version = world.add_version(Adding(2.0))
    world.promote(Adding(1.0))
    world.plan(version)

    class Odd:
        def __init__(self, inner: Any, broken: str) -> None:
            self._inner, self._broken = inner, broken

        def __getattr__(self, name: str) -> Any:
            if name == self._broken:
                raise ZeroDivisionError
            return getattr(self._inner, name)

    odd = {"plan": {"store": Odd(world.store, "read")}, "challenger": {"registry": Odd(world.registry, "version")}}
    served = await ready(world.host(**odd[what]))
    assert await _predicted(served) == 3.5
    assert f'look_failures_total{{model="toy",what="{what}"}} 1.0' in _metrics(world)
