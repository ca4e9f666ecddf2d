"""Where predictions and labels lie in the store, and how to read them back.

    predictions/<model>/day=<UTC day of the request>/version=<version>/<replica>-<number>-<id>.parquet
    labels/<model>/day=<UTC day the label came>/<time>-<id>.parquet

The scoring service writes them: what the columns mean is said in `perennial.serving.prediction_log` and
`perennial.serving.labels`. Labels may also lie elsewhere: see `perennial.landed_labels`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from perennial.domain.times import Interval
from perennial.landed_labels import landed_labels
from perennial.ports import ObjectInfo, ObjectStore
from perennial.table_cache import TableCache

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_log = logging.getLogger(__name__)
PARQUET_TYPE: Final = "application/vnd.apache.parquet"
SUFFIX: Final = ".parquet"
_READERS: Final = 16
"""Small objects are read at once: each is a wait for the store's answer."""
OWN_COLUMNS: Final = ("request_id", "row", "at", "model_version", "role", "latency_ms", "error", "prediction")
"""Of the prediction log. All others are features."""
_KEYS: Final = ["request_id", "row"]
_TAKEN: Final = frozenset({*OWN_COLUMNS, "label", "labelled_at"})
_CACHE: Final = TableCache(128 * 1024 * 1024)
"""A rollout is looked at every few seconds, by one process, and its log only grows."""


def feature_column(name: str) -> str:
    """The log's column of a feature: its own name, unless that means something else there or beside its label."""
    return f"feature_{name}" if name in _TAKEN else name


def predictions_path(model: str, at: datetime, version: str) -> str:
    """Below the store's root: the folder of the requests of one UTC day to one version."""
    return f"{_day_path(model, at)}version={version}/"


def prediction_objects(store: ObjectStore, root: str, model: str, during: Interval) -> Iterator[tuple[str, ObjectInfo]]:
    """Each object that may hold requests of [start, end), with the version that was asked."""
    since = _written_since(during)
    for day in _days(during):
        folder = f"{root}/{_day_path(model, day)}"
        for info in store.list(folder):
            version, slash, _ = info.uri.removeprefix(f"{folder}version=").partition("/")
            if slash and info.uri.endswith(SUFFIX) and info.modified >= since:
                yield version, info


def labels_path(model: str, at: datetime) -> str:
    """Below the store's root: the folder of the labels that came on one UTC day."""
    return f"labels/{model}/day={at.astimezone(UTC):%Y-%m-%d}/"


def log_schema() -> pa.Schema:
    """Of `OWN_COLUMNS` but for the prediction, whose type is the model's."""
    import pyarrow as pa

    types = (pa.string(), pa.int32(), pa.timestamp("us", "UTC"), pa.string(), pa.string(), pa.float64(), pa.string())
    return pa.schema(list(zip(OWN_COLUMNS[:-1], types, strict=True)))


def labels_schema() -> pa.Schema:
    """Of labels; the label itself may also be text."""
    import pyarrow as pa

    received_at = ("received_at", pa.timestamp("us", "UTC"))
    return pa.schema([("request_id", pa.string()), ("row", pa.int32()), ("label", pa.float64()), received_at])


