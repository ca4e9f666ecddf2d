"""The stages bound to a runtime, and a whole cycle of them in one process. The DAG's operators call these too."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.fingerprint import policy_digest
from perennial.domain.references import (
    ApprovalRef,
    DecisionRef,
    EvaluationRef,
    ModelRef,
    PromotionRef,
    Reference,
    RollbackRef,
    SnapshotRef,
    ValidationRef,
    Verdict,
)
from perennial.domain.run_request import RollbackRequest, RunRequest, require_break_glass_allowed
from perennial.runtime import Runtime
from perennial.spec import ModelSpec, load_suite
from perennial.stages.estimator import code_version, make_importable

T = TypeVar("T", bound=Reference)
_log = logging.getLogger(__name__)


def snapshot(runtime: Runtime, spec: ModelSpec, request: RunRequest) -> SnapshotRef:
    """Freeze the landed data; `nothing_new_since` is set when this very training was judged before.

    Before that, whatever happened to the champion since the last run is put on record.
    """
    from perennial.stages.snapshot import take_snapshot

    require_break_glass_allowed(spec, request)
    with _timed(spec, request, "snapshot"):
        runtime.door.settle(spec.name, owner=request.run_id)
        return take_snapshot(
            spec,
            request,
            store=runtime.store,
            root=runtime.root,
            ledger=runtime.ledger,
            registry=runtime.registry,
            clock=runtime.clock,
            code_version=code_version(spec, runtime.import_roots),
            policy=_policy(runtime, spec),
        )


def validate(runtime: Runtime, spec: ModelSpec, request: RunRequest, snapshot: SnapshotRef) -> ValidationRef:
    """Check the data. BadDataError comes after the evidence was published and the refusal recorded.

    Whoever breaks the glass gets a reference whose `success` is False instead.
    """
    from perennial.stages.validate import validate_data

    with _timed(spec, request, "validate"):
        return validate_data(
            spec,
            request,
            snapshot,
            store=runtime.store,
            root=runtime.root,
            ledger=runtime.ledger,
            registry=runtime.registry,
            clock=runtime.clock,
            validator=runtime.validator,
            suite=load_suite(runtime.specs, spec),
        )


def train(runtime: Runtime, spec: ModelSpec, request: RunRequest, snapshot: SnapshotRef) -> ModelRef:
    """Fit the challenger, or find it."""
    from perennial.stages.train import train_challenger

    with _timed(spec, request, "train"):
        return train_challenger(
            spec,
            request,
            snapshot,
            store=runtime.store,
            root=runtime.root,
            registry=runtime.registry,
            import_roots=runtime.import_roots,
            code_version=code_version(spec, runtime.import_roots),
        )


def evaluate(
    runtime: Runtime, spec: ModelSpec, request: RunRequest, snapshot: SnapshotRef, model: ModelRef
) -> EvaluationRef:
    """Score challenger and champion on one holdout."""
    from perennial.stages.evaluate import evaluate_models

    make_importable(runtime.import_roots)
    with _timed(spec, request, "evaluate"):
        return evaluate_models(
            spec, request, snapshot, model, store=runtime.store, root=runtime.root, registry=runtime.registry
        )


def decide(
    runtime: Runtime,
    spec: ModelSpec,
    request: RunRequest,
    snapshot: SnapshotRef,
    evaluation: EvaluationRef,
    model: ModelRef,
) -> DecisionRef:
    """Judge, put the verdict on record, and note it at the training's run in MLflow.

    Before that, a champion that was moved by hand since the run began is put on record: the gate looks at its tenure.
    """
    from perennial.addresses import page_address
    from perennial.champion_door import anchors
    from perennial.stages.decide import decide_promotion

    with _timed(spec, request, "decide"):
        runtime.door.settle(spec.name, owner=request.run_id)
        decision = decide_promotion(
            spec,
            request,
            evaluation,
            snapshot=snapshot,
            model=model,
            store=runtime.store,
            root=runtime.root,
            ledger=runtime.ledger,
            clock=runtime.clock,
            policy=_policy(runtime, spec),
            run_url=runtime.registry.run_url(model.run_id),
            anchors=anchors(runtime.registry, spec.name),
        )
        address = page_address(decision.page_uri, root=runtime.root, model=spec.name, airflow_url=runtime.airflow_url)
        tags = {
            "perennial.verdict": decision.verdict,
            "perennial.decision_uri": decision.uri,
            "perennial.decision_url": address,
        }
        runtime.registry.annotate(
            model.run_id,
            metrics=_holdout_metrics(runtime, evaluation),
            tags={name: tag for name, tag in tags.items() if tag},
        )
    return decision


def approve(
    runtime: Runtime,
    spec: ModelSpec,
    request: RunRequest,
    decision: DecisionRef,
    *,
    approved: bool,
    by: str | None,
    at: datetime,
) -> ApprovalRef:
    """Put a person's answer on record; `by` None: nobody answered in time."""
    from perennial.stages.approve import record_answer

    with _timed(spec, request, "approve"):
        return record_answer(
            spec,
            request,
            decision,
            approved=approved,
            by=by,
            at=at,
            registry=runtime.registry,
            ledger=runtime.ledger,
            clock=runtime.clock,
        )


