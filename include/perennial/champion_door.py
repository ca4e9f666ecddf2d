"""The one door to production: the only code that moves the alias `champion` (invariant 5).

Order of effects, all under the model's lock: intent, alias, ledger, the versions' tags, intent taken away. Whatever is
interrupted in between is completed, or found not to have happened, by whoever holds the lock next (`reconcile`). See
ADR 0009.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from perennial.domain.fingerprint import canonical_json, digest_of
from perennial.domain.ledger_entry import MOVES, LedgerEntry
from perennial.domain.times import format_time
from perennial.errors import ChampionUnusableError, FenceError, IntegrityError, NotFoundError
from perennial.json_objects import JSON_TYPE, stored_object
from perennial.ledger import Anchor, Ledger, Recorded
from perennial.lock import Lease
from perennial.ports import Clock, ModelRegistry, ObjectStore

_log = logging.getLogger(__name__)
CHAMPION: Final = "champion"
ANCHOR_TAG: Final = "perennial.ledger_anchor"
"""Tag of a version: `<sequence>:<sha256>` of the entry that made it champion last."""
QUARANTINE_TAG: Final = "perennial.quarantined"
"""Tag of a version that was taken back: when, by whom and why, in one line. For people; what counts is the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChampionDoor:
    """Moves the alias and keeps the ledger in step with it."""

    store: ObjectStore
    root: str
    """`s3://bucket/prefix`; the intent is kept at `<root>/ledger-intents/<model>.json`."""
    registry: ModelRegistry
    ledger: Ledger
    clock: Clock

    def under_way(self, model: str) -> LedgerEntry | None:
        """The move that somebody is making right now, or could not finish; None if there is none.

        Half an intent is none: the alias is moved after it is written.

        Raises:
            IntegrityError: what lies there is no move.
        """
        uri = self._intent_uri(model)
        content = stored_object(self.store, uri)
        if content is None:
            return None
        try:
            return _intended(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"{uri} is not a move of Perennial's ({type(error).__name__}: {error}); find out who wrote it, and "
                f"delete it. The next run records the champion as it finds it"
            ) from error

    def settle(self, model: str, *, owner: str) -> str | None:
        """`reconcile`, but take the lock only if a look without it finds something off.

        Args:
            model: its name.
            owner: a run id, for those who wait for the lock.

        Returns:
            The champion's version, or None.
        """
        champion = self.registry.champion_version(model)
        if self.under_way(model) is None and champion == _champion_after(self._last_move(model)):
            return champion
        with self.ledger.lock(model, owner=owner) as lease:
            return self.reconcile(model, lease)

    def reconcile(self, model: str, lease: Lease) -> str | None:
        """Make the ledger say what the alias says, and return the champion's version (None: there is none).

        A move that was interrupted after the alias is recorded as what it was meant to be; one that was interrupted
        before is forgotten. An alias that is elsewhere then was moved by somebody else: recorded as `outside`.

        Raises:
            IntegrityError: there is an intent that is no move.
            LockLostError: the lease is over.
        """
        champion = self.registry.champion_version(model)
        intent, last = self.under_way(model), self._last_move(model)
        if intent is not None:
            done = self.ledger.find(model, intent.entry_id)
            # It begins where the moves on record end, or it is an old one that arrived late.
            took_effect = (_champion_after(last), champion) == (intent.champion_before, intent.champion_after)
            if done is not None or took_effect:
                _log.warning("%s: completing the %s that run %s could not finish", model, intent.kind, intent.run_id)
                self._record(done or intent, lease)
                last, intent = self._last_move(model), None
        if self.store.head(self._intent_uri(model)) is not None:  # half an intent is none, and goes too
            lease.require_held()
            self.store.delete(self._intent_uri(model))
        if champion != _champion_after(last):
            entry = self._outside(model, last, champion, intent)
            _log.warning("%s: %s", model, entry.summary)
            self._record(entry, lease)
        return champion

    def move(self, entry: LedgerEntry, lease: Lease) -> Recorded:
        """Move the alias from `entry.champion_before` to `champion_after` and record the entry. After `reconcile`.

        If the two are the same, the entry is recorded and nothing moves.

        Raises:
            FenceError: the alias does not name `champion_before`, and nothing was moved; or somebody moved it on in the
                moment after, and both moves are on record.
            LedgerConflictError: the ledger's end is damaged, so the move could not be recorded; nothing was moved.
            LockLostError: the lease is over. Either nothing was moved, or the next look completes the record.
        """
        model, target = entry.model, entry.champion_after
        if target is None:
            raise ValueError("a champion is replaced, never taken away")
        self.require_fence(model, entry.champion_before, self.registry.champion_version(model))
        if not entry.moved:
            return self._record(entry, lease)
        uri = self._intent_uri(model)
        self.ledger.require_sound_end(model, lease)
        lease.require_held()
        self.store.write(uri, canonical_json(entry.to_dict()), content_type=JSON_TYPE)
        lease.require_held()
        self.registry.point_alias(model, CHAMPION, target)
        found = self.registry.champion_version(model)
        recorded = self._record(entry, lease)
        lease.require_held()  # else it may be the intent of the next one
        self.store.delete(uri)
        if found != target:
            self.reconcile(model, lease)
            raise FenceError(
                f"{model}: moved the alias to version {target}, but right afterwards it names {named(found)}: somebody "
                f"moved it by hand. Both moves are on record; find out who did it, and what is wanted"
            )
        return recorded

    def require_fence(self, model: str, judged: str | None, champion: str | None) -> None:
        """Pass if the champion is the one that was looked at.

        Raises:
            FenceError: it is another one; says who moved it, if the ledger knows.
        """
        if champion == judged:
            return
        last = self._last_move(model)
        known = last is not None and last.champion_after == champion
        who = f"{format_time(last.recorded_at)}: {last.summary}" if last and known else "Somebody moved it."
        raise FenceError(
            f"{model}: {named(judged)} was to be replaced, but the alias now names {named(champion)}. {who} "
            f"Nothing was changed; start a new run, which judges what is champion now"
        )

    def digest(self, model: str, version: str | None) -> str | None:
        """Digest of a version's model; None if Perennial did not register it, or it is gone."""
        try:
            return None if version is None else self.registry.version(model, version).model.digest
        except (ChampionUnusableError, NotFoundError):
            return None

    def _record(self, entry: LedgerEntry, lease: Lease) -> Recorded:
        """Ledger, then tags. All stay the same if repeated."""
        recorded = self.ledger.append(entry, lease=lease)
        self._tag(recorded)
        return recorded

    def _tag(self, recorded: Recorded) -> None:
        """Anchor the new champion and release it from quarantine; note what was taken back.

        A version that somebody has deleted meanwhile is passed over.
        """
        entry, found = recorded.entry, self.registry.version_tags(recorded.entry.model)
        came, went = str(entry.champion_after), str(entry.champion_before)
        wanted: dict[str, dict[str, str | None]] = {came: {QUARANTINE_TAG: None}}
        anchor = _parsed(found.get(came, {}).get(ANCHOR_TAG, ""))
        if anchor is None or self._may_go(entry, *anchor):
            wanted[came][ANCHOR_TAG] = f"{entry.sequence}:{recorded.sha256}"
        for why in entry.quarantined.values():
            wanted[went] = {QUARANTINE_TAG: " ".join(why.split())}
        for version, tags in wanted.items():
            if version in found:
                missing = {name: value for name, value in tags.items() if found[version].get(name) != value}
                self.registry.tag_version(entry.model, version, missing)

    def _may_go(self, entry: LedgerEntry, sequence: int, sha256: str) -> bool:
        """Whether the entry's anchor may take the place of this one.

        Not of a newer one: then this holder is late. Nor of one that the ledger contradicts: it is the evidence that
        the ledger was cut off or rewritten.
        """
        if not self.ledger.has(entry.model, sequence, sha256):
            _log.error(
                "%s: the ledger does not have the entry %d that MLflow knows (sha256 %s); the anchor stays, see "
                "`perennial history %s --verify`",
                entry.model,
                sequence,
                sha256,
                entry.model,
            )
            return False
        return sequence < entry.sequence

    def _outside(
        self, model: str, last_move: LedgerEntry | None, after: str | None, intent: LedgerEntry | None
    ) -> LedgerEntry:
        """A move that was not Perennial's. It begins where the ledger's moves end, so that they stay one chain."""
        before, found_at = _champion_after(last_move), format_time(self.clock.now())
        summary = (
            f"The alias champion was moved outside Perennial: {named(before)} -> {named(after)}, found {found_at}."
        )
        if intent is not None and after != intent.champion_before:
            summary += (
                f" Run {intent.run_id} was interrupted while it moved the alias to {named(intent.champion_after)}; "
                f"whether that took effect in between is not known."
            )
        anchored = anchors(self.registry, model)[-1:]
        if anchored and anchored[0].sequence > (last_move.sequence if last_move else 0):
            summary = (
                f"The ledger's newest move (entry {anchored[0].sequence}, says {anchored[0].where}) is missing or "
                f"damaged, so what it says is not known: {named(before)} -> {named(after)}, found {found_at}."
            )
        newest = self.ledger.newest(model)
        return LedgerEntry(
            kind="outside",
            model=model,
            recorded_at=self.clock.now(),
            request={"model": model, "run_id": f"outside__{found_at}", "as_of": found_at},
            # With its position, the same movement is another fact when it happens again later.
            evidence_sha256=digest_of([before, after, newest[-1].sequence if newest else 0]),
            summary=summary,
            champion_before=before,
            champion_after=after,
            digest=self.digest(model, after),
        )

    def _last_move(self, model: str) -> LedgerEntry | None:
        found = self.ledger.newest(model, *MOVES)
        return found[-1] if found else None

    def _intent_uri(self, model: str) -> str:
        return f"{self.root}/ledger-intents/{model}.json"


