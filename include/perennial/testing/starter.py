"""Airflow's retraining DAGs, in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from perennial.errors import NotFoundError
from perennial.ports import Clock
from perennial.retrain_runs import RetrainDag, RetrainRun

_DAY = timedelta(hours=24)
_MOST_NOTE = 1000


@dataclass
class _Dag:
    paused: bool
    runs: list[RetrainRun] = field(default_factory=list)
    """By creation."""


class MemoryStarter:
    """A `RunStarter` whose runs do nothing until a test ends them. Several threads may use it.

    Args:
        clock: tells when runs are created.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._dags: dict[str, _Dag] = {}
        self.confs: dict[str, Mapping[str, Any]] = {}
        """`conf` of each run that `start` created, by run id."""
        self.notes: dict[str, str] = {}
        """By run id."""

    def add_dag(self, model: str, *, paused: bool = False) -> None:
        """Let Airflow have the model's DAG; or pause it, or set it going again."""
        with self._lock:
            self._dags.setdefault(model, _Dag(paused)).paused = paused

    def add_run(self, model: str, run_id: str, *, state: str = "running") -> RetrainRun:
        """A run that no alert has started, such as a scheduled one; created now."""
        with self._lock:
            return self._add(model, run_id, state, alert_key=None)

    def end(self, model: str, run_id: str, state: str = "success") -> None:
        """Let a run end, now."""
        with self._lock:
            runs = self._dags[model].runs
            (place,) = [place for place, run in enumerate(runs) if run.run_id == run_id]
            runs[place] = replace(runs[place], state=state, ended_at=self._clock.now())

    def runs(self, model: str) -> list[RetrainRun]:
        """All of them, by creation."""
        with self._lock:
            return list(self._dags[model].runs)

    def look(self, model: str, now: datetime) -> RetrainDag | None:
        """The retraining of a model; None if no such DAG was added."""
        with self._lock:
            dag = self._dags.get(model)
            if dag is None:
                return None
            ended = [run for run in dag.runs if run.ended_at is not None]
            return RetrainDag(
                paused=dag.paused,
                latest=dag.runs[-1] if dag.runs else None,
                active=next((run for run in dag.runs if run.active), None),
                last_ended=max(ended, key=lambda run: run.ended_at or run.created_at, default=None),
                for_alerts=tuple(r for r in dag.runs if r.started_for_alert and r.created_at > now - _DAY),
            )

    def run(self, model: str, run_id: str) -> RetrainRun | None:
        """One run; None if there is none of this id."""
        with self._lock:
            dag = self._dags.get(model, _Dag(paused=False))
            return next((run for run in dag.runs if run.run_id == run_id), None)

    def start(self, model: str, run_id: str, *, conf: Mapping[str, Any], note: str) -> bool:
        """Create the run; False and no change if there is one of this id already.

        Raises:
            NotFoundError: no such DAG was added.
        """
        with self._lock:
            if model not in self._dags:
                raise NotFoundError(f"no DAG retrains {model}")
            if any(run.run_id == run_id for run in self._dags[model].runs):
                return False
            self._add(model, run_id, "queued", alert_key=conf["alert"]["key"])
            self.confs[run_id] = conf
            self.notes[run_id] = note[:_MOST_NOTE]
            return True

    def add_note(self, model: str, run_id: str, line: str) -> None:
        """Append a line to the run's note, unless that is full."""
        del model
        with self._lock:
            longer = "\n".join(filter(None, (self.notes.get(run_id, ""), line)))
            if len(longer) <= _MOST_NOTE:
                self.notes[run_id] = longer

    def _add(self, model: str, run_id: str, state: str, *, alert_key: str | None) -> RetrainRun:
        run = RetrainRun(
            run_id=run_id,
            state=state,
            started_for_alert=alert_key is not None,
            created_at=self._clock.now(),
            ended_at=None,
            alert_key=alert_key,
        )
        self._dags[model].runs.append(run)
        return run
