"""Appending to the ledger when the process dies, is held up, or the store answers late: nothing is left in doubt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perennial.errors import LockLostError, StoreUnavailableError
from perennial.ledger import Ledger
from perennial.testing import FolderStore
from tests.unit.core.faulty import STORE_EFFECTS, Fault, Faulty, ProcessDied
from tests.unit.core.ledgers import FOLDER, MARKS, ROOT, LedgerFolder, entry_of

EFFECTS_OF_APPEND = 9
"""Two for the ticket, one each for its mark, the intent, the entry, the head; two swept; the ticket's removal."""


@pytest.fixture
def folder(tmp_path: Path) -> LedgerFolder:
    return LedgerFolder(tmp_path)


def _die(folder: LedgerFolder, at: int, *, after: bool) -> list[str]:
    """Append in a process that dies at an effect; the effects that it got to."""
    fault = Fault(at=at, after=after, fatal=True)
    store: Any = Faulty(folder.store, STORE_EFFECTS, fault, ProcessDied)
    with pytest.raises(ProcessDied):
        Ledger(store, ROOT, folder.clock).append(entry_of("the-run"))
    folder.later()
    return fault.calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("entries", "at"),
    # The first append has one effect less: no older head to sweep.
    [(0, at) for at in range(1, EFFECTS_OF_APPEND)] + [(2, at) for at in range(1, EFFECTS_OF_APPEND + 1)],
)
def test_process_that_dies_at_any_effect_leaves_a_ledger_that_goes_on(
    tmp_path: Path, entries: int, at: int, after: bool
) -> None:
    for order in (("the-run", "next"), ("next", "the-run"), ("next",), ("the-run", "the-run")):
        folder = LedgerFolder(tmp_path / "-".join(order), entries=entries)
        effects = _die(folder, at, after=after)
        assert len(effects) == at
        assert folder.found() == [], "whoever looks before the next append sees no damage"
        for run_id in order:
            folder.ledger.append(entry_of(run_id))
        runs = [entry.run_id for entry in folder.ledger.entries("churn")][entries:]
        assert sorted(set(runs)) == sorted(runs)
        assert set(order) <= set(runs) <= {*order, "the-run"}
        assert [entry.sequence for entry in folder.ledger.entries("churn")] == list(range(1, entries + len(runs) + 1))
        assert folder.found() == []
        assert len(folder.marks()) == 1
        assert list(folder.store.list(f"{ROOT}/locks/")) == []


def test_append_has_as_many_effects_as_the_crash_test_goes_through(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path, entries=1)
    fault = Fault(at=99, after=False, fatal=True)
    store: Any = Faulty(folder.store, STORE_EFFECTS, fault, ProcessDied)
    Ledger(store, ROOT, folder.clock).append(entry_of("the-run"))
    assert len(fault.calls) == EFFECTS_OF_APPEND


@pytest.mark.parametrize("torn", [b"", b'{"kind": "deci'])
@pytest.mark.parametrize("run_id", ["the-run", "next"])
@pytest.mark.parametrize("entries", [0, 2])
def test_half_written_entry_is_set_aside_by_the_next_append(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, entries: int, run_id: str, torn: bytes
) -> None:
    folder = LedgerFolder(tmp_path, entries=entries)
    _die(folder, 5, after=True)
    uri = folder.uri(entries + 1)
    folder.write(uri, torn)
    verification = folder.ledger.verify("churn")
    assert verification.sound
    assert [note for note in verification.notes if uri in note and "half written" in note]
    folder.ledger.append(entry_of(run_id))
    assert [entry.run_id for entry in folder.ledger.entries("churn")][entries:] == [run_id]
    assert folder.remains() == [torn]
    assert uri in caplog.text
    verification = folder.ledger.verify("churn")
    assert verification.sound
    assert [note for note in verification.notes if "set aside" in note]


