"""decide: asks the gate, keeps its verdict with the evidence, and puts it on record.

Order of effects: page, decision, ledger entry. A run whose decision is on record is not decided again: tonight's
evidence would count twice. One that was stored and not recorded counts only as long as the past that it was made from
is still the newest: otherwise its evidence would lack what others have spent since.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.fingerprint import canonical_json, digest_of, sha256_of
from perennial.domain.gate import Decision, RuleOutcome, decide, is_champion_itself
from perennial.domain.json_values import finite
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import DecisionRef, EvaluationRef, ModelRef, SnapshotRef, Verdict
from perennial.domain.run_request import RunRequest, require_break_glass_allowed
from perennial.errors import IntegrityError, LockTimeoutError
from perennial.json_objects import put_once, stored_object
from perennial.ledger import Anchor, Ledger, Recorded
from perennial.ports import Clock, ObjectStore
from perennial.reports.decision_page import decision_page
from perennial.spec.model import ModelSpec
from perennial.stages.gate_history import gate_history, history_facts, newest_fact

_log = logging.getLogger(__name__)
SCHEMA_VERSION: Final = 2
_TRIES: Final = 5
"""How often to judge anew because something else was recorded meanwhile."""


def decide_promotion(
    spec: ModelSpec,
    request: RunRequest,
    evaluation: EvaluationRef,
    *,
    snapshot: SnapshotRef,
    model: ModelRef,
    store: ObjectStore,
    root: str,
    ledger: Ledger,
    clock: Clock,
    policy: str,
    run_url: str | None,
    anchors: Sequence[Anchor] = (),
) -> DecisionRef:
    """Judge an evaluation, publish the page, then the decision, then append it to the ledger.

    A retry finds what is there and changes nothing. A rejection is a result, not an error (invariant 6). With
    `request.break_glass` the verdict is PROMOTE whatever the gate says; its own verdict stays on record.

    Args:
        spec: the model's.
        request: the run's; its `as_of` is the decision's time, `clock` only says when the entry was written.
        evaluation: what to judge.
        snapshot: the data, for the ledger.
        model: the challenger.
        store: keeps the evaluation, the decision and its page.
        root: below which Perennial writes.
        ledger: tells the past, and gets the entry.
        clock: the wall clock.
        policy: `policy_digest` of the spec and its suite.
        run_url: where a person looks at the training, or None.
        anchors: what is known of the ledger outside the store, see `Ledger.verify`; a ledger that was cut off or
            rewritten since decides nothing.

    Raises:
        IntegrityError: the stored evaluation is not the one that the reference names, or of another challenger.
        NotAllowedError: the user may not break the glass.
        LedgerConflictError, LockLostError: see `Ledger.append`.
        LockTimeoutError: too; or others recorded decisions and moves all the time.
    """
    require_break_glass_allowed(spec, request)
    case = _Case(
        spec=spec,
        request=request,
        evaluation=evaluation,
        result=_load(store, evaluation, model),
        snapshot=snapshot,
        model=model,
        store=store,
        root=root,
        ledger=ledger,
        policy=policy,
        run_url=run_url,
        anchors=anchors,
    )
    recorded = _record(case, clock)
    reference = DecisionRef.from_dict(recorded.entry.references[DecisionRef.kind])
    _log.info("%s %s decide: %s: %s", spec.name, request.run_id, reference.verdict, reference.summary)
    return replace(reference, ledger_uri=recorded.uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is to be decided, and where; see `decide_promotion`."""

    spec: ModelSpec
    request: RunRequest
    evaluation: EvaluationRef
    result: EvaluationResult
    snapshot: SnapshotRef
    model: ModelRef
    store: ObjectStore
    root: str
    ledger: Ledger
    policy: str
    run_url: str | None
    anchors: Sequence[Anchor]

    def on_record(self) -> LedgerEntry | None:
        """The decision of an earlier try."""
        mine = (self.request.to_dict(), self.policy, self.evaluation.to_dict())
        for entry in self.ledger.decisions(self.spec.name, self.model.fingerprint):
            if (entry.request, entry.policy, entry.references.get(EvaluationRef.kind)) == mine:
                return entry
        return None

    def judged(self, past: str) -> LedgerEntry:
        """Judge and publish, or find what an earlier try has published; the entry that says so.

        Args:
            past: key of the newest entry that the decision rests on.
        """
        gate = self.spec.gate.model_dump(mode="json")
        identity = [self.evaluation.to_dict(), gate, self.request.to_dict(), SCHEMA_VERSION, past]
        folder = f"{self.root}/decisions/{self.spec.name}/{digest_of(identity)[:32]}"
        if stored_object(self.store, _decision_uri(folder)) is None:
            _publish(self, folder)
        reference, reasons = _published(self.store, folder)
        return LedgerEntry(
            model=self.spec.name,
            recorded_at=self.request.as_of,
            request=self.request.to_dict(),
            reasons=reasons,
            fingerprint=self.model.fingerprint,
            policy=self.policy,
            references={ref.kind: ref.to_dict() for ref in (self.snapshot, self.model, self.evaluation, reference)},
            actor=self.request.requested_by if reference.break_glass else None,
            **_verdict_fields(reference),
        )


