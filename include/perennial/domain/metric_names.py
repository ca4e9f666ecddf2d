"""Which metrics exist, for which task, and which direction is better. No numpy here: specs are checked at DAG parse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Task = Literal["binary_classification", "multiclass_classification", "regression"]


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric's name, the tasks that it is defined for, and its direction."""

    name: str
    tasks: frozenset[Task]
    higher_is_better: bool


def _info(name: str, higher_is_better: bool, *tasks: Task) -> MetricInfo:
    return MetricInfo(name, frozenset(tasks), higher_is_better)


METRICS: Final[dict[str, MetricInfo]] = {
    info.name: info
    for info in (
        _info("roc_auc", True, "binary_classification"),
        _info("average_precision", True, "binary_classification"),
        _info("brier", False, "binary_classification"),
        _info("log_loss", False, "binary_classification", "multiclass_classification"),
        _info("accuracy", True, "binary_classification", "multiclass_classification"),
        _info("mae", False, "regression"),
        _info("rmse", False, "regression"),
        _info("r2", True, "regression"),
    )
}


def metrics_for(task: Task) -> tuple[str, ...]:
    """Names of the metrics defined for `task`, in the order of `METRICS`."""
    return tuple(name for name, info in METRICS.items() if task in info.tasks)
