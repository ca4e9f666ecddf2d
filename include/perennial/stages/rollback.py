"""rollback: puts an earlier champion back, and sees to it that what was taken away does not return on its own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from perennial.champion_door import ChampionDoor, named
from perennial.domain.fingerprint import digest_of
from perennial.domain.ledger_entry import LedgerEntry, quarantined
from perennial.domain.references import RollbackRef
from perennial.domain.run_request import RollbackRequest
from perennial.domain.times import format_time
from perennial.errors import FenceError, TerminalError
from perennial.ledger import Ledger, Recorded
from perennial.ports import RegisteredVersion
from perennial.spec.model import ModelSpec
from perennial.stages.smoke_test import smoke_test

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be replaced by what."""

    removed: str | None
    target: RegisteredVersion
    released: str | None
    """Why the target was in quarantine, if it was."""


def roll_back(spec: ModelSpec, request: RollbackRequest, *, door: ChampionDoor) -> RollbackRef:
    """Move the alias back, after a smoke test of where it goes; record it, and quarantine what it named.

    A retry of the same run finds its entry and does not go back once more.

    Args:
        spec: the model's.
        request: who asks, why, and which version if not the one before.
        door: to production.

    Raises:
        TerminalError: there is no version to go back to, or it is champion already.
        NotFoundError, ChampionUnusableError: `request.to` does not exist, or was not registered by Perennial.
        IntegrityError, SmokeTestError: the target's bytes have changed, or it gives no usable predictions.
        FenceError: somebody moved the champion while this was going on; nothing was changed.
    """
    champion = door.settle(spec.name, owner=request.run_id)
    done = _find(door.ledger, request)
    if done is not None:
        return _reference(door.ledger.append(done))
    plan = _plan(request, champion, door)
    # Before the lock, because it may take seconds, and nothing that it finds can change.
    smoke_test(spec.task, plan.target.model, f"version {plan.target.version} of {spec.name}", registry=door.registry)
    with door.ledger.lock(spec.name, owner=request.run_id) as lease:
        champion = door.reconcile(spec.name, lease)
        done = _find(door.ledger, request)
        if done is not None:
            return _reference(door.ledger.append(done, lease=lease))
        if _plan(request, champion, door) != plan:
            raise FenceError(
                f"{spec.name}: while the rollback tried version {plan.target.version} out, the champion was moved from "
                f"{named(plan.removed)} to {named(champion)}. Nothing was changed; look, and start it again"
            )
        recorded = door.move(_entry(request, plan, door), lease)
    _log.warning("%s %s rollback: %s", spec.name, request.run_id, recorded.entry.summary)
    return _reference(recorded)


def _plan(request: RollbackRequest, champion: str | None, door: ChampionDoor) -> _Plan:
    past = door.ledger.moves(request.model)
    held = quarantined(past)
    if request.to is not None:
        if request.to == champion:
            raise TerminalError(f"{request.model}: version {request.to} is the champion already; nothing was changed")
        target = door.registry.version(request.model, request.to)
        return _Plan(removed=champion, target=target, released=held.get(target.model.digest))
    for version in _earlier(past):
        digest = None if version == champion else door.digest(request.model, version)
        if digest is not None and digest not in held:
            target = door.registry.version(request.model, version)
            return _Plan(removed=champion, target=target, released=None)
    there = ", ".join(sorted(door.registry.version_tags(request.model), key=int)) or "none"
    raise TerminalError(
        f"{request.model}: the ledger knows no earlier champion to go back to from {named(champion)} that exists, was "
        f"registered by Perennial and was not itself taken back. Versions there are: {there}. Nothing was changed; "
        f"name one: perennial rollback {request.model} --to VERSION"
    )


def _earlier(moves: Sequence[LedgerEntry]) -> list[str]:
    """Versions that were champion, the latest first, none twice."""
    chain = [version for move in moves for version in (move.champion_before, move.champion_after)]
    return list(dict.fromkeys(version for version in reversed(chain) if version is not None))


def _entry(request: RollbackRequest, plan: _Plan, door: ChampionDoor) -> LedgerEntry:
    who, now = request.requested_by or "Somebody", door.clock.now()
    reason = f": {request.reason}" if request.reason else ""
    digest = door.digest(request.model, plan.removed)
    summary = f"{who} went back from {named(plan.removed)} to version {plan.target.version}{reason}."
    if digest is not None:
        summary += f" Version {plan.removed} is in quarantine: its model is not promoted again."
    elif plan.removed is not None:
        summary += f" Version {plan.removed} was not registered by Perennial: its digest is unknown, no quarantine."
    if plan.released is not None:
        summary += f" Version {plan.target.version} is released from quarantine."
    why = f"Version {plan.removed} was taken back by {who} on {format_time(now)}{reason}."
    return LedgerEntry(
        kind="rollback",
        model=request.model,
        recorded_at=now,
        request=request.to_dict(),
        evidence_sha256=digest_of([request.run_id, request.to]),
        summary=summary,
        champion_before=plan.removed,
        champion_after=plan.target.version,
        references={"model": plan.target.model.to_dict()},
        actor=request.requested_by or None,
        quarantined={} if digest is None else {digest: why},
        digest=plan.target.model.digest,
        reasons=(request.reason,) if request.reason else (),
    )


def _find(ledger: Ledger, request: RollbackRequest) -> LedgerEntry | None:
    """This run's own entry."""
    found = [
        entry for entry in ledger.newest(request.model, "rollback", count=sys.maxsize) if entry.run_id == request.run_id
    ]
    return found[-1] if found else None


def _reference(recorded: Recorded) -> RollbackRef:
    entry = recorded.entry
    return RollbackRef(
        ledger_uri=recorded.uri,
        champion_before=entry.champion_before,
        champion_after=str(entry.champion_after),
        quarantined=len(entry.quarantined),
    )
