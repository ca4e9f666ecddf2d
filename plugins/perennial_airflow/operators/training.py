"""The stages that fit and score: train and evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perennial.domain.references import ModelRef, SnapshotRef
from perennial_airflow.errors import airflow_errors
from perennial_airflow.links import MlflowRunLink
from perennial_airflow.operators.stage import StageOperator


class TrainModelOperator(StageOperator):
    """Fits the challenger, or finds it in MLflow if this very training was done before.

    Args:
        snapshot: `SnapshotRef.to_dict()`.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("snapshot",)
    operator_extra_links = (MlflowRunLink(),)

    def __init__(self, *, snapshot: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Train.

        Returns:
            `ModelRef.to_dict()`.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            reference = cycle.train(run.runtime, run.spec, run.request, self.given(SnapshotRef, self.snapshot))
            self.remember(context, MlflowRunLink, run.runtime.registry.run_url(reference.run_id))
        self.log.info(
            "challenger is MLflow run %s, trained on data before %s",
            reference.run_id,
            reference.training_end.isoformat(),
        )
        return reference.to_dict()


class EvaluateOperator(StageOperator):
    """Scores challenger and champion on one holdout.

    Args:
        snapshot: `SnapshotRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("snapshot", "challenger")

    def __init__(self, *, snapshot: Any, challenger: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.challenger = challenger

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate.

        Returns:
            `EvaluationRef.to_dict()`.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            snapshot = self.given(SnapshotRef, self.snapshot)
            challenger = self.given(ModelRef, self.challenger)
            reference = cycle.evaluate(run.runtime, run.spec, run.request, snapshot, challenger)
        against = f"champion version {reference.champion_version}" if reference.champion_version else "no champion yet"
        self.log.info("scored on %d holdout rows against %s", reference.rows, against)
        return reference.to_dict()
