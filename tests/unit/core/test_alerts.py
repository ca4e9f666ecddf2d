"""An alert from its arrival to its end, as senders, people and Airflow see it."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.alert_ledger import AlertState
from perennial.domain.alert import Fate
from perennial.domain.governor import LOOK_AGAIN
from perennial.errors import AlertConflictError, RequestError, StoreUnavailableError, TransientError
from perennial.testing.starter import MemoryStarter
from tests.unit.core.alerting import NOW, Desk, alert_of, spec_with
from tests.unit.core.faulty import Fault, Faulty
from tests.unit.core.world import ROOT

ALERT = alert_of()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def _ended(desk: Desk, run_id: str = "nightly", state: str = "success") -> None:
    desk.starter.add_run("toy", run_id)
    desk.starter.end("toy", run_id, state)


def test_first_alert_starts_a_run_that_carries_it(desk: Desk) -> None:
    received = desk.receive(ALERT)
    (run,) = desk.starter.runs("toy")
    assert (received.outcome.fate, received.outcome.run_id, received.duplicate) == (Fate.STARTED, run.run_id, False)
    assert desk.starter.confs[run.run_id] == {"reason": ALERT.summary, "alert": ALERT.to_dict()}
    assert desk.starter.notes[run.run_id] == "Alert drift-1 (native): x is higher by 2 spreads"
    assert desk.record(ALERT).outcomes == (received.outcome,)
    assert desk.marks() == []


@pytest.mark.parametrize("paused", [False, True])
def test_alert_during_a_run_is_coalesced_and_noted_on_it(desk: Desk, paused: bool) -> None:
    desk.starter.add_run("toy", "nightly")
    desk.starter.add_dag("toy", paused=paused)
    received = desk.receive(ALERT)
    assert (received.outcome.fate, received.outcome.run_id) == (Fate.COALESCED, "nightly")
    assert desk.starter.notes["nightly"] == "And for drift-1: x is higher by 2 spreads"
    assert desk.record(ALERT).state is AlertState.ENDED


def test_coalesced_answer_costs_one_put_and_one_look(desk: Desk) -> None:
    desk.starter.add_run("toy", "nightly")
    calls = Fault(at=0, after=False, fatal=True)
    store = Faulty(desk.store, ("list", "head", "read", "write", "delete"), calls, AssertionError)
    desk.receive(ALERT, store=store, starter=Faulty(desk.starter, ("look", "run", "add_note"), calls, AssertionError))
    assert calls.calls == ["look", "write", "add_note"]


def test_receiving_an_alert_imports_nothing_heavy() -> None:
    code = (
        "import sys, perennial.stages.alerts, perennial.alert_ledger\n"
        "heavy = {'pandas', 'pyarrow', 'mlflow', 'sklearn', 'scipy', 'boto3', 'great_expectations'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("prepare", "fate"),
    [
        (lambda desk: None, Fate.STARTED),
        (lambda desk: desk.starter.add_run("toy", "nightly"), Fate.COALESCED),
        (lambda desk: desk.starter.add_dag("toy", paused=True), Fate.REFUSED),
        (_ended, Fate.DEFERRED),
    ],
)
def test_duplicate_gets_the_first_answer_whatever_has_changed(tmp_path: Path, prepare: Any, fate: Fate) -> None:
    desk = Desk(tmp_path)
    prepare(desk)
    first = desk.receive(ALERT)
    assert first.outcome.fate is fate
    for run in desk.starter.runs("toy"):
        desk.starter.end("toy", run.run_id)
    desk.later(hours=8)
    desk.starter.add_dag("toy", paused=fate is not Fate.REFUSED)
    again = desk.receive(alert_of(received_at=desk.clock.now(), sender="next-key", source="queue"))
    assert (again.outcome, again.duplicate, again.alert) == (first.outcome, True, ALERT)
    desk.tick()
    assert desk.receive(ALERT).outcome == first.outcome
    assert len(desk.runs_of(ALERT)) == (fate is Fate.STARTED)


def test_id_that_is_used_for_another_alert_is_a_conflict_that_tells_the_first_ones_outcome(desk: Desk) -> None:
    first = desk.receive(ALERT)
    with pytest.raises(AlertConflictError, match="'drift-1' belongs to an alert that says something else") as caught:
        desk.receive(alert_of(summary="y is lower"))
    assert caught.value.outcome == first.outcome
    assert desk.record(ALERT).alert == ALERT
    assert len(desk.starter.runs("toy")) == 1


def test_deferred_alert_is_started_by_the_first_tick_that_it_is_due_at(desk: Desk) -> None:
    _ended(desk)
    deferred = desk.receive(ALERT).outcome
    assert (deferred.rule, deferred.until) == ("cooldown", NOW + timedelta(hours=6))
    desk.later(hours=5, minutes=59)
    assert desk.tick() == ()
    desk.later(minutes=1)
    (started,) = desk.tick()
    assert (started.alert, started.outcome.fate) == (ALERT, Fate.STARTED)
    assert desk.runs_of(ALERT) == [started.outcome.run_id]
    assert desk.record(ALERT).outcomes == (deferred, started.outcome)
    assert desk.tick() == ()


def test_deferred_alert_is_coalesced_with_a_run_that_came_and_succeeded_meanwhile(desk: Desk) -> None:
    _ended(desk)
    desk.receive(ALERT)
    desk.later(hours=5)
    _ended(desk, "scheduled")
    desk.later(hours=2)
    (settled,) = desk.tick()
    assert (settled.outcome.rule, settled.outcome.run_id) == ("later_run", "scheduled")


def test_deferred_alert_is_not_coalesced_with_a_run_that_failed(desk: Desk) -> None:
    _ended(desk)
    desk.receive(ALERT)
    desk.later(hours=5)
    _ended(desk, "scheduled", "failed")
    desk.later(hours=2)
    (settled,) = desk.tick()
    assert (settled.outcome.rule, settled.outcome.until) == ("cooldown", NOW + timedelta(hours=11))
    desk.later(hours=4)
    assert desk.tick()[0].outcome.fate is Fate.STARTED


def test_of_deferred_alerts_that_are_due_together_one_starts_and_the_others_join(desk: Desk) -> None:
    _ended(desk)
    alerts = [alert_of(f"a{number}") for number in range(30)]
    for alert in alerts:
        desk.receive(alert)
    desk.later(hours=6)
    settled = desk.tick()
    assert sorted(s.alert.alert_id for s in settled) == sorted(alert.alert_id for alert in alerts)
    assert len(desk.starter.runs("toy")) == 2
    assert len({s.outcome.run_id for s in settled}) == 1
    assert [s.outcome.fate for s in settled].count(Fate.STARTED) == 1
    assert desk.marks() == []


def test_long_wait_keeps_the_record_short_and_ends_with_giving_up(desk: Desk) -> None:
    desk.spec = spec_with(give_up_after="1d")
    desk.starter = MemoryStarter(desk.clock)  # Airflow has not parsed the DAG
    assert desk.receive(ALERT).outcome.until == NOW + LOOK_AGAIN
    for _ in range(100):
        desk.later(minutes=15)
        desk.tick()
    assert [(o.fate, o.rule) for o in desk.record(ALERT).outcomes] == [
        (Fate.DEFERRED, "no_dag"),
        (Fate.DEFERRED, "no_dag"),
        (Fate.REFUSED, "gave_up"),
    ]
    assert desk.record(ALERT).outcomes[-1].at == NOW + timedelta(days=1)
    assert desk.marks() == []


def test_dag_that_vanishes_before_the_start_leaves_the_alert_deferred(desk: Desk) -> None:
    class Vanishing(MemoryStarter):
        def start(self, model: str, run_id: str, **how: Any) -> bool:
            self._dags.clear()
            return super().start(model, run_id, **how)

    desk.starter = Vanishing(desk.clock)
    desk.starter.add_dag("toy")
    assert desk.receive(ALERT).outcome.rule == "no_dag"
    desk.starter.add_dag("toy")
    desk.starter.start = lambda *args, **how: MemoryStarter.start(desk.starter, *args, **how)
    desk.later(minutes=15)
    assert desk.tick()[0].outcome.fate is Fate.STARTED


def test_airflow_that_takes_no_id_is_left_to_the_next_tick(desk: Desk) -> None:
    class Stubborn(MemoryStarter):
        stubborn = True

        def start(self, model: str, run_id: str, **how: Any) -> bool:
            return False if self.stubborn else super().start(model, run_id, **how)

    desk.starter = Stubborn(desk.clock)
    desk.starter.add_dag("toy")
    with pytest.raises(TransientError, match="it is on record, the next tick tries again"):
        desk.receive(ALERT)
    desk.starter.stubborn = False
    assert desk.tick()[0].outcome.fate is Fate.STARTED


def test_start_that_airflow_takes_for_a_mistake_is_refused_and_stops_no_other_alert(desk: Desk) -> None:
    class Strict(MemoryStarter):
        def start(self, model: str, run_id: str, **how: Any) -> bool:
            raise RequestError("Airflow does not create it:\nconf.reason is too long")

    desk.starter = Strict(desk.clock)
    desk.starter.add_dag("toy")
    refused = desk.receive(ALERT).outcome
    assert (refused.fate, refused.rule) == (Fate.REFUSED, "not_created")
    assert refused.reason == "Airflow does not create it: conf.reason is too long"
    assert desk.marks() == []


def test_mark_that_cannot_be_taken_away_and_a_note_that_fails_spoil_no_answer(desk: Desk) -> None:
    def away() -> Exception:
        return StoreUnavailableError("503 SlowDown")

    store = Faulty(desk.store, ("delete",), Fault(at=1, after=False, fatal=False), away)
    assert desk.receive(ALERT, store=store).outcome.fate is Fate.STARTED
    assert desk.marks() == [ALERT.key]
    starter = Faulty(desk.starter, ("add_note",), Fault(at=1, after=False, fatal=False), away)
    assert desk.receive(alert_of("other"), starter=starter).outcome.fate is Fate.COALESCED
    assert desk.tick() == ()
    assert desk.marks() == []


def test_mark_that_is_no_record_stops_no_other_alert(desk: Desk) -> None:
    _ended(desk)
    desk.receive(ALERT)
    desk.store.write(f"{ROOT}/alerts-open/toy/{'0' * 32}", b'{"half', content_type="x")
    desk.later(hours=6)
    assert [s.alert for s in desk.tick()] == [ALERT]


def _all_due(desk: Desk, count: int) -> list[str]:
    """Ids of alerts that have waited for their time, oldest first."""
    _ended(desk)
    for number in range(count):
        desk.receive(alert_of(f"a{number}", received_at=NOW + timedelta(seconds=number)))
    desk.later(hours=6)
    return [f"a{number}" for number in range(count)]


def test_tick_ends_in_time_and_the_next_one_begins_with_those_that_were_left(desk: Desk) -> None:
    class Slow(MemoryStarter):
        def look(self, model: str, now: datetime) -> None:
            """No DAG, so that all of them have to wait anew."""
            desk.later(seconds=3)

    alerts = _all_due(desk, 12)
    desk.starter = Slow(desk.clock)
    first = [settled.alert.alert_id for settled in desk.tick()]
    assert 0 < len(first) < len(alerts)
    desk.later(minutes=20)  # the first ones are due again
    second = [settled.alert.alert_id for settled in desk.tick()]
    assert second
    assert not set(second) & set(first)


def test_alert_that_cannot_be_carried_on_stops_no_other_and_fails_the_tick(desk: Desk) -> None:
    _all_due(desk, 40)

    class Partial(type(desk.store)):  # type: ignore[misc]
        def write(self, uri: str, content: bytes, **how: Any) -> bool:
            if b'"a0"' in content:
                raise StoreUnavailableError("503 SlowDown")
            return bool(super().write(uri, content, **how))

    with pytest.raises(StoreUnavailableError, match="SlowDown"):
        desk.tick(store=Partial(desk.folder))
    left = [record.alert.alert_id for record in desk.alert_ledger.opened("toy")]
    assert left == ["a0"]
    assert [settled.alert.alert_id for settled in desk.tick()] == ["a0"]
