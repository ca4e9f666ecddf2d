"""A landing zone of small daily files for the snapshot's tests."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perennial.domain.manifest import Manifest, UnusableFile
from perennial.domain.references import SnapshotRef
from perennial.domain.run_request import RunRequest
from perennial.ledger import Ledger
from perennial.ports import ObjectInfo
from perennial.spec.model import ModelSpec
from perennial.stages.frames import load_manifest
from perennial.stages.snapshot import take_snapshot
from perennial.testing import FixedClock, FolderStore, MemoryRegistry

LANDING, ROOT = "s3://bucket/landing/churn/", "s3://bucket/store"
START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS, ROWS = 20, 24


class CountingStore(FolderStore):
    """Remembers the calls, and can replace a landing file right before it is downloaded."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: Counter[str] = Counter()
        self.touched: list[str] = []
        self.replace_before_download: dict[str, bytes] = {}

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        self.calls["list"] += 1
        return super().list(prefix_uri)

    def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
        self._count("read", uri)
        return super().read(uri, start=start, end=end)

    def download(self, uri: str, path: Path) -> ObjectInfo:
        self._count("download", uri)
        if uri in self.replace_before_download:
            self.write(uri, self.replace_before_download.pop(uri), content_type="")
        return super().download(uri, path)

    def upload(self, path: Path, uri: str, *, content_type: str) -> None:
        self._count("upload", uri)
        super().upload(path, uri, content_type=content_type)

    def _count(self, call: str, uri: str) -> None:
        self.calls[call] += 1
        self.touched.append(uri)


def make_spec(**data: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "churn",
            "description": "d",
            "owner": "o",
            "task": "binary_classification",
            "data": {
                "landing": LANDING,
                "time_column": "at",
                "label_column": "label",
                "key_columns": ["id"],
                "feature_columns": ["x", "shop"],
                "windows": {"training": "10d", "holdout": "4d", "embargo": "1d"},
                **data,
            },
            "validation": {"suite": "churn.json"},
            "training": {"estimator": "m:f", "params": {"depth": 3}},
            "evaluation": {"primary": "roc_auc"},
            "gate": {"rule": {"kind": "superiority"}, "cluster_by": "shop"},
        }
    )


SPEC = make_spec()


def day_table(day: int, **columns: Any) -> pa.Table:
    """One row an hour, from 00:00 to 23:00."""
    at = [START + day * DAY + timedelta(hours=hour) for hour in range(ROWS)]
    values = {
        "id": [f"{day}-{hour}" for hour in range(ROWS)],
        "at": pa.array(at, pa.timestamp("us", "UTC")),
        "label": [hour % 2 for hour in range(ROWS)],
        "x": [float(hour) for hour in range(ROWS)],
        "shop": ["a" if hour % 3 else "b" for hour in range(ROWS)],
        **columns,
    }
    return pa.table({name: column for name, column in values.items() if column is not None})


def to_bytes(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def name_of(day: int) -> str:
    return f"{START + day * DAY:%Y-%m-%d}.parquet"


def landed_store(folder: Path) -> CountingStore:
    """A store with `DAYS` files of `ROWS` rows."""
    store = CountingStore(folder)
    store.add_bucket("bucket")
    for day in range(DAYS):
        land(store, name_of(day), to_bytes(day_table(day)))
    return store


def land(store: FolderStore, key: str, content: bytes) -> None:
    store.write(LANDING + key, content, content_type="")


def request_at(as_of: datetime = START + DAYS * DAY, run_id: str = "run-1", **changes: Any) -> RunRequest:
    return RunRequest(model="churn", run_id=run_id, as_of=as_of, trigger="manual", **changes)


def request_past(day: int) -> RunRequest:
    return request_at(START + day * DAY)


def snap(
    store: FolderStore, request: RunRequest | None = None, spec: ModelSpec = SPEC, now: datetime | None = None
) -> SnapshotRef:
    clock = FixedClock(now or datetime.now(UTC))
    return take_snapshot(
        spec,
        request or request_at(),
        store=store,
        root=ROOT,
        ledger=Ledger(store, ROOT, clock),
        registry=MemoryRegistry(),
        clock=clock,
        code_version="1",
        policy="p",
    )


def unusable_of(store: FolderStore, ref: SnapshotRef) -> dict[str, UnusableFile]:
    return {file.key: file for file in load_manifest(store, ref).unusable}


def keys_of(manifest: Manifest) -> Sequence[str]:
    return [file.key for file in manifest.files]
