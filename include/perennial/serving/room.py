"""A bound on what all request bodies together take in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perennial.serving.errors import QueueFullError


class Room:
    """For so many bytes; a body that is alone may have more. To be used in one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0

    @contextmanager
    def place(self) -> Iterator[Callable[[int], None]]:
        """A function that takes so many bytes more, until the context ends. It raises QueueFullError without room."""
        own_bytes = 0

        def take(size_bytes: int) -> None:
            nonlocal own_bytes
            if self._taken_bytes and self._taken_bytes + size_bytes > self._limit_bytes:
                raise QueueFullError(
                    f"the bodies that are being answered have {self._taken_bytes:,} bytes, and the limit is "
                    f"{self._limit_bytes:,}; send the request again later"
                )
            self._taken_bytes += size_bytes
            own_bytes += size_bytes

        try:
            yield take
        finally:
            self._taken_bytes -= own_bytes
