"""The prediction log: what each request asked, and what it was answered, as Parquet files in the store.

A row for each row of a request:

| column | |
| --- | --- |
| request_id, row | the request, and the row's place in it, from 0; what labels are joined by |
| at | when the request came, UTC |
| model_version, role | who scored it: champion, canary or shadow |
| latency_ms | how long that took; of the whole request |
| error | why there is no prediction, only the kind if the spec excludes features; null if the model gave one |
| the features | each in a column of its own: see `perennial.prediction_objects.feature_column` |
| prediction | as it was answered: a number, or the probabilities of all classes; null, without an error: it was NaN |

`add` never waits. Rows are in memory for less than the flush interval, then in a file on the local disk, and from there
they go to the store, as soon as it takes them. So a service that is killed loses at most the last flush interval, also
while the store is down: whatever starts next with the same folder uploads the rest. What there is no room for, in
memory or on the disk, is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from perennial.domain.traffic import Role, bucket
from perennial.ports import ObjectStore
from perennial.prediction_objects import PARQUET_TYPE, SUFFIX, feature_column, log_schema, predictions_path
from perennial.serving.spool import Spool
from perennial.spec.deployment import Log

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S: Final = 5.0
MAX_MEMORY_BYTES: Final = 64 * 1024 * 1024
MAX_DISK_BYTES: Final = 1024 * 1024 * 1024
_FULL_SHARE: Final = 0.125
"""Of the memory: more is flushed before its time."""
_EARLY: Final = 0.8
"""Of the interval is waited; the rest is for making the file."""
_VALUE_BYTES: Final = 64
"""Of a Python number with its place in a list, roughly, and a text's without its characters."""
_BACK_OFF_S: Final = (1.0, 30.0)
"""First and longest wait after the store did not take a file."""
_SALT: Final = "prediction-log"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRequest:
    """One request as one model scored it, or failed to."""

    model: str
    version: str
    role: Role
    request_id: str
    at: datetime
    """Aware."""
    rows: int
    features: Mapping[str, Sequence[Any]]
    """`rows` values each."""
    predictions: Sequence[Any] | None
    """One a row: a number, a text, or a list of numbers. None: there are none, because of `error`."""
    latency_ms: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStats:
    """Counters since the start, in rows, and gauges."""

    accepted: int
    """Taken into memory: neither sampled away nor dropped there."""
    dropped: Mapping[str, int]
    """By where there was no room or no way: `memory`, `disk`, `encoding`."""
    pending: int
    """In memory only: what a killed process would lose."""
    waiting_bytes: int
    """On the disk, to be uploaded."""
    upload_failures: int
    """Times that the store did not take a file."""


