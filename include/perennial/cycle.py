"""The stages bound to a runtime: what the DAG's operators call, and `perennial.whole_cycle`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.fingerprint import policy_digest
from perennial.domain.references import (
    ApprovalRef,
    DecisionRef,
    EvaluationRef,
    ModelRef,
    PromotionRef,
    RollbackRef,
    RolloutRef,
    SmokeTestRef,
    SnapshotRef,
    ValidationRef,
)
from perennial.domain.run_request import RollbackRequest, RunRequest, require_break_glass_allowed
from perennial.errors import PerennialError
from perennial.runtime import Runtime
from perennial.spec import ModelSpec, load_suite
from perennial.stages.estimator import code_version, make_importable

if TYPE_CHECKING:
    from perennial.stages.rollout import Look

_log = logging.getLogger(__name__)


def snapshot(runtime: Runtime, spec: ModelSpec, request: RunRequest) -> SnapshotRef:
    """Freeze the landed data; `nothing_new_since` is set when this very training was judged before.

    Before that, whatever happened to the champion since the last run is put on record, and what a run that was killed
    has left in traffic is taken back.
    """
    from perennial.stages.snapshot import take_snapshot

    require_break_glass_allowed(spec, request)
    with _timed(spec, request, "snapshot"):
        runtime.door.settle(spec.name, owner=request.run_id)
        _end_abandoned(runtime, spec, request)
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


def nothing_to_try(
    spec: ModelSpec,
    decision: DecisionRef,
    approval: ApprovalRef | None = None,
    rollouts: Sequence[RolloutRef] = (),
    *,
    phase: str,
) -> str | None:
    """Why `smoke_test`, `shadow` or `canary` has nothing to do, in one sentence for people; None: it has."""
    from perennial.stages.rollout import nothing_to_try

    return nothing_to_try(spec, decision, approval, rollouts, phase=phase)


def smoke_test(
    runtime: Runtime,
    spec: ModelSpec,
    request: RunRequest,
    snapshot: SnapshotRef,
    model: ModelRef,
    evaluation: EvaluationRef,
    decision: DecisionRef,
) -> SmokeTestRef:
    """Try the challenger out in a clean process, before any traffic. Only where `nothing_to_try` says None.

    Raises:
        SmokeTestError: it failed, and the report is published; with broken glass the reference's `passed` is False.
    """
    from perennial.stages.smoke_test import smoke_test_in_clean_process

    with _timed(spec, request, "smoke_test"):
        return smoke_test_in_clean_process(
            spec,
            request,
            snapshot=snapshot,
            model=model,
            evaluation=evaluation,
            decision=decision,
            store=runtime.store,
            root=runtime.root,
            registry=runtime.registry,
            clock=runtime.clock,
            tester=runtime.smoke_tester,
        )


def roll_out(
    runtime: Runtime, spec: ModelSpec, request: RunRequest, *, phase: str, model: ModelRef, decision: DecisionRef
) -> Look:
    """One look at the challenger's `shadow` or `canary`; the first one begins it. Blocks for seconds at most.

    Call it again after `Look.wait`, until `Look.ended` is there. After a TransientError nothing has advanced: wait, and
    look again. Anybody may look, also two at once; a look after the end gives the same end.
    """
    from perennial.addresses import page_address
    from perennial.stages.rollout import look

    make_importable(runtime.import_roots)
    address = page_address(decision.page_uri, root=runtime.root, model=spec.name, airflow_url=runtime.airflow_url)
    tags = {"perennial.decision_uri": decision.uri, "perennial.decision_url": address}
    return look(
        spec,
        request,
        phase=phase,
        decision=decision,
        model=model,
        deployer=runtime.deployer(spec),
        door=runtime.door,
        tags={name: tag for name, tag in tags.items() if tag},
    )


def stop_rollout(runtime: Runtime, spec: ModelSpec, request: RollbackRequest) -> RolloutRef:
    """Take the challenger that is being tried out back, because a person says so."""
    from perennial.stages.rollout import stop

    with _timed(spec, request, "stop"):
        return stop(spec, request, door=runtime.door, deployer=runtime.deployer(spec))


def promote(
    runtime: Runtime,
    spec: ModelSpec,
    request: RunRequest,
    snapshot: SnapshotRef,
    model: ModelRef,
    evaluation: EvaluationRef,
    decision: DecisionRef,
    approval: ApprovalRef | None = None,
    smoke: SmokeTestRef | None = None,
    rollouts: Sequence[RolloutRef] = (),
) -> PromotionRef:
    """Carry the verdict out, whatever it is.

    Args:
        runtime: the world.
        spec: the model's.
        request: the run's.
        snapshot: what the challenger was trained on.
        model: the challenger.
        evaluation: of it.
        decision: to be carried out.
        approval: the answer to it, if the spec asks for one.
        smoke: what `smoke_test` gave; needed where the spec has a `deployment`.
        rollouts: how shadow and canary have ended, as far as the spec asks for them.
    """
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
            smoke=smoke,
            rollouts=rollouts,
            run_url=runtime.registry.run_url(model.run_id),
            page_address=address or decision.page_uri,
        )

    make_importable(runtime.import_roots)
    led_here = [item for item in (snapshot, model, evaluation, decision, approval, smoke) if item is not None]
    with _timed(spec, request, "promote"):
        return carry_out(
            spec,
            request,
            model=model,
            decision=decision,
            approval=approval,
            smoke=smoke,
            rollouts=rollouts,
            references={
                **{reference.kind: reference for reference in led_here},
                **{ended.phase: ended for ended in rollouts},
            },
            policy=_policy(runtime, spec),
            door=runtime.door,
            deployer=runtime.deployer(spec),
            model_card=card,
            decision_url=address,
        )


def rollback(runtime: Runtime, spec: ModelSpec, request: RollbackRequest) -> RollbackRef:
    """Put an earlier champion back."""
    from perennial.stages.rollback import roll_back

    make_importable(runtime.import_roots)
    with _timed(spec, request, "rollback"):
        return roll_back(spec, request, door=runtime.door, deployer=runtime.deployer(spec))


def _end_abandoned(runtime: Runtime, spec: ModelSpec, request: RunRequest) -> None:
    """A platform that does not answer, or refuses, keeps nobody from training: the next rollout looks again."""
    from perennial.stages.rollout import end_abandoned

    try:
        end_abandoned(spec, door=runtime.door, deployer=runtime.deployer(spec), owner=request.run_id)
    except PerennialError as error:
        _log.warning("%s %s: cannot end what a killed rollout has left: %s", spec.name, request.run_id, error)


def _holdout_metrics(runtime: Runtime, evaluation: EvaluationRef) -> dict[str, float]:
    result = EvaluationResult.from_dict(json.loads(runtime.store.read(evaluation.uri)))
    found = {name: comparison.challenger.value for name, comparison in result.comparisons.items()}
    return {f"holdout_{name}": value for name, value in found.items() if value is not None}


def _policy(runtime: Runtime, spec: ModelSpec) -> str:
    return policy_digest(spec, load_suite(runtime.specs, spec))


@contextmanager
def _timed(spec: ModelSpec, request: RunRequest | RollbackRequest, stage: str) -> Iterator[None]:
    """Log what a stage itself took, so that what Airflow adds to it can be told apart."""
    began = time.perf_counter()
    yield
    _log.info("%s %s: stage %s took %.3f s", spec.name, request.run_id, stage, time.perf_counter() - began)
