"""Questions that the ledger alone answers: what was champion at a time, why, by whom. Pure; the entries are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perennial.domain.ledger_entry import ROLLOUT, LedgerEntry, quarantined
from perennial.domain.times import format_time, parse_time


@dataclass(frozen=True, slots=True, kw_only=True)
class ChampionAt:
    """What was champion of a model at a time, as far as the ledger knows."""

    model: str
    at: datetime
    by: str
    """`recorded_at`: by when things were recorded, the truth of the clock. `data`: by the newest data that the runs
    stood on, because the ledger begins later than `at` (somebody replayed the past)."""
    move: LedgerEntry | None
    """What made it champion: a promotion, a rollback, or a move outside Perennial. None: there was no champion."""
    promotion: LedgerEntry | None = None
    """The promotion that first brought this version into production; after a rollback an older entry than `move`."""
    decision: LedgerEntry | None = None
    """What the gate said of it."""
    approval: LedgerEntry | None = None
    """The Yes that led to the promotion, if one was asked for."""
    rollouts: Sequence[LedgerEntry] = ()
    """The shadow and the canary that led to the promotion, as far as the spec asked for them then."""

    @property
    def version(self) -> str | None:
        """In the registry; None: there was no champion."""
        return None if self.move is None else self.move.champion_after

    @property
    def since(self) -> datetime | None:
        """When it became champion, by the same clock as `by`."""
        if self.move is None:
            return None
        return self.move.recorded_at if self.by == "recorded_at" else stood_at(self.move)

    @property
    def sentence(self) -> str:
        """For people."""
        if self.version is None or self.since is None:
            return f"The ledger knows no champion of {self.model} at {format_time(self.at)}."
        if self.by == "recorded_at":
            asked, since = format_time(self.at), format_time(self.since)
            return f"Champion of {self.model} at {asked} was version {self.version}, since {since}."
        return (
            f"{format_time(self.at)} is before the ledger's first entry. By the data that the runs had seen, the "
            f"champion of {self.model} was version {self.version}, judged on data up to {format_time(self.since)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is not known is None."""
        promotion, decision, approval, move = self.promotion, self.decision, self.approval, self.move
        known = [entry.references for entry in (promotion, decision, move) if entry is not None]
        trained, snapshot, judged = (_reference(known, kind) for kind in ("model", "snapshot", "decision"))
        is_its_data = not trained or not snapshot or snapshot["sha256"] == trained["snapshot_sha256"]
        return {
            "model": self.model,
            "version": self.version,
            "at": format_time(self.at),
            "by": self.by,
            "since": None if self.since is None else format_time(self.since),
            "recorded_at": None if move is None else format_time(move.recorded_at),
            "as_of": None if move is None else format_time(move.as_of),
            "data_up_to": None if promotion is None else format_time(stood_at(promotion)),
            "how": None if move is None else move.kind,
            "why": self.sentence if move is None else move.summary,
            "moved_by": _who(move),
            "break_glass": any(entry is not None and entry.break_glass for entry in (move, promotion, decision)),
            "digest": trained.get("digest") or (None if move is None else move.digest),
            "training_start": trained.get("training_start"),
            "training_end": trained.get("training_end"),
            "snapshot_sha256": trained.get("snapshot_sha256"),
            "snapshot_uri": snapshot.get("uri") if is_its_data else None,
            "verdict": None if decision is None else decision.verdict,
            "decision": None if decision is None else decision.summary,
            "decision_uri": judged.get("uri"),
            "page_uri": None if decision is None else decision.page_uri,
            "approver": None if approval is None else approval.actor,
            "approved_at": None if approval is None else format_time(approval.recorded_at),
            "rollouts": [
                {"phase": entry.phase, "summary": entry.summary, "page_uri": entry.page_uri} for entry in self.rollouts
            ],
        }


