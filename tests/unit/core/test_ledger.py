"""The ledger: entries in a chain, the same again is no second entry, and no crash leaves it in doubt."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.errors import LedgerConflictError, LockLostError
from perennial.ledger import Ledger, outcomes_by_run
from perennial.runtime import SystemClock
from perennial.testing import FolderStore
from tests.unit.core.ledgers import FOLDER, MARKS, NOW, ROOT, LedgerFolder, entry_of

APPENDERS, EACH = 8, 25


@pytest.fixture
def folder(tmp_path: Path) -> LedgerFolder:
    return LedgerFolder(tmp_path)


# Appending.


def test_entries_read_back_in_their_order_as_a_chain(folder: LedgerFolder) -> None:
    recorded = [folder.ledger.append(entry_of(run_id)) for run_id in ("run-1", "run-2", "run-3")]
    entries = folder.ledger.entries("churn")
    assert entries == [record.entry for record in recorded]
    assert [entry.sequence for entry in entries] == [1, 2, 3]
    assert [entry.previous_sha256 for entry in entries] == [None, recorded[0].sha256, recorded[1].sha256]
    for record in recorded:
        assert record.uri == FOLDER + record.entry.key
        assert folder.store.read(record.uri) == canonical_json(record.entry.to_dict())
        assert sha256_of(folder.store.read(record.uri)) == record.sha256
    assert folder.ledger.entries("other") == []


def test_models_have_ledgers_of_their_own(folder: LedgerFolder) -> None:
    folder.ledger.append(entry_of())
    other = folder.ledger.append(entry_of(model="churn_eu"))
    assert (other.entry.sequence, other.entry.previous_sha256) == (1, None)
    assert len(folder.ledger.entries("churn")) == 1


def test_retry_a_minute_later_records_nothing_twice(folder: LedgerFolder) -> None:
    first = folder.ledger.append(entry_of())
    folder.ledger.append(entry_of("run-2"))
    assert folder.ledger.append(entry_of(recorded_at=NOW + timedelta(minutes=1))) == first
    assert [entry.recorded_at for entry in folder.ledger.entries("churn")] == [NOW, NOW]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"summary": "Something else."}),
        ({}, {"verdict": "PROMOTE"}),
        ({"kind": "refused"}, {"kind": "refused", "page_uri": "s3://elsewhere"}),
        ({"kind": "promotion", "champion_after": "2"}, {"kind": "promotion", "champion_after": "3"}),
        ({"kind": "rollback", "champion_before": "2"}, {"kind": "rollback", "champion_before": "3"}),
        ({"kind": "approval", "approved": False}, {"kind": "approval", "approved": True}),
    ],
)
def test_other_fact_of_the_same_evidence_is_refused_and_nothing_overwritten(
    folder: LedgerFolder, first: dict[str, Any], second: dict[str, Any]
) -> None:
    there = folder.ledger.append(entry_of(**first))
    with pytest.raises(LedgerConflictError, match="nothing was overwritten"):
        folder.ledger.append(entry_of(**second))
    assert folder.ledger.entries("churn") == [there.entry]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("decision", {"champion_before": "4", "champion_after": "4"}),
        ("refused", {"champion_before": None, "champion_after": None}),
        ("nothing_new", {"champion_before": "4", "champion_after": "4", "summary": "Other.", "page_uri": "s3://x"}),
    ],
)
def test_outcome_keeps_its_first_record_if_another_run_moved_the_champion_meanwhile(
    folder: LedgerFolder, kind: str, changes: dict[str, Any]
) -> None:
    first = folder.ledger.append(entry_of(kind=kind))
    assert folder.ledger.append(entry_of(kind=kind, **changes)) == first
    assert folder.ledger.entries("churn") == [first.entry]


def test_append_with_a_lease_takes_no_lock_of_its_own(folder: LedgerFolder) -> None:
    with folder.ledger.lock("churn", owner="run-1") as lease:
        assert folder.ledger.append(entry_of(), lease=lease).entry.sequence == 1
        with pytest.raises(ValueError, match="churn_eu"):
            folder.ledger.append(entry_of(model="churn_eu"), lease=lease)
        folder.clock.advance(timedelta(minutes=1))
        with pytest.raises(LockLostError):
            folder.ledger.append(entry_of("run-2"), lease=lease)
    assert len(folder.ledger.entries("churn")) == 1
    assert folder.found() == []


def test_append_to_a_long_ledger_lists_it_once_and_reads_one_entry(folder: LedgerFolder) -> None:
    for number in range(60):
        folder.ledger.append(entry_of(f"run-{number}"))
    calls: Counter[tuple[str, str]] = Counter()

    class Counting(FolderStore):
        def list(self, prefix_uri: str) -> Any:
            calls["list", prefix_uri.removeprefix(ROOT).split("/")[1]] += 1
            return super().list(prefix_uri)

        def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
            calls["read", uri.removeprefix(ROOT).split("/")[1]] += 1
            return super().read(uri, start=start, end=end)

    Ledger(Counting(folder.path), ROOT, folder.clock).append(entry_of("the-run"))
    assert calls["list", "ledger"] == 1
    assert calls["read", "ledger"] == 1
    assert calls["list", "ledger-heads"] == 1
    assert calls["read", "ledger-heads"] == 0


# Reading.


def test_damaged_entry_is_told_by_uri_and_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = LedgerFolder(tmp_path, entries=3)
    uri = folder.uri(2)
    folder.write(uri, b"{}")
    assert [entry.run_id for entry in folder.ledger.entries("churn")] == ["run-1", "run-3"]
    assert uri in caplog.text


def test_entry_under_another_entrys_name_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = LedgerFolder(tmp_path, entries=3)
    folder.write(folder.uri(3), folder.store.read(folder.uri(1)))
    assert [entry.run_id for entry in folder.ledger.newest("churn", count=9)] == ["run-1", "run-2"]
    assert folder.uri(3) in caplog.text


def test_foreign_objects_break_neither_reading_nor_appending(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path, entries=1)
    for name in (
        "README.md",
        "notes.json",
        "99999999-decision.json",
        "sub/00000009-decision-0123456789abcdef.json.bak",
    ):
        folder.write(FOLDER + name, b"x")
        folder.write(MARKS + name, b"x")
    folder.ledger.append(entry_of("run-2"))
    assert [entry.sequence for entry in folder.ledger.entries("churn")] == [1, 2]
    verification = folder.ledger.verify("churn")
    assert verification.sound
    assert [note for note in verification.notes if "README.md" in note]


def test_newest_opens_only_what_it_gives(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path, entries=5)
    for number in (6, 7):
        folder.ledger.append(entry_of(f"run-{number}", kind="promotion"))
    folder.ledger.append(entry_of("run-8"))
    opened: list[str] = []

    class Watching(FolderStore):
        def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
            opened.append(uri)
            return super().read(uri, start=start, end=end)

    ledger = Ledger(Watching(folder.path), ROOT, folder.clock)
    assert [entry.run_id for entry in ledger.newest("churn", "promotion", "rollback")] == ["run-7"]
    assert len(opened) == 1
    assert [entry.run_id for entry in ledger.newest("churn", "promotion", count=9)] == ["run-6", "run-7"]
    assert [entry.run_id for entry in ledger.newest("churn", count=3)] == ["run-6", "run-7", "run-8"]
    assert len(opened) == 6
    assert ledger.newest("churn", "rollback") == []


def test_newest_passes_over_a_run_however_many_entries_it_has_and_damaged_ones(folder: LedgerFolder) -> None:
    for number, run_id in enumerate(("run-1", "run-2", "run-3", "run-4", "run-4", "run-4")):
        folder.ledger.append(entry_of(run_id, evidence_sha256=str(number)))
    folder.write(folder.uri(3), b"{")
    newest = folder.ledger.newest
    assert [entry.run_id for entry in newest("churn", "decision", except_run="run-4")] == ["run-2"]
    assert [entry.run_id for entry in newest("churn", count=9, except_run="run-4")] == ["run-1", "run-2"]
    assert newest("churn", count=0) == []


def test_moves_are_all_changes_of_the_champion_oldest_first(folder: LedgerFolder) -> None:
    for number, kind in enumerate(("promotion", "decision", "outside", "approval", "rollback"), start=1):
        folder.ledger.append(entry_of(f"run-{number}", kind=kind))
    assert [entry.kind for entry in folder.ledger.moves("churn")] == ["promotion", "outside", "rollback"]
    assert [entry.kind for entry in folder.ledger.moves("churn", except_run="run-1")] == ["outside", "rollback"]


def test_quarantine_comes_from_moves_and_rollouts_in_the_ledgers_order(folder: LedgerFolder) -> None:
    append = folder.ledger.append
    append(entry_of("run-1", kind="rollout", approved=False, quarantined={"c": "Too many errors."}))
    append(entry_of("run-2", kind="rollback", quarantined={"b": "Complaints."}, digest="a"))
    append(entry_of("run-3", kind="decision", quarantined={"d": "No decision takes anything back."}))
    assert folder.ledger.quarantine("churn") == {"c": "Too many errors.", "b": "Complaints."}
    assert list(folder.ledger.quarantine("churn", except_run="run-1")) == ["b"]
    append(entry_of("run-4", kind="rollout", approved=True, digest="c"))
    assert list(folder.ledger.quarantine("churn")) == ["c", "b"]
    append(entry_of("run-5", kind="rollback", digest="c"))
    assert list(folder.ledger.quarantine("churn")) == ["b"]
    assert folder.ledger.quarantine("another") == {}


def test_decisions_are_those_on_one_training(folder: LedgerFolder) -> None:
    for run_id, changes in {
        "run-1": {},
        "run-2": {"fingerprint": "0" * 64},
        "run-3": {"fingerprint": "f" * 16 + "0" * 48},
        "run-4": {"kind": "nothing_new"},
        "run-5": {},
    }.items():
        folder.ledger.append(entry_of(run_id, **changes))
    assert [entry.run_id for entry in folder.ledger.decisions("churn", "f" * 64)] == ["run-1", "run-5"]
    assert folder.ledger.decisions("churn", "1" * 64) == []


def test_judged_finds_the_newest_decision_on_a_training(folder: LedgerFolder) -> None:
    append = folder.ledger.append
    append(entry_of("run-1"))
    append(entry_of("run-2"))
    append(entry_of("run-3", kind="nothing_new"))
    append(entry_of("run-4", fingerprint="f" * 16 + "0" * 48))
    append(entry_of("run-5", policy="another policy"))
    found = folder.ledger.judged("churn", "f" * 64, "p")
    assert found is not None
    assert found.run_id == "run-2"
    assert folder.ledger.judged("churn", "0" * 64, "p") is None
    assert folder.ledger.judged("churn", "f" * 64, "no such policy") is None


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (None, False),
        (entry_of("run-2", kind="promotion", champion_after="2"), True),
        (entry_of("run-2", kind="promotion", champion_after="2", fingerprint=None), True),
        (entry_of("run-2", kind="approval", approved=False), True),
        (entry_of("run-2", kind="approval", approved=True), False),
        (entry_of("another", kind="promotion", champion_after="2"), False),
        (entry_of("another", kind="approval", approved=False), False),
        (entry_of("run-2", kind="rollout", approved=False, quarantined={"c": "Too many errors."}), True),
        (entry_of("run-2", kind="rollout", approved=False), False),
        (entry_of("run-2", kind="rollout", approved=True), False),
        (entry_of("another", kind="rollout", approved=False, quarantined={"c": "Too many errors."}), False),
    ],
)
def test_decision_to_promote_counts_as_judged_once_carried_out_or_declined_or_quarantined(
    folder: LedgerFolder, answer: LedgerEntry | None, ended: bool
) -> None:
    folder.ledger.append(entry_of("run-1"))
    folder.ledger.append(entry_of("run-2", verdict="PROMOTE"))
    if answer is not None:
        folder.ledger.append(answer)
    found = folder.ledger.judged("churn", "f" * 64, "p")
    assert found is not None
    assert found.run_id == ("run-2" if ended else "run-1")


def test_judged_opens_no_entry_of_another_training(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path)
    for number in range(6):
        other = f"{number}" * 64
        folder.ledger.append(entry_of(f"run-{number}", fingerprint=other, verdict="PROMOTE"))
        folder.ledger.append(entry_of(f"run-{number}", kind="promotion", fingerprint=other, champion_after="2"))
    opened: list[str] = []

    class Watching(FolderStore):
        def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
            opened.append(uri)
            return super().read(uri, start=start, end=end)

    found = Ledger(Watching(folder.path), ROOT, folder.clock).judged("churn", "2" * 64, "p")
    assert found is not None
    assert opened == [folder.uri(5), folder.uri(6)]


def test_outcomes_are_grouped_by_run_in_the_order_of_their_beginning() -> None:
    entries = [entry_of("b"), entry_of("a"), entry_of("b", kind="promotion"), entry_of("a", kind="approval")]
    runs = outcomes_by_run(entries)
    assert [(run_id, [entry.kind for entry in of_run]) for run_id, of_run in runs.items()] == [
        ("b", ["decision", "promotion"]),
        ("a", ["decision", "approval"]),
    ]


# Many at once.


class Unconditional(FolderStore):
    """Ignores the condition of a put, as some S3 servers do."""

    def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
        return super().write(uri, content, content_type=content_type)


def _append_many(store: FolderStore, number: int) -> None:
    ledger = Ledger(store, ROOT, SystemClock())
    failed: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for turn in range(EACH):
                ledger.append(entry_of(f"{number}-{thread}-{turn}"))
        except BaseException as error:
            traceback.print_exc()
            failed.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(APPENDERS // 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(len(failed))


@pytest.mark.parametrize("kind", [FolderStore, Unconditional])
def test_eight_appenders_in_two_processes_lose_nothing(folder: LedgerFolder, kind: type[FolderStore]) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_many, args=(kind(folder.path), number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    entries = folder.ledger.entries("churn")
    assert [entry.sequence for entry in entries] == list(range(1, APPENDERS * EACH + 1))
    assert len({entry.run_id for entry in entries}) == APPENDERS * EACH
    assert folder.found() == []
    assert folder.remains() == []
