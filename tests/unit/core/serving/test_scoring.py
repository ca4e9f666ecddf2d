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
from perennial.errors import RegistryUnavailableError
from perennial.serving import scoring
from perennial.serving.errors import HungUpError, ModelFailedError
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
        (Role.CHAMPION, False),
        (Role.CANARY, True),
    ]


async def test_request_that_neither_model_can_score_does_not_count_against_the_canary(
    world: ServedWorld,
) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)))
    host = world.host()
    served = await ready(host)
    assert served.champion is not None
    assert served.challenger is not None
    for deployed in (served.champion, served.challenger):
        deployed.scorer._predict = _broken
    with pytest.raises(ModelFailedError):
        await ScoringService(host, world.log).answer(_request())
    assert [(kept.role, bool(kept.error)) for kept in world.log.requests] == [(Role.CHAMPION, True)]


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


@pytest.mark.parametrize("role", [Role.CANARY, Role.SHADOW])
async def test_requests_of_a_challenger_that_cannot_be_loaded_count_as_its_errors(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    monkeypatch.setattr("perennial.serving.host._BACK_OFF_S", (0.0,))
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(broken="crash")), role)
    host = world.host()
    service = ScoringService(host, world.log)
    for tries in (1, 2, 3):
        await host.refresh(host.models[MODEL])
        answer = await service.answer(_request())
        assert (answer.version, answer.role, json.loads(answer.content)) == ("1", Role.CHAMPION, {"predictions": [3.5]})
        assert len(world.log.requests) == tries + (tries == 3)
    lost = world.log.requests[-1]
    assert (lost.version, lost.role, lost.predictions, lost.rows) == ("2", role, None, 1)
    assert lost.error.startswith("not_loaded: version 2 could not be loaded: ")
    assert f'errors_total{{kind="not_loaded",model="toy",role="{role}",version="2"}} 1.0' in _metrics(world)


async def test_challenger_that_cannot_be_fetched_while_mlflow_is_down_is_not_at_fault(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perennial.serving.host._BACK_OFF_S", (0.0,))
    world.promote(Adding(1.0))
    host = world.host()
    await ready(host)
    world.plan(world.add_version(Adding(2.0)))

    def down(*arguments: Any) -> Any:
        raise RegistryUnavailableError("connection refused")

    monkeypatch.setattr(world.registry, "fetch", down)
    for _ in range(5):
        await host.refresh(host.models[MODEL])
        await ScoringService(host, world.log).answer(_request())
    assert {request.version for request in world.log.requests} == {"1"}
    assert "version 2 could not be loaded: connection refused" in host.models[MODEL].problem


async def test_share_that_the_plan_leaves_to_the_champion_is_no_loss(
    world: ServedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perennial.serving.host._BACK_OFF_S", (0.0,))
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(broken="crash")), share=0)
    host = world.host()
    for _ in range(4):
        await host.refresh(host.models[MODEL])
    await ScoringService(host, world.log).answer(_request())
    assert [request.version for request in world.log.requests] == ["1"]


async def test_request_that_fails_after_a_swap_counts_against_the_version_that_it_was_given_to(
    world: ServedWorld,
) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    served = await ready(host)
    Adding.gate.clear()
    body = json.dumps(split({**ROW, "carrier": "hang"}, {**ROW, "carrier": "crash"})).encode()
    waiting = asyncio.create_task(ScoringService(host, world.log).answer(_request(body=body)))
    await asyncio.sleep(0.05)
    world.promote(Adding(2.0))
    await host.refresh(served)
    assert served.champion is not None
    assert served.champion.version == "2"
    Adding.gate.set()
    with pytest.raises(ModelFailedError):
        await waiting
    assert [(request.version, request.error) for request in world.log.requests] == [
        ("1", "model: the model failed: RuntimeError")
    ]
    assert 'errors_total{kind="model",model="toy",role="champion",version="1"} 1.0' in _metrics(world)


def _metrics(world: ServedWorld) -> str:
    return world.metrics.exposition().decode()


def _broken(frame: Any) -> Any:
    raise RuntimeError("no request of this kind can be scored")
