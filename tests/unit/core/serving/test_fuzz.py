"""Whatever comes over HTTP, it is answered below 500, in JSON, and nothing of the inside is told.

Bodies by the OpenAPI document are in tests/contract/test_serving_fuzz.py; these are none of its making.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perennial.serving.labels import LabelLog
from perennial.serving.payload import FORMATS
from tests.unit.core.serving.served import MODEL, ROOT, ROW, Adding, ServedWorld, client, ready, split

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
_KEYS = st.sampled_from([*ROW, *FORMATS, "columns", "data", "index", "params", "labels", "request_id", "row", "label"])
_GOOD = [split(ROW), {"instances": [ROW]}, {"inputs": ROW}, {"labels": [{"request_id": "r", "row": 0, "label": 1}]}]
BODIES = (
    st.binary(max_size=100)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(_KEYS, JSON, max_size=3).map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda good, at, length, new: good[:at] + new + good[at + length :],
        st.sampled_from([json.dumps(good).encode() for good in _GOOD]),
        st.integers(0, 120),
        st.integers(0, 8),
        st.binary(max_size=6) | JSON.map(lambda value: json.dumps(value).encode()),
    )
    | st.builds(lambda lines: "\r\n".join([",".join(ROW), *lines]).encode(), st.lists(st.text(max_size=12), max_size=3))
)
HEADER = st.binary(max_size=20).filter(lambda value: not set(value) & {0, 10, 13})
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from([b"application/json", b"text/csv", b"application/json; charset=utf-8"])
        | HEADER,
        "content-length": st.sampled_from([b"0", b"-1", b"1e9", b"\xb2", b"99999999999999999999"]),
        "x-request-id": HEADER,
        "x-perennial-key": HEADER,
        "host": HEADER,
    },
)
PATHS = st.sampled_from(
    ["/invocations", f"/models/{MODEL}/invocations", "/labels", f"/models/{MODEL}/labels", "/models/%00%ff/labels"]
) | st.text(max_size=12).map(lambda text: "/" + text)
METHODS = st.sampled_from(["POST"] * 9 + ["GET", "PUT", "HEAD", "OPTIONS"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, httpx.AsyncClient]]:
    """One that canary and champion answer by halves."""
    folder: Path = tmp_path_factory.mktemp("fuzz")

    async def started() -> httpx.AsyncClient:
        world = ServedWorld(folder)
        world.promote(Adding(1.0))
        world.plan(world.add_version(Adding(2.0)), share=50)
        host = world.host()
        await ready(host)
        return client(world, host, labels=LabelLog(world.store, ROOT, world.clock))

    with asyncio.Runner() as runner:
        yield runner, runner.run(started())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(method=METHODS, path=PATHS, headers=HEADERS, body=BODIES)
def test_whatever_is_sent_is_answered_below_500_and_tells_nothing_of_the_inside(
    service: tuple[asyncio.Runner, httpx.AsyncClient], method: str, path: str, headers: dict[str, bytes], body: bytes
) -> None:
    runner, http = service
    try:
        request = http.build_request(method, path, headers={k.encode(): v for k, v in headers.items()}, content=body)
    except (httpx.InvalidURL, ValueError):  # what no client can even send
        return
    found = runner.run(http.send(request))
    assert found.status_code < 500, found.text
    assert "Traceback" not in found.text
    assert 'File "' not in found.text
    if method != "HEAD" and found.status_code >= 400:
        told: Any = found.json()
        assert told["error_code"]
        assert told["message"]
