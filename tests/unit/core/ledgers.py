"""Entries for the ledger's tests, and a folder to tamper with."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.ledger import Ledger
from perennial.ledger_objects import Mark, read_entry
from perennial.testing import FixedClock, FolderStore

NOW = datetime(2013, 4, 1, 2, tzinfo=UTC)
ROOT = "s3://bucket/store"
FOLDER = f"{ROOT}/ledger/churn/"
MARKS = f"{ROOT}/ledger-heads/churn/"


def entry_of(run_id: str = "run-1", **changes: Any) -> LedgerEntry:
    """A decision that rejects."""
    entry = LedgerEntry(
        kind="decision",
        model="churn",
        recorded_at=NOW,
        request={"run_id": run_id, "as_of": "2013-04-01T02:00:00Z", "trigger": "manual"},
        evidence_sha256="a" * 64,
        summary="roc_auc 0.70 is no better than the champion's 0.71.",
        champion_before="1",
        champion_after="1",
        verdict="REJECT",
        fingerprint="f" * 64,
        policy="p",
    )
    return replace(entry, **changes)


class LedgerFolder:
    """A ledger on a folder, with what a tamperer can do to it."""

    def __init__(self, folder: Path, entries: int = 0) -> None:
        self.path = folder
        self.store = FolderStore(folder)
        self.store.add_bucket("bucket")
        self.clock = FixedClock(NOW)
        self.ledger = Ledger(self.store, ROOT, self.clock)
        self.recorded = [self.ledger.append(entry_of(f"run-{number}")) for number in range(1, entries + 1)]

    def later(self) -> None:
        """Let the leases of the dead run out."""
        self.clock.advance(timedelta(minutes=1))

    def uris(self) -> list[str]:
        return [info.uri for info in self.store.list(FOLDER)]

    def marks(self) -> list[str]:
        return [info.uri.removeprefix(MARKS) for info in self.store.list(MARKS)]

    def remains(self) -> list[bytes]:
        return [self.store.read(info.uri) for info in self.store.list(f"{ROOT}/ledger-remains/")]

    def uri(self, sequence: int) -> str:
        (found,) = [uri for uri in self.uris() if uri.startswith(f"{FOLDER}{sequence:08d}-")]
        return found

    def write(self, uri: str, content: bytes) -> None:
        self.store.write(uri, content, content_type="")

    def change(self, sequence: int, old: bytes = b"0.71", new: bytes = b"0.61") -> str:
        """Replace some of an entry's bytes."""
        uri = self.uri(sequence)
        content = self.store.read(uri)
        assert old in content
        self.write(uri, content.replace(old, new))
        return uri

    def put(self, entry: LedgerEntry) -> str:
        """Put an object under the key that the entry gives."""
        self.write(FOLDER + entry.key, canonical_json(entry.to_dict()))
        return FOLDER + entry.key

    def rewrite_from(self, sequence: int, summary: str) -> None:
        """Change an entry and make everything after it fit, the mark of the end included."""
        previous: str | None = None
        for uri in self.uris():
            content = self.store.read(uri)
            entry = read_entry(content)
            assert entry is not None
            if entry.sequence >= sequence:
                changes = {"summary": summary} if entry.sequence == sequence else {}
                entry = replace(entry, previous_sha256=previous, **changes)
                content = canonical_json(entry.to_dict())
                self.write(uri, content)
            previous = sha256_of(content)
        for mark in self.marks():
            self.store.delete(MARKS + mark)
        head = Mark(sequence=entry.sequence, entry_id=entry.entry_id, sha256=str(previous), state="head")
        self.write(MARKS + head.name, b"")

    def found(self, *anchors: Any) -> list[tuple[str, int, str]]:
        """(kind, sequence, uri) of each damage."""
        damages = self.ledger.verify("churn", anchors).damages
        return [(damage.kind, damage.sequence, damage.uri) for damage in damages]
