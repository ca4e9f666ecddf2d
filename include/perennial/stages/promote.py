"""promote: carries a decision out, through the one door (`perennial.champion_door`).

What can be checked without the model's lock is checked before it is taken. A retry after a crash at any point finds the
promotion on record, also if somebody else's look has completed it meanwhile, and repeats nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from perennial.champion_door import ChampionDoor, named
from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import ROLLOUT, LedgerEntry
from perennial.domain.references import (
    ApprovalRef,
    DecisionRef,
    ModelRef,
    PromotionRef,
    Reference,
    RolloutRef,
    SmokeTestRef,
    Verdict,
)
from perennial.domain.rollout import rollout_id
from perennial.domain.run_request import RunRequest
from perennial.errors import (
    ExpiredVerdictError,
    IntegrityError,
    NotAllowedError,
    PerennialError,
    SmokeTestError,
    TerminalError,
)
from perennial.ledger import Recorded
from perennial.lock import Lease
from perennial.ports import Deployer
from perennial.spec.deployment import Rollout
from perennial.spec.model import ModelSpec
from perennial.stages.recorded_decision import (
    confirmed,
    recorded,
    require_consent,
    require_fresh,
    require_not_quarantined,
    stored_reasons,
)
from perennial.stages.smoke_test import smoke_test
from perennial.stages.takeover import give_back, take_over

_log = logging.getLogger(__name__)
CARD: Final = "model_card.md"


def carry_out(
    spec: ModelSpec,
    request: RunRequest,
    *,
    model: ModelRef,
    decision: DecisionRef,
    approval: ApprovalRef | None,
    smoke: SmokeTestRef | None = None,
    rollouts: Sequence[RolloutRef] = (),
    references: Mapping[str, Reference],
    policy: str,
    door: ChampionDoor,
    deployer: Deployer,
    model_card: Callable[[], str],
    decision_url: str,
) -> PromotionRef:
    """Promote if the verdict says so, and let the version serve; else nothing is moved and nothing more recorded.

    Args:
        spec: the model's.
        request: the run's.
        model: the challenger.
        decision: to be carried out.
        approval: the answer to it, if the spec asks for one. The ledger has to confirm it.
        smoke: what the challenger did in a clean process; needed where the spec has a `deployment`.
        rollouts: how its shadow and canary ended, as far as the spec asks for them. The ledger has to confirm it.
        references: of all stages that led here, by kind, for the record.
        policy: digest of how it was judged.
        door: to production.
        deployer: where the model serves.
        model_card: makes the card (Markdown) of the challenger; called only if there is a promotion.
        decision_url: address of the decision's page; "" if it is not known.

    Raises:
        IntegrityError: the stored decision, its entry, the smoke test's report or the model's bytes are not those that
            the references name.
        NotAllowedError: an approval is needed and no valid Yes is on record; or the glass may not be broken; or a smoke
            test, shadow or canary that the spec asks for did not take place, or was not passed.
        ExpiredVerdictError: the decision is older than `gate.verdict_expires` and its rollouts' longest time.
        SmokeTestError: the challenger gives no usable predictions.
        FenceError: the champion is no longer the one that was judged, or the challenger was taken back meanwhile.

    Broken glass overrides a missing approval, an expired verdict, a failed smoke test, a rollout and a quarantine, on
    record. The fence (invariant 5) and the digests (invariant 8) always hold. A canary whose promotion is refused is
    over: the champion gets its requests back.
    """
    reasons = stored_reasons(door.store, decision, model)
    champion = door.settle(spec.name, owner=request.run_id)
    if decision.verdict != Verdict.PROMOTE:
        return PromotionRef(
            ledger_uri=decision.ledger_uri, promoted=False, champion_before=champion, champion_after=champion
        )
    led_here = {kind: reference.to_dict() for kind, reference in references.items()}
    draft = replace(_draft(request, model, decision, door), reasons=reasons, policy=policy, references=led_here)
    done = door.ledger.find(draft.model, draft.entry_id)
    if done is not None:
        return _served(door.ledger.append(done), door, deployer)
    tags = {"perennial.decision_uri": decision.uri, "perennial.decision_url": decision_url}
    try:
        decided = recorded(door.ledger, request, decision)
        draft = replace(draft, actor=_consent(spec, request, decision, approval, decided, door))
        overridden = _overridden(spec, model, decided, smoke, door)
        card = model_card()
        with door.ledger.lock(spec.name, owner=request.run_id) as lease:
            promoted = _promote(
                spec,
                draft,
                overridden,
                model,
                rollouts,
                {name: tag for name, tag in tags.items() if tag},
                card,
                door,
                lease,
            )
    except TerminalError:
        _end_canary(request, decision, model, door, deployer)
        raise
    _log.info("%s %s promote: %s", spec.name, request.run_id, promoted.entry.summary)
    return _served(promoted, door, deployer)


def _served(promoted: Recorded, door: ChampionDoor, deployer: Deployer) -> PromotionRef:
    """After the alias, also of an earlier try: whatever serves the model has to hear of it."""
    entry = promoted.entry
    take_over(entry.model, str(entry.champion_after), door=door, deployer=deployer)
    return PromotionRef(
        ledger_uri=promoted.uri,
        promoted=True,
        champion_before=entry.champion_before,
        champion_after=entry.champion_after,
    )


def _end_canary(
    request: RunRequest, decision: DecisionRef, model: ModelRef, door: ChampionDoor, deployer: Deployer
) -> None:
    """Nobody promotes this challenger any more, so its share must not stay."""
    name = rollout_id(request.run_id, decision, model, "canary")
    try:
        if deployer.status(request.model).rollout_id == name:
            give_back(request.model, name, door=door, deployer=deployer)
    except PerennialError as error:  # the first error is the one to tell
        _log.error("%s %s promote: the canary's split could not be ended: %s", request.model, request.run_id, error)


def _draft(request: RunRequest, model: ModelRef, decision: DecisionRef, door: ChampionDoor) -> LedgerEntry:
    """The entry, as far as it is known before the lock is held."""
    return LedgerEntry(
        kind="promotion",
        model=request.model,
        recorded_at=door.clock.now(),
        request=request.to_dict(),
        evidence_sha256=decision.sha256,
        summary="",
        champion_before=decision.champion_version,
        champion_after=None,
        verdict=decision.verdict,
        fingerprint=model.fingerprint,
        page_uri=decision.page_uri,
        break_glass=decision.break_glass,
        digest=model.digest,
    )


def _promote(
    spec: ModelSpec,
    draft: LedgerEntry,
    overridden: Mapping[str, str],
    model: ModelRef,
    rollouts: Sequence[RolloutRef],
    tags: Mapping[str, str],
    card: str,
    door: ChampionDoor,
    lease: Lease,
) -> Recorded:
    """Under the lock: fence, register, move, record."""
    champion = door.reconcile(draft.model, lease)
    done = door.ledger.find(draft.model, draft.entry_id)
    if done is not None:
        return door.ledger.append(done, lease=lease)
    # Another run of the same training may have promoted it, or a person: then there is only this run's word to record.
    already = champion is not None and door.digest(draft.model, champion) == model.digest
    if not already:
        door.require_fence(draft.model, draft.champion_before, champion)
        overridden = {**overridden, **_quarantine(draft, door), **_not_walked(spec, draft, rollouts, door)}
    if card:
        door.registry.log_text(model.run_id, CARD, card)
    version = door.registry.register(draft.model, model, tags, description=card)
    after = champion if already else version
    return door.move(
        replace(
            draft,
            recorded_at=door.clock.now(),
            champion_before=champion,
            champion_after=after,
            summary=_summary(draft, champion, after, overridden),
            reasons=(*draft.reasons, *(f"Overridden: {what}" for what in overridden.values())),
        ),
        lease,
    )


def _consent(
    spec: ModelSpec,
    request: RunRequest,
    decision: DecisionRef,
    approval: ApprovalRef | None,
    decided: LedgerEntry,
    door: ChampionDoor,
) -> str | None:
    """Who agreed, or broke the glass; None if nobody had to. Ledger and reference have to say the same."""
    by = require_consent(spec, request, decision, ledger=door.ledger, decided=decided)
    if spec.approval.required and not decided.break_glass and not confirmed(approval, decision, by):
        raise NotAllowedError(
            f"{spec.name}: approval.required asks for a person's Yes to this decision; the ledger has one of {by}, and "
            f"what was handed on says something else. Nothing was moved"
        )
    return by


def _overridden(
    spec: ModelSpec, model: ModelRef, decided: LedgerEntry, smoke: SmokeTestRef | None, door: ChampionDoor
) -> dict[str, str]:
    """Look at the verdict's age and at the smoke test; what of it broken glass overrides, by its name."""
    found: dict[str, str] = {}
    if decided.break_glass and spec.approval.required:
        found["approval"] = "nobody was asked to approve."
    checks: Mapping[str, Callable[[], None]] = {
        "age of the verdict": lambda: require_fresh(spec, decided, now=door.clock.now()),
        "smoke test": lambda: _require_smoke_test(spec, model, smoke, decided, door),
    }
    for name, check in checks.items():
        try:
            check()
        except (ExpiredVerdictError, SmokeTestError) as error:
            if not decided.break_glass:
                raise
            found[name] = str(error).partition(" Nothing was moved")[0]
            _log.warning("%s %s promote: the glass is broken: %s", spec.name, decided.run_id, found[name])
    return found


