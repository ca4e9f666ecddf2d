"""Labels that others leave as files below a prefix of the store, the spec's `deployment.log.labels`.

| column | |
| --- | --- |
| request_id | of the request that was scored, as in the prediction log |
| row | the row's place in its request; 0 where it is missing |
| label | a number, true or false (1 and 0), or a text; rows without one are left out |
| received_at | when it came to be known, UTC if it has no zone; the object's time where it is missing |

Parquet, CSV in UTF-8 with a header, or JSON lines, by the name's end: `.parquet`, `.csv`, `.jsonl`, `.ndjson` or
`.json`; at most `MAX_FILE_BYTES` each. More columns are ignored. As in the landing zone, names with a part that begins
with `_` or `.` are no data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from perennial.domain.times import Interval
from perennial.errors import PerennialError, TransientError
from perennial.ports import ObjectInfo, ObjectStore
from perennial.table_cache import TableCache

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)
_COLUMNS: Final = ("request_id", "row", "label", "received_at")
MAX_FILE_BYTES: Final = 64 * 2**20
"""Of one file: it is read whole, by a process that has other work too."""
_SKEW: Final = timedelta(minutes=1)
"""How far the store's clock may be behind."""


def landed_labels(store: ObjectStore, prefix: str, during: Interval, cache: TableCache) -> Iterator[pa.Table]:
    """A table a file, in the schema of `perennial.prediction_objects.labels_schema`, a label's own type apart.

    What cannot be read is left out, with a warning in the log: it is of others' making, and must not stop a canary.
    A file that was last written before `during` holds nothing of it.

    Args:
        store: where they lie.
        prefix: `s3://bucket/folder/`.
        during: what the caller looks at.
        cache: keeps them, also that one cannot be read, so that this is told once.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    try:
        landed = list(store.list(prefix))
    except TransientError:
        raise
    except PerennialError as error:
        log.warning("labels below %s are left out: %s", prefix, error)
        return
    for info in landed:
        if info.modified >= during.start - _SKEW and _is_data(info.uri.removeprefix(prefix)):
            yield cache.get(info, ("labels", info.modified), partial(_labels_in, store, info))


def _is_data(path: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in path.split("/"))


def _labels_in(store: ObjectStore, info: ObjectInfo) -> pa.Table:
    from perennial.prediction_objects import labels_schema

    try:
        suffix = info.uri[info.uri.rfind(".") :].lower()
        if suffix not in _READERS:
            raise ValueError(f"its name ends with none of {', '.join(_READERS)}")
        if info.size_bytes > MAX_FILE_BYTES:
            raise ValueError(f"it has {info.size_bytes} bytes, at most {MAX_FILE_BYTES} are read; write several files")
        return _cast(_READERS[suffix](store.read(info.uri)), info.modified)
    except TransientError:
        raise
    except Exception as error:  # whatever others left there
        log.warning("labels in %s are left out: %s", info.uri, error)
        return labels_schema().empty_table()


def _parquet(content: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.read(columns=[name for name in _COLUMNS if name in file.schema_arrow.names])


def _csv(content: bytes) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    types = {"request_id": pa.string(), "received_at": pa.string()}
    return csv.read_csv(
        pa.BufferReader(content), convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=True)
    )


def _json_lines(content: bytes) -> pa.Table:
    import pyarrow as pa
    from pyarrow import json

    # Else a text that looks like a time becomes one.
    given = pa.schema([("request_id", pa.string()), ("received_at", pa.string())])
    return json.read_json(pa.BufferReader(content), parse_options=json.ParseOptions(explicit_schema=given))


_READERS: Final[Mapping[str, Callable[[bytes], pa.Table]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json_lines),
}


def _cast(given: pa.Table, modified: datetime) -> pa.Table:
    """The labels of a file, in the schema's types.

    Raises:
        ValueError: there is no column of ids or labels, or one holds what is none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if missing := [name for name in ("request_id", "label") if name not in given.column_names]:
        raise ValueError(f"it has no column {' and no column '.join(missing)}")
    label = given["label"]
    if not (pa.types.is_string(label.type) or pa.types.is_large_string(label.type)):
        label = label.cast(pa.float64())
    row = given["row"].cast(pa.int32()) if "row" in given.column_names else pa.nulls(len(given), pa.int32())
    columns = {
        "request_id": given["request_id"].cast(pa.string()),
        "row": pc.fill_null(row, 0),
        "label": label.cast(pa.string()) if pa.types.is_large_string(label.type) else label,
        "received_at": _times(given, modified),
    }
    found = pa.table(columns)
    return found.filter(pc.and_(pc.is_valid(found["request_id"]), pc.is_valid(found["label"])))


def _times(given: pa.Table, modified: datetime) -> pa.Array:
    import pandas as pd
    import pyarrow as pa

    kind = pa.timestamp("us", "UTC")
    if "received_at" not in given.column_names:
        return pa.repeat(pa.scalar(modified, kind), len(given))
    times = pd.to_datetime(given["received_at"].to_pandas(), utc=True, format="ISO8601").fillna(modified)
    return pa.array(times.dt.as_unit("us").dt.tz_convert(None).to_numpy()).cast(kind)
