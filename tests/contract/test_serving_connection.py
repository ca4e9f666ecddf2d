"""What comes before a body, over a real socket: an end in bytes and in time, and nothing else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from uvicorn.server import ServerState

from perennial.serving.connection import MAX_HEAD_BYTES, Connection

pytestmark = pytest.mark.asyncio
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, scope["path"] != "/at-once"
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    content = f"{scope['path']} {size}".encode()
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(_echo, timeout_keep_alive=1, ws="none", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for connection in list(state.connections):
        connection.shutdown()


async def _answers(port: int, *pieces: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_head_that_is_too_large_is_refused_in_one_piece_and_in_many(port: int, end: bytes) -> None:
    large = GET + b"X-A: " + b"a" * MAX_HEAD_BYTES
    assert b"200 OK" not in await _answers(port, large + end)
    pieces = [large[start : start + 8192] for start in range(0, len(large), 8192)]
    assert b"200 OK" not in await _answers(port, *pieces, b"b" * 8192, end)
    assert b"200 OK" not in await _answers(port, GET + b"a: b\r\n" * MAX_HEAD_BYTES + end)


@pytest.mark.parametrize("pieces", [[], [b"GET / HT"], [GET, *[b"a: b\r\n"] * 20]])
async def test_connection_without_a_whole_head_is_closed_in_time(port: int, pieces: list[bytes]) -> None:
    assert await _answers(port, *pieces) == b""


async def test_rest_of_a_body_that_was_answered_already_is_not_read_for_ever(port: int) -> None:
    post = b"POST /at-once HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    found = await _answers(port, post, *[b"x"] * 100)  # for 2 s, one piece after the other
    assert found.count(b"200 OK") <= 1


async def test_large_bodies_and_requests_behind_one_another_are_none_of_its_business(port: int) -> None:
    body = b"x" * (4 * MAX_HEAD_BYTES)
    post = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
    fine = GET + b"X-A: " + b"a" * (MAX_HEAD_BYTES // 2) + b"\r\n\r\n"
    found = await _answers(port, post + body[:10], body[10:] + GET[:7], GET[7:] + b"\r\n", fine + fine)
    assert found.count(b"200 OK") == 4
    assert b"/p " + str(len(body)).encode() in found
