"""The append-only record of what happened to each model: one object an entry, each with the hash of the one before.

An entry is never rewritten; its key tells sequence, kind and training; `verify` finds one that was changed, removed or
put there by something else. See `docs/adr/0007-hash-chained-ledger.md`.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.ledger_entry import MOVES, ROLLOUT, LedgerEntry, quarantined, training_mark
from perennial.errors import LedgerConflictError, NotFoundError
from perennial.json_objects import JSON_TYPE
from perennial.ledger_objects import LedgerObjects, Mark, Marks, Slot, read_entry
from perennial.ledger_verification import Anchor, Damage, Verification, verify_ledger
from perennial.lock import Lease, model_lock
from perennial.ports import Clock, ObjectStore

__all__ = ["Anchor", "Damage", "Ledger", "Recorded", "Verification", "outcomes_by_run"]
_log = logging.getLogger(__name__)
_READERS: Final = 16
"""Entries that are read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An entry that is in the ledger."""

    entry: LedgerEntry
    uri: str
    sha256: str


class Ledger:
    """Entries of all models below `<store root>/ledger/<model>/`, each with the hash of the one before."""

    def __init__(self, store: ObjectStore, root: str, clock: Clock) -> None:
        self._store, self._root, self._clock = store, root, clock
        self._objects = LedgerObjects(store, root)

    def lock(self, model: str, *, owner: str) -> AbstractContextManager[Lease]:
        """The model's lock: whoever appends, or moves the alias, holds it."""
        return model_lock(self._store, self._root, model, owner=owner, clock=self._clock)

    def append(self, entry: LedgerEntry, *, lease: Lease | None = None) -> Recorded:
        """Record the entry at the end. Recording it again, as a retry does, changes nothing and gives what is there.

        Args:
            entry: `sequence` and `previous_sha256` are filled in here.
            lease: of the model's lock, if the caller holds it; None takes the lock for the moment.

        Raises:
            LedgerConflictError: the ledger holds another outcome under the same entry_id, or its end is damaged.
            LockTimeoutError, LockLostError: see `perennial.lock`. After a LockLostError the entry may be there; a retry
                finds it.
        """
        if lease is None:
            with self.lock(entry.model, owner=entry.run_id) as taken:
                return self._append(entry, taken)
        if lease.model != entry.model:
            raise ValueError(f"the lease is for {lease.model}, the entry for {entry.model}")
        return self._append(entry, lease)

    def entries(self, model: str) -> list[LedgerEntry]:
        """All entries of a model, in their order; damaged ones are left out and logged as errors with their uri."""
        slots = self._slots(model)
        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            return [entry for entry in pool.map(self._read, slots) if entry is not None]

    def newest(self, model: str, *kinds: str, count: int = 1, except_run: str | None = None) -> list[LedgerEntry]:
        """The newest entries of these kinds (none named: of any), oldest first; opens no others.

        Args:
            model: its name.
            kinds: of `perennial.domain.ledger_entry.KINDS`.
            count: how many at most.
            except_run: entries of this run are passed over.
        """
        slots = [slot for slot in self._slots(model) if not kinds or slot.kind in kinds]
        found: list[LedgerEntry] = []
        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            while slots and len(found) < count:
                lacking = count - len(found)
                entries = list(pool.map(self._read, slots[-lacking:]))
                found[:0] = [entry for entry in entries if entry is not None and entry.run_id != except_run]
                slots = slots[:-lacking]
        return found

    def moves(self, model: str, *, except_run: str | None = None) -> list[LedgerEntry]:
        """Every change of the champion, oldest first."""
        return self.newest(model, *MOVES, count=sys.maxsize, except_run=except_run)

    def quarantine(self, model: str, *, except_run: str | None = None) -> dict[str, str]:
        """Models that must not be promoted: why, by digest. See `perennial.domain.ledger_entry.quarantined`."""
        return quarantined(self.newest(model, *MOVES, ROLLOUT, count=sys.maxsize, except_run=except_run))

    def decisions(self, model: str, fingerprint: str) -> list[LedgerEntry]:
        """Those on a training of this fingerprint, oldest first; opens no others."""
        slots = [slot for slot in self._slots(model) if slot.kind == "decision"]
        entries = [self._read(slot) for slot in slots if training_mark(slot.training) == training_mark(fingerprint)]
        return [entry for entry in entries if entry is not None and entry.fingerprint == fingerprint]

    def find(self, model: str, entry_id: str) -> LedgerEntry | None:
        """The entry of this id, or None; opens no others."""
        slots = [slot for slot in self._slots(model) if slot.entry_id == entry_id]
        return next((entry for entry in map(self._read, slots) if entry is not None), None)

    def judged(self, model: str, fingerprint: str, policy: str) -> LedgerEntry | None:
        """The newest decision on a training of this fingerprint by this policy that came to its end, or None.

        A PROMOTE has not, unless it was carried out or declined by a person, or its rollout has put the model into
        quarantine: one that was taken back for want of samples is tried again.
        """
        training = training_mark(fingerprint).removeprefix("-")
        slots = [slot for slot in self._slots(model) if slot.training in (training, None)]
        for position in range(len(slots) - 1, -1, -1):
            slot = slots[position]
            if slot.kind != "decision" or slot.training != training:
                continue
            entry = self._read(slot)
            if entry is None or (entry.fingerprint, entry.policy) != (fingerprint, policy):
                continue
            if entry.verdict != "PROMOTE" or self._has_ended(entry, slots[position + 1 :]):
                return entry
        return None

    def has(self, model: str, sequence: int, sha256: str) -> bool:
        """Whether there is an entry at this position with these bytes."""
        slots = [slot for slot in self._objects.slots(model) if slot.sequence == sequence]
        return any(sha256_of(self._store.read(slot.uri)) == sha256 for slot in slots)

    def require_sound_end(self, model: str, lease: Lease) -> None:
        """Pass if an entry can be appended; to be asked before an effect that must be recorded.

        Raises:
            LedgerConflictError: the ledger's end is damaged.
            LockLostError: the lease is over.
        """
        self._settled(model, lease)

    def verify(self, model: str, anchors: Sequence[Anchor] = ()) -> Verification:
        """Look at every byte: each entry's hash against the next one's, the head's record and the anchors.

        Raises:
            StoreUnavailableError: also if others append all the time.
        """
        return verify_ledger(model, anchors, store=self._store, objects=self._objects)

    def _append(self, entry: LedgerEntry, lease: Lease) -> Recorded:
        model = entry.model
        slots, last, announced = self._settled(model, lease)
        there = self._recorded(entry, slots, last, lease)
        if there is not None:
            return there
        sequence, previous = (last.sequence + 1, last.sha256) if last else (1, None)
        placed = replace(entry, sequence=sequence, previous_sha256=previous)
        content = canonical_json(placed.to_dict())
        uri = self._objects.folder(model) + placed.key
        coming = Mark(sequence=sequence, entry_id=placed.entry_id, sha256=sha256_of(content), state="coming")
        lease.require_held()
        self._objects.put_mark(model, coming)
        lease.require_held()
        written = self._store.write(uri, content, content_type=JSON_TYPE, if_absent=True)
        if not written and self._store.read(uri) != content:  # a put whose answer was lost says that it is there
            raise LedgerConflictError(f"{uri} was put there by something else meanwhile; nothing was overwritten")
        lease.require_held()
        self._objects.put_mark(model, replace(coming, state="head"))
        self._objects.sweep(model, [coming, *announced, *([last] if last else [])])
        return Recorded(entry=placed, uri=uri, sha256=coming.sha256)

    def _settled(self, model: str, lease: Lease) -> tuple[list[Slot], Mark | None, Sequence[Mark]]:
        """Objects, end, and entries announced but not there, after an interrupted append was confirmed or set aside."""
        slots, marks = self._objects.slots(model), self._objects.marks(model)
        last = self._confirmed_end(model, slots, marks)
        served = [*marks.stale, *(mark for mark in marks.heads if mark != last)]
        adopted: Mark | None = None
        for slot in [slot for slot in slots if slot.sequence > marks.sequence]:
            content = self._store.read(slot.uri)
            entry = read_entry(content)
            announced = [
                mark for mark in marks.coming if (mark.sequence, mark.entry_id) == (slot.sequence, slot.entry_id)
            ]
            whole = [mark for mark in announced if mark.sha256 == sha256_of(content)]
            if not announced or (entry is not None and not whole):
                raise self._damaged(
                    model,
                    f"nothing announced {slot.uri}: it was put there or changed by something else, or marks were "
                    f"removed from {self._objects.marks_folder(model)}",
                )
            lease.require_held()
            if whole and adopted is None and entry and entry.previous_sha256 == (last.sha256 if last else None):
                adopted = replace(whole[0], state="head")
                self._objects.put_mark(model, adopted)
            else:
                self._objects.set_aside(model, slot, content, "what an interrupted append has left")
                slots = [other for other in slots if other != slot]
        if adopted is not None:
            served += [*marks.coming, *([last] if last else [])]
        self._objects.sweep(model, served)
        # A put that was announced may still be on its way: its mark goes only when the place is taken.
        return slots, adopted or last, () if adopted else marks.coming

    def _confirmed_end(self, model: str, slots: Sequence[Slot], marks: Marks) -> Mark | None:
        """The mark of the last entry that was confirmed, after a look at its bytes; None: the ledger is empty."""
        if not marks.heads:
            return None
        there = [slot for slot in slots if slot.sequence == marks.sequence]
        digests = {sha256_of(self._store.read(slot.uri)) for slot in there}
        standing = [mark for mark in marks.heads if mark.sha256 in digests]
        if len(standing) == 1:
            return standing[0]
        folder = self._objects.folder(model)
        if len(standing) > 1:
            raise self._damaged(
                model, f"{folder} has several entries {marks.sequence} that call themselves the last one"
            )
        what = f"{there[0].uri} was changed" if there else f"entry {marks.sequence} is missing from {folder}"
        raise self._damaged(model, f"{what}; its sha256 was {marks.heads[0].sha256}")

    def _recorded(self, entry: LedgerEntry, slots: Sequence[Slot], last: Mark | None, lease: Lease) -> Recorded | None:
        """The same entry, if an earlier try recorded it."""
        for slot in [slot for slot in slots if slot.entry_id == entry.entry_id]:
            content = self._store.read(slot.uri)
            if not self._stands(slot, content, slots, last):
                lease.require_held()
                self._objects.set_aside(entry.model, slot, content, "an entry of a try that had lost the lock")
                continue
            found = read_entry(content)
            if found is None or not entry.restates(found):
                raise LedgerConflictError(
                    f"{slot.uri} already holds another {entry.kind} of run {entry.run_id}; nothing was overwritten. "
                    f"Compare the two, then start a new run instead of repeating this one"
                )
            return Recorded(entry=found, uri=slot.uri, sha256=sha256_of(content))
        return None

    def _slots(self, model: str) -> list[Slot]:
        """For those who read: without what lies beside the chain, see `_stands`."""
        slots = self._objects.slots(model)
        at = Counter(slot.sequence for slot in slots)
        if len(at) == len(slots):
            return slots
        last = next(iter(self._objects.marks(model).heads), None)
        return [
            slot
            for slot in slots
            if at[slot.sequence] == 1
            or ((content := self._content(slot)) is not None and self._stands(slot, content, slots, last))
        ]

    def _stands(self, slot: Slot, content: bytes, slots: Sequence[Slot], last: Mark | None) -> bool:
        """Whether the slot is the one of its sequence that the chain goes through."""
        if sum(other.sequence == slot.sequence for other in slots) == 1:
            return True
        if last is not None and last.sequence == slot.sequence:
            return last.sha256 == sha256_of(content)
        following = (self._read(other) for other in slots if other.sequence == slot.sequence + 1)
        return sha256_of(content) in {entry.previous_sha256 for entry in following if entry is not None}

    def _has_ended(self, decision: LedgerEntry, later: Sequence[Slot]) -> bool:
        answers = (self._read(slot) for slot in later if slot.kind in ("promotion", "approval", ROLLOUT))
        return any(
            entry.kind == "promotion" or (entry.approved is False and (entry.kind == "approval" or entry.quarantined))
            for entry in answers
            if entry is not None and entry.run_id == decision.run_id
        )

    def _content(self, slot: Slot) -> bytes | None:
        try:
            return self._store.read(slot.uri)
        except NotFoundError:
            return None  # set aside since it was listed

    def _read(self, slot: Slot) -> LedgerEntry | None:
        content = self._content(slot)
        if content is None:
            return None
        entry = read_entry(content)
        if entry is None or entry.key != slot.name:
            _log.error("%s is damaged: not the ledger entry that its name promises", slot.uri)
            return None
        return entry

    def _damaged(self, model: str, what: str) -> LedgerConflictError:
        return LedgerConflictError(
            f"{model}: the ledger's end is damaged: {what}. Nothing was appended. See `perennial history {model} "
            f"--verify` and docs/adr/0007-hash-chained-ledger.md for the way out"
        )


def outcomes_by_run(entries: Sequence[LedgerEntry]) -> Mapping[str, Sequence[LedgerEntry]]:
    """Entries grouped by run id, in the order of each run's first entry. For people's tables."""
    runs: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        runs.setdefault(entry.run_id, []).append(entry)
    return runs
