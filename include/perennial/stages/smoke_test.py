"""The last question before a model serves: do its files have their digest, and does it answer at all?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perennial.domain.metric_names import Task
from perennial.domain.references import ModelRef
from perennial.errors import SmokeTestError
from perennial.ports import ModelRegistry

if TYPE_CHECKING:
    import pandas as pd


def smoke_test(task: Task, model: ModelRef, name: str, *, registry: ModelRegistry) -> None:
    """Load the model with its digests checked (invariant 8), and let it predict its own input example.

    Args:
        task: what the model is for.
        model: to be tested.
        name: of the model, for messages: `version 3 of flights_delay`.
        registry: holds it.

    Raises:
        IntegrityError, NotFoundError: as `ModelRegistry.open_model`.
        SmokeTestError: it has no input example, fails on it, or gives something that is no prediction.
    """
    loaded = registry.open_model(model)
    example = loaded.input_example
    if example is None or example.empty:
        raise SmokeTestError(
            f"{name} ({model.model_uri}) was logged without an input example and cannot be tried out. Nothing was moved"
        )
    try:
        fault = _fault(task, loaded.estimator, example)
    except Exception as error:  # predict runs the user's code
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        raise SmokeTestError(
            f"{name} ({model.model_uri}) gives no usable predictions for the {len(example)} rows of its own input "
            f"example: {fault}. Nothing was moved"
        )


def _fault(task: Task, estimator: Any, example: pd.DataFrame) -> str | None:
    """What is wrong with the predictions; None if nothing is."""
    classifies = task != "regression"
    given = estimator.predict_proba(example) if classifies else estimator.predict(example)
    values = np.asarray(given, dtype=np.float64).reshape(len(given), -1)
    expected = (len(example), len(estimator.classes_) if classifies else 1)
    if values.shape != expected:
        return f"their shape is {values.shape}, expected {expected}"
    if not np.isfinite(values).all():
        return f"{(~np.isfinite(values)).sum()} of {values.size} values are not finite"
    if classifies and (values.min() < 0 or values.max() > 1):
        return f"probabilities lie between {values.min():g} and {values.max():g}, expected [0, 1]"
    return None
