"""Receives alerts: at most one run each, or a recorded reason why not. See docs/adr/0012-alert-governor.md.

An alert that needs no run is put into the alert ledger once. Any other one goes these steps, each of which may be the
last one of a process, and each of which may be done again, also by several processes at once:

    mark it open -> record: starting, with the run's id -> look again -> start the run -> record: started -> unmark it

Who goes on with it looks first for the run of this very alert, which may have ended meanwhile. A run's id comes from
the latest run that was seen, and Airflow takes each id once: who loses finds the winner's run, and coalesces with it.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from perennial.alert_ledger import AlertLedger, AlertRecord, AlertState
from perennial.domain.alert import Alert, Fate, Outcome, one_line
from perennial.domain.governor import decide
from perennial.errors import AlertConflictError, NotFoundError, PerennialError, TerminalError, TransientError
from perennial.ledger import Ledger
from perennial.ports import Clock, ObjectStore
from perennial.retrain_runs import RunStarter
from perennial.spec.model import ModelSpec
from perennial.stages.alert_facts import data_facts, runs_for

_log = logging.getLogger(__name__)
_TRIES: Final = 10
"""So often may others start a run, or carry the alert on, between our look and our step."""
_AT_ONCE: Final = 2
"""Alerts that a tick carries on at the same time; each asks Airflow's database, which serves others too."""
TICK_FOR: Final = timedelta(seconds=8)
"""For so long a tick takes up alerts; the next one does the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What became of an alert."""

    alert: Alert
    """As it is on record."""
    outcome: Outcome
    duplicate: bool = False
    """Whether it was on record already; then the outcome is the first one."""


def receive(
    alert: Alert,
    spec: ModelSpec,
    *,
    store: ObjectStore,
    root: str,
    ledger: Ledger,
    starter: RunStarter,
    clock: Clock,
) -> Received:
    """Ask the governor, do what it says, and record that before this returns. The same again gives the same.

    Raises:
        AlertConflictError: the id is on record for an alert that says something else.
        TransientError: store or Airflow do not answer; the sender is to try again. A run may have been started; the
            next try, or the next tick, finds it.
    """
    return _Desk(spec, store=store, root=root, ledger=ledger, starter=starter, clock=clock).receive(alert)


def tick(
    spec: ModelSpec, *, store: ObjectStore, root: str, ledger: Ledger, starter: RunStarter, clock: Clock
) -> tuple[Received, ...]:
    """Carry on the model's alerts that are due, or were interrupted; each with its newest outcome.

    Those that have waited longest come first; what is left after `TICK_FOR` is the next tick's.

    Raises:
        PerennialError: the first alert that could not be carried on, after all others were; the next tick tries again.
            Transient if store or Airflow do not answer.
    """
    return _Desk(spec, store=store, root=root, ledger=ledger, starter=starter, clock=clock).tick()


