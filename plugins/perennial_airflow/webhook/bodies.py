"""A request's body: read up to a limit, and taken as JSON that every later step can keep."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from perennial_airflow.webhook.signals import BadMessageError

MAX_BODY_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
"""Lists and objects inside one another."""
BODY_TIMEOUT_S: Final = 10.0


class BodyTooLargeError(Exception):
    """More bytes than are taken."""


class BodyTooSlowError(Exception):
    """It did not arrive in time, or not altogether."""


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        BodyTooLargeError: it is larger than `MAX_BODY_BYTES`; no more than that was kept.
        BodyTooSlowError: it was not there after `BODY_TIMEOUT_S`, or the sender hung up.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise BodyTooLargeError
    except (TimeoutError, ClientDisconnect) as error:
        raise BodyTooSlowError from error
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """The body as JSON.

    Raises:
        BadMessageError: it is none, is nested too deeply, or holds what no store keeps: numbers beyond a double's
            range, integers beyond 64 bits, half of a surrogate pair, or NUL (PostgreSQL's jsonb).
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number, parse_float=_finite, parse_int=_int64)
    except RecursionError:
        raise BadMessageError(f"the JSON is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise BadMessageError(f"the body is not JSON in UTF-8: {str(error)[:200]}") from error
    _check(value)
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond a double's range")
    return value


def _int64(text: str) -> int:
    value = int(text) if len(text) <= 20 else None
    if value is None or not -(2**63) <= value < 2**63:  # a run's tasks are told of it in msgpack, which has no others
        raise ValueError(f"{text[:40]} is beyond a 64-bit integer's range")
    return value


def _check(value: Any) -> None:
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for part in level:
            if isinstance(part, str):
                _check_text(part)
            elif isinstance(part, (dict, list)):
                if depth == MAX_DEPTH:
                    raise BadMessageError(f"the JSON is nested more than {MAX_DEPTH} deep")
                inner += [*part, *part.values()] if isinstance(part, dict) else part
        level, depth = inner, depth + 1


def _check_text(text: str) -> None:
    if "\0" in text:
        raise BadMessageError("the JSON holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadMessageError("the JSON holds half of a surrogate pair") from error
