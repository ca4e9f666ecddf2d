"""What the examples' tests share: the prepared year, an S3 in memory, and a run of a suite over a window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from moto import mock_aws
from threadpoolctl import threadpool_limits

from diabetes.publisher import read_visits
from flights.source import read_flights
from perennial.adapters.great_expectations import GreatExpectationsValidator
from perennial.ports import SuiteResult
from perennial.spec.loader import load_model, load_suite
from perennial.spec.model import ModelSpec

SPECS = Path(__file__).parents[3] / "include" / "models"

Failures = set[tuple[str, str | None]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def year(cache: Path) -> pd.DataFrame:
    frame: pd.DataFrame = read_flights(cache=cache).to_pandas()
    return frame


@pytest.fixture(scope="session")
def visits() -> pd.DataFrame:
    frame: pd.DataFrame = read_visits().to_pandas()
    return frame


@pytest.fixture(scope="session")
def flights_spec() -> ModelSpec:
    return load_model(SPECS, "flights_delay")


@pytest.fixture(scope="session")
def diabetes_spec() -> ModelSpec:
    return load_model(SPECS, "diabetes_progression")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """OpenMP threads that wait for each other on a busy machine take ten times as long as one thread."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="perennial")
        yield client


def night_of(day: date) -> datetime:
    """06:00 UTC of the day: 01:00 or 02:00 in New York, when no flight is scheduled."""
    return datetime(day.year, day.month, day.day, 6, tzinfo=UTC)


def run_suite(
    spec: ModelSpec, frame: pd.DataFrame, start: datetime, end: datetime, only: tuple[str, str | None] | None = None
) -> SuiteResult:
    """Validate the rows of [start, end) as the validate stage does: the needed columns, one batch.

    `only`: run the expectations of this type on this column alone, which takes a tenth of the time.
    """
    time = frame[spec.data.time_column]
    if getattr(time.dtype, "tz", None) is not None:
        frame = frame[(time >= start) & (time < end)]
    parameters = {
        "as_of": end + spec.data.label_delay,
        "window_start": start,
        "window_end": end,
        "window_days": (end - start) // timedelta(days=1),
        "watermark": end,
    }
    rows = frame[list(spec.needed_columns)].reset_index(drop=True)
    suite = load_suite(SPECS, spec)
    if only is not None:
        suite["expectations"] = [entry for entry in suite["expectations"] if (entry["type"], columns(entry)) == only]
    return GreatExpectationsValidator().validate(rows, suite, parameters)


def columns(entry: dict[str, Any]) -> str | None:
    """The columns that an expectation of a suite looks at, as its result will name them."""
    kwargs = entry["kwargs"]
    return ", ".join(kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs) or None


def failures(result: SuiteResult) -> Failures:
    """Expectation and column of everything that failed."""
    return {(entry.expectation, entry.column) for entry in result.results if not entry.success}


Change = Callable[[pd.DataFrame], pd.DataFrame]