class _Desk:
    """Where a model's alerts are dealt with."""

    def __init__(
        self, spec: ModelSpec, *, store: ObjectStore, root: str, ledger: Ledger, starter: RunStarter, clock: Clock
    ) -> None:
        self._spec, self._store, self._root = spec, store, root
        self._ledger, self._starter, self._clock = ledger, starter, clock
        self._alerts = AlertLedger(store, root)

    def receive(self, alert: Alert) -> Received:
        outcome, _ = self._ruling(alert)
        if outcome.fate in (Fate.COALESCED, Fate.REFUSED):  # nothing that could be left half done
            there = self._alerts.add(AlertRecord(alert=alert, state=AlertState.ENDED, outcomes=(outcome,)))
            if there is not None:
                return self._again(alert, there)
            self._note(alert, outcome)
            return Received(alert=alert, outcome=outcome)
        there = self._alerts.read(alert.model, alert.key)
        if there is not None:
            return self._again(alert, there)
        record = AlertRecord(alert=alert, state=AlertState.STARTING)
        record = record.starting(outcome) if outcome.fate is Fate.STARTED else record.answered(outcome)
        self._alerts.open(record)
        there = self._alerts.add(record)
        if there is not None:
            return self._again(alert, there)
        if record.state is AlertState.STARTING:
            record = self._carry_on(record)
        return Received(alert=alert, outcome=record.outcomes[0])

    def tick(self) -> tuple[Received, ...]:
        now, due = self._clock.now(), list[tuple[datetime, AlertRecord]]()
        for record in self._alerts.opened(self._spec.name):
            until = record.newest.until if record.newest is not None else None
            if not record.open:
                self._alerts.close(record)
            elif record.state is AlertState.STARTING or until is None or until <= now:
                due.append((until or record.alert.received_at, record))
        due.sort(key=lambda waiting: waiting[0])  # by the time of receipt, the same ones would go first each time
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            carried = list(pool.map(lambda waiting: self._in_time(waiting[1], now + TICK_FOR), due))
        left = carried.count(None)
        if left:
            _log.info("%s: %d of %d due alerts are left to the next tick", self._spec.name, left, len(due))
        for error in carried:
            if isinstance(error, PerennialError):
                raise error
        done = [record for record in carried if isinstance(record, AlertRecord)]
        return tuple(Received(alert=record.alert, outcome=record.outcomes[-1]) for record in done)

    def _in_time(self, record: AlertRecord, end: datetime) -> AlertRecord | PerennialError | None:
        """Carry it on, if the tick's time is not over; an error is for after the others."""
        if self._clock.now() >= end:
            return None
        try:
            return self._carry_on(record)
        except PerennialError as error:
            _log.warning("%s alert %s: %s", record.alert.model, record.alert.key, error)
            return error

    def _again(self, alert: Alert, there: AlertRecord) -> Received:
        if not alert.restates(there.alert):
            first = there.outcomes[0] if there.outcomes else None
            raise AlertConflictError(
                f"{alert.model}: the id {alert.alert_id!r} belongs to an alert that says something else "
                f"({there.alert.summary!r}); a new alert needs an id of its own",
                outcome=first,
            )
        if not there.outcomes:  # interrupted, or another process is at it
            there = self._carry_on(there)
        return Received(alert=there.alert, outcome=there.outcomes[0], duplicate=True)

    def _carry_on(self, record: AlertRecord) -> AlertRecord:
        """Until it has ended, or is deferred (anew)."""
        for _ in range(_TRIES):
            record = self._step(record)
            if record.state is not AlertState.STARTING:
                return record
        raise TransientError(
            f"{record.alert.model}: other runs start faster than one can be started for alert "
            f"{record.alert.alert_id!r}; it is on record, the next tick tries again"
        )

    def _step(self, record: AlertRecord) -> AlertRecord:
        """One step forward; the record is `starting` if there is another one to take."""
        outcome, there = self._ruling(record.alert, record.attempt)
        if there or outcome.fate is not Fate.STARTED:
            return self._answer(record, outcome)
        attempt = record.attempt
        if record.state is not AlertState.STARTING or attempt is None or attempt.run_id != outcome.run_id:
            return self._alerts.replace(record.starting(outcome), instead_of=record)
        try:
            created = self._start(record.alert, attempt)
        except TerminalError as error:  # tried again at each tick, it would stop all others
            refused = Outcome(fate=Fate.REFUSED, reason=one_line(str(error)), at=outcome.at, rule="not_created")
            return self._answer(record, refused)
        return self._answer(record, attempt) if created else record

    def _ruling(self, alert: Alert, attempt: Outcome | None = None) -> tuple[Outcome, bool]:
        """What is to become of the alert, and whether the run that it names is this alert's and there already."""
        now = self._clock.now()
        runs = runs_for(alert, attempt, self._starter, now)
        if runs.own is not None:
            if attempt is not None and attempt.run_id == runs.own:
                return attempt, True
            return Outcome(fate=Fate.STARTED, reason="The run of this alert is there.", at=now, run_id=runs.own), True
        policy = self._spec.triggers.on_drift
        outcome = decide(alert, runs.facts, None, policy, now)
        if outcome is None:
            data = data_facts(self._spec, store=self._store, root=self._root, ledger=self._ledger, clock=self._clock)
            outcome = decide(alert, runs.facts, data, policy, now)
        assert outcome is not None  # noqa: S101 - with the data's facts there always is one
        return outcome, False

    def _start(self, alert: Alert, attempt: Outcome) -> bool:
        """Whether the run was created now; False: look again at what is there."""
        note = f"Alert {alert.alert_id} ({alert.source}): {alert.summary}"
        conf = {"reason": alert.summary, "alert": alert.to_dict()}
        try:
            return self._starter.start(alert.model, str(attempt.run_id), conf=conf, note=note)
        except NotFoundError:
            return False

    def _answer(self, record: AlertRecord, outcome: Outcome) -> AlertRecord:
        answered = record.answered(outcome)
        stands = self._alerts.replace(answered, instead_of=record)
        if stands is answered:
            self._note(stands.alert, outcome)
        if not stands.open:
            self._close(stands)
        return stands

    def _close(self, record: AlertRecord) -> None:
        try:
            self._alerts.close(record)
        except PerennialError as error:  # the next tick does it
            _log.warning("%s alert %s: its mark stays: %s", record.alert.model, record.alert.key, error)

    def _note(self, alert: Alert, outcome: Outcome) -> None:
        """Tell the reader of a run which alerts it serves, too."""
        _log.info("%s alert %s: %s, %s", alert.model, alert.key, outcome.fate.value, outcome.reason)
        if outcome.fate is not Fate.COALESCED or outcome.run_id is None:
            return
        try:
            self._starter.add_note(alert.model, outcome.run_id, f"And for {alert.alert_id}: {alert.summary}")
        except PerennialError as error:
            _log.warning("%s run %s: no note of alert %s: %s", alert.model, outcome.run_id, alert.key, error)
