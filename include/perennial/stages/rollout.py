"""rollout: walks a challenger's shadow or canary, a look at a time, and takes it back if something is wrong.

Nobody remembers anything between two looks: where the rollout stands is in the store, so whoever looks next goes on.
Order of effects: at the beginning registration, state, platform; at each look state, platform; at the end state,
record, traffic, page, ledger entry. Any of them may be repeated. The first record stands, whoever wrote it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from perennial.champion_door import ChampionDoor
from perennial.domain.references import ApprovalRef, DecisionRef, ModelRef, RolloutRef, Verdict
from perennial.domain.rollout import RolloutRecord, RolloutState, Trial, longest, rollout_id
from perennial.domain.run_request import RollbackRequest, RunRequest
from perennial.domain.times import format_time
from perennial.domain.wording import duration, plain
from perennial.errors import DeployerUnavailableError, TerminalError
from perennial.ports import Deployer, DeploymentStatus
from perennial.spec.model import ModelSpec
from perennial.stages.recorded_decision import (
    recorded,
    require_consent,
    require_fresh,
    require_not_quarantined,
    stored_reasons,
)
from perennial.stages.rollout_objects import RolloutObjects, StoredRecord
from perennial.stages.rollout_walk import Look, Walk, champion_of
from perennial.stages.takeover import give_back

__all__ = ["Look", "end_abandoned", "look", "nothing_to_try", "stop"]
_log = logging.getLogger(__name__)
ABANDONED: Final = timedelta(minutes=15)
"""Without a look for so long, a rollout counts as abandoned, and another run may end it."""


def nothing_to_try(
    spec: ModelSpec,
    decision: DecisionRef,
    approval: ApprovalRef | None = None,
    rollouts: Sequence[RolloutRef] = (),
    *,
    phase: str,
) -> str | None:
    """Why this phase has nothing to do, in one sentence for people; None: it has.

    Args:
        spec: the model's.
        decision: the verdict on the challenger.
        approval: the answer to it, if somebody was asked.
        rollouts: how the phases before have ended.
        phase: `smoke_test`, `shadow` or `canary`.
    """
    asked = () if spec.deployment is None else ("smoke_test", *spec.deployment.rollouts)
    name, on_traffic = phase.replace("_", " "), phase != "smoke_test"
    failed = next((ended for ended in rollouts if ended.phase != phase and not ended.passed), None)
    cases = {
        f"The spec asks for no {name}.": phase not in asked,
        f"The verdict is {decision.verdict}: there is nothing to try out.": decision.verdict != Verdict.PROMOTE,
        f"The promotion was declined, so there is no {name}.": approval is not None and not approval.approved,
        f"The glass is broken, which overrides the {name}.": on_traffic and decision.break_glass,
        f"There is no champion to compare with, so there is no {name}: the first one serves at once.": on_traffic
        and decision.champion_version is None,
        f"There is no {name}. {failed.summary if failed else ''}": failed is not None,
    }
    return next((why for why, applies in cases.items() if applies), None)


def look(
    spec: ModelSpec,
    request: RunRequest,
    *,
    phase: str,
    decision: DecisionRef,
    model: ModelRef,
    deployer: Deployer,
    door: ChampionDoor,
    tags: Mapping[str, str] | None = None,
) -> Look:
    """Look once at a shadow or canary, and do what follows; seconds at most.

    The first look begins it: the challenger is registered, and brought up. A guardrail that does not hold, too few
    samples when the time is up, another champion, a challenger that does not come up, a platform that refuses, and a
    spec that asks for it no more take the challenger back, on record; of these only the guardrail quarantines it.

    Args:
        spec: the model's.
        request: the run's.
        phase: `shadow` or `canary`, and `nothing_to_try` says None of it.
        decision: a PROMOTE of this run.
        model: the challenger.
        deployer: where the model serves.
        door: to production.
        tags: of the version, if it has to be registered.

    Raises:
        TransientError: the store, the registry or the platform did not answer, or another rollout of the model is under
            way (says whose, until when). Nothing has advanced; look again.
        TerminalError: there is nothing to try out.
        IntegrityError, NotAllowedError, ExpiredVerdictError, FenceError: as `perennial.stages.promote.carry_out`; only
            the look that begins.
    """
    walk = Walk(spec=spec, phase=phase, deployer=deployer, door=door)
    name = rollout_id(request.run_id, decision, model, phase)
    stored = walk.objects.record(name)
    if stored is not None:
        return walk.over(stored)
    state = walk.objects.state(name)
    if state is None:
        why = nothing_to_try(spec, decision, phase=phase)
        if why is not None:
            raise TerminalError(f"{spec.name}: no {phase} can begin. {why}")
        end_abandoned(spec, door=door, deployer=deployer, owner=request.run_id, but=name)
        state = _begun(walk, name, request, decision, model, tags or {})
    return walk.look(state)


def stop(spec: ModelSpec, request: RollbackRequest, *, door: ChampionDoor, deployer: Deployer) -> RolloutRef:
    """Take the challenger that is being tried out back, because a person says so; its model is quarantined.

    Also one that has passed, as long as it is not champion, and one that was taken back and has its split all the same,
    because the platform did not answer then. A retry changes nothing.

    Args:
        spec: the model's.
        request: who asks, and why; `to` has no meaning here.
        door: to production.
        deployer: where the model serves.

    Raises:
        TerminalError: no challenger is being tried out, or it has become champion already.
        DeployerUnavailableError: the platform does not answer; the stop is on record.
    """
    objects = RolloutObjects(store=door.store, root=door.root, model=spec.name)
    with door.ledger.lock(spec.name, owner=request.run_id) as lease:
        champion, name = door.reconcile(spec.name, lease), objects.current()
        state = None if name is None else objects.state(name)
        if name is None or state is None:
            raise TerminalError(f"{spec.name}: no challenger is being tried out. Nothing was changed")
        walk = Walk(spec=spec, phase=state.trial.phase, deployer=deployer, door=door)
        stored = objects.record(name)
        if stored is None or stored.record.passed or _outlived(stored, deployer):
            _require_not_promoted(state.trial, champion, door)
            stored = objects.put_record(_stopped(state, request, champion, door.clock.now()))
        elif stored.record.stopped_by is None:
            raise TerminalError(
                f"{spec.name}: no challenger is being tried out. {stored.record.summary} Nothing was changed"
            )
        reference = walk.publish(stored, lease)  # under the lock, so that no promotion comes in between
    try:
        walk.release(stored.record)
    except DeployerUnavailableError as error:
        raise DeployerUnavailableError(
            f"{error}. The stop of {spec.name}'s challenger is on record: the same command again, or whoever walks it, "
            f"takes its share of the traffic back as soon as the platform answers"
        ) from error
    return reference


def end_abandoned(spec: ModelSpec, *, door: ChampionDoor, deployer: Deployer, owner: str, but: str = "") -> None:
    """End a rollout that nobody walks any more, and complete one that ended without anybody's cleaning up.

    A run that was killed leaves one. What is walked, or waits for its promotion, stays.

    Args:
        spec: the model's.
        door: to production.
        deployer: where the model serves.
        owner: a run id, for the log.
        but: a rollout that is the caller's own.
    """
    if spec.deployment is None:
        return
    objects = RolloutObjects(store=door.store, root=door.root, model=spec.name)
    name, now = objects.current(), door.clock.now()
    state = None if name in (None, but) else objects.state(str(name))
    if name is None or state is None:
        return
    walk = Walk(spec=spec, phase=state.trial.phase, deployer=deployer, door=door)
    stored = objects.record(name)
    if stored is None:
        if now - state.looked_at >= ABANDONED:
            _log.warning("%s %s: ends a %s that nobody walks any more", spec.name, owner, state.trial.phase)
            ended = None if state.canary is None else state.canary.ended
            fault = ended if ended is not None and ended.at_fault else None
            walk.end(state, fault, reason=f"Nobody has looked at it since {format_time(state.looked_at)}.")
    elif not walk.is_published(stored):
        _log.warning("%s %s: completes the end of a %s", spec.name, owner, state.trial.phase)
        walk.over(stored)
    elif now - stored.record.ended_at >= ABANDONED and deployer.status(spec.name).rollout_id == name:
        _log.warning("%s %s: ends the split of a %s that is over", spec.name, owner, state.trial.phase)
        give_back(spec.name, name, door=door, deployer=deployer, otherwise=champion_of(state.trial))


def _begun(
    walk: Walk, name: str, request: RunRequest, decision: DecisionRef, model: ModelRef, tags: Mapping[str, str]
) -> RolloutState:
    """Everything that a promotion would ask, then register the version and say that it is under way."""
    door, spec = walk.door, walk.spec
    stored_reasons(door.store, decision, model)
    decided = recorded(door.ledger, request, decision)
    require_consent(spec, request, decision, ledger=door.ledger, decided=decided)
    require_fresh(spec, decided, now=door.clock.now())
    status = walk.deployer.status(spec.name)  # a platform may take longer to answer than a lease lasts
    with door.ledger.lock(spec.name, owner=request.run_id) as lease:
        there = walk.objects.state(name)
        if there is not None:  # another look has begun it since
            return there
        champion = door.reconcile(spec.name, lease)
        door.require_fence(spec.name, decision.champion_version, champion)
        require_not_quarantined(door.ledger, spec.name, model.digest)
        _require_alone(spec, name, walk.objects)
        _require_no_split(spec, name, status)
        judged = door.registry.version(spec.name, str(champion))
        version = door.registry.register(spec.name, model, tags)
        now = door.clock.now()
        trial = Trial(
            rollout_id=name,
            model=spec.name,
            phase=walk.phase,
            request=request.to_dict(),
            decision=decision,
            champion=judged.version,
            champion_model=judged.model,
            challenger=version,
            challenger_model=model,
            asked_at=now,
        )
        state = RolloutState(trial=trial, looked_at=now)
        lease.require_held()
        walk.objects.put_current(name)
        walk.objects.put_state(state, instead_of=None)
    return state


def _require_no_split(spec: ModelSpec, name: str, status: DeploymentStatus) -> None:
    """Pass if no other rollout's split is in force, such as that of a canary that waits for its promotion.

    Once another one is the current one, nobody would end it.
    """
    if status.rollout_id not in (None, name):
        raise DeployerUnavailableError(
            f"{spec.name}: version {status.challenger} still has {plain(status.share)} % of the requests, by rollout "
            f"{status.rollout_id}. It ends with its promotion, or {duration(ABANDONED)} after the rollout; try again "
            f"then, or take it back: perennial rollback {spec.name} --challenger"
        )


def _require_alone(spec: ModelSpec, name: str, objects: RolloutObjects) -> None:
    """Pass if no other rollout of the model is under way."""
    other = objects.current()
    if other is None or other == name or objects.record(other) is not None:
        return
    state = objects.state(other)
    if state is None:
        return
    run, phase = state.trial.request.get("run_id"), state.trial.phase
    until = ""
    if spec.deployment is not None and phase in spec.deployment.rollouts:
        until = f", until {format_time(state.trial.asked_at + longest(spec.deployment.rollouts[phase]))}"
    raise DeployerUnavailableError(
        f"{spec.name}: version {state.trial.challenger} is in the {phase} of run {run}{until} at the latest. "
        f"Try again then, or take it back: perennial rollback {spec.name} --challenger"
    )


def _outlived(stored: StoredRecord, deployer: Deployer) -> bool:
    """Whether the split of a challenger that was taken back, not by a person, is in force all the same."""
    trial = stored.record.trial
    return stored.record.stopped_by is None and deployer.status(trial.model).rollout_id == trial.rollout_id


def _stopped(state: RolloutState, request: RollbackRequest, champion: str | None, now: datetime) -> RolloutRecord:
    who, steps = request.requested_by or "Somebody", state.steps
    if steps and steps[-1].ended_at is None:
        steps = (*steps[:-1], replace(steps[-1], ended_at=now))
    said = f": {request.reason.rstrip('.')}." if request.reason else "."
    return RolloutRecord(
        trial=state.trial,
        ended_at=now,
        champion_at_end=champion,
        passed=False,
        at_fault=True,
        reason=f"{who} took it back{said}",
        stopped_by=who,
        steps=steps,
    )


def _require_not_promoted(trial: Trial, champion: str | None, door: ChampionDoor) -> None:
    if champion == trial.challenger:
        raise TerminalError(
            f"{trial.model}: version {trial.challenger} is champion already; perennial rollback {trial.model} puts the "
            f"one before it back. Nothing was changed"
        )
    promotions = (move for move in door.ledger.moves(trial.model) if move.kind == "promotion")
    if trial.request["run_id"] in {promotion.run_id for promotion in promotions}:
        raise TerminalError(f"{trial.model}: no challenger is being tried out. Nothing was changed")
