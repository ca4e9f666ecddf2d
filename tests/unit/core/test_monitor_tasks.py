"""Regressions and several classes are watched as binary classifications are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perennial.domain.counting import build_number_profile
from perennial.domain.profile import Calibration, MetricValue
from perennial.prediction_objects import PARQUET_TYPE, labels_path, predictions_path
from perennial.serving.prediction_log import ScoredRequest, encoded
from perennial.spec.model import ModelSpec
from tests.unit.core.monitored import DAY, FIRST, MODEL, ROOT, Monitored, monitored_spec

CLASSES = ("bus", "car", "train")
ROWS = 600


@dataclass(frozen=True)
class Task:
    """What a model of the task answers to x, and what then comes true."""

    name: str
    metric: str
    value: float
    classes: tuple[str, ...] = ()

    def spec(self) -> ModelSpec:
        given = monitored_spec().model_dump(mode="json", exclude_none=True)
        given |= {"task": self.name, "evaluation": {"primary": self.metric}}
        given["gate"] |= {"floors": {}}
        return ModelSpec.model_validate(given)

    def predictions(self, x: np.ndarray) -> np.ndarray:
        if not self.classes:
            return 2 * x
        powers = np.exp(np.column_stack([-2 * x, np.zeros(len(x)), 2 * x]))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def labels(self, predictions: np.ndarray, rng: np.random.Generator) -> list[Any]:
        if not self.classes:
            return (predictions + rng.normal(size=len(predictions))).tolist()
        return [str(rng.choice(self.classes, p=row)) for row in predictions]

    def profile(self) -> dict[str, Any]:
        given = self.predictions(np.random.default_rng(7).normal(size=5000)).reshape(5000, -1)
        names = self.classes or ("prediction",)
        as_it_is = Calibration(scores=(0.0, 1.0), frequencies=(0.0, 1.0))
        low, high = self.value - 0.05, self.value + 0.05
        return {
            "scores": tuple(build_number_profile(name, column) for name, column in zip(names, given.T, strict=True)),
            "performance": (MetricValue(metric=self.metric, value=self.value, low=low, high=high),),
            "classes": self.classes,
            "calibration": (as_it_is,) * len(self.classes),
        }


TASKS = (Task("regression", "mae", 0.80), Task("multiclass_classification", "log_loss", 0.62, CLASSES))


def _serve(world: Monitored, task: Task, day: int, *, turned: bool) -> None:
    """A request of a day; `turned`: what comes true is what the model thinks of -x."""
    rng = np.random.default_rng(day)
    x, start = rng.normal(size=ROWS), FIRST + day * DAY
    predictions = task.predictions(x)
    request = ScoredRequest(
        model=MODEL,
        version="1",
        role="champion",  # type: ignore[arg-type]
        request_id=f"r-{day}",
        at=start + timedelta(hours=1),
        rows=ROWS,
        features={
            "x": x.tolist(),
            "z": rng.normal(size=ROWS).tolist(),
            "plan": ["basic", "basic", "gold"] * (ROWS // 3),
        },
        predictions=predictions.tolist(),
        latency_ms=1.0,
    )
    uri = f"{ROOT}/{predictions_path(MODEL, start, '1')}{day}.parquet"
    world.store.write(uri, encoded([request]), content_type=PARQUET_TYPE)
    came = task.labels(task.predictions(-x) if turned else predictions, rng)
    told = pd.DataFrame({"request_id": request.request_id, "row": np.arange(ROWS, dtype="int32"), "label": came})
    told["received_at"] = pd.Series([start + timedelta(hours=2)] * ROWS).dt.as_unit("us")
    uri = f"{ROOT}/{labels_path(MODEL, start)}{day}.parquet"
    world.store.write(uri, told.to_parquet(index=False), content_type=PARQUET_TYPE)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_model_that_does_well_is_quiet_and_one_that_does_not_is_found(task: Task, tmp_path: Path) -> None:
    world = Monitored(tmp_path, task.spec())
    world.train(**task.profile())
    for day in range(5):
        _serve(world, task, day, turned=day >= 3)
    world.observe()
    calm = world.report(2)
    assert not any(signal["beyond"] for signal in calm["signals"])
    assert calm["performance"]["realised"]["value"] == pytest.approx(task.value, abs=0.08)
    assert len(calm["prediction_drift"][0]["columns"]) == max(1, len(task.classes))
    assert (calm["performance"]["estimated"]["value"] is None) == (task.name == "regression")
    changed = world.look_at(4)
    assert [each["signal"] for each in changed["alerts"]] == ["performance"]
    assert changed["performance"]["realised"]["low"] > changed["performance"]["limit"]
