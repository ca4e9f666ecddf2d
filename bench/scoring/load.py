"""Two clients: wrk, for throughput, and one in asyncio that keeps each answer. Both ask with rows in turn."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import uvloop

TIMEOUT_S: Final = 20.0
PATH: Final = "/invocations"
_SCRIPT: Final = Path(__file__).with_name("ask.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What came of asking for some seconds."""

    requests: int
    """Answered."""
    per_second: float
    failed: int
    """Not 200, too late, or the connection broke."""
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. Times are of the machine's monotonic clock, in seconds."""

    number: int
    """It asked with body `number % len(bodies)`."""
    began: float
    ended: float
    status: int
    """0: the connection broke, or nothing came in time."""
    version: str
    """By the answer's header."""
    content: bytes


def bodies_of(rows: pd.DataFrame) -> list[bytes]:
    """A single-row request for each row."""
    split = json.loads(rows.to_json(orient="split", index=False, double_precision=15))
    whole = ({"columns": split["columns"], "data": [values]} for values in split["data"])
    return [json.dumps({"dataframe_split": one}).encode() for one in whole]


def has_wrk() -> bool:
    """Whether wrk is on the path (Debian's package `wrk`)."""
    return shutil.which("wrk") is not None


def ask(port: int, bodies: Path, connections: int, seconds: float) -> Load:
    """Keep each connection busy: a request as soon as the one before is answered.

    wrk's percentiles are corrected for requests that a late answer kept from being asked; asyncio's are not.

    Args:
        port: on the loopback interface.
        bodies: a file with a body a line.
        connections: that are busy at a time.
        seconds: whole ones, for wrk.
    """
    if not has_wrk():
        answers = drive(port, bodies.read_bytes().splitlines(), connections, seconds)
        return summary(answers, seconds)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{int(seconds)}s", "--timeout", f"{int(TIMEOUT_S)}s"]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}{PATH}", "--", str(bodies)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 3 * TIMEOUT_S)
    return Load(**json.loads(done.stdout.strip().splitlines()[-1]))


def summary(answers: Sequence[Answer], seconds: float) -> Load:
    """The same figures from single answers."""
    good = [answer for answer in answers if answer.status == 200]
    took = np.array([answer.ended - answer.began for answer in good] or [float("nan")]) * 1000
    p50, p99 = np.percentile(took, [50, 99])
    return Load(len(good), len(good) / seconds, len(answers) - len(good), float(p50), float(p99))


def drive(
    port: int, bodies: Sequence[bytes], connections: int, seconds: float, per_second: float = 0.0
) -> list[Answer]:
    """Ask from now on, with as many requests a second, or (0) as fast as they are answered.

    With a rate, a request that finds no free connection begins when it was due, so its time includes the wait.

    Args:
        port: on the loopback interface.
        bodies: asked in turn.
        connections: at most so many requests at a time.
        seconds: after which no more are asked; those under way are waited for.
        per_second: requests.
    """
    requests = [_head(len(body), port) + body for body in bodies]
    return uvloop.run(_drive(port, requests, connections, seconds, per_second))


async def _drive(
    port: int, requests: Sequence[bytes], connections: int, seconds: float, per_second: float
) -> list[Answer]:
    numbers, answers = itertools.count(), list[Answer]()
    start = time.monotonic()

    async def work() -> None:
        connection = _Connection(port)
        while (began := await _due(next_number := next(numbers), start, per_second)) < start + seconds:
            status, version, content = await connection.ask(requests[next_number % len(requests)])
            answers.append(Answer(next_number, began, time.monotonic(), status, version, content))
        connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return answers


async def _due(number: int, start: float, per_second: float) -> float:
    """Wait until a request is due; when it began."""
    now = time.monotonic()
    if not per_second:
        return now
    due = start + number / per_second
    if due <= now:
        return due
    await asyncio.sleep(due - now)
    return time.monotonic()  # that the timer is late is no fault of the server


class _Connection:
    """Kept open; opened again after a failure."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, str, bytes]:
        """Status (0: none), version and content."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._ask(request)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.close()
            return 0, "", repr(error).encode()

    async def _ask(self, request: bytes) -> tuple[int, str, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields: dict[str, Any] = dict(line.split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
        content = await reader.readexactly(int(fields.get("content-length", "")))
        if fields.get("connection") == "close":
            self.close()
        return int(head.split(" ", 2)[1]), fields.get("x-perennial-version", ""), content

    def close(self) -> None:
        """Whatever state it is in."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _head(length: int, port: int) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()
