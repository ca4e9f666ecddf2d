"""promote: carries a decision out, through the one door (`perennial.champion_door`).

What can be checked without the model's lock is checked before it is taken. A retry after a crash at any point finds the
promotion on record, also if somebody else's look has completed it meanwhile, and repeats nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from perennial.champion_door import ChampionDoor, named
from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import LedgerEntry, quarantined
from perennial.domain.references import ApprovalRef, DecisionRef, ModelRef, PromotionRef, Reference, Verdict
from perennial.domain.run_request import RunRequest, require_break_glass_allowed
from perennial.domain.times import format_time
from perennial.errors import ExpiredVerdictError, FenceError, IntegrityError, NotAllowedError, SmokeTestError
from perennial.ledger import Recorded
from perennial.lock import Lease
from perennial.ports import ObjectStore
from perennial.spec.fields import format_duration
from perennial.spec.model import ModelSpec
from perennial.stages.approve import newest_answer, require_approver
from perennial.stages.smoke_test import smoke_test

_log = logging.getLogger(__name__)
CARD: Final = "model_card.md"


def carry_out(
    spec: ModelSpec,
    request: RunRequest,
    *,
    model: ModelRef,
    decision: DecisionRef,
    approval: ApprovalRef | None,
    references: Mapping[str, Reference],
    policy: str,
    door: ChampionDoor,
    model_card: Callable[[], str],
    decision_url: str,
) -> PromotionRef:
    """Promote if the verdict says so; else nothing is moved and nothing more recorded.

    Args:
        spec: the model's.
        request: the run's.
        model: the challenger.
        decision: to be carried out.
        approval: the answer to it, if the spec asks for one. The ledger has to confirm it.
        references: of all stages that led here, by kind, for the record.
        policy: digest of how it was judged.
        door: to production.
        model_card: makes the card (Markdown) of the challenger; called only if there is a promotion.
        decision_url: address of the decision's page; "" if it is not known.

    Raises:
        IntegrityError: the stored decision, its entry, or the model's bytes are not those that the references name.
        NotAllowedError: an approval is needed and no valid Yes is on record; or the glass may not be broken.
        ExpiredVerdictError: the decision is older than `gate.verdict_expires`.
        SmokeTestError: the challenger gives no usable predictions.
        FenceError: the champion is no longer the one that was judged, or the challenger was taken back meanwhile.

    Broken glass overrides a missing approval, an expired verdict, a failed smoke test and a quarantine, on record. The
    fence (invariant 5) and the digests (invariant 8) always hold.
    """
    reasons = _verified_reasons(door.store, decision, model)
    champion = door.settle(spec.name, owner=request.run_id)
    if decision.verdict != Verdict.PROMOTE:
        return PromotionRef(
            ledger_uri=decision.ledger_uri, promoted=False, champion_before=champion, champion_after=champion
        )
    led_here = {kind: reference.to_dict() for kind, reference in references.items()}
    draft = replace(_draft(request, model, decision, door), reasons=reasons, policy=policy, references=led_here)
    done = door.ledger.find(draft.model, draft.entry_id)
    if done is not None:
        return _reference(door.ledger.append(done))
    decided = _decided(door, draft)
    draft = replace(draft, actor=_require_consent(spec, request, decision, approval, decided, door))
    overridden = _overridden(spec, model, decided, door)
    tags = {"perennial.decision_uri": decision.uri, "perennial.decision_url": decision_url}
    card = model_card()
    with door.ledger.lock(spec.name, owner=request.run_id) as lease:
        recorded = _promote(
            draft, overridden, model, {name: tag for name, tag in tags.items() if tag}, card, door, lease
        )
    _log.info("%s %s promote: %s", spec.name, request.run_id, recorded.entry.summary)
    return _reference(recorded)


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
    draft: LedgerEntry,
    overridden: Mapping[str, str],
    model: ModelRef,
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
        overridden = {**overridden, **_quarantine(draft, door)}
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


def _verified_reasons(store: ObjectStore, decision: DecisionRef, model: ModelRef) -> list[str]:
    content = store.read(decision.uri)
    if sha256_of(content) != decision.sha256:
        raise IntegrityError(f"{decision.uri} was changed after the decision; run the cycle again, nothing was moved")
    stored = json.loads(content)
    said = (stored["verdict"], stored["challenger"]["digest"], stored["champion_version"])
    asked = (decision.verdict, model.digest, decision.champion_version)
    if said != asked:
        raise IntegrityError(
            f"{decision.uri} says {said[0]} on model {said[1]} against {named(said[2])}, asked was to carry out "
            f"{asked[0]} on {asked[1]} against {named(asked[2])}; nothing was moved"
        )
    return [str(reason) for reason in stored["reasons"]]


def _decided(door: ChampionDoor, draft: LedgerEntry) -> LedgerEntry:
    """The decision's own entry: what it says of its time and of broken glass counts, not what the reference says."""
    entry = door.ledger.find(draft.model, replace(draft, kind="decision").entry_id)
    if entry is None:
        raise IntegrityError(
            f"{draft.model}: run {draft.run_id} has no entry in the ledger of the decision that it wants to carry out "
            f"({draft.evidence_sha256[:12]}). Nothing was moved; start a new run"
        )
    if (entry.verdict, entry.break_glass) != (draft.verdict, draft.break_glass):
        raise IntegrityError(
            f"{draft.model}: the ledger has {entry.verdict} with break_glass={entry.break_glass}, asked was to carry "
            f"out {draft.verdict} with break_glass={draft.break_glass}. Nothing was moved; start a new run"
        )
    return entry