class PredictionLog:
    """Collects what was scored; threads of its own write it. Call `start`, `add` from any thread, and `close`.

    Args:
        store: takes the files.
        root: `s3://bucket/prefix`.
        policies: what each model's spec says, by model; None and a model that is not named: nothing is kept.
        folder: on the local disk, for what is on its way.
        replica: names this process in the files' names.
        flush_interval_s: longest time that a row is in memory only.
        max_memory_bytes: of rows in memory, estimated.
        max_disk_bytes: of files in the folder.
    """

    def __init__(
        self,
        store: ObjectStore,
        root: str,
        policies: Mapping[str, Log | None],
        folder: Path,
        *,
        replica: str,
        flush_interval_s: float = FLUSH_INTERVAL_S,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
        max_disk_bytes: int = MAX_DISK_BYTES,
    ) -> None:
        """Raises: TerminalError: the folder cannot be written to."""
        self._store, self._root, self._policies = store, root, dict(policies)
        self._spool = Spool(folder, max_disk_bytes)
        self._replica = re.sub(r"[^A-Za-z0-9._-]", "_", replica)
        self._interval_s, self._max_memory_bytes = flush_interval_s, max_memory_bytes
        self._lock = threading.Lock()  # of the next six
        self._pending: list[ScoredRequest] = []
        self._pending_bytes = 0
        self._pending_rows = 0
        self._accepted = 0
        self._dropped = dict.fromkeys(("memory", "disk", "encoding"), 0)
        self._upload_failures = 0
        self._files = 0
        self._stopping, self._flushed = threading.Event(), threading.Event()
        self._flush_now, self._upload_now = threading.Event(), threading.Event()
        self._flusher = threading.Thread(target=self._flush_loop, name="prediction-log-flush", daemon=True)
        self._uploader = threading.Thread(target=self._upload_loop, name="prediction-log-upload", daemon=True)

    def start(self) -> None:
        """Start the threads; what an earlier process left on the disk is uploaded."""
        self._flusher.start()
        self._upload_now.set()
        self._uploader.start()

    def add(self, request: ScoredRequest) -> None:
        """Keep a request, if it is in the sample and there is room. Never waits, never fails."""
        policy = self._policies.get(request.model)
        if policy is None or (policy.percent < 100 and bucket(_SALT, request.request_id) >= policy.percent):
            return
        if policy.exclude:
            features = {name: value for name, value in request.features.items() if name not in policy.exclude}
            # An error's text may quote a value.
            request = replace(request, features=features, error=request.error.partition(":")[0])
        size = _size_of(request)
        with self._lock:
            if self._pending_bytes + size > self._max_memory_bytes:
                self._dropped["memory"] += request.rows
                return
            self._pending.append(request)
            self._pending_bytes += size
            self._pending_rows += request.rows
            self._accepted += request.rows
            if self._pending_bytes >= _FULL_SHARE * self._max_memory_bytes:
                self._flush_now.set()

    def stats(self) -> LogStats:
        """How it is going; lists the folder."""
        waiting = self._spool.size_bytes
        with self._lock:
            return LogStats(
                accepted=self._accepted,
                dropped=dict(self._dropped),
                pending=self._pending_rows,
                waiting_bytes=waiting,
                upload_failures=self._upload_failures,
            )

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is in memory to the disk, and give the upload that much time. What is left waits on the disk."""
        self._stopping.set()
        self._flush_now.set()
        for thread in (self._flusher, self._uploader):
            if thread.is_alive():
                thread.join(timeout_s)
        if waiting := self._spool.size_bytes:
            log.warning("prediction log: %d bytes wait on the disk for the next start", waiting)

    def _flush_loop(self) -> None:
        last = False
        while not last:
            self._flush_now.wait(self._interval_s * _EARLY)
            self._flush_now.clear()
            last = self._stopping.is_set()  # asked before the flush, so that one follows the last `add`
            self._flush()
        self._flushed.set()
        self._upload_now.set()

    def _flush(self) -> None:
        with self._lock:
            requests, self._pending = self._pending, []
            taken_bytes, taken_rows = self._pending_bytes, self._pending_rows
        groups: dict[str, list[ScoredRequest]] = {}
        for request in requests:
            groups.setdefault(predictions_path(request.model, request.at, request.version), []).append(request)
        for folder, group in groups.items():
            self._keep(folder, group)
        with self._lock:  # only now is the memory free, and are the rows safe
            self._pending_bytes -= taken_bytes
            self._pending_rows -= taken_rows
        if groups:
            self._upload_now.set()

    def _keep(self, folder: str, requests: Sequence[ScoredRequest]) -> None:
        """Make a file of requests to one version on one day."""
        rows = sum(request.rows for request in requests)
        try:
            content = encoded(requests)
        except Exception as error:  # what nobody thought of in one request must not cost the others
            if len(requests) == 1:
                log.error("prediction log: a request for %s cannot be written: %s", folder, error)
                self._drop("encoding", rows)
                return
            middle = len(requests) // 2
            self._keep(folder, requests[:middle])
            self._keep(folder, requests[middle:])
            return
        self._files += 1
        name = f"{self._replica}-{self._files:06d}-{uuid4().hex[:12]}{SUFFIX}"
        try:
            if self._spool.put(folder + name, content):
                return
            log.error("prediction log: no room on the disk; %d rows for %s are dropped", rows, folder)
        except OSError as error:
            log.error("prediction log: %s; %d rows for %s are dropped", error, rows, folder)
        self._drop("disk", rows)

    def _upload_loop(self) -> None:
        wait_s, longest_s = _BACK_OFF_S
        last = False
        while not last:
            self._upload_now.wait()
            self._upload_now.clear()
            last = self._flushed.is_set()
            try:
                self._spool.upload(self._store, f"{self._root}/", PARQUET_TYPE)
                wait_s = _BACK_OFF_S[0]
            except Exception as error:  # whatever it is: the files stay, and the thread has to live
                log.warning("prediction log: upload failed, files stay on the disk: %s", error)
                with self._lock:
                    self._upload_failures += 1
                self._upload_now.set()
                self._flushed.wait(wait_s)
                wait_s = min(2 * wait_s, longest_s)

    def _drop(self, where: str, rows: int) -> None:
        with self._lock:
            self._dropped[where] += rows


def encoded(requests: Sequence[ScoredRequest]) -> bytes:
    """A Parquet file of the requests' rows; columns as in the module's table.

    Raises:
        ValueError: a request with another number of values, or of predictions, than rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for request in requests for name in request.features))
    rows = [request.rows for request in requests]

    def spread(values: Sequence[Any]) -> list[Any]:
        """A request's value for each of its rows."""
        return [value for value, count in zip(values, rows, strict=True) for _ in range(count)]

    def gathered(given: Sequence[Sequence[Any] | None]) -> list[Any]:
        """The rows' values of all requests, None for a request that has none."""
        found: list[Any] = []
        for values, count in zip(given, rows, strict=True):
            if values is not None and len(values) != count:
                raise ValueError(f"a request of {count} rows has {len(values)} values")
            found.extend([None] * count if values is None else values)
        return found

    own = {
        "request_id": spread([request.request_id for request in requests]),
        "row": [row for count in rows for row in range(count)],
        "at": spread([request.at for request in requests]),
        "model_version": spread([request.version for request in requests]),
        "role": spread([str(request.role) for request in requests]),
        "latency_ms": spread([request.latency_ms for request in requests]),
        "error": spread([request.error or None for request in requests]),
    }
    columns = {
        **{field.name: pa.array(own[field.name], field.type) for field in log_schema()},
        **{feature_column(name): _array(gathered([r.features.get(name) for r in requests])) for name in names},
        "prediction": _array(gathered([request.predictions for request in requests])),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return bytes(sink.getvalue())


def _array(values: list[Any]) -> Any:
    """Of the values' own type; of texts (JSON), where they are of several that do not fit together."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        texts = [
            value if value is None or isinstance(value, str) else json.dumps(value, default=str) for value in values
        ]
        return pa.array(texts, pa.string())


def _size_of(request: ScoredRequest) -> int:
    """Bytes in memory, roughly."""
    first = request.predictions[0] if request.predictions else None
    width = len(first) if isinstance(first, list) else 1
    size = _VALUE_BYTES * (request.rows * (len(request.features) + 1 + width) + 10) + len(request.error)
    return size + sum(len(value) for values in request.features.values() for value in values if type(value) is str)
