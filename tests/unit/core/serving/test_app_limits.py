"""What is too much, too large or too late, over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from perennial.serving.labels import LabelLog
from tests.unit.core.serving.served import ROOT, ROW, Adding, ServedWorld, client, ready, split, until

pytestmark = pytest.mark.asyncio
URL = "/invocations"


async def _serving(world: ServedWorld, **more: Any) -> httpx.AsyncClient:
    host = world.host()
    await ready(host)
    return client(world, host, **more)


def _row(carrier: str) -> dict[str, Any]:
    return split({**ROW, "carrier": carrier})


def _metrics(world: ServedWorld) -> str:
    return world.metrics.exposition().decode()


async def test_body_above_the_limit_is_refused_announced_or_not(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, max_body_bytes=100)
    world.promote(Adding(1.0))
    http = await _serving(world)

    async def parts() -> Any:
        for _ in range(20):
            yield b"x" * 10

    for content in (b"x" * 101, parts()):
        found = await http.post(URL, content=content, headers={"Content-Type": "application/json"})
        assert found.status_code == 413
        assert "100 bytes" in found.json()["message"]


async def test_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, request_timeout_s=0.05)
    world.promote(Adding(1.0))
    http = await _serving(world)

    async def parts() -> Any:
        yield b"{"
        await asyncio.sleep(10)

    found = await http.post(URL, content=parts(), headers={"Content-Type": "application/json"})
    assert found.status_code == 408


async def test_full_queue_answers_429_with_retry_after(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, max_queue_rows=1)
    world.promote(Adding(1.0))
    http = await _serving(world)
    Adding.gate.clear()
    hanging = asyncio.create_task(http.post(URL, json=_row("hang")))
    await until(lambda: "in_flight 1.0" in _metrics(world))
    others = [asyncio.create_task(http.post(URL, json=split(ROW))) for _ in range(5)]
    await until(lambda: any(task.done() for task in others))
    Adding.gate.set()
    found = await asyncio.gather(*others)
    refused = [answer for answer in found if answer.status_code == 429]
    assert refused
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert (await hanging).status_code == 200


async def test_bodies_in_flight_have_a_bound_together_and_make_room_again(tmp_path: Path) -> None:
    body = json.dumps(split(ROW))
    world = ServedWorld(tmp_path, max_bytes_in_flight=len(body) + 50)
    world.promote(Adding(1.0))
    http = await _serving(world, labels=LabelLog(world.store, ROOT, world.clock))
    Adding.gate.clear()
    hanging = asyncio.create_task(http.post(URL, json=_row("hang")))
    await until(lambda: "in_flight 1.0" in _metrics(world))
    await asyncio.sleep(0.05)
    for url, content in ((URL, split(ROW)), ("/labels", {"labels": ["x" * 500]})):
        refused = await http.post(url, json=content)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    Adding.gate.set()
    assert (await hanging).status_code == 200
    for _ in range(3):
        assert (await http.post(URL, json=split(ROW))).status_code == 200


async def test_store_that_hangs_holds_few_threads_and_labels_are_told_to_come_again(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, request_timeout_s=0.05)
    world.promote(Adding(1.0))
    opened, inside = threading.Event(), []

    class Hanging:
        def write(self, uri: str, *_: Any, **__: Any) -> bool:
            inside.append(threading.current_thread())
            assert opened.wait(30)
            return True

    http = await _serving(world, labels=LabelLog(Hanging(), ROOT, world.clock))  # type: ignore[arg-type]
    body = {"labels": [{"request_id": "r-17", "label": 1}]}
    for _ in range(10):
        assert (await http.post("/labels", json=body)).status_code == 504
    assert len(inside) == 4
    assert all(thread.daemon for thread in inside)  # the process may end before they do
    opened.set()
    await until(lambda: not any(thread.is_alive() for thread in inside))
    assert (await http.post("/labels", json=body)).status_code == 200
