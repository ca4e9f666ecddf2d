"""Latency by a clock that the test moves; sizes as the registry knows them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perennial.domain.evaluation import Cost
from perennial.spec.model import ModelSpec
from perennial.stages.costs import MAX_SECONDS, PREDICTIONS, WARM_UP, latency_p95_ms, measure_costs
from perennial.stages.scoring import Loaded
from tests.unit.core.judging import SPEC, Column, Predicting, holdout_rows


class Time:
    """Passes only while a model predicts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, seconds: Callable[[int], float]) -> Callable[[], object]:
        def call() -> None:
            self.now += seconds(self.calls.count(name))
            self.calls.append(name)

        return call


def _spec(**cost: float) -> ModelSpec:
    return ModelSpec.model_validate({**SPEC, "gate": {**SPEC["gate"], "cost": cost or None}})


def _loaded(estimator: Any, size_bytes: int) -> Loaded:
    return Loaded(estimator=estimator, features=("good", "poor"), size_bytes=size_bytes)


class Timed(Column):
    """Sees what it is given."""

    def __init__(self, time: Time, seconds: float) -> None:
        super().__init__("good")
        self.time, self.seconds = time, seconds
        self.seen: list[pd.DataFrame] = []

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        self.seen.append(frame)
        self.time.now += self.seconds
        return super().predict_proba(frame)


def test_models_take_turns_and_the_warm_up_does_not_count() -> None:
    time = Time()
    calls = {
        "challenger": [time.taking("challenger", lambda turn: 0.5 if turn < WARM_UP else 0.002)],
        "champion": [time.taking("champion", lambda turn: 0.5 if turn < WARM_UP else 0.001)],
    }
    assert latency_p95_ms(calls, time) == pytest.approx({"challenger": 2.0, "champion": 1.0})
    assert len(time.calls) == 2 * (WARM_UP + PREDICTIONS)
    assert time.calls[:4] == ["challenger", "champion", "champion", "challenger"]


def test_latency_is_the_95th_percentile() -> None:
    time = Time()
    calls = {"challenger": [time.taking("challenger", lambda turn: 0.01 if turn % 10 == 0 else 0.001)]}
    assert latency_p95_ms(calls, time)["challenger"] == pytest.approx(10.0)


def test_slow_model_gets_fewer_predictions() -> None:
    time = Time()
    calls = {"challenger": [time.taking("challenger", lambda turn: 0.1)]}
    assert latency_p95_ms(calls, time)["challenger"] == pytest.approx(100.0)
    assert len(time.calls) == pytest.approx(MAX_SECONDS / 0.1, abs=2)


def test_model_too_slow_for_30_predictions_has_no_latency() -> None:
    time = Time()
    calls = {
        "challenger": [time.taking("challenger", lambda turn: 0.5)],
        "champion": [time.taking("champion", lambda turn: 0.001)],
    }
    assert latency_p95_ms(calls, time) == {"challenger": None, "champion": None}
    assert time.now <= MAX_SECONDS + 1.1


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collector_is_off_during_the_timing_and_as_before_afterwards(enabled: bool) -> None:
    before, during = gc.isenabled(), []
    try:
        (gc.enable if enabled else gc.disable)()
        latency_p95_ms({"challenger": [lambda: during.append(gc.isenabled())]}, Time())
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert set(during) == {False}


def test_both_models_predict_the_same_single_rows() -> None:
    time = Time()
    models = {"challenger": Timed(time, 0.002), "champion": Timed(time, 0.004)}
    frame = holdout_rows()
    costs, notes = measure_costs(
        _spec(max_latency_ratio=2.0),
        frame,
        {"challenger": _loaded(models["challenger"], 10), "champion": _loaded(models["champion"], 20)},
        clock=time,
    )
    assert costs["challenger"].latency_p95_ms == pytest.approx(2.0)
    assert costs["champion"].latency_p95_ms == pytest.approx(4.0)
    assert (costs["challenger"].size_bytes, costs["champion"].size_bytes) == (10, 20)
    assert notes == []
    mine, theirs = (pd.concat(models[who].seen) for who in ("challenger", "champion"))
    assert all(len(row) == 1 for row in models["challenger"].seen)
    pd.testing.assert_frame_equal(mine, theirs)
    assert mine.index.nunique() == 50
    assert list(mine) == ["good", "poor"]


def test_nothing_is_measured_that_nobody_asked_for() -> None:
    time = Time()
    model = Timed(time, 0.002)
    assert measure_costs(_spec(), holdout_rows(), {"challenger": _loaded(model, 10)}, clock=time) == ({}, [])
    costs, _ = measure_costs(_spec(max_size_mib=1.0), holdout_rows(), {"challenger": _loaded(model, 10)}, clock=time)
    assert costs == {"challenger": Cost(latency_p95_ms=None, size_bytes=10)}
    assert model.seen == []


def test_regressor_is_timed_on_predict() -> None:
    spec = ModelSpec.model_validate(
        {
            **SPEC,
            "task": "regression",
            "evaluation": {"primary": "mae"},
            "gate": {**SPEC["gate"], "floors": {}, "cost": {"max_latency_p95_ms": 5.0}},
        }
    )
    costs, notes = measure_costs(spec, holdout_rows(), {"challenger": _loaded(Predicting("good"), 1)}, clock=Time())
    assert costs["challenger"].latency_p95_ms == 0.0
    assert notes == []


def test_model_that_cannot_predict_one_row_has_no_latency_and_a_note() -> None:
    class Batches(Column):
        def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
            if len(frame) < 2:
                raise ValueError("a batch has at least 2 rows")
            return super().predict_proba(frame)

    costs, notes = measure_costs(
        _spec(max_latency_p95_ms=5.0), holdout_rows(), {"challenger": _loaded(Batches("good"), 7)}, clock=Time()
    )
    assert costs == {"challenger": Cost(latency_p95_ms=None, size_bytes=7)}
    assert notes == ["The latency could not be measured: ValueError: a batch has at least 2 rows"]
    assert gc.isenabled()