def champion_at(model: str, entries: Sequence[LedgerEntry], at: datetime) -> ChampionAt:
    """What was champion at `at`.

    Args:
        model: its name.
        entries: of its ledger, in their order.
        at: aware. Before the first entry was recorded, the data that the runs stood on is looked at instead, if any
            reaches back.
    """
    by = "recorded_at"
    moves = [entry for entry in entries if entry.moved]
    if entries and at < entries[0].recorded_at and any(stood_at(entry) <= at for entry in moves):
        by = "data"
    if by == "recorded_at":
        moves = [entry for entry in moves if entry.recorded_at <= at]
    else:
        moves = sorted((entry for entry in moves if stood_at(entry) <= at), key=stood_at)
    move = moves[-1] if moves else None
    if move is None or move.champion_after is None:
        return ChampionAt(model=model, at=at, by=by, move=None)
    promotion = _promotion_of(move, entries)
    run = [] if promotion is None else [entry for entry in entries if entry.run_id == promotion.run_id]
    return ChampionAt(
        model=model,
        at=at,
        by=by,
        move=move,
        promotion=promotion,
        decision=next((entry for entry in reversed(run) if entry.kind == "decision"), None),
        approval=next((entry for entry in reversed(run) if entry.kind == "approval" and entry.approved), None),
        rollouts=tuple(entry for entry in run if entry.kind == ROLLOUT and entry.approved),
    )


def why_no_champion(model: str, entries: Sequence[LedgerEntry]) -> str:
    """Why the alias `champion` names nothing, and the way out: sentences for people.

    Args:
        model: its name.
        entries: of its ledger, in their order.
    """
    moves = [entry for entry in entries if entry.moved]
    if not moves:
        told = f"perennial history {model} tells what its runs came to" if entries else f"perennial run {model} runs it"
        return f"{model} has no champion yet: no run has promoted one; {told}."
    last = moves[-1]
    if last.champion_after is None:
        version = last.champion_before
        found = f"found and recorded at {format_time(last.recorded_at)}"
    else:
        version = last.champion_after
        found = "found just now, and recorded by the next run or rollback"
    named = next((entry for entry in reversed(moves) if entry.champion_after == version), None)
    since = "" if named is None else f", since {format_time(named.recorded_at)}"  # None: that entry is missing
    return (
        f"{model} has no champion: somebody took the alias champion away in MLflow, outside Perennial ({found}). It "
        f"named version {version}{since}. To put that back: perennial rollback {model} "
        f"--to {version}"
    )


def quarantined_versions(entries: Sequence[LedgerEntry]) -> dict[str, str]:
    """Versions that were taken back and are not promoted again: why, by version, in the order in which that happened.

    Args:
        entries: of the model's ledger, in their order.
    """
    removed = {digest: str(entry.taken_back) for entry in entries for digest in entry.quarantined}
    return {removed[digest]: why for digest, why in quarantined(entries).items()}


def stood_at(entry: LedgerEntry) -> datetime:
    """Where in time the entry's run stood: at the newest data that it saw, or else at its `as_of`."""
    watermark = entry.references.get("snapshot", {}).get("watermark")
    return entry.as_of if watermark is None else min(entry.as_of, parse_time(str(watermark)))


def _promotion_of(move: LedgerEntry, entries: Sequence[LedgerEntry]) -> LedgerEntry | None:
    """The newest promotion of the move's version up to the move: the move itself, or what it went back to.

    By its place in the ledger, which is the order in which things happened, whatever the times say.
    """
    earlier = entries[: entries.index(move) + 1]
    same = (e for e in reversed(earlier) if e.kind == "promotion" and e.champion_after == move.champion_after)
    return next((e for e in same if None in (move.digest, e.digest) or move.digest == e.digest), None)


def _reference(known: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    return next((references[kind] for references in known if kind in references), {})


def _who(move: LedgerEntry | None) -> str | None:
    if move is None:
        return None
    return move.actor or str(move.request.get("requested_by") or "") or None
