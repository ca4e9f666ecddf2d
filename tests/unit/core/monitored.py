"""A served model with a prediction log, labels and profiles: days of traffic that a test shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perennial.domain.counting import build_number_profile
from perennial.domain.fingerprint import canonical_json
from perennial.domain.profile import Calibration, HoldoutProfile, MetricValue
from perennial.domain.references import ModelRef, MonitoringRef
from perennial.domain.traffic import Role
from perennial.json_objects import put_once
from perennial.ledger import Ledger
from perennial.monitoring_objects import MonitoringObjects, OutboxItem
from perennial.ports import ModelRegistry, ObjectStore
from perennial.prediction_objects import PARQUET_TYPE, labels_path, predictions_path
from perennial.serving.prediction_log import ScoredRequest, encoded
from perennial.spec.model import ModelSpec
from perennial.stages.monitor import observe
from perennial.stages.profiles import write_training_profile
from perennial.testing import FixedClock, FolderStore, MemoryRegistry
from tests.unit.core.world import SPEC

ROOT = "s3://bucket/store"
DAY = timedelta(days=1)
FIRST = datetime(2026, 3, 2, tzinfo=UTC)
"""Start of day 0."""
MODEL = "toy"
CLASSES = (0, 1)
AUC = MetricValue(metric="roc_auc", value=0.83, low=0.81, high=0.85)


def monitored_spec(**monitoring: Any) -> ModelSpec:
    """Of a model with two numbers and a category; `deployment` and `data` may be changed, too."""
    given: dict[str, Any] = {**SPEC}
    given["data"] = {**given["data"], "feature_columns": ["x", "z", "plan"], **monitoring.pop("data", {})}
    deployment = {"kind": "scoring_service", **monitoring.pop("deployment", {})}
    return ModelSpec.model_validate({**given, "deployment": deployment, "monitoring": monitoring})


def chance(x: np.ndarray) -> np.ndarray:
    """Of a positive, in training and on the holdout; what the model predicts."""
    return np.asarray(1 / (1 + np.exp(-2 * x)))


@dataclass
class Monitored:
    """The world. Days are counted from `FIRST`; the clock stands an hour after the end of day 2 at first."""

    folder: Path
    spec: ModelSpec = field(default_factory=monitored_spec)
    registry: ModelRegistry = field(default_factory=MemoryRegistry)
    clock: FixedClock = field(default_factory=lambda: FixedClock(FIRST + 3 * DAY + timedelta(hours=1)))

    def __post_init__(self) -> None:
        self.store: ObjectStore = FolderStore(self.folder)
        (self.folder / "bucket").mkdir(parents=True, exist_ok=True)

    def train(self, fingerprint: str = "f" * 64, **changes: Any) -> str:
        """Register a version with its profiles; its number."""
        version = self.register(fingerprint)
        times = pd.date_range(FIRST - 20 * DAY, periods=8000, freq="216s", tz="UTC")
        rng = np.random.default_rng(7)
        plans = rng.choice(["basic", "gold"], len(times), p=[0.7, 0.3])
        features = {"x": rng.normal(size=len(times)), "z": rng.normal(size=len(times)), "plan": plans}
        frame = pd.DataFrame({"at": times, **features})
        write_training_profile(self.store, ROOT, self.spec, fingerprint, frame)
        given: dict[str, Any] = {
            "model": MODEL,
            "fingerprint": fingerprint,
            "rows": len(frame),
            "holdout_sha256": "0" * 64,
            "scores": (build_number_profile("score", chance(features["x"])),),
            "performance": (AUC,),
            "confidence": 0.9,
            "classes": CLASSES,
            "calibration": (Calibration(scores=(0.0, 1.0), frequencies=(0.0, 1.0)),),
        }
        holdout = HoldoutProfile(**{**given, **changes})
        uri = f"{ROOT}/profiles/{MODEL}/{fingerprint}/holdout.json"
        put_once(self.store, uri, canonical_json(holdout.to_dict()))
        return version

    def register(self, fingerprint: str) -> str:
        """A version without profiles, as an earlier release left it."""
        model = ModelRef(
            model_uri="models:/m-1",
            run_id="run-1",
            digest=fingerprint,
            fingerprint=fingerprint,
            snapshot_sha256="0" * 64,
            training_start=FIRST - 20 * DAY,
            training_end=FIRST,
            keys_sha256="0" * 64,
        )
        return self.registry.register(MODEL, model, {})

    def serve(self, day: int, **changes: Any) -> None:
        """A day of traffic, a request an hour: see `_Day`."""
        _Day(day=day, **changes).write(self.store)

    def observe(self, **changes: Any) -> MonitoringRef:
        """A look."""
        given = {
            "store": self.store,
            "registry": self.registry,
            "as_of": self.clock.now(),
            "spec": self.spec,
            **changes,
        }
        ledger = Ledger(given["store"], ROOT, self.clock)
        return observe(
            given["spec"],
            as_of=given["as_of"],
            store=given["store"],
            root=ROOT,
            registry=given["registry"],
            ledger=ledger,
            clock=self.clock,
        )

    def look_at(self, day: int) -> dict[str, Any]:
        """Look when a day has just ended; its report."""
        self.clock.advance(FIRST + (day + 1) * DAY + timedelta(hours=1) - self.clock.now())
        self.observe()
        return self.report(day)

    def report(self, day: int) -> dict[str, Any]:
        """Of a day's window."""
        found = self.objects.report(FIRST + (day + 1) * DAY)
        assert found is not None
        return dict(found.content)

    @property
    def objects(self) -> MonitoringObjects:
        return MonitoringObjects(store=self.store, root=ROOT, model=MODEL)

    @property
    def outbox(self) -> tuple[OutboxItem, ...]:
        return self.objects.outbox()


