"""Which process is which service: one small file each in `PERENNIAL_HOME/run`.

A file may be stale (power was lost) and its pid a stranger's by now, so it is believed only if the process bears the
home's mark; see `perennial_demo.process`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from perennial_demo import process
from perennial_demo.home import Home


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A service that was started and still lives."""

    pid: int
    fingerprint: str
    started_at: datetime


def write_record(home: Home, service: str, record: Record) -> None:
    """Note that a service was started."""
    facts = {"pid": record.pid, "fingerprint": record.fingerprint, "started_at": record.started_at.isoformat()}
    _path(home, service).write_text(json.dumps(facts), encoding="utf-8")


def living_record(home: Home, service: str) -> Record | None:
    """The service's record if its process lives, else None."""
    try:
        facts = json.loads(_path(home, service).read_text(encoding="utf-8"))
        record = Record(
            pid=int(facts["pid"]),
            fingerprint=str(facts["fingerprint"]),
            started_at=datetime.fromisoformat(facts["started_at"]).astimezone(UTC),
        )
    except (OSError, ValueError, KeyError, TypeError):  # none, or half written when the power went
        return None
    return record if process.leader(home.root, service, record.pid) else None


def remove_records(home: Home) -> None:
    """Forget every service."""
    for path in home.pids.glob("*.json"):
        path.unlink(missing_ok=True)


def remove_record(home: Home, service: str) -> None:
    """Forget one service."""
    _path(home, service).unlink(missing_ok=True)


def _path(home: Home, service: str) -> Path:
    return home.pids / f"{service}.json"
