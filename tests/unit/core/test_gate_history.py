"""What the ledger and earlier decisions tell the gate; what cannot be read never gives a fresh start."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.gate_history import GateHistory, Reign
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.run_request import RunRequest
from perennial.domain.sequential import EvidenceState, after_loss, next_state
from perennial.ledger import Anchor, Ledger
from perennial.spec.model import ModelSpec
from perennial.spec.parts import FalsePromotions
from perennial.stages.gate_history import gate_history, history_facts, newest_fact
from perennial.testing.clock import FixedClock
from perennial.testing.store import FolderStore
from tests.unit.core.gating import units
from tests.unit.core.judging import ROOT, SPEC

START = datetime(2013, 6, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = FalsePromotions(budget=0.05, period_days=90)


class Past:
    """A ledger that tests write to, one night after the other."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.store.add_bucket("bucket")
        self.ledger = Ledger(self.store, ROOT, FixedClock(START))
        gate = {**SPEC["gate"], "false_promotions": POLICY.model_dump()}
        self.spec = ModelSpec.model_validate({**SPEC, "gate": gate})

    def request(self, night: float, run_id: str | None = None) -> RunRequest:
        return RunRequest(
            model=self.spec.name,
            run_id=run_id or f"run-{night}",
            as_of=START + night * DAY,
            trigger="schedule",
        )

    def record(self, kind: str, night: float, **given: Any) -> LedgerEntry:
        values: dict[str, Any] = {
            "evidence_sha256": f"{kind}-{night}",
            "summary": "",
            "champion_before": "1",
            "champion_after": "1",
            **given,
        }
        entry = LedgerEntry(
            kind=kind,
            model=self.spec.name,
            recorded_at=START,
            request=self.request(night).to_dict(),
            **values,
        )
        return self.ledger.append(entry).entry

    def decision(self, night: float, content: dict[str, Any]) -> str:
        """A decision on record; returns the uri of its file."""
        uri, stored = f"{ROOT}/decisions/{night}.json", canonical_json(content)
        self.store.write(uri, stored, content_type="application/json")
        reference = {"uri": uri, "sha256": sha256_of(stored)}
        self.record("decision", night, evidence_sha256=reference["sha256"], references={"decision": reference})
        return uri

    def at(self, night: float, run_id: str | None = None, **how: Any) -> GateHistory:
        return gate_history(self.spec, self.request(night, run_id), store=self.store, ledger=self.ledger, **how)

    def judge(self, night: float) -> None:
        """A night as `decide` leaves it, without evidence of its own."""
        before = self.at(night)
        evidence = None if before.evidence is None else before.evidence.to_dict()
        self.decision(night, {"evidence": evidence, "history": history_facts(before)})


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def _state(champion: str = "old") -> EvidenceState:
    return next_state(
        None,
        champion=champion,
        reign=1,
        metric="roc_auc",
        limit=0.0,
        unit="UTC day",
        policy=POLICY,
        as_of=START,
        units=units(),
    )


def _content(**given: Any) -> dict[str, Any]:
    return {"evidence": _state().to_dict(), "history": {"lost_evidence": None}, **given}


def test_model_without_a_past_has_none(past: Past) -> None:
    assert past.at(0) == GateHistory(as_of=START)


def test_reigns_are_the_moves_on_record_by_as_of(past: Past) -> None:
    past.record("promotion", 1, champion_before=None, champion_after="1")
    past.record("decision", 2)
    past.record("promotion", 3, champion_before="1", champion_after="2")
    past.record("rollback", 4, champion_before="2", champion_after="1")
    past.record("promotion", 4.5, champion_before="1", champion_after="1")
    past.record("outside", 5, champion_before="1", champion_after=None)
    assert past.at(9).reigns == (
        Reign(version="1", since=START + 1 * DAY, how="promotion", sequence=1),
        Reign(version="2", since=START + 3 * DAY, how="promotion", sequence=3),
        Reign(version="1", since=START + 4 * DAY, how="rollback", sequence=4),
        Reign(version=None, since=START + 5 * DAY, how="outside", sequence=6),
    )
    assert past.at(9).reign == 6


