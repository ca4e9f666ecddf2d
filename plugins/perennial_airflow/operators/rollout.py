"""The stages between decision and promotion: the smoke test, and a shadow or canary on live traffic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from perennial.domain.references import ApprovalRef, DecisionRef, EvaluationRef, ModelRef, RolloutRef, SnapshotRef
from perennial.domain.rollout import longest, rollout_id
from perennial.errors import TerminalError, TransientError
from perennial_airflow.errors import airflow_errors
from perennial_airflow.links import DecisionLink, MlflowRunLink, RolloutLink, page_url
from perennial_airflow.operators.stage import StageOperator, StageRun, short
from perennial_airflow.triggers.rollout import RolloutTrigger, end_split

if TYPE_CHECKING:
    from perennial.spec.deployment import Rollout
    from perennial.stages.rollout import Look

WALK_SLACK: Final = timedelta(hours=2)
"""On top of a rollout's longest time: for stores and platforms that do not answer for a while."""


def walk_timeout(rollout: Rollout) -> timedelta:
    """How long a shadow's or canary's task may last, however it goes."""
    return longest(rollout) + WALK_SLACK


class SmokeTestOperator(StageOperator):
    """Tries the challenger out in a clean process, before any traffic. One that fails is a red task.

    Shown as skipped where there is nothing to promote.

    Args:
        snapshot: `SnapshotRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        evaluation: `EvaluationRef.to_dict()`.
        decision: `DecisionRef.to_dict()`.
        approval: `ApprovalRef.to_dict()`; None if nobody was asked.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("snapshot", "challenger", "evaluation", "decision", "approval")
    operator_extra_links = (DecisionLink(), MlflowRunLink())

    def __init__(
        self, *, snapshot: Any, challenger: Any, evaluation: Any, decision: Any, approval: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.challenger = challenger
        self.evaluation = evaluation
        self.decision = decision
        self.approval = approval

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Try the challenger out.

        Returns:
            `SmokeTestRef.to_dict()`.

        Raises:
            AirflowSkipException: there is nothing to promote.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            snapshot = self.given(SnapshotRef, self.snapshot)
            challenger = self.given(ModelRef, self.challenger)
            evaluation = self.given(EvaluationRef, self.evaluation)
            decision = self.given(DecisionRef, self.decision)
            self.remember(context, DecisionLink, page_url(decision.page_uri, root=run.runtime.root, model=self.model))
            self.remember(context, MlflowRunLink, run.runtime.registry.run_url(challenger.run_id))
            approval = self.given_or_none(ApprovalRef, self.approval)
            why = cycle.nothing_to_try(run.spec, decision, approval, phase="smoke_test")
            if why:
                raise AirflowSkipException(why)
            reference = cycle.smoke_test(run.runtime, run.spec, run.request, snapshot, challenger, evaluation, decision)
        said = "passed" if reference.passed else "FAILED, which the broken glass overrides"
        self.log.info("%s, on %d rows of the holdout; report: %s", said, reference.rows, reference.uri)
        return reference.to_dict()


class RolloutOperator(StageOperator):
    """A challenger beside the champion on live traffic, until it has proved itself or is taken back. Green either way.

    The first look is made here, so that a mistake shows at once; then a `RolloutTrigger` walks on, without a worker's
    slot (it needs a triggerer), and the end is put on record here. Skipped where there is nothing to try out.

    A retry, and a task that somebody clears, goes on where the store says that the rollout stands. A task that is
    marked as failed, as success or as skipped, or whose run is out of time, gives all requests to the champion within
    seconds and leaves the rollout open: nothing is promoted without its end on record, and clearing the task goes on
    with it. So does a task that fails for good. Should that not work, because the platform or the triggerer is gone, a
    split of the scoring service ends by itself within 3 minutes, and one of SageMaker or KServe with the next look, the
    model's next run, or `perennial rollback MODEL --challenger`.

    Args:
        phase: `shadow` or `canary`.
        challenger: `ModelRef.to_dict()`.
        decision: `DecisionRef.to_dict()`.
        approval: `ApprovalRef.to_dict()`; None if nobody was asked.
        rollouts: `RolloutRef.to_dict()` of the one before, if there is one; None in it: that was skipped.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("challenger", "decision", "approval", "rollouts")
    operator_extra_links = (RolloutLink(), DecisionLink())

    def __init__(
        self,
        *,
        phase: str,
        challenger: Any,
        decision: Any,
        approval: Any = None,
        rollouts: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.phase = phase
        self.challenger = challenger
        self.decision = decision
        self.approval = approval
        self.rollouts = rollouts

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Make the first look, or the next one of a walk that an earlier try began.

        Returns:
            `RolloutRef.to_dict()`, if that look finds the end.

        Raises:
            TaskDeferred: the trigger walks on; `walked` follows.
            AirflowSkipException: there is nothing to try out.
        """
        from perennial import cycle

        with self._no_split_left(context), airflow_errors():
            run = self.open(context)
            decision = self.given(DecisionRef, self.decision)
            self.remember(context, DecisionLink, page_url(decision.page_uri, root=run.runtime.root, model=self.model))
            approval = self.given_or_none(ApprovalRef, self.approval)
            rollouts = self.given_each(RolloutRef, self.rollouts)
            why = cycle.nothing_to_try(run.spec, decision, approval, rollouts, phase=self.phase)
            if why:
                raise AirflowSkipException(why)
            try:
                look = self._look(run, decision)
            except (TransientError, OSError) as error:  # such as a platform that is busy, or another run's rollout
                self.log.warning("%s (the triggerer goes on asking)", error)
                raise self._deferred(run, decision) from error
            return self._told(context, run, decision, look)

    def walked(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
        """The trigger has come to the end: put it on record, as far as the trigger did not.

        Returns:
            `RolloutRef.to_dict()`, whether the challenger passed or not.
        """
        with airflow_errors():
            if "error" in event:
                raise (TerminalError if event["terminal"] else TransientError)(f"in the triggerer: {event['error']}")
            run, decision = self.open(context), self.given(DecisionRef, self.decision)
            return self._told(context, run, decision, self._look(run, decision))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Airflow's; it raises where the trigger failed or the deferral timed out, and never comes to `walked`."""
        with self._no_split_left(context):
            return super().resume_execution(next_method, next_kwargs, context)

    def _look(self, run: StageRun, decision: DecisionRef) -> Look:
        from perennial import cycle

        challenger = self.given(ModelRef, self.challenger)
        return cycle.roll_out(run.runtime, run.spec, run.request, phase=self.phase, model=challenger, decision=decision)

    def _told(self, context: Mapping[str, Any], run: StageRun, decision: DecisionRef, look: Look) -> dict[str, Any]:
        self.log.info("%s", look.said)
        ended = look.ended
        if ended is None:
            raise self._deferred(run, decision)
        self.remember(context, RolloutLink, page_url(ended.page_uri, root=run.runtime.root, model=self.model))
        self.log.info("%s; recorded at %s", "passed" if ended.passed else "taken back", ended.ledger_uri)
        return replace(ended, summary=short(ended.summary)).to_dict()

    def _deferred(self, run: StageRun, decision: DecisionRef) -> TaskDeferred:
        trigger = RolloutTrigger(
            model=self.model,
            phase=self.phase,
            request=run.request.to_dict(),
            decision=decision.to_dict(),
            challenger=self.given(ModelRef, self.challenger).to_dict(),
            s3_conn_id=self.s3_conn_id,
            mlflow_conn_id=self.mlflow_conn_id,
        )
        # The spec asks for it: else there would have been nothing to try, or the look would have ended it.
        timeout = walk_timeout(run.spec.deployment.rollouts[self.phase]) if run.spec.deployment else None
        return TaskDeferred(trigger=trigger, method_name="walked", timeout=timeout)

    @contextmanager
    def _no_split_left(self, context: Mapping[str, Any]) -> Iterator[None]:
        """A task that fails for good, with nobody to look again, gives all requests to the champion."""
        try:
            yield
        except AirflowSkipException:
            raise
        except Exception as error:
            ti = context["ti"]
            if isinstance(error, AirflowFailException) or ti.try_number > ti.max_tries:
                self._end_split(context)
            raise

    def _end_split(self, context: Mapping[str, Any]) -> None:
        try:
            decision, challenger = self.given(DecisionRef, self.decision), self.given(ModelRef, self.challenger)
            end_split(*self.world(), rollout_id(context["dag_run"].run_id, decision, challenger, self.phase))
        except Exception as error:  # the first error is the one to tell
            self.log.error(
                "cannot give all requests to the champion: %s. A split of the scoring service ends within 3 minutes; "
                "on SageMaker and KServe end it by hand: perennial rollback %s --challenger",
                error,
                self.model,
            )
