"""rollback: puts an earlier champion back, and sees to it that what was taken away does not return on its own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perennial.champion_door import ChampionDoor, named
from perennial.domain.fingerprint import digest_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import RollbackRef
from perennial.domain.run_request import RollbackRequest
from perennial.domain.times import format_time
from perennial.errors import FenceError, NotFoundError, TerminalError
from perennial.ledger import Ledger, Recorded
from perennial.ports import Deployer, RegisteredVersion
from perennial.spec.model import ModelSpec
from perennial.stages.smoke_test import smoke_test
from perennial.stages.takeover import take_over

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be replaced by what."""

    removed: str | None
    target: RegisteredVersion
    released: str | None
    """Why the target was in quarantine, if it was."""
    digest: str | None
    """Of the model that is removed; None: not known."""


def roll_back(spec: ModelSpec, request: RollbackRequest, *, door: ChampionDoor, deployer: Deployer) -> RollbackRef:
    """Move the alias back, after a smoke test of where it goes; record it, and quarantine what it named.

    Then what serves the model follows, which ends any shadow or canary.

    A retry of the same run finds its entry and does not go back once more.

    Args:
        spec: the model's.
        request: who asks, why, and which version if not the one before.
        door: to production.
        deployer: where the model serves.

    Raises:
        TerminalError: there is no version to go back to, it is champion already, or it is in quarantine and the
            request gives no reason; or the champion was put there by a rollback, and the request names no version.
        NotFoundError, ChampionUnusableError: `request.to` does not exist, or was not registered by Perennial.
        IntegrityError, SmokeTestError: the target's bytes have changed, or it gives no usable predictions.
        FenceError: somebody moved the champion while this was going on; nothing was changed.

    A platform that lags behind the alias is brought in line also where the rollback itself is refused.
    """
    champion = door.settle(spec.name, owner=request.run_id)
    done = _find(door.ledger, request)
    if done is not None:
        return _served(door.ledger.append(done), door, deployer)
    try:
        plan = _plan(request, champion, door)
    except TerminalError:
        # Whoever asks again may do so because the platform did not answer when the alias had moved.
        if champion is not None and deployer.status(spec.name).champion not in (None, champion):
            take_over(spec.name, champion, door=door, deployer=deployer)
        raise
    # Before the lock, because it may take seconds, and nothing that it finds can change.
    smoke_test(spec.task, plan.target.model, f"version {plan.target.version} of {spec.name}", registry=door.registry)
    with door.ledger.lock(spec.name, owner=request.run_id) as lease:
        champion = door.reconcile(spec.name, lease)
        done = _find(door.ledger, request)
        if done is None and _plan(request, champion, door) != plan:
            raise FenceError(
                f"{spec.name}: while the rollback tried version {plan.target.version} out, the champion was moved from "
                f"{named(plan.removed)} to {named(champion)}. Nothing was changed; look, and start it again"
            )
        if done is None:
            recorded = door.move(_entry(request, plan, door), lease)
        else:
            recorded = door.ledger.append(done, lease=lease)
    _log.info("%s %s rollback: %s", spec.name, request.run_id, recorded.entry.summary)
    return _served(recorded, door, deployer)


def _plan(request: RollbackRequest, champion: str | None, door: ChampionDoor) -> _Plan:
    past = door.ledger.moves(request.model)
    held, digest = door.ledger.quarantine(request.model), _digest(past, champion, door)
    if request.to is not None:
        target = _named_target(request, request.to, champion, held, door)
        return _Plan(removed=champion, target=target, released=held.get(target.model.digest), digest=digest)
    for version, known in _earlier(past).items():
        found = None if version == champion else door.digest(request.model, version)
        # MLflow gives the number of a deleted version to the next one: then it is another model.
        if found is not None and found not in held and known in (None, found):
            _require_one_step(request, past[-1], champion, version)
            target = door.registry.version(request.model, version)
            return _Plan(removed=champion, target=target, released=None, digest=digest)
    raise TerminalError(
        f"{request.model}: the ledger knows no earlier champion to go back to from {named(champion)} that exists, was "
        f"registered by Perennial and was not itself taken back. Versions there are: {_there(request, door)}. Nothing "
        f"was changed; name one: perennial rollback {request.model} --to VERSION --reason TEXT"
    )


