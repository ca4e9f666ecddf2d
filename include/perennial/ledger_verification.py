"""Finds what was changed, removed or put into a model's ledger, from the hashes in entries, marks and anchors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.errors import NotFoundError, StoreUnavailableError
from perennial.ledger_objects import LedgerObjects, Marks, Slot, read_entry
from perennial.ports import ObjectStore

_READERS: Final = 16
_LOOKS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The head of the ledger as it was noted outside the store, when a version was promoted (a tag in MLflow)."""

    sequence: int
    sha256: str
    where: str
    """For people: `MLflow, version 3 of flights_delay`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is wrong with a ledger."""

    kind: str
    """`changed`, `missing`, `forged`, `unreadable` or `cut_off`."""
    sequence: int
    uri: str
    """Of the object at fault; of a missing one, the folder."""
    detail: str
    """What was found against what was expected, and what to do, in sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a look at every byte of a model's ledger found."""

    model: str
    entries: int
    head_sha256: str | None
    damages: Sequence[Damage]
    """By sequence."""
    notes: Sequence[str] = ()
    """Not damage, and worth knowing: `no anchor in MLflow yet`."""

    @property
    def sound(self) -> bool:
        """No damage."""
        return not self.damages


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """An object with its bytes' digest, and the entry in it."""

    slot: Slot
    sha256: str
    entry: LedgerEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """What something else says of the bytes of an entry."""

    sha256: str
    by: str
    uri: str = ""
    """Of the entry that says it; empty: not an entry."""


def verify_ledger(model: str, anchors: Sequence[Anchor], *, store: ObjectStore, objects: LedgerObjects) -> Verification:
    """See `Ledger.verify`. Takes no lock and writes nothing, so that whoever may read can verify."""
    slots, marks = _settled_look(model, objects)
    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        found = [there for there in pool.map(lambda slot: _open(slot, store), slots) if there is not None]
    chain = _Chain(model, objects.folder(model), found, marks, anchors)
    chain.walk()
    notes = [*chain.notes, *_notes(model, anchors, objects)]
    if found and not marks.heads and not marks.coming:
        chain.lost_marks(objects.marks_folder(model))
    return Verification(
        model=model,
        entries=len(found),
        head_sha256=marks.heads[0].sha256 if marks.heads else None,
        damages=sorted(chain.damages, key=lambda damage: (damage.sequence, damage.uri)),
        notes=notes,
    )


def _settled_look(model: str, objects: LedgerObjects) -> tuple[list[Slot], Marks]:
    """Objects and marks of one moment: no append came between."""
    for _ in range(_LOOKS):
        before = objects.marks(model)
        slots = objects.slots(model)
        if objects.marks(model) == before:
            return slots, before
    raise StoreUnavailableError(f"{model}: entries are being appended all the time; try again")


def _open(slot: Slot, store: ObjectStore) -> _Found | None:
    try:
        content = store.read(slot.uri)
    except NotFoundError:
        return None  # what an interrupted append had left, set aside since
    return _Found(slot=slot, sha256=sha256_of(content), entry=read_entry(content))


def _notes(model: str, anchors: Sequence[Anchor], objects: LedgerObjects) -> list[str]:
    notes = [f"{uri} is not an entry and is not read." for uri in objects.strangers(model)]
    notes += [f"{uri} was set aside: an interrupted append had left it." for uri in objects.remains(model)]
    if not anchors:
        notes.append(
            "No anchor: nothing outside the store vouches for the ledger, so a rewriting of all of it cannot be seen."
        )
    return notes


