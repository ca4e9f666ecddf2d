"""Blocking work in threads that cannot keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class StillRunningError(TimeoutError):
    """The function has not returned within its time limit. Not what the function itself raises as a TimeoutError."""


async def in_daemon(function: Callable[[], _Result], *, timeout_s: float | None = None) -> _Result:
    """Run a blocking function in a thread of its own.

    Raises:
        StillRunningError: it took longer; the thread is left alone.
        RuntimeError: it raised what would end the process, such as SystemExit.
        Exception: whatever else it raised.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_Result] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:
            failure = error
        except BaseException as error:  # a model that calls sys.exit while it is loaded
            failure = RuntimeError(f"{type(error).__name__} was raised")
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # the loop is closed
            return

    threading.Thread(target=run, name="serving-blocking", daemon=True).start()
    try:
        return await asyncio.wait_for(answer, timeout_s)
    except TimeoutError:
        if answer.cancelled():
            raise StillRunningError(f"it took more than {timeout_s:g} s") from None
        raise