def _require_one_step(request: RollbackRequest, last: LedgerEntry, champion: str | None, further: str) -> None:
    """Two who are called at 3 a.m. mean the same step back; so does who asks again after a crash."""
    if (last.kind, last.champion_after) == ("rollback", champion):
        raise TerminalError(
            f"{request.model}: {named(champion)} was put back by a rollback already ({format_time(last.recorded_at)}: "
            f"{last.summary}) Nothing more was changed. To go further back, name the version: perennial rollback "
            f"{request.model} --to {further} --reason TEXT, or the form's field in Airflow"
        )


def _named_target(
    request: RollbackRequest, version: str, champion: str | None, held: Mapping[str, str], door: ChampionDoor
) -> RegisteredVersion:
    """The version that was asked for by its number; one in quarantine only if somebody says why."""
    if version == champion:
        raise TerminalError(
            f"{request.model}: version {version} is the champion already. Versions there are: "
            f"{_there(request, door)}. Nothing was changed"
        )
    try:
        target = door.registry.version(request.model, version)
    except NotFoundError as error:
        raise NotFoundError(
            f"{request.model} has no version {version}. Versions there are: {_there(request, door)}. Nothing was "
            f"changed"
        ) from error
    why = held.get(target.model.digest)
    if why is not None and not request.reason.strip():
        raise TerminalError(
            f"{request.model}: version {version} is in quarantine ({why.rstrip('.')}). Going back to it releases it, "
            f"which takes a reason: perennial rollback {request.model} --to {version} --reason TEXT, or the form's "
            f"field Reason in Airflow. Nothing was changed"
        )
    return target


def _there(request: RollbackRequest, door: ChampionDoor) -> str:
    return ", ".join(sorted(door.registry.version_tags(request.model), key=int)) or "none"


def _digest(moves: Sequence[LedgerEntry], champion: str | None, door: ChampionDoor) -> str | None:
    """Of the champion's model: as the ledger has it, because anybody may edit a version's tags."""
    last = moves[-1] if moves else None
    if last is not None and last.champion_after == champion and last.digest is not None:
        return last.digest
    return None if last is None else door.digest(last.model, champion)


def _earlier(moves: Sequence[LedgerEntry]) -> dict[str, str | None]:
    """Versions that were champion, the latest first, with the digest that each had then (None: not known)."""
    found: dict[str, str | None] = {}
    for move in reversed(moves):
        if move.champion_after is not None:
            found.setdefault(move.champion_after, move.digest)
    return found


def _entry(request: RollbackRequest, plan: _Plan, door: ChampionDoor) -> LedgerEntry:
    who, now = request.requested_by or "Somebody", door.clock.now()
    reason = f": {request.reason}" if request.reason else ""
    summary = f"{who} went back from {named(plan.removed)} to version {plan.target.version}{reason}."
    if plan.digest is not None:
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
        quarantined={} if plan.digest is None else {plan.digest: why},
        digest=plan.target.model.digest,
        reasons=(request.reason,) if request.reason else (),
    )


def _find(ledger: Ledger, request: RollbackRequest) -> LedgerEntry | None:
    """This run's own entry."""
    found = [
        entry for entry in ledger.newest(request.model, "rollback", count=sys.maxsize) if entry.run_id == request.run_id
    ]
    return found[-1] if found else None


def _served(recorded: Recorded, door: ChampionDoor, deployer: Deployer) -> RollbackRef:
    """After the alias, also of an earlier try: whatever serves the model has to hear of it."""
    entry = recorded.entry
    take_over(entry.model, str(entry.champion_after), door=door, deployer=deployer)
    return RollbackRef(
        ledger_uri=recorded.uri,
        champion_before=entry.champion_before,
        champion_after=str(entry.champion_after),
        quarantined=len(entry.quarantined),
    )
