from __future__ import annotations

import io
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.metrics import r2_score

from diabetes.publisher import FEATURE_COLUMNS, FIRST_MONDAY, SCHEMA, WEEKS, main, publish
from diabetes.training import build_estimator
from perennial.spec.model import ModelSpec

from .conftest import Change, failures, run_suite

END = FIRST_MONDAY + timedelta(weeks=WEEKS)
START = END - timedelta(days=42)
BETWEEN = "expect_column_values_to_be_between"


def test_every_patient_visits_once_within_eight_weeks(visits: pd.DataFrame) -> None:
    assert len(visits) == 442
    assert visits["patient_id"].is_unique
    assert visits["visited_at"].is_monotonic_increasing
    assert visits["visited_at"].between(FIRST_MONDAY, END, inclusive="left").all()
    assert visits["visit_date"].value_counts().between(7, 8).all()
    assert visits["visit_date"].nunique() == 7 * WEEKS


def test_publish_lands_one_file_a_week_with_stable_bytes(s3: Any) -> None:
    uris = publish(client=s3)
    assert len(uris) == WEEKS
    assert uris[0] == "s3://perennial/landing/diabetes/week=2013-01-07/visits.parquet"
    contents = [s3.get_object(Bucket="perennial", Key=uri[len("s3://perennial/") :])["Body"].read() for uri in uris]
    tables = [pq.read_table(io.BytesIO(content)) for content in contents]
    assert all(table.schema.equals(SCHEMA) for table in tables)
    assert sum(table.num_rows for table in tables) == 442
    publish([3], client=s3)
    key = uris[2][len("s3://perennial/") :]
    assert s3.get_object(Bucket="perennial", Key=key)["Body"].read() == contents[2]


@pytest.mark.parametrize("week", [0, WEEKS + 1])
def test_week_that_does_not_exist_is_refused(s3: Any, week: int) -> None:
    with pytest.raises(ValueError, match="weeks go from 1 to 8"):
        publish([week], client=s3)


def test_command_prints_what_it_landed(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--weeks", "2", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("weeks", [6, 7, 8])
def test_real_window_passes(weeks: int, visits: pd.DataFrame, diabetes_spec: ModelSpec) -> None:
    as_of = FIRST_MONDAY + timedelta(weeks=weeks, hours=3)
    newest = visits.loc[visits["visited_at"] < min(as_of, END), "visited_at"].max().to_pydatetime()
    end = newest + timedelta(minutes=1)
    assert failures(run_suite(diabetes_spec, visits, end - timedelta(days=42), end)) == set()


FAULTS: dict[str, tuple[Change, tuple[str, str | None]]] = {
    "a batch is missing": (
        lambda visits: visits[~visits["visit_date"].between("2013-02-04", "2013-02-10")],
        ("expect_column_unique_value_count_to_be_between", "visit_date"),
    ),
    "a batch came twice": (
        lambda visits: pd.concat([visits, visits[visits["visit_date"] >= "2013-02-25"]]),
        ("expect_column_values_to_be_unique", "patient_id"),
    ),
    "blood sugar is in mmol/l": (lambda visits: visits.assign(s6=visits["s6"] / 18), (BETWEEN, "s6")),
    "measurements are scaled": (lambda visits: visits.assign(bmi=visits["bmi"] / 100 - 0.26), (BETWEEN, "bmi")),
    "the label is missing": (
        lambda visits: visits.assign(progression=visits["progression"].mask(visits["age"] > 70)),
        ("expect_column_values_to_not_be_null", "progression"),
    ),
    "sex is coded 0 and 1": (
        lambda visits: visits.assign(sex=visits["sex"] - 1),
        ("expect_column_values_to_be_in_set", "sex"),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught(name: str, visits: pd.DataFrame, diabetes_spec: ModelSpec) -> None:
    change, expected = FAULTS[name]
    assert failures(run_suite(diabetes_spec, change(visits), START, END, only=expected)) == {expected}


def test_first_model_clears_the_floor_of_its_spec(visits: pd.DataFrame, diabetes_spec: ModelSpec) -> None:
    features = list(diabetes_spec.data.feature_columns)
    holdout_start = datetime(2013, 2, 4, tzinfo=UTC)
    train = visits[visits["visited_at"] < holdout_start]
    holdout = visits[visits["visited_at"].between(holdout_start, datetime(2013, 2, 18, tzinfo=UTC))]
    training = diabetes_spec.training
    estimator = build_estimator(**training.params, random_state=training.seed).fit(
        train[features], train["progression"]
    )
    assert len(holdout) >= diabetes_spec.gate.min_rows
    assert r2_score(holdout["progression"], estimator.predict(holdout[features])) > diabetes_spec.gate.floors["r2"]


def test_estimator_is_deterministic_and_needs_no_trusted_types(visits: pd.DataFrame) -> None:
    features = list(FEATURE_COLUMNS)
    first, second = (build_estimator(random_state=7).fit(visits[features], visits["progression"]) for _ in range(2))
    assert pickle.dumps(first) == pickle.dumps(second)
    assert skops.io.get_untrusted_types(data=skops.io.dumps(first)) == []
