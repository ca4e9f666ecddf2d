"""A model whose alerts are received: a store in a folder, Airflow in memory, and time that a test lets pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from perennial.alert_ledger import AlertLedger, AlertRecord
from perennial.domain.alert import Alert
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.times import format_time
from perennial.ledger import Ledger
from perennial.spec.model import ModelSpec
from perennial.stages import alerts
from perennial.stages.landing import landing_state, mark_seen
from perennial.testing.clock import FixedClock
from perennial.testing.starter import MemoryStarter
from perennial.testing.store import FolderStore
from tests.unit.core.world import LANDING, ROOT, SPEC

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def spec_with(**on_drift: Any) -> ModelSpec:
    """The toy model, with a governor's policy."""
    return ModelSpec.model_validate({**SPEC, "triggers": {"on_drift": on_drift}})


def alert_of(alert_id: str = "drift-1", **changes: Any) -> Alert:
    """Of the toy model, just received."""
    values: dict[str, Any] = {
        "model": "toy",
        "alert_id": alert_id,
        "source": "native",
        "summary": "x is higher by 2 spreads",
        "raised_at": NOW,
        "received_at": NOW,
        "sender": "on-call",
        "evidence": {"columns": ["x"]},
    }
    return Alert(**{**values, **changes})


class HeedlessStore(FolderStore):
    """Looks before it puts and ignores the condition, as `rclone serve s3` does."""

    def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
        if if_absent and self.head(uri) is not None:
            return False
        return super().write(uri, content, content_type=content_type)


@dataclass
class Desk:
    """Where alerts for the toy model come in."""

    folder: Path
    spec: ModelSpec = field(default_factory=spec_with)
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    heedless: bool = False
    store: Any = None
    starter: Any = None

    def __post_init__(self) -> None:
        self.store = (HeedlessStore if self.heedless else FolderStore)(self.folder)
        self.store.add_bucket("bucket")
        if self.starter is None:
            self.starter = MemoryStarter(self.clock)
            self.starter.add_dag("toy")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, ROOT, self.clock)

    @property
    def alert_ledger(self) -> AlertLedger:
        return AlertLedger(self.store, ROOT)

    def receive(self, alert: Alert, *, store: Any = None, starter: Any = None) -> alerts.Received:
        return alerts.receive(alert, self.spec, **self._ports(store, starter))

    def tick(self, *, store: Any = None, starter: Any = None) -> tuple[alerts.Received, ...]:
        return alerts.tick(self.spec, **self._ports(store, starter))

    def record(self, alert: Alert) -> AlertRecord:
        record = self.alert_ledger.read(alert.model, alert.key)
        assert record is not None
        return record

    def marks(self) -> list[str]:
        return [info.uri.rpartition("/")[2] for info in self.store.list(f"{ROOT}/alerts-open/")]

    def runs_of(self, alert: Alert) -> list[str]:
        return [run.run_id for run in self.starter.runs("toy") if run.alert_key == alert.key]

    def later(self, **time: float) -> None:
        self.clock.advance(timedelta(**time))

    def land(self, name: str, content: bytes = b"data") -> None:
        self.store.write(f"{LANDING}{name}", content, content_type="x")

    def looked(self) -> None:
        """A run has looked at what lies in the landing zone."""
        mark_seen(self.store, ROOT, "toy", landing_state(self.store, LANDING))

    def judged(self, kind: str = "decision", verdict: str | None = "REJECT", **changes: Any) -> LedgerEntry:
        """An entry of the decision ledger, now; `trigger` and `params` of its request, `snapshot` of its reference."""
        self.later(seconds=1)
        now, number = self.clock.now(), len(self.ledger.entries("toy")) + 1
        request = {"run_id": f"run-{number}", "as_of": format_time(now), "trigger": changes.pop("trigger", "schedule")}
        snapshot = {"watermark": format_time(now), "pending_files": 0, "uri": f"{ROOT}/snapshots/toy/{number}.json"}
        entry = LedgerEntry(
            kind=kind,
            model="toy",
            recorded_at=now,
            request={**request, "params": changes.pop("params", {})},
            evidence_sha256=f"{number:064d}",
            summary="judged",
            champion_before="1",
            champion_after="2" if kind == "promotion" else "1",
            verdict=verdict if kind in ("decision", "promotion") else None,
            references={"snapshot": {**snapshot, **changes.pop("snapshot", {})}},
        )
        assert not changes
        self.store.write(snapshot["uri"], b"{}", content_type="x")
        return self.ledger.append(entry).entry

    def _ports(self, store: Any, starter: Any) -> dict[str, Any]:
        return {
            "store": store or self.store,
            "root": ROOT,
            "ledger": Ledger(store or self.store, ROOT, self.clock),
            "starter": starter or self.starter,
            "clock": self.clock,
        }
