"""The ledger: one object an outcome, never rewritten, and the same again is no second entry."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perennial.domain.ledger_entry import LedgerEntry
from perennial.errors import LedgerConflictError
from perennial.ledger import Ledger
from perennial.testing.store import FolderStore

NOW = datetime(2013, 4, 1, 2, tzinfo=UTC)
ROOT = "s3://bucket/store"


def _entry(run_id: str = "run-1", **changes: object) -> LedgerEntry:
    entry = LedgerEntry(
        kind="decision",
        model="churn",
        recorded_at=NOW,
        request={"run_id": run_id, "as_of": "2013-04-01T02:00:00Z", "trigger": "manual"},
        evidence_sha256="a" * 64,
        summary="No champion yet; roc_auc 0.70 reaches its floor 0.60.",
        champion_before=None,
        champion_after="1",
        verdict="PROMOTE",
        promoted=True,
        fingerprint="f" * 64,
        policy="p",
    )
    return replace(entry, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    (tmp_path / "bucket").mkdir()
    return FolderStore(tmp_path)


def test_entry_reads_back_as_it_was_written(store: FolderStore) -> None:
    ledger = Ledger(store, ROOT)
    ledger.append(_entry())
    assert ledger.entries("churn") == [_entry()]
    assert ledger.entries("other") == []


def test_retry_a_minute_later_records_nothing_twice(store: FolderStore) -> None:
    ledger = Ledger(store, ROOT)
    first = ledger.append(_entry())
    assert ledger.append(_entry(recorded_at=NOW + timedelta(minutes=1))) == first
    assert [entry.recorded_at for entry in ledger.entries("churn")] == [NOW]


def test_other_outcome_of_the_same_evidence_is_refused_and_nothing_overwritten(store: FolderStore) -> None:
    ledger = Ledger(store, ROOT)
    ledger.append(_entry())
    with pytest.raises(LedgerConflictError, match="nothing was overwritten"):
        ledger.append(_entry(champion_after="7"))
    assert ledger.entries("churn")[0].champion_after == "1"


def test_judged_finds_the_newest_decision_on_a_fingerprint(store: FolderStore) -> None:
    ledger = Ledger(store, ROOT)
    ledger.append(_entry("run-1"))
    ledger.append(_entry("run-2", recorded_at=NOW + timedelta(days=1), evidence_sha256="b" * 64))
    ledger.append(_entry("run-3", kind="nothing_new", recorded_at=NOW + timedelta(days=2)))
    found = ledger.judged("churn", "f" * 64, "p")
    assert found is not None
    assert found.run_id == "run-2"
    assert ledger.judged("churn", "0" * 64, "p") is None
    assert ledger.judged("churn", "f" * 64, "another policy") is None


def test_damaged_entry_is_told_by_uri_and_hides_no_other(store: FolderStore, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(store, ROOT)
    uri = ledger.append(_entry("run-1"))
    ledger.append(_entry("run-2"))
    store.write(uri, b"{}", content_type="application/json")
    assert [entry.run_id for entry in ledger.entries("churn")] == ["run-2"]
    assert uri in caplog.text
