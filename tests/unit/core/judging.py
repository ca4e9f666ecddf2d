"""A model with a landed history, for the stages that judge: snapshots by hand, models that score as told."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perennial.domain.manifest import Manifest, ManifestFile
from perennial.domain.references import ModelRef, SnapshotRef
from perennial.domain.run_request import RunRequest
from perennial.domain.times import Interval
from perennial.domain.windows import DataWindows
from perennial.ports import FittedTraining
from perennial.spec.model import ModelSpec
from perennial.stages.keys import write_training_keys
from perennial.testing.registry import MemoryRegistry
from perennial.testing.store import FolderStore

ROOT = "s3://bucket/store"
DAY = timedelta(days=1)
HOLDOUT = Interval(datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 3, 15, tzinfo=UTC))
SPEC: dict[str, Any] = {
    "name": "flights_delay",
    "description": "Will a departing flight arrive more than 15 minutes late?",
    "owner": "ops-ml",
    "task": "binary_classification",
    "data": {
        "landing": "s3://bucket/landing/flights/",
        "time_column": "at",
        "label_column": "late",
        "key_columns": ["id"],
        "feature_columns": ["good", "poor"],
        "windows": {"training": "30d", "holdout": "14d", "embargo": "1d"},
    },
    "validation": {"suite": "flights_delay.json"},
    "training": {"estimator": "toy:build", "seed": 7},
    "evaluation": {"primary": "roc_auc", "metrics": ["log_loss", "brier"], "slices": ["origin"]},
    "gate": {
        "rule": {"kind": "superiority", "min_effect": 0.002},
        "floors": {"roc_auc": 0.55},
        "min_rows": 500,
        "cluster_by": "day",
        "replicates": 300,
    },
}


class Column:
    """A classifier whose probability is one of its features."""

    def __init__(
        self, name: str, classes: tuple[Any, ...] = (0, 1), features: tuple[str, ...] = ("good", "poor")
    ) -> None:
        self.name = name
        self.classes_ = np.array(classes)
        self.feature_names_in_ = np.array(features, dtype=object)

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        score = frame[self.name].to_numpy(dtype=float)
        return np.column_stack([1 - score, score])


class Constant(Column):
    """The same score for every row."""

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full((len(frame), 2), 0.5)


class NotFinite(Column):
    """One score is not a number."""

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        scores = super().predict_proba(frame)
        scores[3] = np.nan
        return scores


class Stretched(Column):
    """Scores a multiple of the feature, which is no probability."""

    def __init__(self, name: str, by: float) -> None:
        super().__init__(name)
        self.by = by

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        return super().predict_proba(frame) * self.by


class Raising(Column):
    """Fails to score."""

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        raise ValueError("X has 2 features, but 3 are expected")


class Predicting:
    """A regressor that returns one of its features."""

    def __init__(self, name: str) -> None:
        self.name = name

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return frame[self.name].to_numpy(dtype=float)


class Classes:
    """A classifier of several classes; sure of its feature's class to the degree `trust`."""

    def __init__(self, classes: tuple[str, ...], trust: float) -> None:
        self.classes_ = np.array(classes, dtype=object)
        self.trust = trust

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        count = len(self.classes_)
        scores = np.full((len(frame), count), (1 - self.trust) / count)
        codes = (frame["good"].to_numpy() * count).astype(int).clip(0, count - 1)
        scores[np.arange(len(frame)), codes] += self.trust
        return scores


class Unsummed(Classes):
    """Its probabilities of the classes sum to 0.8."""

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        return super().predict_proba(frame) * 0.8


def holdout_rows(rows_a_day: int = 60, days: int = 14, seed: int = 0) -> pd.DataFrame:
    """`good` tells the label better than `poor`; both are probabilities."""
    rng = np.random.default_rng(seed)
    n = rows_a_day * days
    late = (rng.random(n) < 0.3).astype("int64")
    day = np.repeat(np.arange(days), rows_a_day)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "at": [HOLDOUT.start + int(d) * DAY + timedelta(minutes=i % rows_a_day) for i, d in enumerate(day)],
            "day": [(HOLDOUT.start + int(d) * DAY).date().isoformat() for d in day],
            "origin": np.where(rng.random(n) < 0.5, "EWR", "JFK"),
            "good": np.clip(0.25 + 0.4 * late + 0.15 * rng.normal(size=n), 0.001, 0.999),
            "poor": np.clip(0.25 + 0.1 * late + 0.15 * rng.normal(size=n), 0.001, 0.999),
            "late": late,
        }
    )


