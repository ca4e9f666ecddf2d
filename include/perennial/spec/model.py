"""A whole spec: the concerns put together, and the rules that span several of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from perennial.domain.metric_names import METRICS, Task, metrics_for
from perennial.spec.fields import Name, SpecPart
from perennial.spec.parts import Approval, Data, Evaluation, Gate, ScoringService, Training, Triggers, Validation


class ModelSpec(SpecPart):
    """Everything Perennial knows of one model. Written as YAML by its owner."""

    name: Name
    description: Annotated[str, Field(min_length=1)]
    owner: Annotated[str, Field(min_length=1)]
    task: Task
    data: Data
    validation: Validation
    training: Training
    evaluation: Evaluation
    gate: Gate
    approval: Approval = Approval()
    deployment: ScoringService | None = None
    triggers: Triggers = Triggers()

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Every column that some stage reads, none twice: keys, time, label, features, cluster, slices."""
        data = self.data
        return tuple(
            dict.fromkeys(
                (
                    *data.key_columns,
                    data.time_column,
                    data.label_column,
                    *data.feature_columns,
                    self.gate.cluster_by,
                    *self.evaluation.slices,
                )
            )
        )

    @model_validator(mode="after")
    def _metrics_fit_the_task(self) -> ModelSpec:
        wrong = [name for name in self.evaluation.all_metrics if self.task not in METRICS[name].tasks]
        if wrong:
            allowed = ", ".join(metrics_for(self.task))
            raise ValueError(f"evaluation: {', '.join(wrong)} not defined for {self.task}; allowed: {allowed}")
        unmeasured = [name for name in self.gate.floors if name not in self.evaluation.all_metrics]
        if unmeasured:
            allowed = ", ".join(self.evaluation.all_metrics)
            raise ValueError(f"gate.floors: {', '.join(unmeasured)} not measured; evaluation measures {allowed}")
        return self
