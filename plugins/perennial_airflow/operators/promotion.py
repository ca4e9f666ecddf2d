"""The stages that judge and act: decide and promote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from perennial.domain.references import DecisionRef, EvaluationRef, ModelRef, SnapshotRef
from perennial_airflow.errors import airflow_errors
from perennial_airflow.links import DecisionLink, MlflowRunLink, page_url
from perennial_airflow.operators.stage import StageOperator


class DecideOperator(StageOperator):
    """Judges. Every verdict is a green task (invariant 6).

    Args:
        evaluation: `EvaluationRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("evaluation", "challenger")
    operator_extra_links = (DecisionLink(),)

    def __init__(self, *, evaluation: Any, challenger: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.evaluation = evaluation
        self.challenger = challenger

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Decide.

        Returns:
            `DecisionRef.to_dict()`.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            evaluation = self.given(EvaluationRef, self.evaluation)
            challenger = self.given(ModelRef, self.challenger)
            reference = cycle.decide(run.runtime, run.spec, run.request, evaluation, challenger)
        self.remember(context, DecisionLink, page_url(reference.page_uri, root=run.runtime.root, model=self.model))
        self.log.info("%s: %s", reference.verdict, reference.summary)
        return reference.to_dict()


class PromoteOperator(StageOperator):
    """Carries the verdict out and records it. Shown as skipped, with the reason, when the champion stays.

    Args:
        snapshot: `SnapshotRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        evaluation: `EvaluationRef.to_dict()`.
        decision: `DecisionRef.to_dict()`.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("snapshot", "challenger", "evaluation", "decision")
    operator_extra_links = (DecisionLink(), MlflowRunLink())

    def __init__(self, *, snapshot: Any, challenger: Any, evaluation: Any, decision: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.challenger = challenger
        self.evaluation = evaluation
        self.decision = decision

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Promote, or record why not.

        Returns:
            `PromotionRef.to_dict()`.

        Raises:
            AirflowSkipException: recorded; the champion stays.
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
            promotion = cycle.promote(run.runtime, run.spec, run.request, snapshot, challenger, evaluation, decision)
        if promotion.promoted:
            before = promotion.champion_before or "none"
            self.log.info("champion is now version %s (before: %s)", promotion.champion_after, before)
            return promotion.to_dict()
        why = (
            f"{decision.verdict}: {decision.summary} The champion stays version {promotion.champion_after or 'none'}; "
            f"recorded at {promotion.ledger_uri}"
        )
        self.log.info("%s", why)
        # A skipped task's return value is not stored by Airflow.
        context["ti"].xcom_push(key="return_value", value=promotion.to_dict())
        raise AirflowSkipException(why)
