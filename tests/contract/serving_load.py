"""Clients that ask without pause, each row another one, and remember what became of each request."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from tests.unit.core.serving.served import split

CLIENT_LIMIT_S: Final = 40.0
"""Eight times the service's own: who waits for longer was left hanging."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what became of it."""

    request_id: str
    key: str
    row: dict[str, Any]
    answered_at: datetime
    status: int = 0
    """0: no answer."""
    version: str = ""
    role: str = ""
    prediction: Any = None
    fault: str = ""
    """The connection's."""
    text: str = ""
    """Of a refusal."""


@dataclass(slots=True)
class Load:
    """What clients saw so far."""

    asked: list[Asked] = field(default_factory=list)

    @property
    def answered(self) -> list[Asked]:
        return [one for one in self.asked if one.status == 200]

    @property
    def statuses(self) -> Counter[int]:
        """How often each; 0: the connection failed."""
        return Counter(one.status for one in self.asked)

    @property
    def versions(self) -> Counter[str]:
        """Requests that each answered."""
        return Counter(one.version for one in self.answered)

    def wrong(self, shifts: Mapping[str, float]) -> list[Asked]:
        """Answers that are not what the version that is said to have answered gives for that row."""
        return [
            one
            for one in self.answered
            if one.prediction != [one.row["x"] + one.row["n"] + shifts.get(one.version, float("nan"))]
        ]

    def hung(self) -> list[Asked]:
        """Those that never ended."""
        return [one for one in self.asked if "Timeout" in one.fault]

    def told_secrets(self) -> list[Asked]:
        """Refusals with something of the inside in them."""
        secrets = ("Traceback", 'File "', "/include/", ".py", "secret of the inside")
        return [one for one in self.asked if any(secret in one.text for secret in secrets)]

    async def more(self, count: int, *, seconds: float = 60.0, status: int = 200) -> None:
        """Wait for so many more requests with this status."""
        target = self.statuses[status] + count
        async with asyncio.timeout(seconds):
            while self.statuses[status] < target:
                await asyncio.sleep(0.02)

    def before(self, end: datetime, margin: timedelta) -> set[str]:
        """Ids of what was answered by then, less the margin."""
        return {one.request_id for one in self.answered if one.answered_at <= end - margin}


@asynccontextmanager
async def load(url: str, *, clients: int = 4, carriers: tuple[str, ...] = ("AA",)) -> AsyncIterator[Load]:
    """Requests one after the other by each client; about 30 a second each. A fault of the connection ends no client."""
    seen, stop = Load(), asyncio.Event()
    name = f"{random.getrandbits(32):08x}"

    async def client(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=url, timeout=CLIENT_LIMIT_S, trust_env=False) as http:
            count = 0
            while not stop.is_set():
                count += 1
                row = {"x": chance.random(), "n": chance.randrange(100), "carrier": chance.choice(carriers)}
                ids = {"request_id": f"{name}-{number}-{count}", "key": f"key-{chance.randrange(50)}"}
                seen.asked.append(await _ask(http, row, **ids))
                await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _ask(http: httpx.AsyncClient, row: dict[str, Any], *, request_id: str, key: str) -> Asked:
    headers = {"x-request-id": request_id, "x-perennial-key": key}
    try:
        found = await http.post("/invocations", json=split(row), headers=headers)
    except httpx.TransportError as error:
        return Asked(request_id, key, row, datetime.now(UTC), fault=type(error).__name__)
    good = found.status_code == 200
    return Asked(
        request_id,
        key,
        row,
        datetime.now(UTC),
        status=found.status_code,
        version=found.headers.get("x-perennial-version", ""),
        role=found.headers.get("x-perennial-role", ""),
        prediction=found.json()["predictions"] if good else None,
        text="" if good else found.text,
    )
