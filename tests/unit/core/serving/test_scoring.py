"""One request's way, where it meets a swap, a challenger's end, or a client that does not wait."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.traffic import Role
from perennial.serving import scoring
from perennial.serving.errors import HungUpError
from perennial.serving.host import ModelHost
from perennial.serving.scoring import ScoringRequest, ScoringService
from tests.unit.core.serving.served import MODEL, NOW, ROW, Adding, ServedWorld, ready, split, until

pytestmark = pytest.mark.asyncio


@pytest.fixture
def world(tmp_path: Path) -> ServedWorld:
    return ServedWorld(tmp_path)


async def _never() -> None:
    await asyncio.Event().wait()


def _request(**changes: Any) -> ScoringRequest:
    request = ScoringRequest(
        model=MODEL,
        body=json.dumps(split(ROW)).encode(),
        content_type="application/json",
        request_id="r-1",
        key="k",
        at=NOW,
        started=time.monotonic(),
        hung_up=_never,
    )
    return replace(request, **changes)


def _in_between(monkeypatch: pytest.MonkeyPatch, world: ServedWorld, host: ModelHost, change: Any) -> None:
    """Let something happen while the first body is parsed in another thread."""
    parse, loop, happened = scoring.parse, asyncio.get_running_loop(), []

    def slow(*arguments: Any) -> Any:
        if not happened:
            happened.append(True)
            change()
            asyncio.run_coroutine_threadsafe(host.refresh(host.models[MODEL]), loop).result(10)
        return parse(*arguments)

    monkeypatch.setattr(scoring, "_LARGE_BYTES", 0)
    monkeypatch.setattr(scoring, "parse", slow)


async def test_request_whose_champion_is_swapped_while_it_is_parsed_is_answered_by_the_new_one(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    await ready(host)
    _in_between(monkeypatch, world, host, lambda: world.promote(Adding(2.0)))
    answer = await ScoringService(host).answer(_request())
    assert (answer.content, answer.version) == (b'{"predictions":[4.5]}', "2")


async def test_request_whose_canary_ends_while_it_is_parsed_goes_to_the_champion_and_blames_nobody(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)))
    host = world.host()
    await ready(host)
    plan = "s3://bucket/store/traffic/toy.json"
    _in_between(monkeypatch, world, host, lambda: world.store.delete(plan))
    answer = await ScoringService(host, world.log).answer(_request())
    assert (answer.content, answer.role) == (b'{"predictions":[3.5]}', Role.CHAMPION)
    assert [kept.error for kept in world.log.requests] == [""]


@pytest.mark.parametrize("canary", [False, True])
async def test_client_that_hangs_up_gets_no_prediction_made_and_blames_nobody(world: ServedWorld, canary: bool) -> None:
    world.promote(Adding(1.0))
    if canary:
        world.plan(world.add_version(Adding(1.0)))
    host = world.host()
    served = await ready(host)
    service = ScoringService(host, world.log)
    Adding.gate.clear()
    busy = asyncio.create_task(service.answer(_request(body=json.dumps(split({**ROW, "carrier": "hang"})).encode())))
    deployed = served.challenger if canary else served.champion
    assert deployed is not None
    await until(lambda: deployed.batcher._busy_since is not None)

    async def gone() -> None:
        return

    with pytest.raises(HungUpError):
        await service.answer(_request(hung_up=gone))
    assert deployed.batcher.waiting_rows == 1
    Adding.gate.set()
    await busy
    await until(lambda: deployed.batcher.waiting_rows == 0)
    assert [kept.request_id for kept in world.log.requests] == ["r-1"]
    assert [kept.error for kept in world.log.requests] == [""]


async def test_shadow_copies_are_finished_before_the_service_closes(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)), Role.SHADOW)
    host = world.host()
    await ready(host)
    service = ScoringService(host, world.log)
    await service.answer(_request())
    await service.close()
    assert [kept.role for kept in world.log.requests] == [Role.CHAMPION, Role.SHADOW]


async def test_shadow_without_room_drops_the_copy_and_counts_it(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, max_queue_rows=1)
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)), Role.SHADOW)
    host = world.host()
    await ready(host)
    service = ScoringService(host, world.log)
    world.break_challenger("hang")
    Adding.gate.clear()
    for _ in range(4):
        await service.answer(_request())
    await until(lambda: 'shadows_dropped_total{model="toy"}' in world.metrics.exposition().decode())
    Adding.gate.set()
    await service.close()
    errors = [kept.error for kept in world.log.requests if kept.role is Role.SHADOW]
    assert set(errors) == {""}
    assert len(errors) < 4


async def test_canary_that_predicts_what_json_lacks_costs_no_request(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)))
    host = world.host()
    served = await ready(host)
    assert served.challenger is not None
    served.challenger.scorer._predict = lambda frame: [{1, 2}] * len(frame)
    answer = await ScoringService(host, world.log).answer(_request())
    assert (answer.content, answer.role) == (b'{"predictions":[3.5]}', Role.CHAMPION)
    assert [(kept.role, bool(kept.error)) for kept in world.log.requests] == [
        (Role.CANARY, True),
        (Role.CHAMPION, False),
    ]


async def test_shadow_copies_have_a_bound_in_bytes(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, max_bytes_in_flight=len(_request().body) + 1)
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)), Role.SHADOW)
    host = world.host()
    await ready(host)
    service = ScoringService(host, world.log)
    world.break_challenger("hang")
    Adding.gate.clear()
    for _ in range(3):
        await service.answer(_request())
    await until(lambda: 'shadows_dropped_total{model="toy"} 2.0' in world.metrics.exposition().decode())
    Adding.gate.set()
    await service.close()
    with host.room.place() as take:
        take(len(_request().body) + 1)  # all of it is free again