def _require_smoke_test(
    spec: ModelSpec, model: ModelRef, smoke: SmokeTestRef | None, decided: LedgerEntry, door: ChampionDoor
) -> None:
    """Try the challenger out here, unless that was done in a clean process: then its report has to say so."""
    if smoke is None:
        if spec.deployment is not None and not decided.break_glass:
            raise NotAllowedError(
                f"{spec.name}: the spec has a deployment, and the challenger was not tried out in a clean process. "
                f"Nothing was moved; start a new run, or clear the task smoke_test"
            )
        smoke_test(spec.task, model, f"the challenger for {spec.name}", registry=door.registry)
        return
    content = door.store.read(smoke.uri)
    said = json.loads(content) if sha256_of(content) == smoke.sha256 else {}
    if (said.get("digest"), said.get("passed"), smoke.digest) != (model.digest, smoke.passed, model.digest):
        raise IntegrityError(
            f"{smoke.uri} is not the report of a smoke test of {model.digest[:12]} that the reference names, or was "
            f"changed. Nothing was moved; start a new run"
        )
    if not smoke.passed:
        raise SmokeTestError(
            f"{spec.name}: the challenger did not pass its smoke test, see {smoke.uri}. Nothing was moved"
        )


def _rollouts(spec: ModelSpec) -> Mapping[str, Rollout]:
    return {} if spec.deployment is None else spec.deployment.rollouts


