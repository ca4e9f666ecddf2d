"""approve: what a person answered to a decision, on record. `promote` asks the ledger for it, not Airflow."""

from __future__ import annotations

import logging
from datetime import datetime

from perennial.domain.fingerprint import digest_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import ApprovalRef, DecisionRef, Verdict
from perennial.domain.run_request import RunRequest
from perennial.domain.times import format_time
from perennial.errors import NotAllowedError, TerminalError
from perennial.ledger import Ledger
from perennial.ports import Clock, ModelRegistry
from perennial.spec.fields import format_duration
from perennial.spec.model import ModelSpec

_log = logging.getLogger(__name__)


def record_answer(
    spec: ModelSpec,
    request: RunRequest,
    decision: DecisionRef,
    *,
    approved: bool,
    by: str | None,
    at: datetime,
    registry: ModelRegistry,
    ledger: Ledger,
    clock: Clock,
) -> ApprovalRef:
    """Append the answer to the ledger; a retried task records it once. The newest answer to a decision counts.

    Args:
        spec: the model's.
        request: the run's.
        decision: that was answered; a PROMOTE.
        approved: the answer.
        by: who answered; None if nobody did, which is a No.
        at: when it was answered; aware.
        registry: tells the champion.
        ledger: keeps the answer.
        clock: tells the time.

    Raises:
        NotAllowedError: `by` is not among the spec's approvers, or a Yes comes from nobody. Nothing is recorded.
        TerminalError: the decision is no PROMOTE: there is nothing to answer.
    """
    if decision.verdict != Verdict.PROMOTE:
        raise TerminalError(f"{spec.name}: the decision is {decision.verdict}; only a PROMOTE can be approved")
    require_approver(spec, by, approved=approved)
    evidence = digest_of([decision.sha256, approved, by, format_time(at) if by else None])
    last = newest_answer(ledger, request, decision)
    if last is None or last.evidence_sha256 != evidence:
        champion = registry.champion_version(spec.name)
        last = LedgerEntry(
            kind="approval",
            model=spec.name,
            recorded_at=clock.now(),
            request=request.to_dict(),
            evidence_sha256=evidence,
            summary=_sentence(spec, approved, by, at),
            champion_before=champion,
            champion_after=champion,
            page_uri=decision.page_uri,
            references={decision.kind: decision.to_dict()},
            actor=by,
            approved=approved,
        )
    recorded = ledger.append(last)
    _log.info("%s %s approve: %s", spec.name, request.run_id, recorded.entry.summary)
    return ApprovalRef(
        ledger_uri=recorded.uri,
        decision_sha256=decision.sha256,
        approved=approved,
        by=by,
        at=at if by else recorded.entry.recorded_at,
    )


def yes_on_record(ledger: Ledger, request: RunRequest, decision: DecisionRef) -> ApprovalRef | None:
    """The Yes that a person gave to this decision, if that is the newest answer; its time is when it was recorded."""
    answer = newest_answer(ledger, request, decision)
    if answer is None or not answer.approved:
        return None
    recorded = ledger.append(answer)  # finds it, and where it is
    return ApprovalRef(
        ledger_uri=recorded.uri,
        decision_sha256=decision.sha256,
        approved=True,
        by=recorded.entry.actor,
        at=recorded.entry.recorded_at,
    )


def newest_answer(ledger: Ledger, request: RunRequest, decision: DecisionRef) -> LedgerEntry | None:
    """The answer to this decision that counts, or None."""
    for entry in reversed(ledger.newest(request.model, "approval", count=100)):
        answered = entry.references.get(decision.kind, {})
        if entry.run_id == request.run_id and answered.get("sha256") == decision.sha256:
            return entry
    return None


def require_approver(spec: ModelSpec, by: str | None, *, approved: bool) -> None:
    """Pass if this user may answer so.

    Raises:
        NotAllowedError: the spec names approvers and this is none of them; or nobody said Yes.
    """
    approvers = spec.approval.approvers
    if approved and not by:
        raise NotAllowedError(f"{spec.name}: a Yes that nobody gave is none. Nothing was recorded")
    if by and approvers and by not in approvers:
        raise NotAllowedError(
            f"{spec.name}: {by} may not answer; the spec names {', '.join(approvers)} in approval.approvers. "
            f"Nothing was recorded"
        )


def _sentence(spec: ModelSpec, approved: bool, by: str | None, at: datetime) -> str:
    if by is None:
        return f"No answer within {format_duration(spec.approval.timeout)}: a No."
    return f"{by} approved on {format_time(at)}." if approved else f"Declined by {by} on {format_time(at)}."
