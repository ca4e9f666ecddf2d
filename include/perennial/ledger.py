"""The append-only record of what each run came to: one object a run, never rewritten."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from perennial.domain.fingerprint import canonical_json
from perennial.domain.ledger_entry import LedgerEntry, training_mark
from perennial.errors import LedgerConflictError
from perennial.json_objects import put_once
from perennial.ports import ObjectStore

_log = logging.getLogger(__name__)


class Ledger:
    """Entries of all models below `<store root>/ledger/<model>/`."""

    def __init__(self, store: ObjectStore, root: str) -> None:
        self._store = store
        self._root = f"{root}/ledger"

    def append(self, entry: LedgerEntry) -> str:
        """Record the entry and return its uri. Recording it again, as a retry does, changes nothing.

        Raises:
            LedgerConflictError: the key holds an entry that says something else.
        """
        uri = self.uri_of(entry)
        content = canonical_json(entry.to_dict())
        there = put_once(self._store, uri, content)
        if _without_time(json.loads(there)) != _without_time(json.loads(content)):
            raise LedgerConflictError(
                f"{uri} already holds another outcome of run {entry.run_id}; nothing was overwritten. "
                f"Compare the two, then start a new run instead of repeating this one"
            )
        return uri

    def uri_of(self, entry: LedgerEntry) -> str:
        """Where the entry is, or will be, recorded."""
        return f"{self._root}/{entry.model}/{entry.key}"

    def entries(self, model: str) -> list[LedgerEntry]:
        """All entries of a model, by the time they were recorded.

        An object that cannot be read as an entry is left out and logged as an error with its uri: one damaged file must
        not hide all the others from whoever is on call.
        """
        return self._read_all(self._uris(model))

    def judged(self, model: str, fingerprint: str, policy: str) -> LedgerEntry | None:
        """The newest decision on a training of this fingerprint by this policy, or None.

        Opens no entry of another training.
        """
        mark = f"-decision{training_mark(fingerprint)}-"
        candidates = self._read_all([uri for uri in self._uris(model) if mark in uri])
        decisions = [entry for entry in candidates if (entry.fingerprint, entry.policy) == (fingerprint, policy)]
        return decisions[-1] if decisions else None

    def _uris(self, model: str) -> list[str]:
        return [info.uri for info in self._store.list(f"{self._root}/{model}/") if info.uri.endswith(".json")]

    def _read_all(self, uris: Sequence[str]) -> list[LedgerEntry]:
        with ThreadPoolExecutor(max_workers=16) as pool:
            entries = [entry for entry in pool.map(self._read, uris) if entry is not None]
        return sorted(entries, key=lambda entry: (entry.recorded_at, entry.key))

    def _read(self, uri: str) -> LedgerEntry | None:
        try:
            return LedgerEntry.from_dict(json.loads(self._store.read(uri)))
        except (ValueError, KeyError, TypeError) as error:
            _log.error("%s is damaged: not a ledger entry (%s: %s)", uri, type(error).__name__, error)
            return None


def _without_time(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "recorded_at"}
