"""A whole cycle in one process, rollouts included: `perennial run`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from perennial import cycle
from perennial.domain.references import (
    DecisionRef,
    EvaluationRef,
    ModelRef,
    PromotionRef,
    Reference,
    RolloutRef,
    SmokeTestRef,
    SnapshotRef,
    ValidationRef,
    Verdict,
)
from perennial.domain.run_request import RunRequest
from perennial.errors import TransientError
from perennial.runtime import Runtime
from perennial.spec import ModelSpec

if TYPE_CHECKING:
    from perennial.stages.rollout import Look

T = TypeVar("T", bound=Reference)
_log = logging.getLogger(__name__)
PAUSE: Final = timedelta(seconds=10)
"""After a look that failed."""
MOST_FAILURES: Final = 60
"""Of looks in a row, after which the run gives up; the challenger's traffic ends by itself, or with the next run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleResult:
    """What one cycle came to. All but `snapshot` is None if there was nothing new.

    `promotion` is None, too, if a PROMOTE waits for a person's approval, or a rollout took the challenger back.
    """

    snapshot: SnapshotRef
    validation: ValidationRef | None = None
    model: ModelRef | None = None
    evaluation: EvaluationRef | None = None
    decision: DecisionRef | None = None
    smoke: SmokeTestRef | None = None
    rollouts: tuple[RolloutRef, ...] = ()
    promotion: PromotionRef | None = None
    waits_for_approval: bool = False


def run_cycle(
    runtime: Runtime,
    spec: ModelSpec,
    request: RunRequest,
    *,
    on_stage: Callable[[str, Reference | None], None] = lambda _name, _reference: None,
    on_look: Callable[[str, Look], None] = lambda _phase, _look: None,
    sleep: Callable[[float], None] = time.sleep,
) -> CycleResult:
    """One cycle in this process.

    Args:
        runtime: the world.
        spec: the model's.
        request: the run's.
        on_stage: hears of each stage twice: at its start (None) and with its reference.
        on_look: hears of each look at a shadow or canary.
        sleep: waits for so many seconds, between two looks.

    Raises:
        PerennialError: as the stages do; whatever they had published by then stays.
    """

    def tell(name: str, stage: Callable[[], T]) -> T:
        on_stage(name, None)
        reference = stage()
        on_stage(name, reference)
        return reference

    taken = tell("snapshot", lambda: cycle.snapshot(runtime, spec, request))
    if taken.nothing_new_since is not None:
        return CycleResult(snapshot=taken)
    validation = tell("validate", lambda: cycle.validate(runtime, spec, request, taken))
    model = tell("train", lambda: cycle.train(runtime, spec, request, taken))
    evaluation = tell("evaluate", lambda: cycle.evaluate(runtime, spec, request, taken, model))
    decision = tell("decide", lambda: cycle.decide(runtime, spec, request, taken, evaluation, model))
    smoke: SmokeTestRef | None = None
    rollouts: list[RolloutRef] = []
    promotion: PromotionRef | None = None
    waits = spec.approval.required and decision.verdict == Verdict.PROMOTE and not decision.break_glass
    if waits:
        _log.warning("%s %s: %s waits for approval, nothing was moved", spec.name, request.run_id, decision.verdict)
    else:
        given = (runtime, spec, request, taken, model, evaluation, decision)
        if cycle.nothing_to_try(spec, decision, phase="smoke_test") is None:
            smoke = tell("smoke_test", lambda: cycle.smoke_test(*given))
        for phase in () if spec.deployment is None else spec.deployment.rollouts:
            if cycle.nothing_to_try(spec, decision, None, rollouts, phase=phase) is None:
                walk = _Walk(runtime, spec, request, phase, model, decision, on_look, sleep)
                rollouts.append(tell(phase, walk.to_its_end))
        if all(ended.passed for ended in rollouts):
            promotion = tell("promote", lambda: cycle.promote(*given, None, smoke, rollouts))
    return CycleResult(
        snapshot=taken,
        validation=validation,
        model=model,
        evaluation=evaluation,
        decision=decision,
        smoke=smoke,
        rollouts=tuple(rollouts),
        promotion=promotion,
        waits_for_approval=waits,
    )


@dataclass(frozen=True, slots=True)
class _Walk:
    """A shadow or canary, walked by this process."""

    runtime: Runtime
    spec: ModelSpec
    request: RunRequest
    phase: str
    model: ModelRef
    decision: DecisionRef
    on_look: Callable[[str, Look], None]
    sleep: Callable[[float], None]

    def to_its_end(self) -> RolloutRef:
        """Look, wait, look."""
        failures = 0
        while True:
            try:
                seen = cycle.roll_out(
                    self.runtime, self.spec, self.request, phase=self.phase, model=self.model, decision=self.decision
                )
            except TransientError as error:
                failures += 1
                if failures >= MOST_FAILURES:
                    raise
                _log.warning("%s %s: no look at the %s: %s", self.spec.name, self.request.run_id, self.phase, error)
                self.sleep(PAUSE.total_seconds())
                continue
            failures = 0
            self.on_look(self.phase, seen)
            if seen.ended is not None:
                return seen.ended
            self.sleep(seen.wait.total_seconds())
