"""The suite passes the real data of every month, and stops each fault by the expectation meant for it."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from flights.faults import FAULTS, corrupt
from flights.source import WEATHER_COLUMNS, read_flights
from perennial.spec.loader import load_suite
from perennial.spec.model import ModelSpec

from .conftest import SPECS, Change, failures, night_of, run_suite

FIRST, LAST, END = date(2013, 5, 13), date(2013, 5, 19), date(2013, 5, 20)
MIDDLE = date(2013, 5, 16)
BETWEEN = "expect_column_values_to_be_between"
NOT_NULL = "expect_column_values_to_not_be_null"
IN_SET = "expect_column_values_to_be_in_set"


@pytest.fixture(scope="module")
def week(year: pd.DataFrame) -> pd.DataFrame:
    inside = (year["service_date"] >= FIRST.isoformat()) & (year["service_date"] < END.isoformat())
    return year[inside].reset_index(drop=True)


@pytest.mark.parametrize("month", range(1, 13, 2))
def test_two_real_months_pass(month: int, year: pd.DataFrame, flights_spec: ModelSpec) -> None:
    start, end = date(2013, month, 1), date(2013 + month // 11, (month + 2) % 12, 1)
    assert failures(run_suite(flights_spec, year, night_of(start), night_of(end))) == set()


@pytest.mark.parametrize("hour", [4, 14])
def test_real_window_passes_at_any_hour(hour: int, year: pd.DataFrame, flights_spec: ModelSpec) -> None:
    end = night_of(date(2013, 3, 20)).replace(hour=hour)
    assert failures(run_suite(flights_spec, year, end - timedelta(days=15), end)) == set()


FAULT_CAUGHT_BY = {
    "metric_weather": (BETWEEN, "visib"),
    "negative_distance": (BETWEEN, "distance"),
    "missing_origin": (NOT_NULL, "origin"),
    "duplicate_keys": ("expect_column_values_to_be_unique", "flight_id"),
    "unknown_carrier": (IN_SET, "carrier"),
    "unknown_label": (IN_SET, "is_late"),
    "clock_time_as_minutes": (BETWEEN, "sched_dep_minute"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_corrupted_day_is_caught_by_the_expectation_meant_for_it(
    fault: str, week: pd.DataFrame, cache: Path, flights_spec: ModelSpec
) -> None:
    day = corrupt(read_flights(MIDDLE, MIDDLE + timedelta(days=1), cache=cache), [fault]).to_pandas()
    frame = pd.concat([week[week["service_date"] != MIDDLE.isoformat()], day], ignore_index=True)
    assert failures(run_suite(flights_spec, frame, night_of(FIRST), night_of(END))) == {FAULT_CAUGHT_BY[fault]}


def without_day(day: date) -> Change:
    return lambda week: week[week["service_date"] != day.isoformat()]


def without_weather_for_two_days(week: pd.DataFrame) -> pd.DataFrame:
    lost = week["service_date"] >= (LAST - timedelta(days=1)).isoformat()
    return week.assign(**{name: week[name].mask(lost) for name in WEATHER_COLUMNS})


OTHER_FAULTS: dict[str, tuple[Change, tuple[str, str | None]]] = {
    "a day is missing": (
        without_day(MIDDLE),
        ("expect_column_unique_value_count_to_be_between", "service_date"),
    ),
    "the last day is missing": (without_day(LAST), ("expect_column_max_to_be_between", "scheduled_departure")),
    "the first day is missing": (without_day(FIRST), ("expect_column_min_to_be_between", "scheduled_departure")),
    "half of the rows are missing": (
        lambda week: week.iloc[::2],
        ("expect_table_row_count_to_be_between", None),
    ),
    "an airport's feed stopped": (
        lambda week: week[week["origin"] != "LGA"],
        ("expect_column_distinct_values_to_equal_set", "origin"),
    ),
    "the weather feed stopped": (without_weather_for_two_days, (NOT_NULL, "temp")),
    "the label's meaning was turned round": (
        lambda week: week.assign(is_late=(1 - week["is_late"]).astype("int8")),
        ("expect_column_mean_to_be_between", "is_late"),
    ),
    "labels have not arrived": (
        lambda week: week.assign(is_late=week["is_late"].where(week["service_date"] < LAST.isoformat())),
        (NOT_NULL, "is_late"),
    ),
    "temperature and dew point were swapped": (
        lambda week: week.rename(columns={"temp": "dewp", "dewp": "temp"}),
        ("expect_column_pair_values_a_to_be_greater_than_b", "temp, dewp"),
    ),
    "times are text": (
        lambda week: week.assign(scheduled_departure=week["scheduled_departure"].astype("string")),
        ("expect_column_values_to_be_of_type", "scheduled_departure"),
    ),
    "times have no time zone": (
        lambda week: week.assign(scheduled_departure=week["scheduled_departure"].dt.tz_localize(None)),
        (BETWEEN, "scheduled_departure"),
    ),
    "service dates are American": (
        lambda week: week.assign(service_date=pd.to_datetime(week["service_date"]).dt.strftime("%m/%d/%Y")),
        ("expect_column_values_to_match_regex", "service_date"),
    ),
}


@pytest.mark.parametrize("name", OTHER_FAULTS)
def test_fault_of_the_whole_feed_is_caught(name: str, week: pd.DataFrame, flights_spec: ModelSpec) -> None:
    change, expected = OTHER_FAULTS[name]
    result = run_suite(flights_spec, change(week), night_of(FIRST), night_of(END), only=expected)
    assert failures(result) == {expected}


def test_every_expectation_says_why_it_is_there(flights_spec: ModelSpec, diabetes_spec: ModelSpec) -> None:
    for spec in (flights_spec, diabetes_spec):
        expectations = load_suite(SPECS, spec)["expectations"]
        assert len(expectations) >= 12
        assert all(entry["meta"]["notes"] for entry in expectations)
