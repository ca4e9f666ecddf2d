"""What the controller gets to see of a log: which rows count for whom, and what a broken one becomes."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perennial.domain.canary import CanaryState, Move, Observation, Reading, advance
from perennial.domain.traffic import Role
from perennial.errors import StoreUnavailableError
from perennial.serving.labels import Label, LabelLog
from perennial.spec.deployment import Log
from perennial.spec.model import ModelSpec
from perennial.stages.canary_observation import label_positions, observe, scores_of
from perennial.testing import FixedClock
from tests.unit.core.serving.logged import NOON, ROOT, FaultyStore, request, started
from tests.unit.core.test_spec_loader import VALID

CANARY = {
    "steps": [50, 100],
    "every": "10m",
    "max_extend": "2d",
    "guardrails": {"performance_loss": {"max": 0.02, "min_samples": 2}, "prediction_distance": {"min_samples": 4}},
}
SPEC = ModelSpec.model_validate({**VALID, "deployment": {"kind": "scoring_service", "canary": CANARY}})
STATE = CanaryState(started_at=NOON, step=1, step_started_at=NOON + timedelta(minutes=10))
NOW = NOON + timedelta(minutes=20)


class World:
    """A store with a log and labels."""

    def __init__(self, path: Path) -> None:
        self.store = FaultyStore(path / "s3")
        self._log = started(self.store, path / "home")
        self._count = 0

    def asked(self, minute: float, version: str, role: Role, score: float | None, **changes: Any) -> str:
        """A request this long after the canary began; its id."""
        self._count += 1
        prediction: Any = None if score is None else [[1 - score, score]]
        at = NOON + timedelta(minutes=minute)
        self._log.add(request(self._count, version=version, role=role, predictions=prediction, at=at, **changes))
        return f"r-{self._count}"

    def label(self, **labels: float) -> None:
        found = [Label(name.replace("_", "-"), 0, value) for name, value in labels.items()]
        LabelLog(self.store, ROOT, FixedClock(NOON + timedelta(minutes=19))).add("churn", found)

    def observe(self, state: CanaryState = STATE, **changes: Any) -> dict[str, Reading]:
        self._log.close()
        assert SPEC.deployment is not None
        assert SPEC.deployment.canary is not None
        given = {"champion": "3", "challenger": "4", "classes": (0, 1), "now": NOW, **changes}
        spec = given.pop("spec", SPEC)
        return observe(spec, SPEC.deployment.canary, state, store=self.store, root=ROOT, **given)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_challenger_counts_since_its_step_and_the_champion_since_before_the_canary(world: World) -> None:
    for minute in (-11, -9, 1, 12):
        world.asked(minute, "3", Role.CHAMPION, 0.5, latency_ms=2.0)
    for minute in (-5, 9, 10, 19, 20):
        world.asked(minute, "4", Role.CANARY, 0.7, latency_ms=6.0)
    found = world.observe()
    assert found["error_rate"] == Reading(value=0.0, samples=2)
    assert found["latency_p95_ratio"] == Reading(value=3.0, samples=2)
    assert found["prediction_distance"].value == pytest.approx(0.2)
    assert found["prediction_distance"].samples == 2


def test_challenger_counts_whatever_its_rows_call_it_and_the_champion_only_as_champion(world: World) -> None:
    world.asked(11, "4", Role.CHAMPION, 0.5)  # a container that serves one version only
    world.asked(11, "4", Role.SHADOW, 0.5)
    world.asked(-1, "4", Role.CHAMPION, 0.5)  # before the canary began
    world.asked(11, "3", Role.CANARY, 0.5)  # of the canary that made it champion
    found = world.observe()
    assert found["error_rate"].samples == 2
    assert found["latency_p95_ratio"].samples == 0


def test_requests_that_could_not_be_scored_are_errors_once_each(world: World) -> None:
    world.asked(11, "4", Role.CANARY, None, error="model: it raised", features={})
    world.asked(12, "4", Role.CANARY, 0.5)
    rows = [[0.5, 0.5]] * 3
    world._log.add(
        request(99, rows=3, version="4", role=Role.CANARY, at=NOON + timedelta(minutes=13), predictions=rows)
    )
    found = world.observe()
    assert found["error_rate"] == Reading(value=pytest.approx(1 / 3), samples=3)
    assert found["prediction_distance"].samples == 0  # none of the champion's


def test_labels_count_since_the_canary_began_for_those_who_gave_the_scores(world: World) -> None:
    scores = {"3": (0.9, 0.1), "4": (0.2, 0.8)}
    for version, role in (("3", Role.CHAMPION), ("4", Role.CANARY)):
        for minute, score in zip((1, 11), scores[version], strict=True):
            world.asked(minute, version, role, score)
    world.label(r_1=1.0, r_2=0.0, r_3=1.0, r_4=0.0)
    found = world.observe()
    # The champion ranks both rows right (AUC 1), the challenger both wrong (AUC 0).
    assert found["performance_loss"] == Reading(value=1.0, samples=2)
    assert found["error_rate"].samples == 1


def test_labels_that_landed_as_files_count_as_those_that_were_sent(world: World) -> None:
    for version, role, score in (("3", Role.CHAMPION, 0.9), ("4", Role.CANARY, 0.9)):
        world.asked(1, version, role, score)
        world.asked(11, version, role, 1 - score)
    rows = b"request_id,label,received_at\n" + b"".join(
        b"r-%d,%d,2026-11-21T12:19:00Z\n" % (number, label) for number, label in enumerate((1, 0, 0, 1), 1)
    )
    world.store.write("s3://bucket/outcomes/a.csv", rows, content_type="text/csv")
    world.store.write("s3://bucket/outcomes/b.csv", b"garbage", content_type="text/csv")
    assert SPEC.deployment is not None
    log = Log(labels="s3://bucket/outcomes")
    spec = SPEC.model_copy(update={"deployment": SPEC.deployment.model_copy(update={"log": log})})
    # The champion ranks both rows right (AUC 1), the challenger both wrong (AUC 0).
    assert world.observe(spec=spec)["performance_loss"] == Reading(value=1.0, samples=2)


def test_prediction_of_nan_rolls_the_canary_back(world: World) -> None:
    for minute in (11, 12, 13, 14):
        world.asked(minute, "3", Role.CHAMPION, 0.5)
        world.asked(minute, "4", Role.CANARY, 0.5)
    world._log.add(
        request(99, version="4", role=Role.CANARY, at=NOON + timedelta(minutes=15), predictions=[[None, None]])
    )
    found = world.observe()
    assert math.isnan(found["prediction_distance"].value or 0)
    assert SPEC.deployment is not None
    assert SPEC.deployment.canary is not None
    _, action = advance(SPEC.deployment.canary, STATE, Observation(readings=found), NOW)
    assert action.move is Move.ROLL_BACK


@pytest.mark.parametrize("now", [NOON + timedelta(minutes=10), NOON - timedelta(hours=1)])
def test_first_look_at_an_empty_log_holds(world: World, now: Any) -> None:
    found = world.observe(CanaryState(started_at=NOON, step=0, step_started_at=NOON), now=now)
    assert all(reading.samples == 0 for reading in found.values())
    assert SPEC.deployment is not None
    assert SPEC.deployment.canary is not None
    state = CanaryState(started_at=NOON, step=0, step_started_at=NOON)
    assert advance(SPEC.deployment.canary, state, Observation(readings=found), NOON)[1].move is Move.HOLD


def test_store_that_does_not_answer_is_no_observation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(_: str) -> Any:
        raise StoreUnavailableError("connection refused")

    monkeypatch.setattr(world.store, "list", down)
    with pytest.raises(StoreUnavailableError):
        world.observe()


@pytest.mark.parametrize(
    ("task", "predictions", "scores"),
    [
        ("regression", [1.5, 2, None, "x"], [1.5, 2.0, math.nan, math.nan]),
        ("regression", [], []),
        ("binary_classification", [[0.25, 0.75], np.array([0.5, math.nan])], [0.75, math.nan]),
        ("binary_classification", [None, 0.5, "[0.5, 0.5]", [0.2, 0.3, 0.5]], [math.nan] * 4),
        (
            "binary_classification",
            [["yes", "no"], [None, 0.5], [[0.5], [0.5]], [{}, 1]],
            [math.nan, 0.5, math.nan, math.nan],
        ),
        ("binary_classification", [], []),
        (
            "multiclass_classification",
            [[0.2, 0.3, 0.5], [0.5, 0.5], None],
            [[0.2, 0.3, 0.5], [math.nan] * 3, [math.nan] * 3],
        ),
    ],
)
def test_logged_predictions_are_scores_or_nan(task: Any, predictions: list[Any], scores: list[Any]) -> None:
    found = scores_of(task, pd.Series(predictions, dtype=object))
    np.testing.assert_array_equal(found, np.array(scores, dtype=float).reshape(found.shape))


@pytest.mark.parametrize("garbage", ["spam", "1e999", 7.0])
def test_label_that_is_none_of_the_classes_counts_for_nothing(world: World, garbage: float | str) -> None:
    for _ in range(2):
        world.asked(11, "3", Role.CHAMPION, 0.9)
        world.asked(11, "4", Role.CANARY, 0.9)
    world.asked(11, "4", Role.CANARY, 0.9)
    world.label(r_1=1.0, r_2=1.0, r_3=0.0, r_4=0.0)
    before = world.observe()["performance_loss"]
    LabelLog(world.store, ROOT, FixedClock(NOON + timedelta(minutes=19))).add("churn", [Label("r-5", 0, garbage)])
    assert world.observe()["performance_loss"] == before == Reading(value=before.value, samples=2)
    assert before.value is not None
    assert math.isfinite(before.value)


def test_labels_of_a_regression_that_are_no_numbers_count_for_nothing() -> None:
    given = pd.Series(["1.5", "spam", "1e999"])
    assert label_positions(given, ()).dropna().tolist() == [1.5]


def test_label_of_a_model_whose_classes_are_true_and_false_is_sent_as_a_number() -> None:
    assert label_positions(pd.Series([0.0, 1.0, 2.0]), (False, True)).tolist()[:2] == [0.0, 1.0]
    assert label_positions(pd.Series([2.0]), (False, True)).isna().all()
