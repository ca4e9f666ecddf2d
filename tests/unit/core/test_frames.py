"""Reading a snapshot's rows: columns, window, order, types, and what is said when an object is not what it was."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perennial.domain.manifest import Manifest, ManifestFile
from perennial.domain.references import SnapshotRef
from perennial.domain.times import Interval
from perennial.domain.windows import DataWindows
from perennial.errors import IntegrityError, NotFoundError, StoreUnavailableError, TerminalError
from perennial.stages import frames
from perennial.stages.frames import arrow_table, load_manifest, newest_time, read_frame
from perennial.testing import FolderStore

START = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WINDOW = Interval(START, START + 1000 * HOUR)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path)
    store.add_bucket("bucket")
    return store


def hours(*values: float) -> list[datetime]:
    return [START + value * HOUR for value in values]


def at(*values: float) -> pa.Array:
    return pa.array(hours(*values), pa.timestamp("us", "UTC"))


def manifest_of(store: FolderStore, tables: Sequence[pa.Table], **options: Any) -> Manifest:
    files = []
    for number, table in enumerate(tables):
        stream = io.BytesIO()
        pq.write_table(table, stream, **options)
        content = stream.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        uri = f"s3://bucket/{sha256}.parquet"
        store.write(uri, content, content_type="")
        times = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in table["at"].to_pylist()]
        files.append(
            ManifestFile(
                key=f"{number}.parquet",
                object_uri=uri,
                sha256=sha256,
                size_bytes=len(content),
                rows=table.num_rows,
                first_row=min(times),
                last_row=max(times),
            )
        )
    return Manifest(
        model="churn",
        landing="s3://bucket/landing/",
        watermark=WINDOW.end,
        windows=DataWindows(training=WINDOW, holdout=Interval(WINDOW.end, WINDOW.end + HOUR)),
        schema={},
        files=tuple(files),
    )


def read(store: FolderStore, manifest: Manifest, *columns: str, window: Interval = WINDOW) -> Any:
    return read_frame(store, manifest, columns, window, time_column="at")


def test_rows_come_by_time_then_by_file_and_position(store: FolderStore) -> None:
    manifest = manifest_of(
        store,
        [
            pa.table({"at": at(3, 1, 2, 1), "n": [0, 1, 2, 3]}),
            pa.table({"at": at(1, 0, 3), "n": [10, 11, 12]}),
        ],
    )
    frame = read(store, manifest, "n", "at")
    assert list(frame.columns) == ["n", "at"]
    assert frame["n"].tolist() == [11, 1, 3, 10, 2, 0, 12]
    assert frame.index.tolist() == list(range(7))
    assert str(frame["at"].dtype) == "datetime64[us, UTC]"


def test_window_takes_its_start_and_leaves_its_end(store: FolderStore) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(0, 1, 2, 3), "n": [0, 1, 2, 3]})])
    assert read(store, manifest, "n", window=Interval(*hours(1, 3)))["n"].tolist() == [1, 2]


def test_frame_has_the_columns_asked_for_only(store: FolderStore) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(1, 0), "n": [1, 0], "m": [5, 6]})])
    frame = read(store, manifest, "m")
    assert list(frame.columns) == ["m"]
    assert frame["m"].tolist() == [6, 5]


@pytest.mark.parametrize("whole_bytes", [0, 10**9])
def test_only_files_and_row_groups_in_the_window_are_decoded(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(frames, "WHOLE_BYTES", whole_bytes)
    table = pa.table({"at": at(*range(100)), "n": list(range(100))})
    other = pa.table({"at": at(*range(200, 210)), "n": list(range(10))})
    manifest = manifest_of(store, [table, other], row_group_size=10, compression="none", use_dictionary=False)
    # The other file is gone, and the row groups that nobody needs are damaged.
    (tmp_path / manifest.files[1].object_uri.removeprefix("s3://")).unlink()
    path = tmp_path / manifest.files[0].object_uri.removeprefix("s3://")
    metadata = pq.read_metadata(path)
    content = bytearray(path.read_bytes())
    for group in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        column = metadata.row_group(group).column(1)
        content[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = (
            b"\xff" * column.total_compressed_size
        )
    path.write_bytes(content)
    assert read(store, manifest, "n", window=Interval(*hours(30, 40)))["n"].tolist() == list(range(30, 40))
    with pytest.raises(TerminalError, match="cannot be decoded"):
        read(store, manifest, "n", window=Interval(*hours(30, 41)))


def test_files_that_store_the_same_columns_in_other_ways_make_one_frame(store: FolderStore) -> None:
    naive = [moment.replace(tzinfo=None) for moment in hours(4, 5)]
    shops = pa.array(["a", "b"])
    manifest = manifest_of(
        store,
        [
            pa.table({"at": at(0, 1), "shop": shops, "day": pa.array(naive, pa.timestamp("ms"))}),
            pa.table({"at": at(2, 3), "shop": shops.dictionary_encode(), "day": pa.array(naive, pa.timestamp("ns"))}),
            pa.table({"day": pa.array(naive), "shop": shops.cast(pa.large_string()), "at": pa.array(naive)}),
            pa.table({"at": at(6, 7).cast(pa.timestamp("ns", "Asia/Tokyo")), "shop": pa.nulls(2), "day": pa.nulls(2)}),
        ],
    )
    frame = read(store, manifest, "at", "shop", "day")
    assert frame["at"].tolist() == hours(*range(8))
    assert frame["shop"].tolist()[:6] == ["a", "b"] * 3
    assert frame["shop"].isna().tolist() == [False] * 6 + [True] * 2
    assert str(frame["day"].dtype) == "datetime64[us]"


def test_window_without_rows_gives_an_empty_frame_of_the_same_types(store: FolderStore) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(0, 1), "n": [1.5, 2.5], "shop": ["a", "b"]})])
    full = read(store, manifest, "at", "n", "shop")
    for window in (Interval(*hours(50, 60)), Interval(*hours(0.25, 0.5))):
        empty = read(store, manifest, "at", "n", "shop", window=window)
        assert len(empty) == 0
        assert empty.dtypes.tolist() == full.dtypes.tolist()


def test_index_that_pandas_left_in_the_file_is_ignored(store: FolderStore) -> None:
    frame = pa.table({"at": at(0, 1), "n": [1, 2]}).to_pandas().set_index("n", drop=False)
    frame.index.name = "left"
    manifest = manifest_of(store, [pa.Table.from_pandas(frame)])
    assert read(store, manifest, "n").index.tolist() == [0, 1]


def test_object_that_is_gone_is_not_found(store: FolderStore, tmp_path: Path) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(0), "n": [1]})])
    (tmp_path / manifest.files[0].object_uri.removeprefix("s3://")).unlink()
    with pytest.raises(NotFoundError, match=manifest.files[0].sha256):
        read(store, manifest, "n")


def test_column_that_a_file_lacks_is_told(store: FolderStore) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(0), "n": [1]})])
    with pytest.raises(TerminalError, match="has no column m; it has at, n"):
        read(store, manifest, "m")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("When reading: AWS Error NETWORK_CONNECTION during GetObject: curlCode: 7", StoreUnavailableError),
        ("When reading: AWS Error SLOW_DOWN during GetObject", StoreUnavailableError),
        ("When reading: AWS Error ACCESS_DENIED during HeadObject", TerminalError),
    ],
)
def test_what_arrow_says_of_the_store_becomes_our_error(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, message: str, error: type[Exception]
) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(0), "n": [1]})])

    class Broken:
        def open_input_stream(self, path: str) -> None:
            raise OSError(message)

    monkeypatch.setattr(store, "arrow", lambda uri: (Broken(), "x"))
    with pytest.raises(error):
        read(store, manifest, "n")


@pytest.mark.parametrize("statistics", [True, False])
def test_newest_time_stops_at_the_limit(store: FolderStore, statistics: bool) -> None:
    table = pa.table({"at": at(*range(100))})
    (file,) = manifest_of(store, [table], row_group_size=10, write_statistics=statistics).files
    for limit, expected in ((55.5, 55), (55, 55), (9, 9), (500, 99)):
        got = newest_time(store, file.object_uri, file.size_bytes, time_column="at", until=START + limit * HOUR)
        assert got == START + expected * HOUR
    with pytest.raises(ValueError, match="no row at or before"):
        newest_time(store, file.object_uri, file.size_bytes, time_column="at", until=START - HOUR)


def _reference(manifest: Manifest, uri: str) -> SnapshotRef:
    return SnapshotRef(
        uri=uri,
        sha256=manifest.sha256,
        data_sha256=manifest.data_sha256,
        rows=manifest.rows,
        files=len(manifest.files),
        watermark=manifest.watermark,
        pending_files=0,
        refused_files=0,
    )


def test_manifest_reads_back_as_it_was_written(store: FolderStore) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(0), "n": [1]})])
    store.write("s3://bucket/m.json", manifest.to_bytes(), content_type="")
    assert load_manifest(store, _reference(manifest, "s3://bucket/m.json")) == manifest


def test_manifest_with_other_bytes_is_refused(store: FolderStore) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(0), "n": [1]})])
    store.write("s3://bucket/m.json", manifest.to_bytes() + b" ", content_type="")
    with pytest.raises(IntegrityError, match=manifest.sha256):
        load_manifest(store, _reference(manifest, "s3://bucket/m.json"))


def test_missing_manifest_is_not_found(store: FolderStore) -> None:
    manifest = manifest_of(store, [pa.table({"at": at(0), "n": [1]})])
    with pytest.raises(NotFoundError):
        load_manifest(store, _reference(manifest, "s3://bucket/m.json"))


@pytest.mark.filterwarnings("error")
def test_arrow_table_keeps_values_order_unit_and_zone_of_times_without_a_warning() -> None:
    given = pa.table(
        {
            "at": pa.array([*hours(0, 1), None], pa.timestamp("us", "UTC")),
            "id": pa.array([1, 2, 3]),
            "there": pa.array([*hours(2, 3), None], pa.timestamp("ms", "America/New_York")),
            "ahead": pa.array([*hours(4, 5), None], pa.timestamp("us", "+01:00")),
            "naive": pa.array([None, None, datetime(2013, 1, 1)], pa.timestamp("us")),  # noqa: DTZ001
            "name": pa.array(["a", None, "c"]),
        }
    )
    frame = given.to_pandas()
    frame.index = pd.Index([7, 5, 6])
    found = arrow_table(frame)
    assert found.column_names == given.column_names
    assert found.schema.metadata is None
    for name in ("at", "id", "there", "ahead", "naive"):
        assert found[name].type == given[name].type
    assert found.to_pylist() == given.to_pylist()