def read_predictions(
    store: ObjectStore, root: str, model: str, during: Interval, *, version: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Rows that a version was asked for within [start, end) of `at`, in no order; empty if there are none.

    Args:
        store: where they lie.
        root: `s3://bucket/prefix`.
        model: the spec's name.
        during: by the requests' time.
        version: the registry's.
        columns: of the log; None: all. One that a file lacks is null there.
    """
    folders = (f"{root}/{predictions_path(model, day, version)}" for day in _days(during))
    asked = None if columns is None else tuple(dict.fromkeys(["at", *columns]))
    tables = [_during(table, "at", during) for table in _read(store, folders, during, asked)]
    frame: pd.DataFrame = _together(tables or [log_schema().empty_table()]).to_pandas()
    return frame if columns is None else frame.reindex(columns=list(columns))


def read_labels(
    store: ObjectStore, root: str, model: str, during: Interval, *, landing: str | None = None
) -> pd.DataFrame:
    """Labels that came within [start, end) of `received_at`, in no order; empty if there are none.

    What cannot be read is left out, with a warning in the log.

    Args:
        store: where they lie.
        root: `s3://bucket/prefix`; what was sent to the scoring service.
        model: the spec's name.
        during: by the time they came.
        landing: `s3://bucket/folder/`, the spec's `deployment.log.labels`: files of others, besides.
    """
    folders = (f"{root}/{labels_path(model, day)}" for day in _days(during))
    tables = list(_read(store, folders, during, None, leave_out_broken=True))
    if landing is not None:
        tables.extend(landed_labels(store, landing, during, _CACHE))
    kept = [_during(table, "received_at", during) for table in tables]
    frame: pd.DataFrame = _together(kept or [labels_schema().empty_table()]).to_pandas()
    return frame


def joined(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The predictions whose label has come, with the columns `label` and `labelled_at`; in the predictions' order.

    A request that several models scored (a shadow, besides the one that answered) is there once for each of them. A
    request id that a client used twice names two requests: both get the label.

    Args:
        predictions: rows of the prediction log, with `request_id` and `row` and any other columns.
        labels: `request_id`, `row`, `label`, `received_at`. Of several for one row the last received counts; of
            several received at the same time, which are of one body, the last in the body.
    """
    last = labels.sort_values("received_at", kind="stable").drop_duplicates(_KEYS, keep="last")
    return predictions.merge(last.rename(columns={"received_at": "labelled_at"}), on=_KEYS, how="inner", validate="m:1")


def _day_path(model: str, at: datetime) -> str:
    return f"predictions/{model}/day={at.astimezone(UTC):%Y-%m-%d}/"


def _written_since(during: Interval) -> datetime:
    """What was written before the stretch began holds nothing of it; clocks may be a minute apart."""
    return during.start - timedelta(minutes=1)


def _days(during: Interval) -> Iterator[datetime]:
    day = during.start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while day < during.end:
        yield day
        day += timedelta(days=1)


def _read(
    store: ObjectStore,
    folders: Iterator[str],
    during: Interval,
    columns: tuple[str, ...] | None,
    *,
    leave_out_broken: bool = False,
) -> Iterator[pa.Table]:
    """The folders' objects that may hold rows of the stretch, in the order of the listing."""
    import pyarrow as pa

    def read(info: ObjectInfo) -> pa.Table | None:
        try:
            return _CACHE.get(info, columns, partial(_table, store, info, columns))
        except (pa.ArrowInvalid, OSError) as error:  # a store without atomic puts keeps half of what a crash cut off
            if not leave_out_broken:
                raise
            _log.warning("%s is left out, it is no Parquet file: %s", info.uri, error)
            return None

    since = _written_since(during)
    listed = (info for folder in folders for info in store.list(folder))
    infos = [info for info in listed if info.uri.endswith(SUFFIX) and info.modified >= since]
    with ThreadPoolExecutor(_READERS) as pool:
        yield from (table for table in pool.map(read, infos) if table is not None)


def _table(store: ObjectStore, info: ObjectInfo, columns: tuple[str, ...] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(store.read(info.uri))) as file:
        there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        return file.read(columns=there)


def _during(table: pa.Table, time: str, during: Interval) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.and_(pc.greater_equal(table[time], during.start), pc.less(table[time], during.end)))


def _together(tables: list[pa.Table]) -> pa.Table:
    """One table. A column whose types do not fit together (a feature of mixed types) becomes text."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.concat_tables([_as_texts(table, _clashing(tables)) for table in tables], promote_options="permissive")


def _clashing(tables: list[pa.Table]) -> set[str]:
    import pyarrow as pa

    clashing = set()
    for name in {name for table in tables for name in table.column_names}:
        fields = [pa.schema([table.schema.field(name)]) for table in tables if name in table.column_names]
        try:
            pa.unify_schemas(fields, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            clashing.add(name)
    return clashing


def _as_texts(table: pa.Table, names: set[str]) -> pa.Table:
    import pyarrow as pa

    for name in names & set(table.column_names):
        texts = [None if value is None else str(value) for value in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(texts, pa.string()))
    return table
