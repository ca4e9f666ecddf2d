"""What champion and challenger cost to serve, measured side by side: whatever slows this machine slows both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from perennial.domain.evaluation import Cost
from perennial.spec.model import ModelSpec
from perennial.stages.scoring import Loaded

if TYPE_CHECKING:
    import pandas as pd

PREDICTIONS: Final = 300
"""Of one row each, by each model."""
MIN_PREDICTIONS: Final = 30
"""With fewer, a 95th percentile would be the slowest call or so: there is none."""
WARM_UP: Final = 5
"""First turns, which fill caches and are not counted."""
MAX_SECONDS: Final = 10.0
"""For both models together; a slow model gets fewer predictions."""
ROWS: Final = 50
"""Different holdout rows that are predicted, in turn."""

Clock = Callable[[], float]
"""Seconds, from any beginning."""


def measure_costs(
    spec: ModelSpec, frame: pd.DataFrame, models: Mapping[str, Loaded], *, clock: Clock = time.perf_counter
) -> tuple[dict[str, Cost], list[str]]:
    """By name of the model its cost, and notes; nothing if the gate has no cost rules.

    Args:
        spec: the model's.
        frame: the holdout, at least one row.
        models: `challenger` and, if there is one, `champion`.
        clock: for the latency, which is measured only if the gate limits it.
    """
    rules = spec.gate.cost
    if rules is None:
        return {}, []
    latencies: dict[str, float | None] = dict.fromkeys(models)
    notes = []
    if rules.max_latency_p95_ms is not None or rules.max_latency_ratio is not None:
        rows = np.linspace(0, len(frame) - 1, min(ROWS, len(frame))).astype(int)
        method = "predict" if spec.task == "regression" else "predict_proba"
        calls = {who: _calls(model, frame, rows, method) for who, model in models.items()}
        try:
            latencies = latency_p95_ms(calls, clock)
        except Exception as error:  # predict runs the user's code, which may not like a single row
            notes.append(f"The latency could not be measured: {type(error).__name__}: {error}")
    sizes = {who: model.size_bytes for who, model in models.items()}
    return {who: Cost(latency_p95_ms=latencies[who], size_bytes=sizes[who]) for who in models}, notes


def latency_p95_ms(calls: Mapping[str, Sequence[Callable[[], object]]], clock: Clock) -> dict[str, float | None]:
    """95th percentile of each model's calls, in milliseconds; None for all if time allowed fewer than 30 each.

    The models take turns, each going first every other time, on the same rows, without the garbage collector.

    Args:
        calls: by model, what to time; as many for each, in the same order of rows.
        clock: in seconds.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = clock()
        for turn in range(WARM_UP + PREDICTIONS):
            for name in names if turn % 2 == 0 else reversed(names):
                call = calls[name][turn % len(calls[name])]
                before = clock()
                call()
                seconds[name].append(clock() - before)
            if clock() - start > MAX_SECONDS:
                break
    finally:
        if collecting:
            gc.enable()
    counted = {name: times[WARM_UP:] for name, times in seconds.items()}
    return {
        name: 1000 * float(np.quantile(times, 0.95)) if len(times) >= MIN_PREDICTIONS else None
        for name, times in counted.items()
    }


def _calls(
    model: Loaded, frame: pd.DataFrame, rows: Sequence[int] | np.ndarray, method: str
) -> list[Callable[[], object]]:
    predict = getattr(model.estimator, method)
    features = frame[list(model.features)]
    return [partial(predict, features.iloc[[row]]) for row in rows]
