"""Profiles that train and evaluate keep, and what the monitor finds of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perennial.domain.drift import least_effect
from perennial.domain.profile import CategoryProfile, HoldoutProfile, NumberProfile, Profile
from perennial.errors import IntegrityError
from perennial.spec.model import ModelSpec
from perennial.stages.profiles import MAX_SLICE_LEVELS, load_profiles, write_training_profile
from perennial.testing.store import FolderStore
from tests.unit.core.evaluating import evaluate
from tests.unit.core.judging import Bench, Classes, Column, Constant, Predicting, holdout_rows
from tests.unit.core.serving.logged import ROOT
from tests.unit.core.test_spec_loader import VALID
from tests.unit.core.world import World

START = pd.Timestamp("2026-01-01", tz="UTC")
MONITORED = {"deployment": {"kind": "scoring_service"}, "monitoring": {"min_rows": 20, "slices": ["plan"]}}


def spec(**parts: Any) -> ModelSpec:
    return ModelSpec.model_validate({**VALID, **MONITORED, **parts})


def rows(days: int = 12, a_day: int = 100, *, warmer: float = 0.0) -> pd.DataFrame:
    """`age` is another on each day; a third of its rows has none; most rows have the plan `basic`."""
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(days), a_day)
    age = rng.normal(size=len(day)) + warmer * rng.normal(size=days)[day]
    return pd.DataFrame(
        {
            "seen_at": START + pd.to_timedelta(day * 86_400 + np.tile(np.arange(a_day), days), unit="s"),
            "age": np.where(np.arange(len(day)) % 3 == 0, np.nan, age),
            "plan": np.where(np.arange(len(day)) % 10 == 0, "gold", "basic"),
        }
    ).astype({"seen_at": "datetime64[us, UTC]"})


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path)
    store.add_bucket("bucket")
    return store


def kept(store: FolderStore, frame: pd.DataFrame, spec: ModelSpec = spec()) -> Profile:  # noqa: B008
    write_training_profile(store, ROOT, spec, "f1", frame)
    profile, _ = load_profiles(store, ROOT, spec.name, "f1")
    assert profile is not None
    return profile


def test_profile_has_each_feature_by_its_kind(store: FolderStore) -> None:
    profile = kept(store, rows())
    age, plan = profile.columns
    assert (profile.model, profile.fingerprint, profile.rows) == ("churn", "f1", 1200)
    assert isinstance(age, NumberProfile)
    assert (age.column, age.missing, sum(age.counts)) == ("age", 400, 800)
    assert isinstance(plan, CategoryProfile)
    assert (plan.levels, plan.counts) == (("basic", "gold"), (1080, 120))


def test_feature_kept_out_of_the_log_is_not_in_the_profile(store: FolderStore) -> None:
    own = spec(deployment={"kind": "scoring_service", "log": {"exclude": ["plan"]}}, monitoring=None)
    assert [column.column for column in kept(store, rows(), own).columns] == ["age"]


@pytest.mark.parametrize(
    ("values", "number"),
    [
        (pd.Series([True, False] * 600), False),
        (pd.Series(["a", None] * 600), False),
        (pd.Series(["a", "b"] * 600, dtype="category"), False),
        (pd.Series([1, 2] * 600, dtype="Int64"), True),
        (pd.Series([1.5, None] * 600, dtype="float32"), True),
        (pd.Series(pd.date_range("2026-01-01", periods=1200, freq="h", tz="Europe/Vienna")), True),
    ],
)
def test_column_is_of_numbers_or_of_categories(store: FolderStore, values: pd.Series, number: bool) -> None:
    column = kept(store, rows().assign(age=values)).columns[0]
    assert isinstance(column, NumberProfile if number else CategoryProfile)
    assert sum(column.counts) + column.missing == 1200


def test_column_varies_by_what_its_days_differ_surely(store: FolderStore) -> None:
    calm = kept(store, rows()).columns[0]
    lively = kept(FolderStore(store._root), rows(warmer=2.0), spec(name="lively")).columns[0]
    assert calm.varies_by < 0.3
    assert lively.varies_by > 0.8


def test_share_of_missing_values_varies_by_itself(store: FolderStore) -> None:
    frame = rows(a_day=400)
    day = (frame["seen_at"] - START).dt.days
    steady, changing = (
        kept(store, frame.assign(age=frame["age"].where(gone, 1.0)), spec(name=name)).columns[0]
        for name, gone in (("steady", day >= 0), ("changing", day % 2 == 0))
    )
    assert steady.missing_varies_by < 0.05
    assert changing.missing_varies_by > 0.1


@pytest.mark.parametrize(("days", "a_day", "known"), [(7, 100, True), (6, 100, False), (40, 5, True), (5, 10, False)])
def test_too_few_stretches_tell_nothing_and_short_ones_are_put_together(
    store: FolderStore, days: int, a_day: int, known: bool
) -> None:
    profile = kept(store, rows(days, a_day, warmer=9.0))
    assert (profile.columns[0].varies_by > 0) == known


def test_slices_have_their_own_rows_and_enough_of_them(store: FolderStore) -> None:
    frame = rows()
    frame.loc[:9, "plan"] = "tin"
    profile = kept(store, frame)
    assert [(one.column, one.level, one.rows) for one in profile.slices] == [
        ("plan", "basic", 1071),
        ("plan", "gold", 119),
    ]
    age = profile.slices[1].columns[0]
    assert sum(age.counts) + age.missing == 119
    assert isinstance(age, NumberProfile)
    assert age.mean == pytest.approx(frame.loc[frame["plan"] == "gold", "age"].mean())


def test_of_many_levels_those_with_most_rows_are_kept(store: FolderStore) -> None:
    frame = rows(a_day=200)
    frame["plan"] = [f"p{int(place)}" for place in np.sqrt(np.arange(len(frame)))]
    profile = kept(store, frame)
    assert len(profile.slices) == MAX_SLICE_LEVELS
    assert {one.level for one in profile.slices} == {f"p{place}" for place in range(29, 49)}


def test_profile_of_a_training_is_kept_once(store: FolderStore) -> None:
    first = kept(store, rows())
    assert kept(store, rows(days=3)) == first


def test_model_without_profiles_has_none(store: FolderStore) -> None:
    assert load_profiles(store, ROOT, "churn", "older") == (None, None)


def test_profile_that_was_changed_is_refused(store: FolderStore) -> None:
    kept(store, rows())
    uri = f"{ROOT}/profiles/churn/f1/training.json"
    values = json.loads(store.read(uri))
    store.write(uri, json.dumps({**values, "rows": "many"}).encode(), content_type="application/json")
    with pytest.raises(IntegrityError, match=r"training\.json is no profile of churn, training f1"):
        load_profiles(store, ROOT, "churn", "f1")
    store.write(uri, json.dumps({**values, "fingerprint": "f2"}).encode(), content_type="application/json")
    with pytest.raises(IntegrityError, match="it is of churn, training f2"):
        load_profiles(store, ROOT, "churn", "f1")


def evaluated(bench: Bench, estimator: Any, frame: pd.DataFrame | None = None) -> HoldoutProfile:
    challenger = bench.train(estimator, name="c1")
    evaluate(bench, challenger, frame)
    _, holdout = load_profiles(bench.store, ROOT, bench.spec.name, challenger.fingerprint)
    assert holdout is not None
    return holdout


def test_evaluate_keeps_scores_and_performance_of_the_holdout(tmp_path: Path) -> None:
    found = evaluated(Bench(tmp_path), Column("good"))
    frame = holdout_rows()
    assert (found.rows, found.confidence, found.classes) == (len(frame), pytest.approx(0.9), (0, 1))
    assert [(one.column, sum(one.counts)) for one in found.scores] == [("score", len(frame))]
    assert found.scores[0].mean == pytest.approx(frame["good"].mean())
    primary = found.performance[0]
    assert [one.metric for one in found.performance] == ["roc_auc", "log_loss", "brier"]
    assert primary.low is not None
    assert primary.high is not None
    assert primary.low < primary.value < primary.high


def test_calibration_tells_how_often_the_class_occurs_at_a_score(tmp_path: Path) -> None:
    frame = holdout_rows(rows_a_day=400)
    rng = np.random.default_rng(1)
    frame["late"] = (rng.random(len(frame)) < frame["good"] ** 2).astype("int64")
    (calibration,) = evaluated(Bench(tmp_path), Column("good"), frame).calibration
    for score in (0.2, 0.4, 0.6):
        assert np.interp(score, calibration.scores, calibration.frequencies) == pytest.approx(score**2, abs=0.07)
    assert list(calibration.frequencies) == sorted(calibration.frequencies)


def test_each_class_has_its_own_scores_and_calibration(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.respec(
        task="multiclass_classification",
        evaluation={"primary": "log_loss", "metrics": [], "slices": []},
        gate={"floors": {}},
    )
    frame = holdout_rows()
    frame["late"] = np.where(frame["good"] > 0.5, "c", np.where(frame["good"] > 0.3, "b", "a"))
    frame.loc[0, "late"] = "never seen"
    found = evaluated(bench, Classes(("a", "b", "c"), 0.8), frame)
    assert [one.column for one in found.scores] == ["a", "b", "c"]
    assert found.classes == ("a", "b", "c")
    assert len(found.calibration) == 3


def test_regression_has_predictions_and_no_calibration(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.respec(task="regression", evaluation={"primary": "mae", "metrics": [], "slices": []}, gate={"floors": {}})
    found = evaluated(bench, Predicting("good"))
    assert [one.column for one in found.scores] == ["prediction"]
    assert (found.calibration, found.classes) == ((), ())


def test_model_with_one_score_has_a_profile_too(tmp_path: Path) -> None:
    (score,) = evaluated(Bench(tmp_path), Constant("good")).scores
    assert (score.spread, score.varies_by) == (0.0, 0.0)


def test_performance_that_changes_by_the_day_varies(tmp_path: Path) -> None:
    frame = holdout_rows(rows_a_day=600)
    losing = frame.copy()
    odd = np.flatnonzero(pd.factorize(losing["day"])[0] % 2)
    losing.loc[odd, "good"] = losing.loc[odd, "poor"]
    steady, uneven = (
        evaluated(Bench(tmp_path / name), Column("good"), rows).performance[0]
        for name, rows in (("steady", frame), ("uneven", losing))
    )
    assert steady.varies_by < 0.01
    assert uneven.varies_by > 0.05


def test_cycle_leaves_both_profiles_of_what_it_trained(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.land(range(30))
    world.run()
    champion = world.registry.champion("toy")
    assert champion is not None
    training, holdout = load_profiles(world.store, ROOT, "toy", champion.model.fingerprint)
    assert training is not None
    assert holdout is not None
    assert [column.column for column in training.columns] == ["x", "z"]
    assert least_effect(training.columns[0], _again(training.columns[0])) == pytest.approx(0.0, abs=1e-6)
    assert holdout.performance[0].metric == "roc_auc"


def _again(column: Any) -> Any:
    from perennial.domain.profile import ColumnCounts

    return ColumnCounts(counts=np.array(column.counts), missing=column.missing, total=column.mean * sum(column.counts))


@pytest.mark.parametrize("values", [[1e308, -1e308, 1e308], [np.inf, -np.inf, 1.0], [np.nan] * 3, [5e-324, 0.0, -0.0]])
def test_extreme_numbers_have_a_profile_that_can_be_read(store: FolderStore, values: list[float]) -> None:
    frame = rows().assign(age=np.resize(np.array(values), 1200))
    with np.errstate(all="ignore"):
        column = kept(store, frame).columns[0]
    assert sum(column.counts) + column.missing == 1200
