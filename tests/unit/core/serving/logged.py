"""Requests to log, stores that misbehave, and what was logged."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from perennial.domain.times import Interval
from perennial.domain.traffic import Role
from perennial.errors import StoreUnavailableError, TerminalError
from perennial.prediction_objects import read_predictions
from perennial.serving.prediction_log import PredictionLog, ScoredRequest
from perennial.spec.deployment import Log
from perennial.testing import FolderStore

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROOT = "s3://bucket/store"
DAYS = Interval(NOON - timedelta(days=2), NOON + timedelta(days=2))


class FaultyStore(FolderStore):
    """A store that is down, or holds every write up, until it is told otherwise."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.add_bucket("bucket")
        self.down = False
        self.refused = ""
        """What has this in its uri is not taken, now and later."""
        self.open = threading.Event()
        self.open.set()
        self.held = threading.Event()
        """Set once a write was held up."""

    def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
        if not self.open.is_set():
            self.held.set()
            self.open.wait(60)
        if self.down:
            raise StoreUnavailableError(f"{uri}: connection refused")
        if self.refused and self.refused in uri:
            raise TerminalError(f"{uri}: access denied")
        return super().write(uri, content, content_type=content_type, if_absent=if_absent)


def request(number: int = 0, **changes: Any) -> ScoredRequest:
    """A request of one row, or of as many as `rows` says."""
    rows = changes.get("rows", 1)
    given: dict[str, Any] = {
        "model": "churn",
        "version": "3",
        "role": Role.CHAMPION,
        "request_id": f"r-{number}",
        "at": NOON + timedelta(milliseconds=number),
        "rows": rows,
        "features": {"age": [30 + number] * rows, "plan": ["basic"] * rows},
        "predictions": [[0.75, 0.25]] * rows,
        "latency_ms": 1.5,
    }
    return ScoredRequest(**{**given, **changes})


def started(store: FolderStore, folder: Path, policy: Log | None = Log(), **options: Any) -> PredictionLog:  # noqa: B008
    """A log that flushes when it is closed, or told to; else never in a test's time."""
    log = PredictionLog(
        store, ROOT, {"churn": policy}, folder, replica="host/1", **{"flush_interval_s": 3600.0, **options}
    )
    log.start()
    return log


def rows_of(store: FolderStore, version: str = "3", model: str = "churn", **options: Any) -> pd.DataFrame:
    """What lies in the store, by request and row."""
    frame = read_predictions(store, ROOT, model, DAYS, version=version, **options)
    return frame.sort_values(["request_id", "row"], ignore_index=True) if len(frame) else frame
