"""The stages that judge and act: decide and promote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from perennial.domain.references import (
    ApprovalRef,
    DecisionRef,
    EvaluationRef,
    ModelRef,
    PromotionRef,
    RolloutRef,
    SmokeTestRef,
    SnapshotRef,
)
from perennial.domain.times import format_time
from perennial_airflow.errors import airflow_errors
from perennial_airflow.links import DecisionLink, MlflowRunLink, RolloutLink, page_url
from perennial_airflow.operators.stage import StageOperator, StageRun


class DecideOperator(StageOperator):
    """Judges, and records the verdict. Every verdict is a green task (invariant 6).

    Args:
        snapshot: `SnapshotRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        evaluation: `EvaluationRef.to_dict()`.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("snapshot", "challenger", "evaluation")
    operator_extra_links = (DecisionLink(),)

    def __init__(self, *, snapshot: Any, challenger: Any, evaluation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.challenger = challenger
        self.evaluation = evaluation

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Decide.

        Returns:
            `DecisionRef.to_dict()`.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            snapshot = self.given(SnapshotRef, self.snapshot)
            evaluation = self.given(EvaluationRef, self.evaluation)
            challenger = self.given(ModelRef, self.challenger)
            reference = cycle.decide(run.runtime, run.spec, run.request, snapshot, evaluation, challenger)
        self.remember(context, DecisionLink, page_url(reference.page_uri, root=run.runtime.root, model=self.model))
        self.log.info("%s: %s", reference.verdict, reference.summary)
        return reference.to_dict()


class PromoteOperator(StageOperator):
    """Carries the verdict out. Shown as skipped, with the reason, when the champion stays.

    Whether what is missing here (an answer, a smoke test, a rollout) had to be there is checked by the stage, against
    the ledger.

    Args:
        snapshot: `SnapshotRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        evaluation: `EvaluationRef.to_dict()`.
        decision: `DecisionRef.to_dict()`.
        approval: `ApprovalRef.to_dict()`; None if nobody was asked.
        smoke: `SmokeTestRef.to_dict()`; None if there was none.
        rollouts: `RolloutRef.to_dict()` of shadow and canary; None for one that was skipped.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = (
        "snapshot",
        "challenger",
        "evaluation",
        "decision",
        "approval",
        "smoke",
        "rollouts",
    )
    operator_extra_links = (DecisionLink(), RolloutLink(), MlflowRunLink())

    def __init__(
        self,
        *,
        snapshot: Any,
        challenger: Any,
        evaluation: Any,
        decision: Any,
        approval: Any = None,
        smoke: Any = None,
        rollouts: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.challenger = challenger
        self.evaluation = evaluation
        self.decision = decision
        self.approval = approval
        self.smoke = smoke
        self.rollouts = rollouts

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Promote, or say why not.

        Returns:
            `PromotionRef.to_dict()`.

        Raises:
            AirflowSkipException: on record; the champion stays.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            snapshot = self.given(SnapshotRef, self.snapshot)
            challenger = self.given(ModelRef, self.challenger)
            evaluation = self.given(EvaluationRef, self.evaluation)
            decision = self.given(DecisionRef, self.decision)
            approval = self.given_or_none(ApprovalRef, self.approval)
            smoke = self.given_or_none(SmokeTestRef, self.smoke)
            rollouts = self.given_each(RolloutRef, self.rollouts)
            self._remember_pages(context, run, challenger, decision, rollouts)
            if approval is not None and not approval.approved:
                raise self._stays(decision.champion_version, _no(approval), approval.ledger_uri)
            why, promotion = f"{decision.verdict}: {decision.summary}", _taken_back(run, rollouts)
            if promotion is None:
                promotion = cycle.promote(
                    run.runtime,
                    run.spec,
                    run.request,
                    snapshot,
                    challenger,
                    evaluation,
                    decision,
                    approval=approval,
                    smoke=smoke,
                    rollouts=rollouts,
                )
            else:
                why = rollouts[-1].summary
        if promotion.promoted:
            before = promotion.champion_before or "none"
            self.log.info("champion is now version %s (before: %s)", promotion.champion_after, before)
            return promotion.to_dict()
        # A skipped task's return value is not stored by Airflow.
        context["ti"].xcom_push(key="return_value", value=promotion.to_dict())
        raise self._stays(promotion.champion_after, why, promotion.ledger_uri)

    def _remember_pages(
        self,
        context: Mapping[str, Any],
        run: StageRun,
        challenger: ModelRef,
        decision: DecisionRef,
        rollouts: Sequence[RolloutRef],
    ) -> None:
        root = run.runtime.root
        self.remember(context, DecisionLink, page_url(decision.page_uri, root=root, model=self.model))
        for rollout in rollouts[-1:]:
            self.remember(context, RolloutLink, page_url(rollout.page_uri, root=root, model=self.model))
        self.remember(context, MlflowRunLink, run.runtime.registry.run_url(challenger.run_id))

    def _stays(self, champion: str | None, why: str, ledger_uri: str) -> AirflowSkipException:
        sentence = f"{why} The champion stays version {champion or 'none'}; recorded at {ledger_uri}"
        self.log.info("%s", sentence)
        return AirflowSkipException(sentence)


def _taken_back(run: StageRun, rollouts: Sequence[RolloutRef]) -> PromotionRef | None:
    """What production serves, if live traffic refused the challenger; nothing comes after a rollout that did."""
    if not rollouts or rollouts[-1].passed:
        return None
    champion = run.runtime.registry.champion_version(run.spec.name)
    return PromotionRef(
        ledger_uri=rollouts[-1].ledger_uri, promoted=False, champion_before=champion, champion_after=champion
    )


def _no(approval: ApprovalRef) -> str:
    if approval.by is None:
        return "Declined: nobody answered in time."
    return f"Declined by {approval.by} on {format_time(approval.at)}."
