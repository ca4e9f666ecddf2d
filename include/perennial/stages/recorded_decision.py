"""What has to be true of a decision before anything is done to production because of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from perennial.champion_door import named
from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import ApprovalRef, DecisionRef, ModelRef
from perennial.domain.rollout import longest
from perennial.domain.run_request import RunRequest, require_break_glass_allowed
from perennial.domain.times import format_time
from perennial.domain.wording import duration
from perennial.errors import ExpiredVerdictError, FenceError, IntegrityError, NotAllowedError
from perennial.ledger import Ledger
from perennial.ports import ObjectStore
from perennial.spec.fields import format_duration
from perennial.spec.model import ModelSpec
from perennial.stages.approve import newest_answer, require_approver


def stored_reasons(store: ObjectStore, decision: DecisionRef, model: ModelRef) -> list[str]:
    """The stored decision's reasons, if it is the one that the references name.

    Raises:
        IntegrityError: it was changed, or is about another model, verdict or champion.
    """
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


def recorded(ledger: Ledger, request: RunRequest, decision: DecisionRef) -> LedgerEntry:
    """The decision's own entry: what it says of its time and of broken glass counts, not what the reference says.

    Raises:
        IntegrityError: there is none, or it says something else.
    """
    wanted = LedgerEntry(
        kind="decision",
        model=request.model,
        recorded_at=request.as_of,
        request=request.to_dict(),
        evidence_sha256=decision.sha256,
        summary="",
        champion_before=None,
        champion_after=None,
    )
    entry = ledger.find(request.model, wanted.entry_id)
    if entry is None:
        raise IntegrityError(
            f"{request.model}: run {request.run_id} has no entry in the ledger of the decision that it wants to carry "
            f"out ({decision.sha256[:12]}). Nothing was moved; start a new run"
        )
    if (entry.verdict, entry.break_glass) != (decision.verdict, decision.break_glass):
        raise IntegrityError(
            f"{request.model}: the ledger has {entry.verdict} with break_glass={entry.break_glass}, asked was to carry "
            f"out {decision.verdict} with break_glass={decision.break_glass}. Nothing was moved; start a new run"
        )
    return entry


def require_consent(
    spec: ModelSpec, request: RunRequest, decision: DecisionRef, *, ledger: Ledger, decided: LedgerEntry
) -> str | None:
    """Who agreed, or broke the glass, by the ledger; None if nobody had to.

    Raises:
        NotAllowedError: an approval is needed and no valid Yes is on record; or the glass may not be broken.
    """
    if decided.break_glass:
        require_break_glass_allowed(spec, request)
        return request.requested_by
    if not spec.approval.required:
        return None
    answer = newest_answer(ledger, request, decision)
    if answer is None or not answer.approved:
        said = "nothing" if answer is None else answer.summary
        raise NotAllowedError(
            f"{spec.name}: approval.required asks for a person's Yes to this decision; the ledger has: {said} Nothing "
            f"was moved"
        )
    require_approver(spec, answer.actor, approved=True)
    return answer.actor


def require_fresh(spec: ModelSpec, decided: LedgerEntry, *, now: datetime) -> None:
    """Pass if the verdict has not expired; its shadow and canary may take their time besides.

    Raises:
        ExpiredVerdictError: it has.
    """
    rollouts = {} if spec.deployment is None else spec.deployment.rollouts
    walked = sum(map(longest, rollouts.values()), timedelta(0))
    age, limit = now - decided.recorded_at, spec.gate.verdict_expires + walked
    if age > limit:
        more = f", with up to {duration(walked)} more for its rollouts" if walked else ""
        raise ExpiredVerdictError(
            f"{spec.name}: the decision of {format_time(decided.recorded_at)} is {age.total_seconds() / 3600:.1f} "
            f"hours old, gate.verdict_expires is {format_duration(spec.gate.verdict_expires)}{more}. Nothing was "
            f"moved; start a new run, which judges on newer data"
        )


def require_not_quarantined(ledger: Ledger, model: str, digest: str) -> None:
    """Pass if nobody has taken this model back.

    Raises:
        FenceError: somebody has; says who and why.
    """
    why = ledger.quarantine(model).get(digest)
    if why is not None:
        raise FenceError(
            f"{model}: the challenger was taken back since it was judged ({why}). Nothing was moved; "
            f"perennial rollback {model} --to VERSION puts a version back on purpose"
        )


def confirmed(approval: ApprovalRef | None, decision: DecisionRef, by: str | None) -> bool:
    """Whether the reference says the same as the ledger: a Yes to this decision by this person."""
    claimed = None if approval is None else (approval.approved, approval.decision_sha256, approval.by)
    return claimed == (True, decision.sha256, by)
