from __future__ import annotations

import pickle
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io

from flights.source import read_flights
from flights.training import CATEGORICAL_COLUMNS, build_estimator
from perennial.spec.model import ModelSpec

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def week(cache: Path) -> pd.DataFrame:
    frame: pd.DataFrame = read_flights(date(2013, 5, 13), date(2013, 5, 20), cache=cache).to_pandas()
    return frame


@pytest.fixture
def features(week: pd.DataFrame, flights_spec: ModelSpec) -> pd.DataFrame:
    return week[list(flights_spec.data.feature_columns)]


def test_features_hold_every_categorical_column_and_no_label(flights_spec: ModelSpec) -> None:
    features = set(flights_spec.data.feature_columns)
    assert set(CATEGORICAL_COLUMNS) <= features
    assert features.isdisjoint({"is_late", "arr_delay_minutes", "flight_id", "service_date", "scheduled_departure"})


def test_same_seed_gives_the_same_bytes(features: pd.DataFrame, week: pd.DataFrame) -> None:
    first, second = (build_estimator(max_iter=20, random_state=7).fit(features, week["is_late"]) for _ in range(2))
    assert pickle.dumps(first) == pickle.dumps(second)


def test_spec_parameters_build_the_estimator(flights_spec: ModelSpec) -> None:
    training = flights_spec.training
    classifier = build_estimator(**training.params, random_state=training.seed).named_steps["classifier"]
    assert classifier.max_iter == training.params["max_iter"]
    assert classifier.random_state == training.seed


def test_new_categories_and_missing_weather_are_scored(features: pd.DataFrame, week: pd.DataFrame) -> None:
    estimator = build_estimator(max_iter=20, random_state=7).fit(features, week["is_late"])
    strange = features.head(3).assign(carrier="ZZ", dest="XXX", origin=None, temp=np.nan, visib=np.nan)
    probability = estimator.predict_proba(strange)[:, 1]
    assert np.isfinite(probability).all()


def test_column_order_does_not_matter_for_scoring(features: pd.DataFrame, week: pd.DataFrame) -> None:
    estimator = build_estimator(max_iter=20, random_state=7).fit(features, week["is_late"])
    turned = features[features.columns[::-1]]
    np.testing.assert_array_equal(estimator.predict_proba(turned), estimator.predict_proba(features))


def test_model_survives_skops_with_types_of_scikit_learn_only(features: pd.DataFrame, week: pd.DataFrame) -> None:
    estimator = build_estimator(max_iter=20, random_state=7).fit(features, week["is_late"])
    content = skops.io.dumps(estimator)
    needed = skops.io.get_untrusted_types(data=content)
    assert all(name.startswith("sklearn.") or name == "functools.partial" for name in needed)
    loaded = skops.io.loads(content, trusted=needed)
    np.testing.assert_array_equal(loaded.predict_proba(features), estimator.predict_proba(features))


def test_it_learns_something(features: pd.DataFrame, week: pd.DataFrame) -> None:
    from sklearn.metrics import roc_auc_score

    train = week["service_date"] < "2013-05-18"
    estimator = build_estimator(random_state=7).fit(features[train], week["is_late"][train])
    assert roc_auc_score(week["is_late"][~train], estimator.predict_proba(features[~train])[:, 1]) > 0.55
