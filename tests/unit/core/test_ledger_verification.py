"""`verify` finds every kind of tampering and says which entry it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import canonical_json
from perennial.errors import LedgerConflictError, StoreUnavailableError
from perennial.ledger import Anchor, Ledger
from perennial.testing import FolderStore
from tests.unit.core.ledgers import FOLDER, MARKS, ROOT, LedgerFolder, entry_of

ENTRIES = 6


@pytest.fixture
def folder(tmp_path: Path) -> LedgerFolder:
    return LedgerFolder(tmp_path, entries=ENTRIES)


def anchor(folder: LedgerFolder, sequence: int) -> Anchor:
    return Anchor(
        sequence=sequence, sha256=folder.recorded[sequence - 1].sha256, where=f"MLflow, version {sequence} of churn"
    )


def test_untouched_ledger_is_sound(folder: LedgerFolder) -> None:
    verification = folder.ledger.verify("churn", [anchor(folder, 2), anchor(folder, 6)])
    assert verification.sound
    assert (verification.entries, verification.head_sha256) == (ENTRIES, folder.recorded[-1].sha256)
    assert verification.notes == []
    assert "No anchor" in folder.ledger.verify("churn").notes[0]


def test_model_without_entries_is_sound(folder: LedgerFolder) -> None:
    verification = folder.ledger.verify("other")
    assert (verification.sound, verification.entries, verification.head_sha256) == (True, 0, None)


@pytest.mark.parametrize("sequence", range(1, ENTRIES + 1))
def test_changed_byte_is_found(folder: LedgerFolder, sequence: int) -> None:
    uri = folder.change(sequence)
    (damage,) = folder.ledger.verify("churn").damages
    assert (damage.kind, damage.sequence, damage.uri) == ("changed", sequence, uri)
    assert folder.recorded[sequence - 1].sha256 in damage.detail
    assert "backup" in damage.detail


@pytest.mark.parametrize("sequence", [1, 3, ENTRIES])
def test_every_single_bit_counts(folder: LedgerFolder, sequence: int) -> None:
    uri = folder.uri(sequence)
    content = folder.store.read(uri)
    for position in range(0, len(content), 37):
        folder.write(uri, content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        ((kind, found, at),) = folder.found()
        assert kind in ("changed", "unreadable")
        assert (found, at) == (sequence, uri)
    folder.write(uri, content)
    assert folder.found() == []


@pytest.mark.parametrize("sequence", [1, 3, ENTRIES])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"kind": "decision"}'])
def test_entry_that_is_none_any_more_is_unreadable(folder: LedgerFolder, sequence: int, content: bytes) -> None:
    uri = folder.uri(sequence)
    folder.write(uri, content)
    assert folder.found() == [("unreadable", sequence, uri)]


@pytest.mark.parametrize("sequence", [1, 3, ENTRIES - 1])
def test_removed_entry_is_missing(folder: LedgerFolder, sequence: int) -> None:
    folder.store.delete(folder.uri(sequence))
    assert folder.found() == [("missing", sequence, FOLDER)]


def test_several_removed_entries_are_told_together(folder: LedgerFolder) -> None:
    for sequence in (1, 3, 4):
        folder.store.delete(folder.uri(sequence))
    damages = folder.ledger.verify("churn").damages
    assert [(damage.kind, damage.sequence) for damage in damages] == [("missing", 1), ("missing", 3)]
    assert "Entries 3 to 4 are missing" in damages[1].detail


@pytest.mark.parametrize("removed", [1, 2, ENTRIES])
def test_removed_end_is_cut_off(folder: LedgerFolder, removed: int) -> None:
    for sequence in range(ENTRIES - removed + 1, ENTRIES + 1):
        folder.store.delete(folder.uri(sequence))
    assert folder.found() == [("cut_off", ENTRIES - removed + 1, FOLDER)]


def test_removed_end_with_its_mark_is_found_by_the_anchor(folder: LedgerFolder) -> None:
    folder.store.delete(folder.uri(ENTRIES))
    for mark in folder.marks():
        folder.store.delete(MARKS + mark)
    fifth = folder.recorded[4]
    folder.write(f"{MARKS}00000005-{fifth.entry.entry_id}-{fifth.sha256}-head", b"")
    assert folder.found() == []
    assert folder.found(anchor(folder, ENTRIES)) == [("cut_off", ENTRIES, FOLDER)]
    told = folder.ledger.verify("churn", [anchor(folder, ENTRIES)]).damages[0].detail
    assert f"MLflow, version {ENTRIES} of churn" in told


def test_removed_mark_of_the_end_is_missing_and_can_be_put_back_as_told(folder: LedgerFolder) -> None:
    (mark,) = folder.marks()
    folder.store.delete(MARKS + mark)
    (damage,) = folder.ledger.verify("churn").damages
    assert (damage.kind, damage.sequence, damage.uri) == ("missing", ENTRIES, MARKS)
    assert mark in damage.detail
    with pytest.raises(LedgerConflictError, match="marks were removed"):
        folder.ledger.append(entry_of("next"))
    folder.write(MARKS + mark, b"")
    folder.ledger.append(entry_of("next"))
    assert folder.found() == []


@pytest.mark.parametrize("sequence", [1, 3, ENTRIES])
def test_inserted_entry_is_forged(folder: LedgerFolder, sequence: int) -> None:
    before = folder.recorded[sequence - 2].sha256 if sequence > 1 else None
    uri = folder.put(entry_of("forger", sequence=sequence, previous_sha256=before))
    assert folder.found() == [("forged", sequence, uri)]


@pytest.mark.parametrize("fits", [True, False])
def test_entry_put_at_the_end_is_forged_though_it_fits(folder: LedgerFolder, fits: bool) -> None:
    before = folder.recorded[-1].sha256 if fits else "0" * 64
    uri = folder.put(entry_of("forger", sequence=ENTRIES + 1, previous_sha256=before))
    assert folder.found() == [("forged", ENTRIES + 1, uri)]
    with pytest.raises(LedgerConflictError, match="nothing announced"):
        folder.ledger.append(entry_of("next"))
    folder.store.delete(uri)
    folder.ledger.append(entry_of("next"))
    assert folder.found() == []


def test_entry_put_into_an_empty_ledger_is_forged(folder: LedgerFolder) -> None:
    entry = entry_of("forger", model="other", sequence=1)
    folder.write(f"{ROOT}/ledger/other/{entry.key}", b"{}")
    assert not folder.ledger.verify("other").sound
    with pytest.raises(LedgerConflictError):
        folder.ledger.append(entry_of(model="other"))


def test_swapped_contents_are_both_found(folder: LedgerFolder) -> None:
    third, fourth = folder.uri(3), folder.uri(4)
    contents = folder.store.read(third), folder.store.read(fourth)
    folder.write(fourth, contents[0])
    folder.write(third, contents[1])
    assert [(sequence, uri) for _, sequence, uri in folder.found()] == [(3, third), (4, fourth)]


def test_swapped_names_are_both_found(folder: LedgerFolder) -> None:
    for one, other in ((3, 4), (4, 3)):
        record = folder.recorded[one - 1]
        folder.store.delete(record.uri)
        folder.write(FOLDER + replace(record.entry, sequence=other).key, canonical_json(record.entry.to_dict()))
    assert {sequence for _, sequence, _ in folder.found()} == {3, 4}


@pytest.mark.parametrize("sequence", [1, 3, ENTRIES])
@pytest.mark.parametrize(("old", "new"), [("-decision-", "-approval-"), ("-ffff", "-0000")])
def test_renamed_entry_is_found_though_its_bytes_are_the_right_ones(
    folder: LedgerFolder, sequence: int, old: str, new: str
) -> None:
    right = folder.uri(sequence)
    wrong = right.replace(old, new)
    folder.write(wrong, folder.store.read(right))
    assert folder.found() == [("forged", sequence, wrong)]
    folder.store.delete(right)
    assert folder.found() == [("forged", sequence, wrong)]
    assert right.rpartition("/")[2] in folder.ledger.verify("churn").damages[0].detail


def test_removed_entry_below_a_renamed_one_is_found_too(folder: LedgerFolder) -> None:
    right = folder.uri(4)
    folder.write(right.replace("-decision-", "-approval-"), folder.store.read(right))
    folder.store.delete(right)
    folder.change(3)
    assert [(kind, sequence) for kind, sequence, _ in folder.found()] == [("changed", 3), ("forged", 4)]


def test_ledger_of_another_model_is_forged(folder: LedgerFolder) -> None:
    for uri in [*folder.uris(), *(MARKS + mark for mark in folder.marks())]:
        folder.write(uri.replace("/churn/", "/churn_eu/"), folder.store.read(uri))
    damages = folder.ledger.verify("churn_eu").damages
    assert [(damage.kind, damage.sequence) for damage in damages] == [("forged", at) for at in range(1, ENTRIES + 1)]
    assert "of churn, not the one" in damages[0].detail


@pytest.mark.parametrize("old", [b'"run_id"', b'"as_of"'])
def test_entry_that_lacks_what_its_name_is_made_of_is_unreadable_and_hides_no_other(
    folder: LedgerFolder, old: bytes
) -> None:
    uri = folder.change(3, old, b'"x' + old[2:])
    assert folder.found() == [("unreadable", 3, uri)]
    assert len(folder.ledger.entries("churn")) == ENTRIES - 1


def test_entry_rewritten_with_all_later_ones_is_found_by_the_anchor_alone(folder: LedgerFolder) -> None:
    anchors = [anchor(folder, sequence) for sequence in (2, 4, 6)]
    folder.rewrite_from(3, "It was fine.")
    assert folder.found() == []
    verification = folder.ledger.verify("churn", anchors)
    assert [(damage.kind, damage.sequence) for damage in verification.damages] == [("changed", 4), ("changed", 6)]
    assert "MLflow, version 4 of churn" in verification.damages[0].detail


def test_anchor_stands_above_the_entry_after_it(folder: LedgerFolder) -> None:
    folder.change(5, b'"previous_sha256":"' + folder.recorded[3].sha256[:8].encode(), b'"previous_sha256":"00000000')
    damages = folder.found(anchor(folder, 4), anchor(folder, 6))
    assert damages == [("changed", 5, folder.uri(5))]


def test_two_tamperings_are_both_found(folder: LedgerFolder) -> None:
    changed = folder.change(2)
    folder.store.delete(folder.uri(5))
    assert folder.found() == [("changed", 2, changed), ("missing", 5, FOLDER)]


@pytest.mark.parametrize("how", ["changed", "removed"])
def test_nothing_is_appended_to_a_damaged_end(folder: LedgerFolder, how: str) -> None:
    if how == "changed":
        folder.change(ENTRIES)
    else:
        folder.store.delete(folder.uri(ENTRIES))
    before = folder.uris()
    with pytest.raises(LedgerConflictError, match="the ledger's end is damaged") as caught:
        folder.ledger.append(entry_of("next"))
    assert "history churn --verify" in str(caught.value)
    assert folder.uris() == before


def test_ledger_that_never_stands_still_is_tried_again_later(folder: LedgerFolder) -> None:
    class Busy(FolderStore):
        appended = 0

        def list(self, prefix_uri: str) -> Any:
            if prefix_uri == FOLDER:
                Busy.appended += 1
                folder.ledger.append(entry_of(f"busy-{Busy.appended}"))
            return super().list(prefix_uri)

    with pytest.raises(StoreUnavailableError, match="all the time"):
        Ledger(Busy(folder.path), ROOT, folder.clock).verify("churn")


def test_append_during_verification_is_no_damage(folder: LedgerFolder) -> None:
    class Once(FolderStore):
        appended = False

        def list(self, prefix_uri: str) -> Any:
            if prefix_uri == FOLDER and not Once.appended:
                Once.appended = True
                folder.ledger.append(entry_of("meanwhile"))
            return super().list(prefix_uri)

    verification = Ledger(Once(folder.path), ROOT, folder.clock).verify("churn")
    assert (verification.sound, verification.entries) == (True, ENTRIES + 1)
