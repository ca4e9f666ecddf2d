"""The one door after somebody was at the ledger or in MLflow's pages, and what is noted there for people."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.champion_door import ANCHOR_TAG, QUARANTINE_TAG, anchors
from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import quarantined
from perennial.errors import FenceError, LedgerConflictError, LockLostError, NotFoundError
from tests.unit.core.production import MODEL, ROOT, Production


@pytest.fixture
def production(tmp_path: Path) -> Production:
    """Version 1 is champion; 2 and 3 are registered."""
    production = Production(tmp_path)
    production.promoted("first")
    for name in ("second", "third"):
        production.registry.register(MODEL, production.trained(name), {})
    return production


# What somebody else has done to the ledger or to MLflow.


def _wipe(production: Production, *folders: str) -> None:
    for folder in folders:
        for info in list(production.store.list(f"{ROOT}/{folder}/{MODEL}/")):
            production.store.delete(info.uri)


def test_ledger_that_was_removed_stays_damaged_however_often_it_begins_anew(production: Production) -> None:
    _wipe(production, "ledger", "ledger-heads")
    assert [damage.kind for damage in _damages(production)] == ["cut_off"]
    for version in ("2", "1", "3", "1"):
        production.settle()
        production.moved_by_hand(version)
    production.settle()
    (damage,) = _damages(production)
    assert (damage.kind, damage.sequence) == ("changed", 2)
    assert "MLflow, version 1 of churn" in damage.detail


def test_move_that_was_cut_off_stays_known_after_its_place_was_taken(production: Production) -> None:
    recorded = production.move(production.move_of("1", "2"))
    before = production.ledger.entries(MODEL)[-2]
    content = production.store.read(f"{ROOT}/ledger/{MODEL}/{before.key}")
    production.store.delete(recorded.uri)
    _wipe(production, "ledger-heads")
    head = f"{before.sequence:08d}-{before.entry_id}-{sha256_of(content)}-head"
    production.store.write(f"{ROOT}/ledger-heads/{MODEL}/{head}", b"", content_type="")
    production.decided(production.trained("later"), production.request("later"), verdict="REJECT", judged="2")
    production.settle()
    assert production.moves()[1:] == [("outside", "1", "2")]
    assert [damage.sequence for damage in _damages(production)] == [recorded.entry.sequence]


def _damages(production: Production) -> Any:
    return production.ledger.verify(MODEL, anchors(production.registry, MODEL)).damages


def test_late_holder_does_not_put_an_older_anchor_over_a_newer_one(production: Production) -> None:
    first = production.move(production.move_of("1", "2"))
    for number, (before, after) in enumerate([("2", "1"), ("1", "2")]):
        production.move(replace(production.move_of(before, after), evidence_sha256=str(number)))
    newest = production.registry.version_tags(MODEL)["2"][ANCHOR_TAG]
    production.door._tag(first)
    assert production.registry.version_tags(MODEL)["2"][ANCHOR_TAG] == newest


def test_move_that_could_not_be_recorded_is_not_made(production: Production) -> None:
    newest = production.decided(production.trained("x"), production.request("x"), verdict="REJECT", judged="1")
    production.store.write(newest.ledger_uri, b"damaged", content_type="")
    with pytest.raises(LedgerConflictError, match="the ledger's end is damaged"):
        production.move(production.move_of("1", "2"))
    assert production.champion == "1"
    assert production.door.under_way(MODEL) is None


def test_version_that_is_deleted_before_the_alias_gets_there_is_not_found_and_nothing_moved(
    production: Production,
) -> None:
    production.deleted_by_hand("2")
    with pytest.raises(NotFoundError):
        production.move(production.move_of("1", "2"))
    assert production.settle() == "1"
    assert production.moves()[1:] == []
    production.assert_in_step()


def test_version_that_is_deleted_right_after_the_move_leaves_both_on_record(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = production.registry.point_alias

    def then_deleted(model: str, alias: str, version: str) -> None:
        point(model, alias, version)
        production.deleted_by_hand(version)

    monkeypatch.setattr(production.registry, "point_alias", then_deleted)
    with pytest.raises(FenceError, match="right afterwards it names no champion"):
        production.move(production.move_of("1", "2"))
    assert production.moves()[1:] == [("promotion", "1", "2"), ("outside", "2", None)]
    production.assert_in_step()


def test_model_that_was_renamed_or_deleted_in_the_registry_is_recorded_and_begins_again(production: Production) -> None:
    production.registry._versions.pop(MODEL)
    production.moved_by_hand(None)
    assert production.settle() is None
    production.promoted("fourth")
    assert production.moves()[1:] == [("outside", "1", None), ("promotion", None, "1")]
    production.assert_in_step()


def test_intent_of_the_next_holder_is_left_alone_by_one_that_is_late(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = production.registry.tag_version
    theirs = production.move_of("2", "3")

    def held_up(model: str, version: str, tags: Any) -> None:
        tag(model, version, tags)
        production.clock.advance(timedelta(minutes=10))
        production.intend(theirs)

    with production.ledger.lock(MODEL, owner="slow") as lease:
        monkeypatch.setattr(production.registry, "tag_version", held_up)
        with pytest.raises(LockLostError):
            production.door.move(production.move_of("1", "2"), lease)
    assert production.door.under_way(MODEL) == theirs


# What is in quarantine, for people.


def test_version_that_was_taken_back_is_tagged_in_one_line_until_it_comes_back_on_purpose(
    production: Production,
) -> None:
    production.promoted("fourth")
    production.roll_back("back-1", reason="it is late,\nfar too late")
    tags = production.registry.version_tags(MODEL)
    assert tags["4"][QUARANTINE_TAG] == (
        "Version 4 was taken back by grace on 2013-04-03T02:00:00Z: it is late, far too late."
    )
    production.moved_by_hand("4")
    production.settle()
    assert QUARANTINE_TAG not in production.registry.version_tags(MODEL)["4"]
    production.assert_in_step()


def test_tag_that_somebody_edits_or_takes_away_changes_nothing_that_counts(production: Production) -> None:
    production.promoted("fourth")
    production.roll_back("back-1")
    production.registry.tag_version(MODEL, "4", {QUARANTINE_TAG: None})
    assert len(quarantined(production.ledger.moves(MODEL))) == 1


def test_rollback_of_a_version_that_was_deleted_meanwhile_goes_through_without_its_tag(production: Production) -> None:
    production.promoted("fourth")
    entry = replace(production.move_of("4", "1"), kind="rollback", quarantined={"digest": "Version 4 was taken back."})
    version_tags = production.registry.version_tags

    def deleted(model: str) -> Any:
        return {version: tags for version, tags in version_tags(model).items() if version != "4"}

    production.registry.version_tags = deleted
    assert production.move(entry).entry.champion_after == "1"