def _not_walked(
    spec: ModelSpec, draft: LedgerEntry, rollouts: Sequence[RolloutRef], door: ChampionDoor
) -> dict[str, str]:
    """Shadow and canary that were asked for and not passed, if broken glass overrides that.

    Without a champion there is nothing to compare with, so nothing is asked for.
    """
    found: dict[str, str] = {}
    decision = draft.evidence_sha256
    entries = [
        entry
        for entry in door.ledger.newest(draft.model, ROLLOUT, count=sys.maxsize)
        if entry.run_id == draft.run_id and entry.references.get("decision", {}).get("sha256") == decision
    ]
    for phase in _rollouts(spec) if draft.champion_before is not None else ():
        entry = next((entry for entry in reversed(entries) if entry.phase == phase), None)
        claimed = [ended.sha256 for ended in rollouts if ended.phase == phase and ended.passed]
        if entry is not None and entry.approved and claimed == [entry.evidence_sha256]:
            continue
        found[phase] = f"the {phase} was not walked." if entry is None else entry.summary
        if not draft.break_glass:
            raise NotAllowedError(
                f"{draft.model}: deployment.{phase} asks for a {phase} that the challenger has passed; {found[phase]} "
                f"Nothing was moved; start a new run"
            )
    return found


def _quarantine(draft: LedgerEntry, door: ChampionDoor) -> dict[str, str]:
    """Why the challenger is in quarantine, if broken glass overrides that."""
    if not draft.break_glass:
        require_not_quarantined(door.ledger, draft.model, str(draft.digest))
        return {}
    why = door.ledger.quarantine(draft.model).get(str(draft.digest))
    if why is None:
        return {}
    _log.warning("%s %s promote: the glass is broken: %s", draft.model, draft.run_id, why)
    return {"quarantine": why}


def _summary(draft: LedgerEntry, before: str | None, after: str | None, overridden: Mapping[str, str]) -> str:
    if before == after:
        said = f"Version {after} was champion already."
    else:
        said = f"Version {after} became champion " + (f"in place of {named(before)}." if before else "as the first.")
    if draft.break_glass:
        said += f" {draft.actor} broke the glass: {draft.request['break_glass']}"
        return f"{said.rstrip('.')}. Overridden: {', '.join(overridden)}." if overridden else said
    return f"{said} Approved by {draft.actor}." if draft.actor else said
