"""Objects that were read as tables, for who looks at the same ones every few seconds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final

from perennial.ports import ObjectInfo

if TYPE_CHECKING:
    import pyarrow as pa

_ENTRY_BYTES: Final = 4096
"""Of an empty table, roughly."""


class TableCache:
    """Keeps what it was asked for last, up to so many bytes. An object that was replaced is read again."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # of the next two
        self._tables: OrderedDict[Hashable, pa.Table] = OrderedDict()
        self._bytes = 0

    def get(self, info: ObjectInfo, what: Hashable, read: Callable[[], pa.Table]) -> pa.Table:
        """The object's table.

        Args:
            info: the object as it was listed just now; its etag tells whether it was replaced.
            what: which part of it, such as the columns.
            read: reads it, if it is not kept. What it raises is raised, and not kept.
        """
        key = (info.uri, info.etag, what)
        with self._lock:
            if (kept := self._tables.get(key)) is not None:
                self._tables.move_to_end(key)
                return kept
        table = read()
        with self._lock:
            if key not in self._tables:
                self._tables[key] = table
                self._bytes += _size_of(table)
            while self._bytes > self._max_bytes:
                self._bytes -= _size_of(self._tables.popitem(last=False)[1])
        return table


def _size_of(table: pa.Table) -> int:
    return int(table.nbytes) + _ENTRY_BYTES