def approved_already(runtime: Runtime, request: RunRequest, decision: DecisionRef) -> ApprovalRef | None:
    """The Yes on record to this decision, if there is one: an earlier try of the task got it."""
    from perennial.stages.approve import yes_on_record

    return yes_on_record(runtime.ledger, request, decision)


def promote(
    runtime: Runtime,
    spec: ModelSpec,
    request: RunRequest,
    snapshot: SnapshotRef,
    model: ModelRef,
    evaluation: EvaluationRef,
    decision: DecisionRef,
    approval: ApprovalRef | None = None,
) -> PromotionRef:
    """Carry the verdict out, whatever it is."""
    from perennial.addresses import page_address
    from perennial.stages.promote import carry_out

    address = page_address(decision.page_uri, root=runtime.root, model=spec.name, airflow_url=runtime.airflow_url)

    def card() -> str:
        from perennial.reports.model_card import model_card

        return model_card(
            spec,
            request=request,
            model=model,
            snapshot=snapshot,
            evaluation=EvaluationResult.from_dict(json.loads(runtime.store.read(evaluation.uri))),
            decision=json.loads(runtime.store.read(decision.uri)),
            approval=approval,
            run_url=runtime.registry.run_url(model.run_id),
            page_address=address or decision.page_uri,
        )

    make_importable(runtime.import_roots)
    led_here = (snapshot, model, evaluation, decision, *(() if approval is None else (approval,)))
    with _timed(spec, request, "promote"):
        return carry_out(
            spec,
            request,
            model=model,
            decision=decision,
            approval=approval,
            references={reference.kind: reference for reference in led_here},
            policy=_policy(runtime, spec),
            door=runtime.door,
            model_card=card,
            decision_url=address,
        )


def rollback(runtime: Runtime, spec: ModelSpec, request: RollbackRequest) -> RollbackRef:
    """Put an earlier champion back."""
    from perennial.stages.rollback import roll_back

    make_importable(runtime.import_roots)
    with _timed(spec, request, "rollback"):
        return roll_back(spec, request, door=runtime.door)


def _holdout_metrics(runtime: Runtime, evaluation: EvaluationRef) -> dict[str, float]:
    result = EvaluationResult.from_dict(json.loads(runtime.store.read(evaluation.uri)))
    found = {name: comparison.challenger.value for name, comparison in result.comparisons.items()}
    return {f"holdout_{name}": value for name, value in found.items() if value is not None}


def _policy(runtime: Runtime, spec: ModelSpec) -> str:
    return policy_digest(spec, load_suite(runtime.specs, spec))


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleResult:
    """What one cycle came to. All but `snapshot` is None if there was nothing new.

    `promotion` is None, too, if a PROMOTE waits for a person's approval.
    """

    snapshot: SnapshotRef
    validation: ValidationRef | None = None
    model: ModelRef | None = None
    evaluation: EvaluationRef | None = None
    decision: DecisionRef | None = None
    promotion: PromotionRef | None = None


def run_cycle(
    runtime: Runtime,
    spec: ModelSpec,
    request: RunRequest,
    *,
    on_stage: Callable[[str, Reference | None], None] = lambda _name, _reference: None,
) -> CycleResult:
    """One cycle in this process. `on_stage` hears of each stage twice: at its start (None) and with its reference.

    Raises:
        PerennialError: as the stages do; whatever they had published by then stays.
    """

    def tell(name: str, stage: Callable[[], T]) -> T:
        on_stage(name, None)
        reference = stage()
        on_stage(name, reference)
        return reference

    taken = tell("snapshot", lambda: snapshot(runtime, spec, request))
    if taken.nothing_new_since is not None:
        return CycleResult(snapshot=taken)
    validation = tell("validate", lambda: validate(runtime, spec, request, taken))
    model = tell("train", lambda: train(runtime, spec, request, taken))
    evaluation = tell("evaluate", lambda: evaluate(runtime, spec, request, taken, model))
    decision = tell("decide", lambda: decide(runtime, spec, request, taken, evaluation, model))
    promotion = None
    if _waits_for_approval(spec, decision):
        _log.warning("%s %s: %s waits for approval, nothing was moved", spec.name, request.run_id, decision.verdict)
    else:
        promotion = tell("promote", lambda: promote(runtime, spec, request, taken, model, evaluation, decision))
    return CycleResult(
        snapshot=taken,
        validation=validation,
        model=model,
        evaluation=evaluation,
        decision=decision,
        promotion=promotion,
    )


def _waits_for_approval(spec: ModelSpec, decision: DecisionRef) -> bool:
    return spec.approval.required and decision.verdict == Verdict.PROMOTE and not decision.break_glass


@contextmanager
def _timed(spec: ModelSpec, request: RunRequest | RollbackRequest, stage: str) -> Iterator[None]:
    """Log what a stage itself took, so that what Airflow adds to it can be told apart."""
    began = time.perf_counter()
    yield
    _log.info("%s %s: stage %s took %.3f s", spec.name, request.run_id, stage, time.perf_counter() - began)
