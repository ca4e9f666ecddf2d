"""One client's connection: uvicorn's, with an end to what comes before a body, in bytes and in time.

uvicorn's parser takes a header of any size, and waits for its end, or for its beginning, for ever.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of request line and headers."""


class Connection(HttpToolsProtocol):
    """Closes after `timeout_keep_alive` without a whole head, or with one that is too large (400)."""

    _in_head: bool
    _head_until: float
    """Of the event loop's clock."""
    _unfinished_bytes: int
    """Of a head that comes in pieces, without the first piece: that may hold the end of a body."""
    _header_bytes: int
    """Of the complete headers: all may come in one piece."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Nothing has come yet."""
        super().connection_made(transport)
        self._begin_head()
        self._close_in_time()

    def data_received(self, data: bytes) -> None:
        """Some of a head or of a body."""
        began_before = self._in_head
        super().data_received(data)
        if self.transport.is_closing() or not (self._in_head or self.cycle.response_complete):
            return
        self._unfinished_bytes += len(data) if began_before else 0
        if self._unfinished_bytes > MAX_HEAD_BYTES:
            self.send_400_response("The request's head is too large.")
        else:
            self._close_in_time()

    def on_message_begin(self) -> None:
        """First byte of a head."""
        super().on_message_begin()
        self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A complete one."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")  # the parser makes it an error of its own, and uvicorn a 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The end of a head."""
        self._in_head = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """What still comes of the body, such as of one that was too large, is read for as long as a head."""
        self._head_until = self.loop.time() + self.timeout_keep_alive
        super().on_response_complete()

    def _begin_head(self) -> None:
        self._in_head, self._unfinished_bytes, self._header_bytes = True, 0, 0
        self._head_until = self.loop.time() + self.timeout_keep_alive

    def _close_in_time(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_at(self._head_until, self.timeout_keep_alive_handler)
