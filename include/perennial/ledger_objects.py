"""Where a model's ledger lies in the store, and what the names of its objects tell without opening them.

Entries are below `ledger/<model>/`. Beside them, below `ledger-heads/<model>/`, lie marks: objects whose names say
which entry is the last one, and which one is about to be written. A mark is put before an entry and another after it,
so that what an interrupted append has left is told apart from what somebody else has put, changed or taken away. No
mark is ever rewritten, so that a writer who was held up cannot turn the end back.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import KINDS, LedgerEntry
from perennial.errors import PerennialError
from perennial.json_objects import JSON_TYPE
from perennial.ports import ObjectStore

_log = logging.getLogger(__name__)
_ENTRY: Final = re.compile(rf"(\d{{8}})-({'|'.join(KINDS)})(?:-(.+))?-([0-9a-f]{{16}})\.json")
_MARK: Final = re.compile(r"(\d{8})-([0-9a-f]{16})-([0-9a-f]{64})-(coming|head)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """An entry's object, by its name."""

    uri: str
    name: str
    sequence: int
    kind: str
    training: str | None
    """Beginning of the training's fingerprint."""
    entry_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Word of an entry outside it: which bytes it has."""

    sequence: int
    entry_id: str
    sha256: str
    state: str
    """`coming`: it is about to be written; `head`: it was, as the last one."""

    @property
    def name(self) -> str:
        """Of the mark's object."""
        return f"{self.sequence:08d}-{self.entry_id}-{self.sha256}-{self.state}"

    @classmethod
    def of_name(cls, name: str) -> Self | None:
        """Inverse of `name`; None if it is not a mark's."""
        found = _MARK.fullmatch(name)
        if found is None:
            return None
        sequence, entry_id, sha256, state = found.groups()
        return cls(sequence=int(sequence), entry_id=entry_id, sha256=sha256, state=state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """All marks of a model's ledger."""

    heads: tuple[Mark, ...]
    """Those of the highest sequence; several only if somebody tampered with them."""
    coming: tuple[Mark, ...]
    """Those right after the head."""
    stale: tuple[Mark, ...]
    """What interrupted or slow appends have left; it says nothing any more."""

    @property
    def sequence(self) -> int:
        """Of the last entry that was confirmed; 0: none."""
        return self.heads[0].sequence if self.heads else 0

    @classmethod
    def of(cls, marks: Iterable[Mark]) -> Self:
        """Sort them."""
        found = tuple(marks)
        last = max((mark.sequence for mark in found if mark.state == "head"), default=0)
        heads = tuple(mark for mark in found if mark.state == "head" and mark.sequence == last)
        coming = tuple(mark for mark in found if mark.state == "coming" and mark.sequence == last + 1)
        return cls(heads=heads, coming=coming, stale=tuple(m for m in found if m not in heads and m not in coming))


class LedgerObjects:
    """The objects of all models' ledgers below a root."""

    def __init__(self, store: ObjectStore, root: str) -> None:
        self._store, self._root = store, root

    def folder(self, model: str) -> str:
        """Of the entries."""
        return f"{self._root}/ledger/{model}/"

    def marks_folder(self, model: str) -> str:
        """Of the marks."""
        return f"{self._root}/ledger-heads/{model}/"

    def remains_folder(self, model: str) -> str:
        """Of what interrupted appends have left half written."""
        return f"{self._root}/ledger-remains/{model}/"

    def slots(self, model: str) -> list[Slot]:
        """The entries' objects by sequence, then name; others are left out, see `strangers`."""
        return [slot for uri in self._uris(self.folder(model)) if (slot := _slot(uri)) is not None]

    def strangers(self, model: str) -> list[str]:
        """Uris of what lies among the entries and has not the name of one."""
        return [uri for uri in self._uris(self.folder(model)) if _slot(uri) is None]

    def remains(self, model: str) -> list[str]:
        """Uris of what was set aside."""
        return self._uris(self.remains_folder(model))

    def marks(self, model: str) -> Marks:
        """Word of the ledger's end."""
        names = (uri.rpartition("/")[2] for uri in self._uris(self.marks_folder(model)))
        return Marks.of(mark for name in names if (mark := Mark.of_name(name)) is not None)

    def put_mark(self, model: str, mark: Mark) -> None:
        """Put it; the name says everything."""
        self._store.write(self.marks_folder(model) + mark.name, b"{}", content_type=JSON_TYPE)

    def sweep(self, model: str, marks: Iterable[Mark]) -> None:
        """Take marks away that have served. If that fails, the next append does it."""
        try:
            for mark in marks:
                self._store.delete(self.marks_folder(model) + mark.name)
        except PerennialError as error:
            _log.warning("%s ledger: cannot remove marks that have served: %s", model, error)

    def set_aside(self, model: str, slot: Slot, content: bytes, why: str) -> None:
        """Move an object out of the ledger; its bytes are kept."""
        kept = f"{self.remains_folder(model)}{slot.name}.{sha256_of(content)[:8]}"
        self._store.write(kept, content, content_type=JSON_TYPE, if_absent=True)
        self._store.delete(slot.uri)
        _log.error("%s ledger: %s is %s; moved to %s", model, slot.uri, why, kept)

    def _uris(self, folder: str) -> list[str]:
        return [info.uri for info in self._store.list(folder)]


def _slot(uri: str) -> Slot | None:
    name = uri.rpartition("/")[2]
    found = _ENTRY.fullmatch(name)
    if found is None:
        return None
    sequence, kind, training, entry_id = found.groups()
    return Slot(uri=uri, name=name, sequence=int(sequence), kind=kind, training=training, entry_id=entry_id)


def read_entry(content: bytes) -> LedgerEntry | None:
    """The entry in these bytes; None if they are not one."""
    try:
        entry = LedgerEntry.from_dict(json.loads(content))
        _ = entry.key, entry.as_of  # made of fields that a damaged entry may lack
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return entry
