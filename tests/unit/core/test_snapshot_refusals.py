"""What the snapshot leaves out, what it tells of it, and what it has to do without."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from perennial.errors import NoDataError, NotFoundError
from perennial.ledger import Ledger
from perennial.stages.frames import load_manifest, read_frame
from perennial.stages.snapshot import take_snapshot
from perennial.testing import FixedClock, MemoryRegistry
from tests.unit.core.landed import (
    DAY,
    DAYS,
    LANDING,
    ROWS,
    SPEC,
    START,
    CountingStore,
    day_table,
    keys_of,
    land,
    landed_store,
    make_spec,
    name_of,
    request_at,
    request_past,
    snap,
    to_bytes,
    unusable_of,
)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return landed_store(tmp_path / "s3")


@pytest.mark.parametrize(
    ("key", "content", "why", "detail"),
    [
        ("new.parquet", b"", "empty", "0 bytes"),
        ("new.parquet", to_bytes(day_table(DAYS - 1).slice(0, 0)), "empty", "without rows"),
        ("new.parquet", to_bytes(day_table(DAYS - 1))[:-9], "still_being_written", "no footer"),
        ("new.parquet", b"PAR1", "still_being_written", "no footer"),
        ("new.parquet.tmp", to_bytes(day_table(DAYS - 1)), "still_being_written", "unfinished"),
        ("new.parquet", b"id,at\n1,2013-01-01\n", "not_parquet", "begins with b'id,a'"),
        ("new.parquet", b"PA", "not_parquet", "begins with b'PA'"),
        ("new.parquet", b"PAR1" + b"\xff" * 50 + b"\x10\0\0\0PAR1", "not_parquet", "footer cannot be read"),
        ("new.parquet", b"PAR1" + b"\xff\xff\xff\x00PAR1", "not_parquet", "footer cannot be read"),
        ("new.parquet", to_bytes(day_table(19, x=None)), "schema_changed", "missing: x"),
        ("new.parquet", to_bytes(day_table(19, at=None)), "schema_changed", "missing: at"),
        ("new.parquet", to_bytes(day_table(19, x=["1"] * ROWS)), "schema_changed", "x is string, was double"),
        ("new.parquet", to_bytes(day_table(19, at=["now"] * ROWS)), "schema_changed", "must be a timestamp"),
        (
            "new.parquet",
            to_bytes(day_table(19, at=pa.array([START + 19 * DAY, None] * 12, pa.timestamp("us", "UTC")))),
            "schema_changed",
            "null in 12 of 24 rows",
        ),
    ],
)
def test_unusable_file_is_left_out_and_told(
    store: CountingStore, key: str, content: bytes, why: str, detail: str
) -> None:
    ref = snap(store)
    land(store, key, content)
    other = snap(store)
    told = unusable_of(store, other)[key]
    assert told.why == why
    assert detail in told.detail
    assert (other.pending_files, other.refused_files) == (
        (0, 1) if why in ("not_parquet", "schema_changed") else (1, 0)
    )
    assert other.data_sha256 == ref.data_sha256
    assert snap(store) == other


def test_young_file_waits_until_it_has_settled(store: CountingStore) -> None:
    spec = make_spec(settle="10m")
    info = store.head(LANDING + name_of(0))
    assert info is not None
    with pytest.raises(NoDataError, match="20 still_being_written"):
        snap(store, spec=spec, now=info.modified + timedelta(minutes=9))
    assert snap(store, spec=spec, now=info.modified + timedelta(minutes=11)).pending_files == 0


@pytest.mark.parametrize("key", ["_SUCCESS", "_temporary/0/x.parquet", ".x.parquet.crc", "a/.hidden/x.parquet"])
def test_hidden_name_is_ignored_in_silence(store: CountingStore, key: str) -> None:
    ref = snap(store)
    land(store, key, b"whatever")
    assert snap(store) == ref


def test_own_store_below_the_landing_zone_is_no_data(store: CountingStore) -> None:
    clock = FixedClock(request_at().as_of)
    ref = take_snapshot(
        SPEC,
        request_at(),
        store=store,
        root=LANDING + "own",
        ledger=Ledger(store, LANDING + "own", clock),
        registry=MemoryRegistry(),
        clock=clock,
        code_version="1",
        policy="p",
    )
    land(store, "own/objects/x.txt", b"x")
    assert load_manifest(store, ref).unusable == ()


@pytest.mark.parametrize(
    "columns",
    [
        {"more": [1] * ROWS},
        {"shop": pa.array(["a"] * ROWS).dictionary_encode()},
        {"shop": pa.array(["a"] * ROWS, pa.large_string())},
        {"shop": pa.nulls(ROWS)},
        {"at": pa.array([START.replace(tzinfo=None) + 20 * DAY] * ROWS, pa.timestamp("ns"))},
        {"at": pa.array([START + 20 * DAY] * ROWS, pa.timestamp("ms", "America/New_York"))},
    ],
)
def test_other_encoding_of_the_same_columns_is_welcome(store: CountingStore, columns: Mapping[str, Any]) -> None:
    table = day_table(20, **columns)
    land(store, name_of(20), to_bytes(table.select(list(reversed(table.column_names)))))
    ref = snap(store, request_at(START + 21 * DAY))
    manifest = load_manifest(store, ref)
    assert manifest.unusable == ()
    assert keys_of(manifest)[-1] == name_of(20)
    frame = read_frame(store, manifest, SPEC.needed_columns, manifest.windows.whole, time_column="at")
    assert frame["at"].max() >= START + 20 * DAY
    assert str(frame["at"].dtype) == "datetime64[us, UTC]"


def test_old_schema_stops_nothing_once_it_left_the_windows(store: CountingStore) -> None:
    land(store, name_of(1), to_bytes(day_table(1, x=None)))
    assert snap(store, request_past(14)).refused_files == 1
    land(store, name_of(2), to_bytes(day_table(2, x=["1"] * ROWS)))
    assert snap(store).refused_files == 0


def test_type_is_that_of_the_oldest_file_in_the_windows(store: CountingStore) -> None:
    for day in range(12):
        land(store, name_of(day), to_bytes(day_table(day, x=[1] * ROWS)))
    ref = snap(store, request_past(14))
    assert ref.watermark == START + 12 * DAY - timedelta(minutes=59)
    assert unusable_of(store, ref)[name_of(12)].detail == "x is double, was int64"
    assert snap(store, request_at(START + 12 * DAY - timedelta(seconds=1))).refused_files == 0


@pytest.mark.parametrize("options", [{"write_statistics": False}, {"use_deprecated_int96_timestamps": True}])
def test_file_without_statistics_is_read_for_its_times(store: CountingStore, options: Mapping[str, Any]) -> None:
    land(store, name_of(20), to_bytes(day_table(20), **options))
    file = load_manifest(store, snap(store, request_at(START + 21 * DAY))).files[-1]
    assert (file.first_row, file.last_row) == (START + 20 * DAY, START + 20 * DAY + timedelta(hours=23))


def test_nothing_usable_tells_what_was_found_and_what_is_needed(store: CountingStore) -> None:
    land(store, "empty.parquet", b"")
    for day in range(DAYS):
        land(store, name_of(day), b"<html>")
    with pytest.raises(NoDataError, match="20 not_parquet") as caught:
        snap(store)
    for part in ("churn", LANDING, "1 empty", name_of(0), "id, at, label, x, shop", "2013-01-06"):
        assert part in str(caught.value)


def test_empty_landing_zone_is_no_data(tmp_path: Path) -> None:
    store = CountingStore(tmp_path)
    store.add_bucket("bucket")
    with pytest.raises(NoDataError, match="found no files"):
        snap(store)


def test_missing_landing_bucket_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="bucket"):
        snap(CountingStore(tmp_path))


def test_too_little_history_for_training_is_no_data(store: CountingStore) -> None:
    with pytest.raises(NoDataError, match=r"no data in the training window .* reach from 2013-01-01T00:00:00Z"):
        snap(store, request_at(START + 4 * DAY))


def test_history_shorter_than_the_training_window_is_told(
    store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert snap(store, request_at(START + 8 * DAY)).files == 8
    assert "churn run-1 snapshot: data begins at 2013-01-01T00:00:00Z" in caplog.text