class _Chain:
    """Goes from the newest entry to the oldest: what is above, and stands, vouches for what is below."""

    def __init__(
        self, model: str, folder: str, found: Iterable[_Found], marks: Marks, anchors: Sequence[Anchor]
    ) -> None:
        self.damages: list[Damage] = []
        self.notes: list[str] = []
        self._model, self._folder, self._marks = model, folder, marks
        self._at: dict[int, list[_Found]] = defaultdict(list)
        for there in found:
            self._at[there.slot.sequence].append(there)
        self._words: dict[int, list[_Word]] = defaultdict(list)
        """Strongest first: anchors, the end's mark, the next entry."""
        for anchor in anchors:
            self._words[anchor.sequence].append(_Word(sha256=anchor.sha256, by=anchor.where))
        for mark in marks.heads:
            self._words[mark.sequence].append(_Word(sha256=mark.sha256, by="the mark of the ledger's end"))

    def walk(self) -> None:
        """Look at every sequence."""
        self._beyond_the_end()
        last = max((sequence for sequence, there in self._at.items() if there), default=0)
        top = max([last, *self._words])
        if top > last:
            self._cut_off(last, top)
        gap_end: int | None = None
        for sequence in range(last, 0, -1):
            if self._at[sequence]:
                self._gap(sequence + 1, gap_end)
                gap_end = None
                self._look(sequence)
            elif gap_end is None:
                gap_end = sequence
        self._gap(1, gap_end)

    def lost_marks(self, folder: str) -> None:
        """Say that nothing vouches for the end."""
        last = max(self._at)
        end = max(self._at[last], key=lambda there: there.slot.name)
        self._damage(
            "missing",
            last,
            folder,
            f"The mark of the ledger's end was removed: entries after {last} may be gone. Compare with the anchors and "
            f"with Airflow's runs; then put an empty object `{last:08d}-{end.slot.entry_id}-{end.sha256}-head` there.",
        )

    def _beyond_the_end(self) -> None:
        """Entries that no mark confirms: the remains of one interrupted append may be there, nothing else."""
        if not self._marks.heads and not self._marks.coming:
            return
        for sequence in sorted(sequence for sequence in self._at if sequence > self._marks.sequence):
            for there in self._at.pop(sequence):
                place = (sequence, there.slot.entry_id)
                announced = {mark.sha256 for mark in self._marks.coming if (mark.sequence, mark.entry_id) == place}
                if there.sha256 in announced:
                    self.notes.append(f"{there.slot.uri}: appending it was interrupted; the next append confirms it.")
                elif announced and there.entry is None:
                    self.notes.append(f"{there.slot.uri}: half written; the next append moves it aside.")
                else:
                    self._damage(
                        "forged",
                        sequence,
                        there.slot.uri,
                        f"The ledger ends with entry {self._marks.sequence}; nothing announced this one. "
                        f"{_WAY_OUT['forged']}",
                    )

    def _cut_off(self, last: int, top: int) -> None:
        told = "; ".join(
            f"{word.by} says that entry {sequence} has the sha256 {word.sha256}"
            for sequence in sorted(self._words)
            if sequence > last
            for word in self._words[sequence]
        )
        named = f"entry {top}" if top == last + 1 else f"entries {last + 1} to {top}"
        self._damage(
            "cut_off",
            last + 1,
            self._folder,
            f"The newest {named} were removed: {told}. Bring them back from a backup of the bucket.",
        )

    def _gap(self, first: int, last: int | None) -> None:
        if last is None:
            return
        named = f"Entry {first} is" if first == last else f"Entries {first} to {last} are"
        self._damage("missing", first, self._folder, f"{named} missing. Bring them back from a backup of the bucket.")

    def _look(self, sequence: int) -> None:
        """Judge the objects of one sequence, and let the one that stands vouch for the entry before it."""
        # Of two with the same bytes, the one under its own name.
        there, words = sorted(self._at[sequence], key=lambda one: not self._in_place(one)), self._words[sequence]
        standing = next((one for word in words for one in there if one.sha256 == word.sha256), None)
        if standing is None and not words:
            # Nothing above vouches for anything here: take the one that fits what is below.
            standing = next((one for one in there if self._fits(one)), None)
        for one in there:
            if one is not standing:
                self._at_fault(one, words, alone=len(there) == 1)
        if standing is not None:
            if not self._in_place(standing):
                self._misplaced(standing)
            self._disputed(standing, words)
            self._vouch(sequence, standing)

    def _in_place(self, one: _Found) -> bool:
        """Whether it is an entry of this model under its own name; another one is passed over by all who read."""
        return one.entry is not None and (one.entry.model, one.entry.key) == (self._model, one.slot.name)

    def _misplaced(self, one: _Found) -> None:
        """These bytes are the ones that the chain goes through, and nobody reads them: as if they were missing."""
        if one.entry is None:
            self._damage("unreadable", one.slot.sequence, one.slot.uri, f"No ledger entry. {_WAY_OUT['unreadable']}")
            return
        detail = f"It holds the entry {one.entry.key} of {one.entry.model}, not the one that its name promises"
        self._damage("forged", one.slot.sequence, one.slot.uri, f"{detail}. {_WAY_OUT['misplaced']}")

    def _fits(self, one: _Found) -> bool:
        """Whether an entry that nobody vouches for says what its place demands."""
        entry = one.entry
        if entry is None or not self._in_place(one):
            return False
        before = self._at.get(one.slot.sequence - 1, [])
        if one.slot.sequence == 1:
            return entry.previous_sha256 is None
        return not before or entry.previous_sha256 in {other.sha256 for other in before}

    def _vouch(self, sequence: int, standing: _Found) -> None:
        entry = standing.entry
        if entry is not None and entry.previous_sha256 is not None and sequence > 1:
            self._words[sequence - 1].append(
                _Word(sha256=entry.previous_sha256, by=f"entry {sequence}", uri=standing.slot.uri)
            )

    def _at_fault(self, one: _Found, words: Sequence[_Word], *, alone: bool) -> None:
        slot, entry = one.slot, one.entry
        told = "; ".join(f"{word.by} says {word.sha256}" for word in words)
        if entry is None:
            kind, detail = (
                "unreadable",
                f"These bytes are no ledger entry (sha256 {one.sha256}; {told or 'nothing says what it was'}).",
            )
        elif alone and words:
            kind, detail = "changed", f"Its sha256 is {one.sha256}; {told}."
        elif not self._in_place(one):
            held = f"the entry {entry.key} of {entry.model}"
            kind, detail = "forged", f"It holds {held}, not the one that its name promises."
        elif words:
            kind, detail = "forged", f"Another entry {slot.sequence} is the one that the chain goes through: {told}."
        else:
            kind, detail = "forged", f"It says that the entry before has the sha256 {entry.previous_sha256}; none has."
        self._damage(kind, slot.sequence, slot.uri, f"{detail} {_WAY_OUT[kind]}")

    def _disputed(self, standing: _Found, words: Sequence[_Word]) -> None:
        """Who says something else: a stronger voice accuses this entry, a weaker one itself."""
        agreed = next((position for position, word in enumerate(words) if word.sha256 == standing.sha256), 0)
        for position, word in enumerate(words):
            if word.sha256 == standing.sha256:
                continue
            sequence, uri = standing.slot.sequence, standing.slot.uri
            if position > agreed and word.uri:
                sequence, uri = sequence + 1, word.uri
            detail = f"{standing.slot.uri} has the sha256 {standing.sha256}; {word.by} says {word.sha256}"
            self._damage("changed", sequence, uri, f"{detail}. {_WAY_OUT['changed']}")

    def _damage(self, kind: str, sequence: int, uri: str, detail: str) -> None:
        self.damages.append(Damage(kind=kind, sequence=sequence, uri=uri, detail=detail))


_WAY_OUT: Final = {
    "changed": "Bring the original back from a backup of the bucket.",
    "unreadable": "Bring the original back from a backup of the bucket.",
    "forged": "Find out who put it there, and move it out of the folder.",
    "misplaced": "Find out who renamed it, and give it that entry's name, in that model's folder.",
}
