"""A small snapshot, and all that validate needs to judge it, for the tests of validate."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perennial.domain.fingerprint import sha256_of
from perennial.domain.manifest import Manifest, ManifestFile, UnusableFile
from perennial.domain.references import SnapshotRef, ValidationRef
from perennial.domain.run_request import RunRequest
from perennial.domain.times import Interval
from perennial.domain.windows import DataWindows
from perennial.errors import BadDataError
from perennial.ledger import Ledger
from perennial.spec import ModelSpec
from perennial.stages.validate import validate_data
from perennial.testing.clock import FixedClock
from perennial.testing.registry import MemoryRegistry
from perennial.testing.store import FolderStore
from perennial.testing.validator import FakeValidator

ROOT = "s3://store/perennial"
START = datetime(2013, 1, 1, tzinfo=UTC)
SPLIT = START + timedelta(days=8)
END = START + timedelta(days=10)
SUITE: dict[str, Any] = {
    "name": "toy",
    "expectations": [
        {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 5}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_value": 0}, "notes": "Metres."},
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "time", "max_value": {"$PARAMETER": "window_end"}, "strict_max": True},
        },
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "unit", "value_set": ["m"]}},
    ],
}


def toy_spec(**data: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "toy",
            "description": "A toy.",
            "owner": "nobody",
            "task": "binary_classification",
            "data": {
                "landing": "s3://land/toy/",
                "time_column": "time",
                "label_column": "y",
                "key_columns": ["id"],
                "feature_columns": ["x"],
                "windows": {"training": "8d", "holdout": "2d"},
                **data,
            },
            "validation": {"suite": "toy.json"},
            "training": {"estimator": "a:b"},
            "evaluation": {"primary": "roc_auc"},
            "gate": {"rule": {"kind": "superiority"}, "cluster_by": "day"},
        }
    )


def good_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"r{n}" for n in range(20)],
            "time": pd.date_range(START, periods=20, freq="12h").astype("datetime64[us, UTC]"),
            "x": [float(n) for n in range(20)],
            "y": [n % 2 for n in range(20)],
            "day": [f"day{n // 2}" for n in range(20)],
            "unit": ["m"] * 20,
            "unused": [None] * 20,
        }
    )


class World:
    """A store with one snapshot, and everything that validate needs."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.store.add_bucket("store")
        self.clock = FixedClock(END)
        self.registry = MemoryRegistry()
        self.ledger = Ledger(self.store, ROOT, self.clock)
        self.validator = FakeValidator()
        self.spec = toy_spec()
        self.request = RunRequest(model="toy", run_id="run-1", as_of=END, trigger="manual")
        self.snapshot = self.take(good_frame())

    def take(self, frame: pd.DataFrame, unusable: tuple[UnusableFile, ...] = ()) -> SnapshotRef:
        buffer = BytesIO()
        frame.to_parquet(buffer, index=False)
        content = buffer.getvalue()
        uri = f"{ROOT}/objects/{sha256_of(content)}.parquet"
        self.store.write(uri, content, content_type="")
        self.manifest = Manifest(
            model="toy",
            landing="s3://land/toy/",
            watermark=END,
            windows=DataWindows(training=Interval(START, SPLIT), holdout=Interval(SPLIT, END)),
            schema=dict.fromkeys(frame.columns, "any"),
            files=(
                ManifestFile(
                    key="a.parquet",
                    object_uri=uri,
                    sha256=sha256_of(content),
                    size_bytes=len(content),
                    rows=len(frame),
                    first_row=START,
                    last_row=END,
                ),
            ),
            unusable=unusable,
        )
        manifest_uri = f"{ROOT}/snapshots/{self.manifest.sha256}.json"
        self.store.write(manifest_uri, self.manifest.to_bytes(), content_type="")
        return SnapshotRef(
            uri=manifest_uri,
            sha256=self.manifest.sha256,
            data_sha256=self.manifest.data_sha256,
            rows=len(frame),
            files=1,
            watermark=END,
            pending_files=0,
            refused_files=len(self.manifest.refused),
        )

    def validate(self, suite: dict[str, Any] = SUITE) -> ValidationRef:
        return validate_data(
            self.spec,
            self.request,
            self.snapshot,
            store=self.store,
            root=ROOT,
            ledger=self.ledger,
            registry=self.registry,
            clock=self.clock,
            validator=self.validator,
            suite=suite,
        )

    def published(self) -> dict[str, bytes]:
        found = self.store.list(f"{ROOT}/validations/")
        return {info.uri.rsplit("/", 1)[1]: self.store.read(info.uri) for info in found}

    def failing(self, suite: dict[str, Any] = SUITE) -> dict[str, Any]:
        with pytest.raises(BadDataError):
            self.validate(suite)
        result: dict[str, Any] = json.loads(self.published()["result.json"])
        return {f"{c['expectation']}({c['column']})": c for c in result["checks"] if not c["success"]}
