"""A small world for whole cycles: a landing zone in a folder, fakes for the rest, and time that a test lets pass."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perennial.domain.run_request import RunRequest
from perennial.ledger import Ledger
from perennial.ports import ModelRegistry, ObjectStore
from perennial.runtime import Runtime
from perennial.spec.model import ModelSpec
from perennial.testing.clock import FixedClock
from perennial.testing.registry import MemoryRegistry
from perennial.testing.smoke import InProcessSmokeTester
from perennial.testing.store import FolderStore
from perennial.testing.validator import FakeValidator
from perennial.whole_cycle import CycleResult, run_cycle

TOY = Path(__file__).parent / "toy"
ROOT = "s3://bucket/store"
LANDING = "s3://bucket/landing/toy/"
START = datetime(2013, 1, 1, tzinfo=UTC)
SPEC = {
    "name": "toy",
    "description": "Does x say y?",
    "owner": "tests",
    "task": "binary_classification",
    "data": {
        "landing": LANDING,
        "time_column": "at",
        "label_column": "y",
        "key_columns": ["id"],
        "feature_columns": ["x", "z"],
        "windows": {"training": "20d", "holdout": "7d", "embargo": "1d"},
    },
    "validation": {"suite": "toy.json"},
    "training": {"estimator": "toy_churn:build", "params": {"depth": 3}, "seed": 7},
    "evaluation": {"primary": "roc_auc", "metrics": ["brier"]},
    "gate": {
        "rule": {"kind": "superiority", "min_effect": 0.01},
        "floors": {"roc_auc": 0.6},
        "min_rows": 50,
        "cluster_by": "day",
        "replicates": 200,
    },
}
SUITE = '{"expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x"}}]}'


def day_frame(day: int, *, sign: float = 1.0, rows: int = 40, noise: float = 0.5) -> pd.DataFrame:
    """Rows of one day; `sign` turns the relation between x and y round (a concept change)."""
    rng = np.random.default_rng(day)
    x = rng.normal(size=rows)
    start = START + timedelta(days=day)
    return pd.DataFrame(
        {
            "id": [f"{day}-{row}" for row in range(rows)],
            "at": pd.to_datetime([start + timedelta(minutes=30 * row) for row in range(rows)], utc=True),
            "day": start.date().isoformat(),
            "x": x,
            "z": rng.normal(size=rows),
            "y": (sign * x + rng.normal(scale=noise, size=rows) > 0).astype("int64"),
        }
    )


@dataclass
class World:
    """Everything that a cycle touches."""

    folder: Path
    registry: ModelRegistry = field(default_factory=MemoryRegistry)
    spec: ModelSpec = field(default_factory=lambda: ModelSpec.model_validate(SPEC))
    store: ObjectStore = field(init=False)
    validator: FakeValidator = field(default_factory=FakeValidator)
    clock: FixedClock = field(default_factory=lambda: FixedClock(datetime(2026, 1, 2, tzinfo=UTC)))
    runs: int = 0

    def __post_init__(self) -> None:
        (self.folder / "bucket").mkdir(parents=True, exist_ok=True)
        self.specs = self.folder / "models"
        self.specs.mkdir(exist_ok=True)
        (self.specs / "toy.json").write_text(SUITE, encoding="utf-8")
        self.store = FolderStore(self.folder)

    @property
    def runtime(self) -> Runtime:
        return Runtime(
            store=self.store,
            registry=self.registry,
            validator=self.validator,
            smoke_tester=InProcessSmokeTester(self.registry),
            clock=self.clock,
            ledger=Ledger(self.store, ROOT, self.clock),
            root=ROOT,
            specs=self.specs,
            import_roots=(TOY,),
        )

    def land(self, days: range, **how: Any) -> None:
        """One Parquet file a day."""
        for day in days:
            sink = io.BytesIO()
            day_frame(day, **how).to_parquet(sink, index=False)
            uri = f"{LANDING}day={day:03d}.parquet"
            self.store.write(uri, sink.getvalue(), content_type="application/octet-stream")

    def request(self, *, run_id: str | None = None, **changes: Any) -> RunRequest:
        self.runs += 1
        request = RunRequest(model="toy", run_id=run_id or f"run-{self.runs}", as_of=self.clock.now(), trigger="manual")
        return replace(request, **changes)

    def run(self, **changes: Any) -> CycleResult:
        """One whole cycle; the clock moves on by an hour, so that the ledger has an order."""
        self.clock = FixedClock(self.clock.now() + timedelta(hours=1))
        return run_cycle(self.runtime, self.spec, self.request(**changes))

    def outcomes(self) -> list[tuple[str, str | None, str | None]]:
        """(kind, verdict, champion afterwards) of each ledger entry."""
        entries = self.runtime.ledger.entries("toy")
        return [(entry.kind, entry.verdict, entry.champion_after) for entry in entries]
