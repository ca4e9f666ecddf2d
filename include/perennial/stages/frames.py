"""Reads a snapshot's rows: only the columns and the time window asked for, from the content-addressed copies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from perennial.domain.fingerprint import sha256_of
from perennial.domain.manifest import Manifest, ManifestFile
from perennial.domain.references import SnapshotRef
from perennial.domain.times import Interval
from perennial.errors import IntegrityError, NotFoundError, StoreUnavailableError, TerminalError, UndecodableError
from perennial.ports import ObjectStore
from perennial.stages.parquet_footer import group_span, moment, utc_times

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

WHOLE_BYTES: Final = 4 * 1024 * 1024
"""Objects up to this size are fetched in one request; of larger ones only the row groups and columns needed."""
_AT_ONCE: Final = 8


def load_manifest(store: ObjectStore, ref: SnapshotRef) -> Manifest:
    """The manifest that a reference names.

    Raises:
        IntegrityError: its bytes differ from the reference's sha256.
        NotFoundError: it is gone.
    """
    content = store.read(ref.uri)
    if sha256_of(content) != ref.sha256:
        raise IntegrityError(
            f"{ref.uri}: sha256 is {sha256_of(content)}, the reference says {ref.sha256}; the manifest was changed "
            f"after the snapshot was taken. Start a new run"
        )
    return Manifest.from_dict(json.loads(content))


def read_frame(
    store: ObjectStore, manifest: Manifest, columns: Sequence[str], interval: Interval, *, time_column: str
) -> pd.DataFrame:
    """The snapshot's rows within `interval`.

    Args:
        store: holds the copies.
        manifest: the snapshot's.
        columns: of the frame, in this order.
        interval: half-open; rows whose `time_column` lies in it.
        time_column: need not be among `columns`.

    Returns:
        Shape (rows, len(columns)), index 0..rows-1, by time, then by file (key) and position in it. The time column is
        datetime64[us, UTC]; other time stamps have microseconds too, and keep their time zone.

    Raises:
        NotFoundError: an object of the snapshot is gone.
        StoreUnavailableError: the store does not answer.
        TerminalError: a file lacks a column, or cannot be decoded.
    """
    import pyarrow as pa

    names = list(dict.fromkeys((*columns, time_column)))
    files = [file for file in manifest.files if file.first_row < interval.end and file.last_row >= interval.start]

    def read(file: ManifestFile) -> pa.Table:
        return _read_table(store, file.object_uri, file.size_bytes, names, interval, time_column)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # Without a file in the interval, any of them gives the columns and their types.
        tables = list(pool.map(read, files or manifest.files[:1]))
    table = pa.concat_tables(tables, promote_options="permissive")
    times = table[time_column].cast(pa.int64()).to_numpy()
    if (times[1:] < times[:-1]).any():
        table = table.take(pa.array(times.argsort(kind="stable")))
    frame: pd.DataFrame = table.select(list(columns)).to_pandas()
    return frame


def arrow_table(frame: pd.DataFrame) -> pa.Table:
    """The frame's columns without its index and pandas' notes; times keep their unit and zone.

    `pa.Table.from_pandas` alone reads `Series.values`, which pandas is about to change for times with a zone.
    """
    import pandas as pd
    import pyarrow as pa

    zoned = {name: kind for name, kind in frame.dtypes.items() if isinstance(kind, pd.DatetimeTZDtype)}
    plain = frame.assign(**{str(name): frame[name].dt.tz_convert(None) for name in zoned})
    table = pa.Table.from_pandas(plain, preserve_index=False).replace_schema_metadata(None)
    types = [
        pa.timestamp(zoned[field.name].unit, zoned[field.name].tz) if field.name in zoned else field.type
        for field in table.schema
    ]
    return table.cast(pa.schema(list(zip(table.column_names, types, strict=True))))


def newest_time(store: ObjectStore, uri: str, size_bytes: int, *, time_column: str, until: datetime) -> datetime:
    """Time of a file's newest row at or before `until`.

    Raises:
        ValueError: it has none.
        NotFoundError, StoreUnavailableError, TerminalError: as `read_frame`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    limit = pa.scalar(until, pa.timestamp("us", "UTC"))
    newest: list[int] = []
    with opened(store, uri, size_bytes) as file:
        spans = [group_span(file.metadata, group, time_column) for group in range(file.metadata.num_row_groups)]
        groups = [group for group, span in enumerate(spans) if span is None or span[0] <= until]
        for batch in file.iter_batches(row_groups=groups, columns=[time_column]):
            times = utc_times(batch.column(0))
            last = pc.max(times.filter(pc.less_equal(times, limit)).cast(pa.int64()))
            if last.is_valid:
                newest.append(last.as_py())
    if not newest:
        raise ValueError(f"{uri} has no row at or before {until}")
    return moment(max(newest))