def anchors(registry: ModelRegistry, model: str) -> list[Anchor]:
    """What the registry knows of the ledger: the entry that made each version champion last. By sequence."""
    found = []
    for version, tags in registry.version_tags(model).items():
        parsed = _parsed(tags.get(ANCHOR_TAG, ""))
        if parsed is not None:
            sequence, sha256 = parsed
            found.append(Anchor(sequence=sequence, sha256=sha256, where=f"MLflow, version {version} of {model}"))
        elif ANCHOR_TAG in tags:
            _log.error("%s version %s: tag %s is %r, no anchor", model, version, ANCHOR_TAG, tags[ANCHOR_TAG])
    return sorted(found, key=lambda anchor: anchor.sequence)


def _intended(content: Mapping[str, Any]) -> LedgerEntry:
    """The move in an intent; any error means that there is none."""
    entry = LedgerEntry.from_dict(content)
    _ = entry.key, entry.as_of  # made of fields that a damaged entry may lack
    if not entry.moved:
        raise ValueError("it moves nothing")
    return entry


def _parsed(anchor: str) -> tuple[int, str] | None:
    sequence, _, sha256 = anchor.partition(":")
    return (int(sequence), sha256) if sequence.isascii() and sequence.isdecimal() and sha256 else None


def named(version: str | None) -> str:
    """For people: `version 3`, `no champion`."""
    return "no champion" if version is None else f"version {version}"


def _champion_after(move: LedgerEntry | None) -> str | None:
    return None if move is None else move.champion_after