def _record(case: _Case, clock: Clock) -> Recorded:
    """Judge without the model's lock, because that takes seconds; under it, append if the past is still the same."""
    model, run_id = case.spec.name, case.request.run_id
    for _ in range(_TRIES):
        past = newest_fact(case.ledger, case.request)
        entry = case.on_record() or case.judged(past)
        with case.ledger.lock(model, owner=run_id) as lease:
            there = case.on_record()
            if there is not None:
                return case.ledger.append(there, lease=lease)
            if newest_fact(case.ledger, case.request) == past:
                return case.ledger.append(replace(entry, recorded_at=clock.now()), lease=lease)
        _log.warning("%s %s decide: something else was recorded meanwhile; judging again", model, run_id)
    raise LockTimeoutError(
        f"{model}: {_TRIES} times in turn, while {run_id} was judged, another run recorded a decision or moved the "
        f"champion, which has to be taken into account. Nothing was recorded of {run_id}; try again"
    )


def override(decision: Decision, request: RunRequest, evaluation: EvaluationResult) -> Decision:
    """The decision with the verdict of whoever breaks the glass; the same one if nobody does, or to no purpose."""
    if not request.break_glass:
        return decision
    who = f'{request.requested_by} breaks the glass ("{request.break_glass}")'
    if is_champion_itself(evaluation):
        nothing = f"{who}, and nothing comes of it: the challenger is the champion itself, the same bytes."
        return replace(decision, reasons=(nothing, *decision.reasons))
    loud = f"OVERRIDDEN: {who}: promoted whatever the gate says, and the gate says {decision.verdict}."
    return replace(decision, verdict=Verdict.PROMOTE, reasons=(loud, *decision.reasons))


def _publish(case: _Case, folder: str) -> None:
    """Judge, and write the page, then the decision."""
    spec, request, result = case.spec, case.request, case.result
    history = gate_history(spec, request, store=case.store, ledger=case.ledger, anchors=case.anchors)
    columns = spec.evaluation.slices
    judged = decide(spec.gate, result, primary=spec.evaluation.primary, history=history, slice_columns=columns)
    decision = override(judged, request, result)
    page = decision_page(
        spec,
        request,
        reference=case.evaluation,
        evaluation=result,
        decision=decision,
        run_url=case.run_url,
        history=history,
        gate_verdict=judged.verdict if request.break_glass else None,
        policy=case.policy,
    )
    said = {
        "schema_version": SCHEMA_VERSION,
        "model": spec.name,
        "verdict": decision.verdict.value,
        "gate_verdict": judged.verdict.value,
        "break_glass": {"by": request.requested_by, "why": request.break_glass} if decision != judged else None,
        "summary": summarise(decision),
        "reasons": list(decision.reasons),
        "rules": [_json_rule(rule) for rule in decision.rules],
        "primary": spec.evaluation.primary,
        "champion_version": result.champion_version,
        "challenger": dict(result.challenger),
        "champion": None if result.champion is None else dict(result.champion),
        "evaluation": case.evaluation.to_dict(),
        "gate": spec.gate.model_dump(mode="json"),
        "request": request.to_dict(),
        "evidence": None if decision.evidence is None else decision.evidence.to_dict(),
        "history": history_facts(history),
    }
    content = canonical_json(said)
    case.store.write(_page_uri(folder, content), page, content_type="text/html; charset=utf-8", if_absent=True)
    put_once(case.store, _decision_uri(folder), content)


def _published(store: ObjectStore, folder: str) -> tuple[DecisionRef, tuple[str, ...]]:
    """The reference to what is stored, still without its ledger entry, and the reasons."""
    content = store.read(_decision_uri(folder))
    said = json.loads(content)
    reference = DecisionRef(
        uri=_decision_uri(folder),
        sha256=sha256_of(content),
        page_uri=_page_uri(folder, content),
        verdict=said["verdict"],
        champion_version=said["champion_version"],
        summary=said["summary"],
        ledger_uri="",
        break_glass=said["break_glass"] is not None and said["verdict"] == Verdict.PROMOTE,
    )
    return reference, tuple(str(reason) for reason in said["reasons"])


def _verdict_fields(decision: DecisionRef) -> dict[str, Any]:
    """Of the ledger's entry. A decision moves nothing: the champion before and after is the judged one."""
    return {
        "kind": "decision",
        "evidence_sha256": decision.sha256,
        "summary": decision.summary,
        "champion_before": decision.champion_version,
        "champion_after": decision.champion_version,
        "verdict": decision.verdict,
        "page_uri": decision.page_uri,
        "break_glass": decision.break_glass,
    }


def _decision_uri(folder: str) -> str:
    return f"{folder}/decision.json"


def _page_uri(folder: str, content: bytes) -> str:
    """Named by its decision: what an interrupted try left is never shown beside another decision."""
    return f"{folder}/{sha256_of(content)[:16]}/page.html"


def summarise(decision: Decision) -> str:
    """One sentence: the first reason. The verdict stands beside it wherever it is shown."""
    return decision.reasons[0] if decision.reasons else "The gate gave no reason."


def _json_rule(rule: RuleOutcome) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    return dict(finite(asdict(rule)))


def _load(store: ObjectStore, evaluation: EvaluationRef, model: ModelRef) -> EvaluationResult:
    content = store.read(evaluation.uri)
    if sha256_of(content) != evaluation.sha256:
        raise IntegrityError(
            f"{evaluation.uri}: sha256 is {sha256_of(content)}, the reference says {evaluation.sha256}; the evaluation "
            f"was changed after it was made. Nothing was decided; start a new run"
        )
    result = EvaluationResult.from_dict(json.loads(content))
    for what, found, named in (
        ("holdout digest", result.holdout_sha256, evaluation.holdout_sha256),
        ("champion version", result.champion_version, evaluation.champion_version),
        ("challenger digest", result.challenger.get("digest"), model.digest),
    ):
        if found != named:
            raise IntegrityError(
                f"{evaluation.uri}: {what} is {found}, the references say {named}; they belong to different runs. "
                f"Nothing was decided; start a new run"
            )
    return result