def test_models_taken_back_by_any_rollback_are_quarantined(past: Past) -> None:
    past.record("rollback", 1, champion_before="2", champion_after="1", quarantined={"b": "Version 2 was taken back."})
    past.record("rollback", 9, champion_before="3", champion_after="1", quarantined={"c": "Version 3 was taken back."})
    assert past.at(10).quarantined == {"b": "Version 2 was taken back.", "c": "Version 3 was taken back."}


def test_model_that_live_traffic_took_back_is_quarantined_except_by_the_run_itself(past: Past) -> None:
    past.record("rollout", 1, approved=False, quarantined={"c": "Version 4 was taken back."})
    assert past.at(2).quarantined == {"c": "Version 4 was taken back."}
    assert past.at(2, run_id="run-1").quarantined == {}
    assert past.at(2).reigns == ()


def test_end_of_another_runs_rollout_is_a_fact_that_a_decision_rests_on(past: Past) -> None:
    past.record("decision", 1)
    before = newest_fact(past.ledger, past.request(2))
    ended = past.record("rollout", 1, approved=False, quarantined={"c": "Version 4 was taken back."})
    assert newest_fact(past.ledger, past.request(2)) == ended.key != before


def test_model_that_was_put_back_on_purpose_is_not_quarantined_any_more(past: Past) -> None:
    past.record("rollback", 1, champion_before="2", champion_after="1", quarantined={"b": "Version 2 was taken back."})
    past.record("outside", 2, champion_before="1", champion_after="2", digest="b")
    assert past.at(3).quarantined == {}


def test_evidence_is_that_of_the_newest_decision(past: Past) -> None:
    past.decision(1, _content())
    past.decision(2, _content(evidence=_state("newer").to_dict()))
    past.record("promotion", 2, champion_before="1", champion_after="2")
    assert past.at(3).evidence == _state("newer")


def test_run_that_is_repeated_does_not_meet_its_own_evidence(past: Past) -> None:
    past.decision(1, _content())
    past.decision(2, _content(evidence=_state("newer").to_dict()))
    assert past.at(2).evidence == _state()
    past.record("decision", 2, evidence_sha256="by another gate")
    assert past.at(2).evidence == _state()


@pytest.mark.parametrize("content", [{"evidence": None, "history": {"lost_evidence": None}}, {"schema_version": 1}])
def test_decision_without_evidence_has_none_to_lose(past: Past, content: dict[str, Any]) -> None:
    past.decision(1, content)
    found = past.at(2)
    assert (found.evidence, found.lost) == (None, None)


def _removed(past: Past, uri: str) -> None:
    past.store.delete(uri)


def _changed(past: Past, uri: str) -> None:
    content = {**_content(), "evidence": None}
    past.store.write(uri, canonical_json(content), content_type="application/json")


def _cut(past: Past, uri: str) -> None:
    past.store.write(uri, past.store.read(uri)[:50], content_type="application/json")


@pytest.mark.parametrize("damage", [_removed, _changed, _cut])
def test_decision_that_cannot_be_read_is_lost_evidence_not_a_fresh_budget(past: Past, damage: Any) -> None:
    uri = past.decision(1, _content())
    kept = past.store.read(uri)
    damage(past, uri)
    lost = past.at(2).lost
    assert lost is not None
    assert (lost.uri, lost.sha256, lost.as_of) == (uri, sha256_of(kept), START + DAY)
    assert uri in lost.problem


@pytest.mark.parametrize(
    "content",
    [
        _content(evidence={"champion": "old"}),
        _content(evidence=7),
        {"evidence": None, "history": {"lost_evidence": {"uri": "s3://bucket/x"}}},
        {"evidence": None, "history": 3},
    ],
)
def test_decision_whose_evidence_makes_no_sense_is_lost_evidence(past: Past, content: dict[str, Any]) -> None:
    uri = past.decision(1, content)
    lost = past.at(2).lost
    assert lost is not None
    assert lost.uri == uri


def test_entry_that_does_not_name_its_decision_is_lost_evidence(past: Past) -> None:
    past.record("decision", 1)
    assert past.at(2).lost is not None


