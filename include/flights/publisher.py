"""Lands days of flights in S3, one Parquet file a day, as an upstream system would.

    python -m flights.publisher --from 2013-01-01 --to 2013-02-01
    python -m flights.publisher --corrupted 2013-05-20 --fault unknown_carrier

Endpoint and credentials are boto3's own: `AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID` and so on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from botocore.config import Config

from flights.faults import FAULTS, corrupt
from flights.source import read_flights

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LANDING: Final = "s3://perennial/landing/flights/"
_THREADS: Final = 8


def publish(
    day_from: date,
    day_to: date,
    *,
    landing: str = LANDING,
    client: S3Client | None = None,
    cache: Path | None = None,
) -> list[str]:
    """Land the days [day_from, day_to), one file each, several at a time.

    Landing a day again writes the same bytes to the same key.

    Args:
        day_from: first local day.
        day_to: day after the last.
        landing: `s3://bucket/prefix/`; the bucket exists.
        client: an S3 client; None makes one from boto3's environment.
        cache: folder that keeps the prepared year; see `read_flights`.

    Returns:
        URIs of the files, by day.
    """
    days = list(_by_day(read_flights(day_from, day_to, cache=cache)))
    target = client if client is not None else _client()
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(lambda item: _put(target, landing, *item), days))


def publish_corrupted(
    day: date,
    *,
    faults: Iterable[str] = tuple(FAULTS),
    landing: str = LANDING,
    client: S3Client | None = None,
    cache: Path | None = None,
) -> str:
    """Land one day with the named faults, in place of the good file. `publish` of that day puts it right again.

    Returns:
        The file's URI.

    Raises:
        ValueError: no such fault, or no flights on that day.
    """
    table = read_flights(day, day + timedelta(days=1), cache=cache)
    if not table.num_rows:
        raise ValueError(f"there are no flights on {day}; the data is of 2013")
    return _put(client if client is not None else _client(), landing, day.isoformat(), corrupt(table, faults))


def object_uri(landing: str, day: str) -> str:
    """Where the file of a day (`YYYY-MM-DD`) lands."""
    return f"{landing.rstrip('/')}/dt={day}/flights.parquet"


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _by_day(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Each day's rows; the table is sorted by day, so a day is one slice."""
    counts = pc.value_counts(table["service_date"]).to_pylist()
    offset = 0
    for count in counts:
        yield count["values"], table.slice(offset, count["counts"])
        offset += count["counts"]


def _put(client: S3Client, landing: str, day: str, table: pa.Table) -> str:
    uri = object_uri(landing, day)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=key, Body=parquet_bytes(table), ContentType="application/vnd.apache.parquet")
    return uri


def _client() -> S3Client:
    client: S3Client = boto3.client("s3", config=Config(max_pool_connections=_THREADS))
    return client


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: land a range of days, or one corrupted day."""
    parser = argparse.ArgumentParser(prog="python -m flights.publisher", description="Land flights of 2013 in S3.")
    parser.add_argument("--from", dest="day_from", type=date.fromisoformat, metavar="DAY", help="first day")
    parser.add_argument("--to", dest="day_to", type=date.fromisoformat, metavar="DAY", help="day after the last")
    parser.add_argument("--corrupted", type=date.fromisoformat, metavar="DAY", help="land this day with faults instead")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="which fault (repeatable; default: all)")
    parser.add_argument("--landing", default=LANDING, help="s3://bucket/prefix/ (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder for the prepared data (default: $PERENNIAL_HOME/cache)")
    options = parser.parse_args(arguments)
    cache = options.cache or Path(os.environ.get("PERENNIAL_HOME") or ".perennial") / "cache"
    if options.corrupted:
        faults = options.fault or tuple(FAULTS)
        uris = [publish_corrupted(options.corrupted, faults=faults, landing=options.landing, cache=cache)]
    elif options.day_from and options.day_to:
        uris = publish(options.day_from, options.day_to, landing=options.landing, cache=cache)
    else:
        parser.error("give --from and --to, or --corrupted")
    sys.stdout.write("".join(f"{uri}\n" for uri in uris))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
