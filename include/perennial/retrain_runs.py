"""What the governor needs of Airflow, as a Protocol: a model's retraining runs, and a way to start one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainRun:
    """A run of a model's retraining, as Airflow knows it."""

    run_id: str
    state: str
    """`queued`, `running`, `success` or `failed`."""
    started_for_alert: bool
    """Whether an alert started it."""
    created_at: datetime
    ended_at: datetime | None
    alert_key: str | None
    """Of the alert in its conf."""

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state in ("queued", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainDag:
    """A model's retraining in Airflow."""

    paused: bool
    latest: RetrainRun | None
    """The run created last, whatever started it."""
    active: RetrainRun | None
    """The oldest one that has not ended."""
    last_ended: RetrainRun | None
    """The one that ended last."""
    for_alerts: tuple[RetrainRun, ...]
    """Those created in the last 24 hours for alerts."""


class RunStarter(Protocol):
    """Starts retraining runs for alerts (Airflow).

    Raises (all methods): TransientError when Airflow's database does not answer.
    """

    def look(self, model: str, now: datetime) -> RetrainDag | None:
        """The retraining of a model; None if Airflow has no such DAG (yet)."""
        ...

    def run(self, model: str, run_id: str) -> RetrainRun | None:
        """One run; None if there is none of this id."""
        ...

    def start(self, model: str, run_id: str, *, conf: Mapping[str, Any], note: str) -> bool:
        """Create the run; False and no change if there is one of this id already.

        Raises:
            NotFoundError: Airflow has no such DAG.
        """
        ...

    def add_note(self, model: str, run_id: str, line: str) -> None:
        """Append a line to the run's note, as people see it in Airflow; best effort, at most 1000 characters stay."""
        ...
