"""The stages that judge and act: decide and promote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from perennial.domain.references import ApprovalRef, DecisionRef, EvaluationRef, ModelRef, SnapshotRef
from perennial.domain.times import format_time
from perennial_airflow.errors import airflow_errors
from perennial_airflow.links import DecisionLink, MlflowRunLink, page_url
from perennial_airflow.operators.stage import StageOperator


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

    Args:
        snapshot: `SnapshotRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        evaluation: `EvaluationRef.to_dict()`.
        decision: `DecisionRef.to_dict()`.
        approval: `ApprovalRef.to_dict()`; None if nobody was asked. Whether somebody had to be is checked by the stage.
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
            approval = None if self.approval is None else self.given(ApprovalRef, self.approval)
            self.remember(context, DecisionLink, page_url(decision.page_uri, root=run.runtime.root, model=self.model))
            self.remember(context, MlflowRunLink, run.runtime.registry.run_url(challenger.run_id))
            if approval is not None and not approval.approved:
                raise self._stays(decision.champion_version, _no(approval), approval.ledger_uri)
            promotion = cycle.promote(
                run.runtime, run.spec, run.request, snapshot, challenger, evaluation, decision, approval
            )
        if promotion.promoted:
            before = promotion.champion_before or "none"
            self.log.info("champion is now version %s (before: %s)", promotion.champion_after, before)
            return promotion.to_dict()
        # A skipped task's return value is not stored by Airflow.
        context["ti"].xcom_push(key="return_value", value=promotion.to_dict())
        raise self._stays(promotion.champion_after, f"{decision.verdict}: {decision.summary}", promotion.ledger_uri)

    def _stays(self, champion: str | None, why: str, ledger_uri: str) -> AirflowSkipException:
        sentence = f"{why} The champion stays version {champion or 'none'}; recorded at {ledger_uri}"
        self.log.info("%s", sentence)
        return AirflowSkipException(sentence)


def _no(approval: ApprovalRef) -> str:
    if approval.by is None:
        return "Declined: nobody answered in time."
    return f"Declined by {approval.by} on {format_time(approval.at)}."
