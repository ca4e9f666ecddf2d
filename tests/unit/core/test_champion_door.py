"""The one door: the ledger says what the alias says, whoever moved it and whatever was interrupted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.champion_door import ANCHOR_TAG, anchors
from perennial.domain.fingerprint import canonical_json
from perennial.errors import FenceError, IntegrityError, LockLostError
from tests.unit.core.production import MODEL, ROOT, Production

INTENT = f"{ROOT}/ledger-intents/{MODEL}.json"


@pytest.fixture
def production(tmp_path: Path) -> Production:
    """Version 1 is champion; 2 and 3 are registered."""
    production = Production(tmp_path)
    production.promoted("first")
    for name in ("second", "third"):
        production.registry.register(MODEL, production.trained(name), {})
    return production


def test_alias_that_is_where_the_ledger_says_needs_no_lock(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = production.door
    monkeypatch.setattr(type(door.ledger), "lock", lambda *_args, **_kwargs: pytest.fail("took the lock"))
    assert door.settle(MODEL, owner="look") == "1"


def test_model_without_champion_and_ledger_is_in_step(tmp_path: Path) -> None:
    production = Production(tmp_path)
    assert production.settle() is None
    assert production.moves() == []


def test_intent_whose_alias_was_moved_is_recorded_as_what_it_was_meant_to_be(production: Production) -> None:
    production.intend(production.move_of("1", "2"))
    production.moved_by_hand("2")
    assert production.settle() == "2"
    assert production.moves()[1:] == [("promotion", "1", "2")]
    assert ANCHOR_TAG in production.registry.version_tags(MODEL)["2"]
    production.assert_in_step()


def test_intent_that_is_on_record_already_is_not_recorded_twice(production: Production) -> None:
    entry = production.move_of("1", "2")
    production.move(entry)
    production.intend(entry)
    assert production.settle() == "2"
    assert production.moves()[1:] == [("promotion", "1", "2")]
    production.assert_in_step()


def test_intent_whose_alias_was_not_moved_is_forgotten(production: Production) -> None:
    production.intend(production.move_of("1", "2"))
    assert production.settle() == "1"
    assert production.moves()[1:] == []
    production.assert_in_step()


def test_alias_that_left_both_ends_of_an_intent_is_recorded_from_what_the_ledger_says(production: Production) -> None:
    production.intend(production.move_of("1", "2"))
    production.moved_by_hand("3")
    assert production.settle() == "3"
    assert production.moves()[1:] == [("outside", "1", "3")]
    assert "Run interrupted was interrupted while it moved the alias to version 2" in _summary(production)
    production.assert_in_step()


def test_alias_that_returned_after_the_intent_was_recorded_is_recorded_too(production: Production) -> None:
    entry = production.move_of("1", "2")
    production.move(entry)
    production.intend(entry)
    production.moved_by_hand("1")
    assert production.settle() == "1"
    assert production.moves()[1:] == [("promotion", "1", "2"), ("outside", "2", "1")]
    production.assert_in_step()


@pytest.mark.parametrize("champion", ["1", "2"])
def test_intent_that_arrives_after_its_move_was_made_by_another_changes_nothing(
    production: Production, champion: str
) -> None:
    production.move(replace(production.move_of("1", "2"), evidence_sha256="0" * 64))
    if champion == "1":
        production.move(replace(production.move_of("2", "1"), evidence_sha256="1" * 64))
    before = production.moves()
    production.intend(production.move_of("1", "2"))
    assert production.settle() == champion
    assert production.moves() == before
    production.assert_in_step()


def test_intent_that_begins_elsewhere_is_not_recorded_though_the_alias_is_where_it_ends(production: Production) -> None:
    production.intend(production.move_of("2", "3"))
    production.moved_by_hand("3")
    production.settle()
    assert production.moves()[1:] == [("outside", "1", "3")]
    assert "Run interrupted was interrupted" in _summary(production)
    production.assert_in_step()


def test_intent_on_record_whose_alias_was_moved_on_by_hand_is_completed_first(production: Production) -> None:
    entry = production.move_of("1", "2")
    with production.ledger.lock(MODEL, owner="test") as lease:
        recorded = production.ledger.append(entry, lease=lease)
    production.intend(entry)
    production.moved_by_hand("3")
    production.settle()
    assert production.moves()[1:] == [("promotion", "1", "2"), ("outside", "2", "3")]
    anchor = production.registry.version_tags(MODEL)["2"][ANCHOR_TAG]
    assert anchor == f"{recorded.entry.sequence}:{recorded.sha256}"
    assert "interrupted" not in _summary(production)
    production.assert_in_step()


def test_half_an_intent_is_none(production: Production) -> None:
    production.store.write(INTENT, b'{"kind": "promo', content_type="application/json")
    production.moved_by_hand("2")
    assert production.settle() == "2"
    assert production.moves()[1:] == [("outside", "1", "2")]
    production.assert_in_step()


@pytest.mark.parametrize(
    "wrong", [{"recorded_at": "?"}, {"request": {}}, {"kind": "decision"}, {"champion_after": "1"}]
)
def test_intent_that_is_no_move_is_told_with_the_way_out(production: Production, wrong: dict[str, Any]) -> None:
    entry = {**production.move_of("1", "2").to_dict(), **wrong}
    production.store.write(INTENT, canonical_json(entry), content_type="application/json")
    with pytest.raises(IntegrityError, match=r"not a move of Perennial's.*delete it"):
        production.settle()


def _summary(production: Production) -> str:
    return production.ledger.entries(MODEL)[-1].summary


def test_hand_made_move_is_recorded_once_and_again_when_it_happens_again(production: Production) -> None:
    for version in ("2", "1", "2"):
        production.moved_by_hand(version)
        for _ in range(2):
            production.settle()
    assert production.moves()[1:] == [("outside", "1", "2"), ("outside", "2", "1"), ("outside", "1", "2")]
    assert _summary(production) == (
        "The alias champion was moved outside Perennial: version 1 -> version 2, found 2013-04-02T02:00:00Z."
    )
    production.assert_in_step()


def test_hand_made_move_carries_the_digest_and_an_anchor(production: Production) -> None:
    production.moved_by_hand("2")
    production.settle()
    entry = production.ledger.entries(MODEL)[-1]
    assert entry.digest == production.registry.version(MODEL, "2").model.digest
    assert anchors(production.registry, MODEL)[-1].sequence == entry.sequence


def test_alias_that_was_taken_off_is_recorded(production: Production) -> None:
    production.moved_by_hand(None)
    assert production.settle() is None
    assert production.moves()[1:] == [("outside", "1", None)]
    production.assert_in_step()


def test_champion_that_perennial_did_not_register_is_recorded_without_a_digest(production: Production) -> None:
    production.moved_by_hand(production.registry.register_by_hand(MODEL))
    production.settle()
    entry = production.ledger.entries(MODEL)[-1]
    assert (entry.kind, entry.champion_after, entry.digest) == ("outside", "4", None)


def test_alias_that_was_there_before_the_ledger_is_recorded(tmp_path: Path) -> None:
    production = Production(tmp_path)
    production.moved_by_hand(production.registry.register_by_hand(MODEL))
    production.settle()
    assert production.moves() == [("outside", None, "1")]


def test_move_from_elsewhere_is_refused(production: Production) -> None:
    with pytest.raises(FenceError, match="version 2 was to be replaced, but the alias now names version 1"):
        production.move(production.move_of("2", "3"))
    assert production.moves()[1:] == []
    production.assert_in_step()


def test_alias_that_somebody_moves_right_after_is_told_and_both_moves_recorded(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = production.registry.point_alias

    def then_by_hand(model: str, alias: str, version: str) -> None:
        point(model, alias, version)
        point(model, alias, "3")

    monkeypatch.setattr(production.registry, "point_alias", then_by_hand)
    with pytest.raises(FenceError, match="moved the alias to version 2, but right afterwards it names version 3"):
        production.move(production.move_of("1", "2"))
    assert production.moves()[1:] == [("promotion", "1", "2"), ("outside", "2", "3")]
    production.assert_in_step()


def test_holder_whose_lease_is_over_moves_nothing(production: Production) -> None:
    with production.ledger.lock(MODEL, owner="slow") as lease:
        production.clock.advance(timedelta(minutes=10))
        with pytest.raises(LockLostError):
            production.door.move(production.move_of("1", "2"), lease)
    assert production.champion == "1"
    production.assert_in_step()


def test_champion_cannot_be_taken_away_through_the_door(production: Production) -> None:
    with pytest.raises(ValueError, match="never taken away"):
        production.move(production.move_of("1", None))


def test_version_that_is_promoted_twice_keeps_the_newest_anchor(production: Production) -> None:
    for at, (before, after) in enumerate([("1", "2"), ("2", "1")]):
        production.move(replace(production.move_of(before, after), evidence_sha256=str(at)))
    last = production.ledger.entries(MODEL)[-1]
    found: list[Any] = anchors(production.registry, MODEL)
    assert [anchor.where for anchor in found] == ["MLflow, version 2 of churn", "MLflow, version 1 of churn"]
    assert found[-1].sequence == last.sequence


def test_tag_that_is_no_anchor_is_left_out(production: Production) -> None:
    production.registry.tag_version(MODEL, "3", {ANCHOR_TAG: "scribble"})
    assert [anchor.where for anchor in anchors(production.registry, MODEL)] == ["MLflow, version 1 of churn"]


def test_newest_move_that_is_damaged_is_not_taken_for_a_hand_made_one(production: Production) -> None:
    recorded = production.move(production.move_of("1", "2"))
    production.decided(production.trained("later"), production.request("later"), verdict="REJECT", judged="2")
    production.store.write(recorded.uri, b"damaged", content_type="application/json")
    production.settle()
    assert _summary(production).startswith(
        f"The ledger's newest move (entry {recorded.entry.sequence}, says MLflow, version 2 of churn) is missing or"
    )
    assert production.settle() == "2"
    assert production.moves()[1:] == [("outside", "1", "2")]