def _read_table(
    store: ObjectStore, uri: str, size_bytes: int, names: list[str], interval: Interval, time_column: str
) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    with opened(store, uri, size_bytes) as file:
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            raise TerminalError(
                f"{uri} has no column {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}"
            )
        groups = groups_within(file.metadata, interval, time_column)
        # Files are read side by side; threads within one would only add to them.
        table = file.read_row_groups(groups, columns=names, use_threads=size_bytes > WHOLE_BYTES).select(names)
    arrays = {name: _plain(table[name]) for name in names}
    arrays[time_column] = utc_times(table[time_column])
    times = arrays[time_column]
    start, end = (pa.scalar(end, times.type) for end in (interval.start, interval.end))
    inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
    table = pa.table(arrays)
    return table if pc.all(inside).as_py() is True else table.filter(inside)


def groups_within(metadata: pq.FileMetaData, interval: Interval, time_column: str) -> list[int]:
    """The row groups that may hold rows of the interval, as far as their statistics tell."""
    spans = [group_span(metadata, group, time_column) for group in range(metadata.num_row_groups)]
    return [
        group
        for group, span in enumerate(spans)
        if span is None or (span[0] < interval.end and span[1] >= interval.start)
    ]


def _plain(column: Any) -> Any:
    """The column in the one form that all files' tables share, however each stores it."""
    import pyarrow as pa
    from pyarrow import types

    given = column.type
    if types.is_dictionary(given):
        return _plain(column.cast(given.value_type))
    if types.is_timestamp(given):
        return column.cast(pa.timestamp("us", given.tz), safe=False)
    if types.is_large_string(given) or types.is_string_view(given):
        return column.cast(pa.string())
    if types.is_large_binary(given) or types.is_binary_view(given):
        return column.cast(pa.binary())
    return column


@contextmanager
def opened(
    store: ObjectStore, uri: str, size_bytes: int, *, dictionaries: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """A Parquet file of the store, for reading; small ones are fetched at once.

    Args:
        store: holds it.
        uri: of the object.
        size_bytes: as it was listed.
        dictionaries: columns whose texts are to be read as codes; those that it lacks do not matter.

    Raises:
        NotFoundError: it is gone.
        StoreUnavailableError: the store does not answer.
        UndecodableError: it is no Parquet file.
        TerminalError: we are not allowed to read it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = store.arrow(uri)
    try:
        if size_bytes <= WHOLE_BYTES:
            with filesystem.open_input_stream(path) as stream:
                source = pa.BufferReader(stream.read())
        else:
            source = filesystem.open_input_file(path)
        with source:
            facts = pq.read_metadata(source) if dictionaries else None
            texts = [] if facts is None else [name for name in dictionaries if name in facts.schema.names]
            with pq.ParquetFile(source, metadata=facts, pre_buffer=True, read_dictionary=texts) as file:
                yield file
    except FileNotFoundError as error:
        raise NotFoundError(f"{uri} is gone from the store; a new run copies it again from the landing zone") from error
    except (OSError, pa.ArrowException) as error:
        if "AWS Error" not in str(error):
            raise UndecodableError(f"{uri} cannot be decoded as Parquet: {error}") from error
        if "ACCESS_DENIED" in str(error):
            raise TerminalError(f"{uri}: the credentials do not allow s3:GetObject there: {error}") from error
        raise StoreUnavailableError(f"cannot read {uri}: {error}") from error