@dataclass
class Bench:
    """Store, registry, a spec, and shortcuts to snapshots and trained models."""

    folder: Path
    spec: ModelSpec = field(default_factory=lambda: ModelSpec.model_validate(SPEC))
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)

    def __post_init__(self) -> None:
        self.store = FolderStore(self.folder)
        self.store.add_bucket("bucket")
        self.request = RunRequest(
            model=self.spec.name,
            run_id="manual__1",
            as_of=HOLDOUT.end,
            trigger="manual",
            reason="a look",
            requested_by="ada",
        )

    def respec(self, **parts: Any) -> None:
        """Change parts of the spec."""
        merged = {
            key: {**SPEC[key], **parts[key]} if isinstance(parts.get(key), dict) else parts.get(key, SPEC[key])
            for key in SPEC
        }
        self.spec = ModelSpec.model_validate(merged)

    def snapshot(self, frame: pd.DataFrame) -> SnapshotRef:
        """A snapshot whose holdout holds these rows."""
        sink = io.BytesIO()
        frame.to_parquet(sink, index=False)
        content = sink.getvalue()
        uri = f"{ROOT}/objects/{len(content)}.parquet"
        self.store.write(uri, content, content_type="application/octet-stream")
        file = ManifestFile(
            key="day.parquet",
            object_uri=uri,
            sha256=str(pd.util.hash_pandas_object(frame).sum()),
            size_bytes=len(content),
            rows=len(frame),
            first_row=HOLDOUT.start,
            last_row=HOLDOUT.end - timedelta(seconds=1),
        )
        manifest = Manifest(
            model=self.spec.name,
            landing=self.spec.data.landing,
            watermark=HOLDOUT.end,
            windows=DataWindows(training=Interval(HOLDOUT.start - 31 * DAY, HOLDOUT.start - DAY), holdout=HOLDOUT),
            schema={name: str(kind) for name, kind in frame.dtypes.items()},
            files=(file,),
        )
        uri = f"{ROOT}/snapshots/{manifest.sha256}.json"
        self.store.write(uri, manifest.to_bytes(), content_type="application/json")
        return SnapshotRef(
            uri=uri,
            sha256=manifest.sha256,
            data_sha256=manifest.data_sha256,
            rows=len(frame),
            files=1,
            watermark=HOLDOUT.end,
            pending_files=0,
            refused_files=0,
        )

    def train(
        self, estimator: Any, *, name: str, end: datetime = HOLDOUT.start - DAY, keys: Any = (-1, -2)
    ) -> ModelRef:
        """Log a model as the train stage would; `keys` are those of its training rows (None: not on record)."""
        keys_sha256 = "k"
        if keys is not None:
            frame = pd.DataFrame(dict.fromkeys(self.spec.data.key_columns, keys))
            _, keys_sha256 = write_training_keys(self.store, ROOT, self.spec, name, frame)
        return self.registry.log_training(
            FittedTraining(
                model=self.spec.name,
                task=self.spec.task,
                estimator=estimator,
                params={},
                metrics={},
                tags={},
                input_example=pd.DataFrame({"good": [0.5]}),
                output_example=np.zeros(1),
                dataset_uri="",
                dataset_sha256="s",
                dataset_rows=2,
                fingerprint=name,
                keys_sha256=keys_sha256,
                training_start=end - 30 * DAY,
                training_end=end,
                trusted_types=(),
                run_name=name,
            )
        )

    def enthrone(self, model: ModelRef) -> str:
        """Make it the champion; returns the version."""
        version = self.registry.register(self.spec.name, model, {})
        self.registry.point_alias(self.spec.name, "champion", version)
        return version
