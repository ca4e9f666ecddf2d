"""Faults as upstream systems make them, to show that validation stops them. Schema and file name stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import pandas as pd
import pyarrow as pa

from flights.source import SCHEMA

Fault = Callable[[pd.DataFrame], pd.DataFrame]

_MILE_KM: Final = 1.609344


def metric_weather(day: pd.DataFrame) -> pd.DataFrame:
    """The weather provider switched to metric units: degrees Celsius, kilometres an hour, visibility in kilometres."""
    in_celsius = {name: (day[name] - 32) / 1.8 for name in ("temp", "dewp")}
    in_kilometres = {name: day[name] * _MILE_KM for name in ("wind_speed", "wind_gust", "visib")}
    return day.assign(**in_celsius, **in_kilometres)


def negative_distance(day: pd.DataFrame) -> pd.DataFrame:
    """A look-up table lost some airports; -1 stands for an unknown distance on every tenth flight."""
    return day.assign(distance=day["distance"].mask(_every(day, 10), -1))


def missing_origin(day: pd.DataFrame) -> pd.DataFrame:
    """A join went wrong: every twentieth flight comes without its origin."""
    return day.assign(origin=day["origin"].mask(_every(day, 20), None))


def duplicate_keys(day: pd.DataFrame) -> pd.DataFrame:
    """A producer retried a part of its batch: every thirtieth flight is there twice."""
    return pd.concat([day, day[_every(day, 30)]], ignore_index=True)


def unknown_carrier(day: pd.DataFrame) -> pd.DataFrame:
    """United's system sends the ICAO code UAL where the IATA code UA was."""
    return day.assign(carrier=day["carrier"].replace({"UA": "UAL"}))


def unknown_label(day: pd.DataFrame) -> pd.DataFrame:
    """The label job sends -1 for flights that it has not seen arrive, every fifteenth."""
    return day.assign(is_late=day["is_late"].mask(_every(day, 15), -1))


def clock_time_as_minutes(day: pd.DataFrame) -> pd.DataFrame:
    """Half past five in the afternoon arrives as 1730, not as the 1050th minute of the day."""
    minute = day["sched_dep_minute"]
    return day.assign(sched_dep_minute=minute // 60 * 100 + minute % 60)


FAULTS: Final[dict[str, Fault]] = {
    fault.__name__: fault
    for fault in (
        metric_weather,
        negative_distance,
        missing_origin,
        duplicate_keys,
        unknown_carrier,
        unknown_label,
        clock_time_as_minutes,
    )
}
"""Every fault by name."""


def corrupt(day: pa.Table, faults: Iterable[str]) -> pa.Table:
    """The day with the named faults, one after the other.

    Raises:
        ValueError: a name is not in `FAULTS`.
    """
    frame = day.to_pandas()
    for name in faults:
        if name not in FAULTS:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
        frame = FAULTS[name](frame)
    return pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)


def _every(day: pd.DataFrame, n: int) -> pd.Series:
    return pd.Series([position % n == 0 for position in range(len(day))], index=day.index)
