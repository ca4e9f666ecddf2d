from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from flights.source import SCHEMA, WEATHER_COLUMNS, read_csv_files, read_flights

KNOWN_ONLY_AFTERWARDS = {"dep_delay", "dep_time", "arr_time", "arr_delay", "air_time", "tailnum"}


def test_columns_known_only_afterwards_are_not_published() -> None:
    assert KNOWN_ONLY_AFTERWARDS.isdisjoint(SCHEMA.names)


def test_labels_are_the_last_two_columns() -> None:
    assert SCHEMA.names[-2:] == ["is_late", "arr_delay_minutes"]


def test_every_flight_that_arrived_is_there_once(year: pd.DataFrame) -> None:
    assert len(year) == 327_346
    assert year["flight_id"].is_unique
    assert year["service_date"].nunique() == 365


def test_label_is_true_to_the_arrival_delay(year: pd.DataFrame) -> None:
    assert year["is_late"].dtype == "int8"
    pd.testing.assert_series_equal(year["is_late"] == 1, year["arr_delay_minutes"] > 15, check_names=False)


def test_departure_in_new_york_time_agrees_with_schedule_on_every_day_of_the_year(year: pd.DataFrame) -> None:
    assert str(year["scheduled_departure"].dtype) == "datetime64[us, UTC]"
    local = year["scheduled_departure"].dt.tz_convert("America/New_York").dt
    assert (local.strftime("%Y-%m-%d") == year["service_date"]).all()
    assert (local.hour * 60 + local.minute == year["sched_dep_minute"]).all()
    assert (local.day_of_week == year["weekday"]).all()
    assert (local.month == year["month"]).all()


@pytest.mark.parametrize(
    ("day", "hours_behind"),
    [("2013-03-09", 5), ("2013-03-10", 4), ("2013-11-02", 4), ("2013-11-03", 5)],
    ids=["before spring", "spring", "before autumn", "autumn"],
)
def test_offset_changes_on_the_days_of_the_clock_change(year: pd.DataFrame, day: str, hours_behind: int) -> None:
    flights = year[year["service_date"] == day]
    midnight = pd.Timestamp(day, tz="UTC") + pd.Timedelta(hours=hours_behind)
    expected = midnight + pd.to_timedelta(flights["sched_dep_minute"], unit="min")
    assert (flights["scheduled_departure"] == expected).all()


def test_weather_is_that_of_the_origin_in_the_scheduled_hour(year: pd.DataFrame) -> None:
    _, weather = read_csv_files()
    sample = year[year["temp"].notna()].sample(200, random_state=1)
    hour = sample["scheduled_departure"].dt.floor("h").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    observed = weather.set_index(["origin", "time_hour"]).loc[list(zip(sample["origin"], hour, strict=True))]
    for name in WEATHER_COLUMNS:
        pd.testing.assert_series_equal(
            sample[name].reset_index(drop=True), observed[name].reset_index(drop=True), check_names=False
        )


def test_rows_are_sorted_by_day_then_time(year: pd.DataFrame) -> None:
    assert year["service_date"].is_monotonic_increasing
    assert year["scheduled_departure"].is_monotonic_increasing


def test_range_of_days_is_half_open(cache: Path) -> None:
    days = read_flights(date(2013, 3, 1), date(2013, 3, 4), cache=cache)["service_date"].unique().to_pylist()
    assert days == ["2013-03-01", "2013-03-02", "2013-03-03"]


def test_cache_gives_the_same_rows_as_the_csv_files(cache: Path) -> None:
    day = (date(2013, 7, 4), date(2013, 7, 5))
    assert read_flights(*day, cache=cache).equals(read_flights(*day))


def test_cache_folder_holds_one_finished_file(cache: Path, year: pd.DataFrame) -> None:
    assert [path.suffix for path in cache.iterdir()] == [".parquet"]