def test_entry_put_by_one_that_had_lost_the_lock_stands_beside_the_chain_until_its_retry(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path, entries=2)

    class HeldUp(FolderStore):
        """Another run takes over and appends while this one's put of the entry is on its way."""

        def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
            if uri.startswith(FOLDER):
                folder.later()
                folder.ledger.append(entry_of("next"))
                folder.ledger.append(entry_of("after-next"))
            return super().write(uri, content, content_type=content_type, if_absent=if_absent)

    with pytest.raises(LockLostError):
        Ledger(HeldUp(folder.path), ROOT, folder.clock).append(entry_of("the-run"))
    (damage,) = folder.ledger.verify("churn").damages
    assert (damage.kind, damage.sequence) == ("forged", 3)
    assert folder.ledger.find("churn", entry_of("the-run").entry_id) is None
    assert [entry.run_id for entry in folder.ledger.entries("churn")][2:] == ["next", "after-next"]
    assert folder.ledger.append(entry_of("the-run")).entry.sequence == 5
    assert [entry.run_id for entry in folder.ledger.entries("churn")][2:] == ["next", "after-next", "the-run"]
    assert folder.found() == []
    assert len(folder.remains()) == 1


@pytest.mark.parametrize("others", [("next",), ("next", "after-next")])
def test_entry_beside_the_chain_is_read_by_nobody_wherever_its_name_sorts(
    tmp_path: Path, others: tuple[str, ...]
) -> None:
    folder = LedgerFolder(tmp_path, entries=2)
    before = folder.recorded[-1].sha256
    beside = [entry_of(f"late-{number}", sequence=3, previous_sha256=before) for number in range(4)]
    for run_id in others:
        folder.ledger.append(entry_of(run_id))
    for entry in beside:
        folder.put(entry)
    assert [entry.run_id for entry in folder.ledger.entries("churn")] == ["run-1", "run-2", *others]
    assert [entry.run_id for entry in folder.ledger.newest("churn")] == [others[-1]]
    assert {damage.kind for damage in folder.ledger.verify("churn").damages} == {"forged"}


def test_entry_is_not_put_by_one_whose_lease_ran_out_while_it_announced_it(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path, entries=2)

    class HeldUp(FolderStore):
        def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
            if uri.startswith(MARKS):
                folder.later()
                folder.ledger.append(entry_of("next"))
            return super().write(uri, content, content_type=content_type, if_absent=if_absent)

    with pytest.raises(LockLostError):
        Ledger(HeldUp(folder.path), ROOT, folder.clock).append(entry_of("the-run"))
    assert folder.found() == []
    assert [entry.run_id for entry in folder.ledger.entries("churn")] == ["run-1", "run-2", "next"]
    folder.ledger.append(entry_of("the-run"))
    assert len(folder.marks()) == 1


def test_put_that_arrives_after_its_writer_gave_up_is_confirmed(folder: LedgerFolder) -> None:
    folder.ledger.append(entry_of("earlier"))
    sent: list[tuple[str, bytes]] = []

    class Slow(FolderStore):
        def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
            if uri.startswith(FOLDER):
                sent.append((uri, content))
                raise StoreUnavailableError("no answer within 60 s")
            return super().write(uri, content, content_type=content_type, if_absent=if_absent)

    with pytest.raises(StoreUnavailableError):
        Ledger(Slow(folder.path), ROOT, folder.clock).append(entry_of("the-run"))
    folder.ledger.append(entry_of("earlier"))
    folder.write(*sent[0])
    assert folder.found() == []
    assert folder.ledger.append(entry_of("next")).entry.sequence == 3
    assert folder.ledger.append(entry_of("the-run")).entry.sequence == 2
    assert folder.found() == []
    assert len(folder.marks()) == 1


def test_put_whose_answer_was_lost_is_taken_for_what_it_is(folder: LedgerFolder) -> None:
    class Deaf(FolderStore):
        def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
            written = super().write(uri, content, content_type=content_type, if_absent=if_absent)
            return written and not if_absent

    recorded = Ledger(Deaf(folder.path), ROOT, folder.clock).append(entry_of())
    assert folder.ledger.entries("churn") == [recorded.entry]
    assert folder.found() == []