@dataclass(kw_only=True)
class _Day:
    """`shift` and `scale` change x; `sign=-1` turns round what x means; `failed` requests cannot be scored."""

    day: int
    version: str = "1"
    rows: int = 40
    role: Role = Role.CHAMPION
    shift: float = 0.0
    scale: float = 1.0
    sign: float = 1.0
    failed: int = 0
    labels: bool = True
    plan: str | None = None

    def write(self, store: ObjectStore) -> None:
        rng = np.random.default_rng([self.day, int(self.version)])
        start, requests, told = FIRST + self.day * DAY, [], []
        for hour in range(24):
            x, z = self.scale * rng.normal(size=self.rows) + self.shift, rng.normal(size=self.rows)
            plans = rng.choice(["basic", "gold"], self.rows, p=[0.7, 0.3]).tolist()
            fails = hour < self.failed
            p = chance(x)
            request = ScoredRequest(
                model=MODEL,
                version=self.version,
                role=self.role,
                request_id=f"{self.version}-{self.day}-{hour}",
                at=start + timedelta(hours=hour, minutes=5),
                rows=self.rows,
                features={"x": x.tolist(), "z": z.tolist(), "plan": [self.plan] * self.rows if self.plan else plans},
                predictions=None if fails else np.column_stack([1 - p, p]).tolist(),
                latency_ms=2.0,
                error="ValueError: no" if fails else "",
            )
            requests.append(request)
            came = (rng.random(self.rows) < chance(self.sign * x)).astype(float)
            told += [(request.request_id, row, label) for row, label in enumerate(came)]
        folder = predictions_path(MODEL, start, self.version)
        store.write(f"{ROOT}/{folder}{self.day}.parquet", encoded(requests), content_type=PARQUET_TYPE)
        if self.labels:
            self._write_labels(store, told, start + timedelta(hours=23, minutes=30))

    def _write_labels(self, store: ObjectStore, told: list[tuple[str, int, float]], at: datetime) -> None:
        frame = pd.DataFrame(told, columns=["request_id", "row", "label"])
        frame["received_at"] = pd.Series([at] * len(frame)).dt.as_unit("us")
        uri = f"{ROOT}/{labels_path(MODEL, at)}{self.version}-{self.day}.parquet"
        store.write(uri, frame.to_parquet(index=False), content_type=PARQUET_TYPE)