def _require_consent(
    spec: ModelSpec,
    request: RunRequest,
    decision: DecisionRef,
    approval: ApprovalRef | None,
    decided: LedgerEntry,
    door: ChampionDoor,
) -> str | None:
    """Who agreed, or broke the glass; None if nobody had to."""
    if decided.break_glass:
        require_break_glass_allowed(spec, request)
        return request.requested_by
    if not spec.approval.required:
        return None
    answer = newest_answer(door.ledger, request, decision)
    claimed = None if approval is None else (approval.approved, approval.decision_sha256, approval.by)
    if answer is None or not answer.approved or claimed != (True, decision.sha256, answer.actor):
        said = "nothing" if answer is None else answer.summary
        raise NotAllowedError(
            f"{spec.name}: approval.required asks for a person's Yes to this decision; the ledger has: {said} Nothing "
            f"was moved"
        )
    require_approver(spec, answer.actor, approved=True)
    return answer.actor


def _overridden(spec: ModelSpec, model: ModelRef, decided: LedgerEntry, door: ChampionDoor) -> dict[str, str]:
    """Look at the verdict's age and try the challenger out; what of it broken glass overrides, by its name."""
    found: dict[str, str] = {}
    if decided.break_glass and spec.approval.required:
        found["approval"] = "nobody was asked to approve."
    checks: Mapping[str, Callable[[], None]] = {
        "age of the verdict": lambda: _require_fresh(spec, decided, door),
        "smoke test": lambda: smoke_test(spec.task, model, f"the challenger for {spec.name}", registry=door.registry),
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


def _require_fresh(spec: ModelSpec, decided: LedgerEntry, door: ChampionDoor) -> None:
    age, limit = door.clock.now() - decided.recorded_at, spec.gate.verdict_expires
    if age > limit:
        raise ExpiredVerdictError(
            f"{spec.name}: the decision of {format_time(decided.recorded_at)} is {age.total_seconds() / 3600:.1f} "
            f"hours old, gate.verdict_expires is {format_duration(limit)}. Nothing was moved; start a new run, which "
            f"judges on newer data"
        )


def _quarantine(draft: LedgerEntry, door: ChampionDoor) -> dict[str, str]:
    """Why the challenger is in quarantine, if broken glass overrides that."""
    why = quarantined(door.ledger.moves(draft.model)).get(str(draft.digest))
    if why is None:
        return {}
    if not draft.break_glass:
        raise FenceError(
            f"{draft.model}: the challenger was taken back since it was judged ({why}). Nothing was moved; "
            f"perennial rollback {draft.model} --to VERSION puts a version back on purpose"
        )
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


def _reference(recorded: Recorded) -> PromotionRef:
    return PromotionRef(
        ledger_uri=recorded.uri,
        promoted=True,
        champion_before=recorded.entry.champion_before,
        champion_after=recorded.entry.champion_after,
    )
