"""Records of alerts, as several processes put them."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from perennial.alert_ledger import AlertLedger, AlertRecord, AlertState
from perennial.domain.alert import Fate, Outcome
from perennial.domain.fingerprint import canonical_json
from tests.unit.core.alerting import NOW, Desk, alert_of
from tests.unit.core.world import ROOT

ALERT = alert_of()
DEFERRED = Outcome(fate=Fate.DEFERRED, reason="Too soon.", at=NOW, until=NOW + timedelta(hours=1), rule="cooldown")
COALESCED = Outcome(fate=Fate.COALESCED, reason="A run.", at=NOW, run_id="nightly", rule="active_run")
STARTED = Outcome(fate=Fate.STARTED, reason="Nothing against it.", at=NOW, run_id="drift__first__0")
FRESH = AlertRecord(alert=ALERT, state=AlertState.STARTING)
WAITING = FRESH.answered(DEFERRED)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def ledger(desk: Desk) -> AlertLedger:
    return desk.alert_ledger


@pytest.mark.parametrize("record", [FRESH, WAITING, WAITING.starting(STARTED), WAITING.answered(COALESCED)])
def test_record_survives_its_way_through_the_store(ledger: AlertLedger, record: AlertRecord) -> None:
    assert AlertRecord.from_dict(json.loads(canonical_json(record.to_dict()))) == record
    assert ledger.add(record) is None
    assert ledger.read("toy", ALERT.key) == record


def test_states_follow_the_outcomes() -> None:
    assert (WAITING.state, WAITING.open) == (AlertState.DEFERRED, True)
    started = WAITING.starting(STARTED).answered(STARTED)
    assert (started.state, started.open, started.started) == (AlertState.ENDED, False, True)
    assert started.outcomes == (DEFERRED, STARTED)
    assert not WAITING.answered(COALESCED).started


def test_first_record_of_an_alert_stands(ledger: AlertLedger) -> None:
    ledger.add(WAITING)
    assert ledger.add(FRESH.answered(COALESCED)) == WAITING
    assert ledger.read("toy", ALERT.key) == WAITING


def test_record_that_somebody_carried_on_meanwhile_is_left_alone(ledger: AlertLedger) -> None:
    ledger.add(WAITING)
    ended = WAITING.answered(COALESCED)
    assert ledger.replace(ended, instead_of=WAITING) == ended
    assert ledger.replace(WAITING.starting(STARTED), instead_of=WAITING) == ended
    assert ledger.read("toy", ALERT.key) == ended


def test_start_stands_above_any_other_end(ledger: AlertLedger) -> None:
    ledger.add(WAITING)
    ended, started = WAITING.answered(COALESCED), WAITING.answered(STARTED)
    ledger.replace(ended, instead_of=WAITING)
    assert ledger.replace(started, instead_of=WAITING) == started
    assert ledger.replace(ended, instead_of=WAITING) == started
    assert ledger.read("toy", ALERT.key) == started


def test_record_put_open_over_an_end_is_found_by_the_next_tick(desk: Desk, ledger: AlertLedger) -> None:
    """Two processes that both had read the record before either put its own."""
    ledger.open(WAITING)
    ledger.add(WAITING)
    ledger.close(ledger.replace(WAITING.answered(COALESCED), instead_of=WAITING))
    assert desk.marks() == []
    ledger.replace(WAITING.starting(STARTED), instead_of=WAITING.answered(COALESCED))
    assert desk.marks() == [ALERT.key]


def test_mark_that_is_taken_from_a_record_that_is_open_again_is_put_back(desk: Desk, ledger: AlertLedger) -> None:
    ledger.open(WAITING)
    ledger.add(WAITING)
    ledger.close(WAITING.answered(COALESCED))
    assert desk.marks() == [ALERT.key]


def test_marked_alert_without_a_record_gets_one(ledger: AlertLedger) -> None:
    ledger.open(WAITING)
    assert ledger.read("toy", ALERT.key) is None
    assert ledger.opened("toy") == [WAITING]
    assert ledger.read("toy", ALERT.key) == WAITING
    assert ledger.opened("other") == []


def test_ledger_lists_what_changed_last_and_the_newest_alert_first(desk: Desk, ledger: AlertLedger) -> None:
    alerts = [alert_of(f"a{number}", received_at=NOW + timedelta(minutes=number)) for number in range(4)]
    for alert in alerts:
        desk.receive(alert)
    desk.store.write(f"{ROOT}/alerts/toy/damaged.json", b"[]", content_type="x")
    listed = ledger.list("toy")
    assert [record.alert for record in listed] == alerts[::-1]
    assert [record.newest.fate for record in listed if record.newest] == [Fate.COALESCED] * 3 + [Fate.STARTED]
    assert len(ledger.list("toy", 2)) <= 2
    assert ledger.list("other", 50) == []
    assert ledger.list("toy", 0) == []


@pytest.mark.parametrize("lacking", ["alert", "state", "outcomes", "attempt"])
def test_what_is_no_record_is_not_read_as_one(lacking: str) -> None:
    values = {name: value for name, value in WAITING.to_dict().items() if name != lacking}
    with pytest.raises(ValueError, match="not an alert"):
        AlertRecord.from_dict(values)
    with pytest.raises(ValueError, match=r"not an alert|is not a valid"):
        AlertRecord.from_dict({**values, lacking: 7})
