"""What a Parquet file tells of itself: columns, rows, and the times of its oldest and newest row.

Types are compared in a canonical spelling, which leaves out how values are stored but keeps what they are:
dictionary-encoded text is text, large_string is string, and a timestamp's unit does not matter; its time zone, the
width of a number and integer against floating point do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from perennial.domain.manifest import UnusableFile
from perennial.domain.times import EPOCH, format_time

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAGIC: Final = b"PAR1"
TAIL_BYTES: Final = 64 * 1024
"""Read from a file's end in one go: most footers are smaller."""
_LEAST_BYTES: Final = 12
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_PER_MICROSECOND: Final = {"milliseconds": (1000, 1), "microseconds": (1, 1), "nanoseconds": (1, 1000)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Of one Parquet file."""

    rows: int
    schema: Mapping[str, str]
    first_row: datetime | None
    """None if there are no rows, or no time column that is a timestamp."""
    last_row: datetime | None
    rows_without_time: int


def read_footer(
    key: str, size_bytes: int, modified: datetime, read: Callable[[int, int], bytes]
) -> pq.FileMetaData | UnusableFile:
    """The footer of a file, or why it has none.

    Args:
        key: landing key, for the answer.
        size_bytes: of the file, more than 0.
        modified: when it was written, for the answer.
        read: gives the file's bytes [start, end).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = max(0, size_bytes - TAIL_BYTES)
    tail = read(start, size_bytes)
    if not tail.endswith(MAGIC) or len(tail) < _LEAST_BYTES:
        head = tail[: len(MAGIC)] if start == 0 else read(0, len(MAGIC))
        return _without_footer(key, size_bytes, modified, head)
    footer = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < footer <= size_bytes:
        tail = read(size_bytes - footer, size_bytes)
    try:
        return pq.read_metadata(pa.BufferReader(tail))
    except (OSError, pa.ArrowException) as error:
        told = str(error).strip().splitlines()[0][:120]
        detail = f"ends like Parquet, but its footer cannot be read: {told}"
        return UnusableFile(key=key, why="not_parquet", detail=detail)


def schema_of(metadata: pq.FileMetaData) -> dict[str, str]:
    """Canonical type by top-level column."""
    return {field.name: canonical_type(field.type) for field in metadata.schema.to_arrow_schema()}


def canonical_type(given: pa.DataType) -> str:
    """The type's name, the same for all encodings of the same values."""
    from pyarrow import types

    if types.is_dictionary(given):
        return canonical_type(given.value_type)
    if types.is_large_string(given) or types.is_string_view(given):
        return "string"
    if types.is_large_binary(given) or types.is_binary_view(given):
        return "binary"
    if types.is_timestamp(given):
        return f"timestamp[{given.tz}]" if given.tz else "timestamp"
    return str(given)


def facts_from_statistics(metadata: pq.FileMetaData, time_column: str) -> FileFacts | None:
    """The file's facts, from its footer alone; None if the time column has rows without statistics."""
    schema = schema_of(metadata)
    if metadata.num_rows == 0 or not schema.get(time_column, "").startswith("timestamp"):
        return _without_times(metadata, schema)
    spans = [group_span(metadata, group, time_column) for group in range(metadata.num_row_groups)]
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None
    return FileFacts(
        rows=metadata.num_rows,
        schema=schema,
        first_row=min(span[0] for span in known),
        last_row=max(span[1] for span in known),
        rows_without_time=0,
    )


def facts_from_rows(file: pq.ParquetFile, time_column: str) -> FileFacts:
    """The file's facts, where the footer does not tell them: reads the time column, batch by batch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = schema_of(file.metadata)
    if file.metadata.num_rows == 0 or not schema.get(time_column, "").startswith("timestamp"):
        return _without_times(file.metadata, schema)
    spans: list[tuple[datetime, datetime]] = []
    nulls = 0
    for batch in file.iter_batches(columns=[time_column]):
        times = utc_times(batch.column(0))
        nulls += times.null_count
        span = pc.min_max(times.cast(pa.int64()))
        if span["min"].is_valid:
            spans.append((moment(span["min"].as_py()), moment(span["max"].as_py())))
    return FileFacts(
        rows=file.metadata.num_rows,
        schema=schema,
        first_row=min((span[0] for span in spans), default=None),
        last_row=max((span[1] for span in spans), default=None),
        rows_without_time=nulls,
    )


def group_span(metadata: pq.FileMetaData, group: int, time_column: str) -> tuple[datetime, datetime] | None:
    """Oldest and newest time in a row group; None if its statistics do not tell, or it has rows without a time."""
    columns = metadata.row_group(group)
    for position in range(columns.num_columns):
        column = columns.column(position)
        if column.path_in_schema != time_column:
            continue
        statistics = column.statistics
        told = json.loads(metadata.schema.column(position).logical_type.to_json())
        if (
            statistics is None
            or not statistics.has_min_max
            or not statistics.has_null_count
            or statistics.null_count
            or told.get("timeUnit") not in _PER_MICROSECOND
        ):
            return None
        times, divisor = _PER_MICROSECOND[told["timeUnit"]]
        return moment(statistics.min_raw * times // divisor), moment(statistics.max_raw * times // divisor)
    return None


def utc_times(column: Any) -> Any:
    """A timestamp array or chunked array as timestamp[us, UTC]; a naive time is UTC, nanoseconds are cut off."""
    import pyarrow as pa
    import pyarrow.compute as pc

    in_microseconds = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if column.type.tz is None:
        return pc.assume_timezone(in_microseconds, "UTC")
    return in_microseconds.cast(pa.timestamp("us", "UTC"))


def moment(microseconds: int) -> datetime:
    """The time so long after 1970; the nearest that Python knows, if it lies beyond (some write those for "never")."""
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return _LATEST if microseconds > 0 else _EARLIEST


def _without_footer(key: str, size_bytes: int, modified: datetime, head: bytes) -> UnusableFile:
    if head == MAGIC:
        written = f"{size_bytes} bytes, written {format_time(modified)}"
        detail = f"begins like Parquet but has no footer ({written}): cut off, or its writer has not finished"
        return UnusableFile(key=key, why="still_being_written", detail=detail)
    return UnusableFile(key=key, why="not_parquet", detail=f"begins with {head!r}, a Parquet file with {MAGIC!r}")


def _without_times(metadata: pq.FileMetaData, schema: Mapping[str, str]) -> FileFacts:
    return FileFacts(rows=metadata.num_rows, schema=schema, first_row=None, last_row=None, rows_without_time=0)
