"""What a canary's controller gets to see: the prediction log, and the labels that have come, as readings.

Rows come to the log some seconds late (its flush interval), and none of what could not be written. Both only make the
samples fewer, and so hold a step back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perennial.domain.canary import CanaryState, Reading
from perennial.domain.canary_readings import Floats, Served, readings
from perennial.domain.metric_names import Task
from perennial.domain.times import Interval
from perennial.domain.traffic import Role
from perennial.ports import ObjectStore
from perennial.prediction_objects import joined, read_labels, read_predictions
from perennial.spec.deployment import Rollout
from perennial.spec.model import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS: Final = ("request_id", "row", "at", "role", "latency_ms", "error", "prediction")


def observe(
    spec: ModelSpec,
    rollout: Rollout,
    state: CanaryState,
    *,
    store: ObjectStore,
    root: str,
    champion: str,
    challenger: str,
    classes: Sequence[Any],
    now: datetime,
) -> dict[str, Reading]:
    """The readings of this look, for `perennial.domain.canary.Observation`.

    The challenger counts since the step began, its labelled rows since the canary began; the champion since one `every`
    before that, so that there is something to compare with at 100 %.

    Args:
        spec: the model's.
        rollout: its canary or shadow.
        state: where it stands.
        store: where log and labels lie.
        root: `s3://bucket/prefix`.
        champion: registry version.
        challenger: registry version.
        classes: what the labels' values are called, in the order of the predicted probabilities; empty for regression.
        now: end of what is looked at.

    Raises:
        StoreUnavailableError: nothing can be said; this look has to be made again, within the plan's lifetime.
    """
    since = state.started_at - rollout.every
    if now <= since:
        return {name: Reading(value=None, samples=0) for name in type(rollout.guardrails).model_fields}
    everything = Interval(since, now)
    theirs, mine = (
        read_predictions(store, root, spec.name, everything, version=version, columns=_COLUMNS)
        for version in (champion, challenger)
    )
    theirs = theirs[theirs["role"] == Role.CHAMPION]
    # Whatever its role says: a container that knows one version only calls itself the champion.
    mine = mine[mine["at"] >= state.started_at]
    labels = None
    if rollout.guardrails.performance_loss is not None:
        landing = None if spec.deployment is None or spec.deployment.log is None else spec.deployment.log.labels
        labels = read_labels(store, root, spec.name, everything, landing=landing)
    return readings(
        spec.task,
        spec.evaluation.primary,
        _served(spec.task, theirs, theirs, labels, classes),
        _served(spec.task, mine[mine["at"] >= state.step_started_at], mine, labels, classes),
    )


def scores_of(task: Task, predictions: pd.Series) -> Floats:
    """Logged predictions as scores: (n,), or (n, k) for several classes; NaN for what is none.

    Of a binary classification the probability of the second class.
    """
    import pandas as pd

    if task == "regression":
        return np.asarray(pd.to_numeric(predictions, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))
    lists = [given if isinstance(given, list | np.ndarray) else () for given in predictions]
    width = 2 if task == "binary_classification" else max(map(len, lists), default=0)
    nothing = np.full(width, np.nan)
    rows = [_floats(given) if len(given) == width else nothing for given in lists]
    matrix = np.array(rows, dtype=np.float64).reshape(len(rows), width)
    return matrix[:, 1] if task == "binary_classification" else matrix


def _floats(given: Any) -> Floats:
    """NaN for what is no number."""
    try:
        found = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty((0, 0))
    return found if found.ndim == 1 else np.full(len(given), np.nan)


def _served(
    task: Task, frame: pd.DataFrame, labelled: pd.DataFrame, labels: pd.DataFrame | None, classes: Sequence[Any]
) -> Served:
    """Of one model; `frame` and `labelled` are rows of its log."""
    requests = frame[frame["row"] == 0]
    served = {
        "failed": requests["error"].notna().to_numpy(dtype=bool),
        "latency_ms": requests["latency_ms"].to_numpy(dtype=np.float64),
        "scores": scores_of(task, frame.loc[frame["error"].isna(), "prediction"]),
    }
    if labels is None:
        return Served(**served)
    found = joined(labelled[labelled["error"].isna()], labels)
    found = found.assign(label=label_positions(found["label"], classes)).dropna(subset="label")
    return Served(
        **served,
        labels=found["label"].to_numpy(dtype=np.float64),
        labelled_scores=scores_of(task, found["prediction"]),
    )


def label_positions(given: pd.Series, classes: Sequence[Any]) -> pd.Series:
    """Labels as numbers, of a classification the classes' positions; NaN for what is none: anybody may send a label.

    Args:
        given: labels as they were read.
        classes: what they are called, in the order of the predicted probabilities; empty for a regression.
    """
    import pandas as pd

    if not any(isinstance(name, str) for name in classes):
        # Where some are texts, those that are none were read as texts, too.
        given = pd.to_numeric(given, errors="coerce").replace([np.inf, -np.inf], np.nan)
    # Labels are numbers or texts: true and false come as 1 and 0, which pandas does not find among booleans.
    names = (float(name) if isinstance(name, bool) else name for name in classes)
    positions: Mapping[Any, float] = {name: float(position) for position, name in enumerate(names)}
    return given.map(positions) if classes else given
