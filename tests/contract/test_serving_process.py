"""The scoring service as a process, over real sockets: swaps under load, a polite end, a sudden one."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from tests.contract.registries import free_port
from tests.unit.core.serving.served import ROW, Adding, ServedWorld, split, until

from perennial.domain.times import Interval
from perennial.prediction_objects import read_predictions

pytestmark = pytest.mark.asyncio


class Service:
    """The process and its world."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.world = ServedWorld(folder)
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def promote(self, shift: float) -> None:
        """A model that adds `shift` becomes champion."""
        self.world.promote(Adding(shift))
        unfinished = self.folder / "registry.unfinished"
        unfinished.write_bytes(pickle.dumps(self.world.registry))
        os.replace(unfinished, self.folder / "registry.pickle")

    async def start(self) -> None:
        """Until it can score."""
        command = [sys.executable, "-m", "tests.contract.serving_process", str(self.folder), str(self.port)]
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        async with httpx.AsyncClient(base_url=self.url) as http:
            async with asyncio.timeout(120):
                while not await _is_up(http):
                    assert self.process.poll() is None, (self.folder / "service.log").read_text()
                    await asyncio.sleep(0.05)

    async def ended(self) -> int:
        """Its exit code."""
        assert self.process is not None
        process = self.process
        await until(lambda: process.poll() is not None, seconds=30)
        return int(process.returncode)

    def end(self, how: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(how)


async def _is_up(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/ping")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    service.promote(1.0)
    yield service
    if service.process is not None and service.process.poll() is None:
        service.process.kill()
        service.process.wait()


class Load:
    """What clients saw."""

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.faults: list[str] = []


@asynccontextmanager
async def _load(service: Service, clients: int = 4) -> AsyncIterator[Load]:
    """Requests one after the other, by each of several clients, until they are told to go elsewhere."""
    seen, stop = Load(), asyncio.Event()

    async def client() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as http:
            while not stop.is_set():
                try:
                    found = await http.post("/invocations", json=split(ROW))
                except httpx.TransportError as error:
                    seen.faults.append(repr(error))
                    return
                version = found.headers.get("x-perennial-version", "")
                seen.versions.append(version)
                if found.status_code != 200 or found.json() != {"predictions": [2.5 + float(version)]}:
                    seen.faults.append(f"{found.status_code} {found.text}")
                if found.headers.get("connection") == "close":
                    return  # the replica is on its way out: a load balancer asks another one now

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_champions_swapped_under_load_cost_no_request_and_give_no_wrong_answer(service: Service) -> None:
    await service.start()
    async with _load(service) as seen:
        for shift in (2.0, 3.0, 4.0):
            before = len(seen.versions)
            await until(lambda before=before: len(seen.versions) > before + 20, seconds=30)
            service.promote(shift)
            await until(lambda version=str(int(shift)): seen.versions[-1:] == [version], seconds=30)
    assert seen.faults == []
    assert set(seen.versions) == {"1", "2", "3", "4"}


async def test_sigterm_answers_what_was_asked_keeps_the_log_and_exits_0(service: Service) -> None:
    await service.start()
    async with _load(service) as seen:
        await until(lambda: len(seen.versions) > 20, seconds=30)
        service.end(signal.SIGTERM)
        code = await service.ended()
    assert seen.faults == []
    assert code == 0
    today = datetime.now(UTC)
    during = Interval(today - timedelta(hours=1), today + timedelta(hours=1))
    kept = read_predictions(service.world.store, "s3://bucket/store", "toy", during, version="1")
    assert len(kept) == len(seen.versions)


async def test_service_that_was_killed_starts_again_without_its_registry(service: Service) -> None:
    await service.start()
    service.end(signal.SIGKILL)
    assert await service.ended() == -signal.SIGKILL
    (service.folder / "registry.pickle").rename(service.folder / "gone")
    await service.start()
    async with httpx.AsyncClient(base_url=service.url) as http:
        assert (await http.post("/invocations", json=split(ROW))).json() == {"predictions": [3.5]}


async def test_clients_that_hang_up_or_send_garbage_leave_no_trace(service: Service) -> None:
    await service.start()
    for content in (
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
        b"\x00\x01\x02 garbage\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nContent-Length: nonsense\r\n\r\n",
        b"",
    ):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall(content)
    async with httpx.AsyncClient(base_url=service.url) as http:
        assert (await http.post("/invocations", json=split(ROW))).status_code == 200
        await asyncio.sleep(0)
        assert "perennial_serving_in_flight 0.0" in (await http.get("/metrics")).text
    assert "Traceback" not in (service.folder / "service.log").read_text()