def test_lost_evidence_stays_lost_over_the_nights_that_follow_and_is_found_when_brought_back(past: Past) -> None:
    uri = past.decision(1, _content())
    kept = past.store.read(uri)
    past.store.delete(uri)
    for night in (2, 3, 4):
        past.judge(night)
    lost = past.at(5).lost
    assert lost is not None
    assert (lost.uri, lost.as_of) == (uri, START + DAY)
    past.store.write(uri, kept, content_type="application/json")
    found = past.at(5)
    assert (found.evidence, found.lost) == (_state(), None)


def test_lost_evidence_no_longer_matters_after_the_period(past: Past) -> None:
    past.store.delete(past.decision(1, _content()))
    assert past.at(90.9).lost is not None
    found = past.at(91)
    assert (found.lost, found.evidence) == (None, after_loss(START + DAY))


def test_replay_that_is_lost_may_hold_evidence_up_to_the_latest_night(past: Past) -> None:
    past.decision(100, _content())
    past.store.delete(past.decision(5, _content()))
    lost = past.at(101).lost
    assert lost is not None
    assert lost.as_of == START + 100 * DAY
    past.judge(102)  # its run does not move it
    assert past.at(189.9).lost is not None
    assert past.at(190).evidence == after_loss(START + 100 * DAY)


def test_fresh_start_after_a_loss_and_a_run_years_ahead_is_none_for_a_run_of_today(past: Past) -> None:
    past.store.delete(past.decision(1, _content()))
    past.judge(3000)
    today = past.at(2)
    assert today.evidence is not None
    tonight = next_state(
        today.evidence,
        champion="old",
        reign=1,
        metric="roc_auc",
        limit=0.0,
        unit="UTC day",
        policy=POLICY,
        as_of=today.as_of,
        units=units(),
    )
    assert tonight.threshold == math.inf


def test_run_that_breaks_the_glass_is_told_apart(past: Past) -> None:
    request = replace(past.request(1), break_glass="The pager rings.")
    found = gate_history(past.spec, request, store=past.store, ledger=past.ledger)
    assert (found.is_overridden, past.at(1).is_overridden) == (True, False)


@pytest.mark.parametrize("kind", ["rollback", "decision", "refused"])
def test_entry_that_is_missing_from_the_ledger_is_damage(past: Past, kind: str) -> None:
    moved = {"champion_before": "2", "quarantined": {"b": "Taken back."}} if kind == "rollback" else {}
    past.record("nothing_new", 1)
    past.record(kind, 2, **moved)
    past.record("nothing_new", 3)
    assert past.at(4).damage == ()
    (info,) = [info for info in past.store.list(f"{ROOT}/ledger/") if f"-{kind}-" in info.uri]
    past.store.delete(info.uri)
    (sentence,) = past.at(4).damage
    assert "perennial history flights_delay --verify" in sentence


def test_changed_entry_is_damage(past: Past) -> None:
    past.record("rollback", 1, champion_before="2", quarantined={"b": "Taken back."})
    past.record("nothing_new", 2)
    (info,) = [info for info in past.store.list(f"{ROOT}/ledger/") if "-rollback-" in info.uri]
    entry = json.loads(past.store.read(info.uri))
    past.store.write(info.uri, canonical_json({**entry, "quarantined": {}}), content_type="application/json")
    assert past.at(3).quarantined == {}
    assert len(past.at(3).damage) == 1


def test_ledger_that_an_anchor_contradicts_is_damage(past: Past) -> None:
    past.record("nothing_new", 1)
    anchor = Anchor(sequence=4, sha256="0" * 64, where="MLflow, version 3 of flights_delay")
    assert past.at(2, anchors=[anchor]).damage != ()


def test_facts_are_ready_for_json(past: Past) -> None:
    past.record("promotion", 1, champion_before=None, champion_after="1")
    past.store.delete(past.decision(2, _content()))
    found = replace(past.at(3), quarantined={"b": "Taken back."}, damage=("Entry 7 is missing.",))
    assert found.lost is not None
    assert json.loads(canonical_json(history_facts(found))) == {
        "reigns": [{"version": "1", "since": "2013-06-02T02:00:00Z", "how": "promotion"}],
        "quarantined": {"b": "Taken back."},
        "lost_evidence": {"uri": found.lost.uri, "sha256": found.lost.sha256, "as_of": "2013-06-03T02:00:00Z"},
        "damage": ["Entry 7 is missing."],
    }
