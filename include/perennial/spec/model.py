"""A whole spec: the concerns put together, and the rules that span several of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, model_validator

from perennial.domain.metric_names import METRICS, Task, metrics_for
from perennial.spec.fields import Name, SpecPart, format_duration
from perennial.spec.monitoring import Monitoring
from perennial.spec.parts import Approval, Data, Evaluation, Gate, Training, Triggers, Validation
from perennial.spec.platforms import AnyDeployment


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
    deployment: AnyDeployment | None = None
    triggers: Triggers = Triggers()
    monitoring: Monitoring | None = None

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
                    *([self.gate.cluster_by] if self.gate.cluster_by is not None else []),
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

    @model_validator(mode="after")
    def _gate_judges_what_is_measured(self) -> ModelSpec:
        slices, metrics = self.evaluation.slices, self.evaluation.all_metrics
        shown = ", ".join(slices) or "none"
        if self.gate.slices is not None:
            if not slices:
                raise ValueError("gate.slices: there are no evaluation.slices to judge")
            unknown = [column for column in self.gate.slices.required if column not in slices]
            if unknown:
                raise ValueError(f"gate.slices.required: {', '.join(unknown)} not among evaluation.slices ({shown})")
        for rule in self.gate.fairness:
            if rule.column not in slices:
                raise ValueError(f"gate.fairness: {rule.column} is not among evaluation.slices ({shown})")
            if rule.metric is not None and rule.metric not in metrics:
                raise ValueError(f"gate.fairness: {rule.metric} not measured; evaluation measures {', '.join(metrics)}")
        return self

    @property
    def outcome_delay(self) -> timedelta:
        """How long after a request its label is known."""
        own = None if self.monitoring is None else self.monitoring.label_delay
        return self.data.label_delay if own is None else own

    @model_validator(mode="after")
    def _monitoring_has_something_to_read(self) -> ModelSpec:
        if self.monitoring is None:
            return self
        if self.deployment is None or self.deployment.log is None:
            raise ValueError("monitoring: reads the prediction log; it needs a deployment with a log")
        logged = [column for column in self.data.feature_columns if column not in self.deployment.log.exclude]
        unknown = [column for column in self.monitoring.slices if column not in logged]
        if unknown:
            raise ValueError(
                f"monitoring.slices: {', '.join(unknown)} not among the logged features ({', '.join(logged)})"
            )
        return self

    @model_validator(mode="after")
    def _deployment_fits_the_data(self) -> ModelSpec:
        if self.deployment is None:
            return self
        excluded = self.deployment.log.exclude if self.deployment.log is not None else ()
        unknown = [column for column in excluded if column not in self.data.feature_columns]
        if unknown:  # a slip of the pen here would write what must not be written
            allowed = ", ".join(self.data.feature_columns)
            raise ValueError(f"deployment.log.exclude: {', '.join(unknown)} not among data.feature_columns ({allowed})")
        delay = self.data.label_delay
        for name, rollout in self.deployment.rollouts.items():
            longest = rollout.every + rollout.max_extend
            if rollout.guardrails.performance_loss is not None and delay >= longest:
                raise ValueError(
                    f"deployment.{name}.guardrails.performance_loss: labels come {format_duration(delay)} later "
                    f"(data.label_delay), and a step ends after {format_duration(longest)} (every + max_extend)"
                )
        return self
