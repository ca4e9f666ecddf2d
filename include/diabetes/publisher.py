"""Lands scikit-learn's diabetes data in S3 as eight weekly batches of follow-up visits.

    python -m diabetes.publisher --weeks 1 8

The measurements are real (442 patients, Efron et al. 2004); the visit times are made up, see `docs/data.md`.
Endpoint and credentials are boto3's own: `AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID` and so on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_diabetes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LANDING: Final = "s3://perennial/landing/diabetes/"
FIRST_MONDAY: Final = datetime(2013, 1, 7, tzinfo=UTC)
WEEKS: Final = 8
FEATURE_COLUMNS: Final = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
SCHEMA: Final = pa.schema(
    [
        pa.field("patient_id", pa.string()),
        pa.field("visited_at", pa.timestamp("us", tz="UTC")),
        pa.field("visit_date", pa.string()),
        *(pa.field(name, pa.float64()) for name in FEATURE_COLUMNS),
        pa.field("progression", pa.float64()),
    ]
)

_CLINIC_OPENS_HOUR: Final = 8
_CLINIC_HOURS: Final = 8
_ORDER_SEED: Final = 2004


def read_visits() -> pa.Table:
    """All 442 visits by time, in clinical units (not scikit-learn's scaled ones).

    Patients come in a fixed random order, spread evenly over the clinic's hours of 56 days, 7 or 8 a day.
    """
    frame = load_diabetes(as_frame=True, scaled=False).frame
    visits = frame.rename(columns={"target": "progression"}).astype("float64")
    visits["patient_id"] = [f"patient-{number:03d}" for number in range(1, len(visits) + 1)]
    visits = visits.iloc[np.random.default_rng(_ORDER_SEED).permutation(len(visits))]
    times = [_visit_time(position, len(visits)) for position in range(len(visits))]
    visits["visited_at"] = times
    visits["visit_date"] = [time.date().isoformat() for time in times]
    return pa.Table.from_pandas(visits, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)


def publish(
    weeks: Iterable[int] = range(1, WEEKS + 1), *, landing: str = LANDING, client: S3Client | None = None
) -> list[str]:
    """Land the batches of these weeks (1 to 8), one file each. A batch landed again has the same bytes and key.

    Returns:
        URIs of the files.

    Raises:
        ValueError: there is no such week.
    """
    visits = read_visits()
    target: S3Client = client if client is not None else boto3.client("s3")
    return [_put(target, landing, *_batch(visits, week)) for week in weeks]


def _visit_time(position: int, count: int) -> datetime:
    day, within_day = divmod(position * WEEKS * 7 / count, 1)
    minutes = int(within_day * _CLINIC_HOURS * 60)
    return FIRST_MONDAY + timedelta(days=day, hours=_CLINIC_OPENS_HOUR, minutes=minutes)


def _batch(visits: pa.Table, week: int) -> tuple[str, pa.Table]:
    if not 1 <= week <= WEEKS:
        raise ValueError(f"week {week} is not there: weeks go from 1 to {WEEKS}")
    monday = (FIRST_MONDAY + timedelta(weeks=week - 1)).date().isoformat()
    next_monday = (FIRST_MONDAY + timedelta(weeks=week)).date().isoformat()
    inside = [monday <= day < next_monday for day in visits["visit_date"].to_pylist()]
    return monday, visits.filter(pa.array(inside))


def _put(client: S3Client, landing: str, monday: str, batch: pa.Table) -> str:
    uri = f"{landing.rstrip('/')}/week={monday}/visits.parquet"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    sink = pa.BufferOutputStream()
    pq.write_table(batch, sink, compression="zstd")
    client.put_object(Bucket=bucket, Key=key, Body=sink.getvalue().to_pybytes())
    return uri


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: land a range of weeks."""
    parser = argparse.ArgumentParser(prog="python -m diabetes.publisher", description="Land diabetes visits in S3.")
    parser.add_argument("--weeks", type=int, nargs=2, default=(1, WEEKS), metavar=("FIRST", "LAST"))
    parser.add_argument("--landing", default=LANDING, help="s3://bucket/prefix/ (default: %(default)s)")
    options = parser.parse_args(arguments)
    first, last = options.weeks
    sys.stdout.write("".join(f"{uri}\n" for uri in publish(range(first, last + 1), landing=options.landing)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
