"""rollback: where it goes, what it refuses, and what it keeps from coming back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.champion_door import anchors
from perennial.domain.ledger_entry import quarantined
from perennial.domain.references import ModelRef
from perennial.errors import (
    ChampionUnusableError,
    FenceError,
    IntegrityError,
    NotFoundError,
    SmokeTestError,
    TerminalError,
)
from tests.unit.core.faulty import Fault, Faulty, ProcessDied
from tests.unit.core.production import MODEL, ROOT, Broken, Production, spec


@pytest.fixture
def production(tmp_path: Path) -> Production:
    """Versions 1, 2 and 3 were promoted in turn."""
    production = Production(tmp_path)
    for name in ("first", "second", "third"):
        production.promoted(name)
    return production


def test_default_target_is_the_champion_before(production: Production) -> None:
    result = production.roll_back()
    assert (result.champion_before, result.champion_after, result.quarantined) == ("3", "2", 1)
    entry = production.ledger.entries(MODEL)[-1]
    assert (entry.kind, entry.actor, entry.reasons) == ("rollback", "grace", ("it is late",))
    assert entry.summary == (
        "grace went back from version 3 to version 2: it is late. "
        "Version 3 is in quarantine: its model is not promoted again."
    )
    assert list(entry.quarantined) == [production.registry.version(MODEL, "3").model.digest]
    production.assert_in_step()


def test_second_rollback_goes_further_back_only_to_a_named_version(production: Production) -> None:
    production.roll_back("one-engineer")
    with pytest.raises(TerminalError, match=r"version 2 was put back by a rollback already .*it is late.* --to 1 "):
        production.roll_back("another-engineer")
    assert production.moves()[3:] == [("rollback", "3", "2")]
    assert production.roll_back("further", to="1").champion_after == "1"
    with pytest.raises(TerminalError, match=r"no earlier champion to go back to from version 1.*are: 1, 2, 3"):
        production.roll_back("still-further")
    assert len(quarantined(production.ledger.moves(MODEL))) == 2
    production.assert_in_step()


def test_rollback_that_is_repeated_does_not_go_back_once_more(production: Production) -> None:
    first = production.roll_back()
    production.pass_time(timedelta(hours=1))
    assert production.roll_back() == first
    assert production.moves()[3:] == [("rollback", "3", "2")]


def _die_after_the_alias(production: Production, run_id: str) -> None:
    registry = Faulty(production.registry, ("point_alias",), Fault(at=1, after=True, fatal=True), ProcessDied)
    with pytest.raises(ProcessDied):
        Production(production.folder, production.spec, registry, production.store, production.clock).roll_back(run_id)
    production.pass_time(timedelta(minutes=1))


def test_rollback_asked_for_anew_after_a_crash_goes_back_once_not_twice(production: Production) -> None:
    _die_after_the_alias(production, "crashed")
    with pytest.raises(TerminalError, match="version 2 was put back by a rollback already"):
        production.roll_back("again")
    assert production.moves()[3:] == [("rollback", "3", "2")]
    production.assert_in_step()


def test_rollback_to_a_named_version_after_a_crash_goes_there(production: Production) -> None:
    _die_after_the_alias(production, "crashed")
    production.roll_back("again", to="1")
    assert production.moves()[3:] == [("rollback", "3", "2"), ("rollback", "2", "1")]
    production.assert_in_step()


def test_what_is_taken_back_is_quarantined_though_its_tags_in_mlflow_were_edited(production: Production) -> None:
    digest = production.registry.version(MODEL, "3").model.digest
    production.registry._versions[MODEL]["3"].model = None
    production.roll_back()
    assert list(production.ledger.entries(MODEL)[-1].quarantined) == [digest]


def test_number_that_was_given_to_another_model_is_no_earlier_champion(production: Production) -> None:
    production.registry._versions[MODEL]["2"].model = production.trained("stranger")
    assert production.roll_back().champion_after == "1"
    production.assert_in_step()


@pytest.mark.parametrize("to", ["1", "3"])
def test_named_version_comes_back_though_the_alias_was_taken_off(production: Production, to: str) -> None:
    production.moved_by_hand(None)
    result = production.roll_back(to=to)
    assert (result.champion_before, result.champion_after, result.quarantined) == (None, to, 0)
    production.assert_in_step()


def test_ledger_that_was_removed_does_not_keep_anybody_from_going_back(production: Production) -> None:
    for folder in ("ledger", "ledger-heads"):
        for info in list(production.store.list(f"{ROOT}/{folder}/")):
            production.store.delete(info.uri)
    with pytest.raises(TerminalError, match="the ledger knows no earlier champion"):
        production.roll_back()
    assert production.roll_back("back-2", to="2").champion_after == "2"
    assert not production.ledger.verify(MODEL, anchors(production.registry, MODEL)).sound


def test_promotion_that_waited_for_approval_while_the_champion_was_taken_back_is_stopped(tmp_path: Path) -> None:
    strict = Production(tmp_path, spec=spec(approval={"required": True, "approvers": ["ada"]}))
    for name in ("first", "second"):
        request, model = strict.request(name), strict.trained(name)
        decision = strict.decided(model, request, judged=strict.champion)
        strict.carry_out(request, model, decision, strict.answered(request, decision))
    request, model = strict.request("waits"), strict.trained("waits")
    decision = strict.decided(model, request, judged="2")
    strict.roll_back("meanwhile")
    approval = strict.answered(request, decision)
    with pytest.raises(FenceError, match=r"version 2 was to be replaced, but the alias now names version 1.*went back"):
        strict.carry_out(request, model, decision, approval)
    assert strict.moves()[2:] == [("rollback", "2", "1")]
    strict.assert_in_step()


def test_named_version_is_taken(production: Production) -> None:
    assert production.roll_back(to="1").champion_after == "1"
    production.assert_in_step()


def test_named_version_in_quarantine_is_released(production: Production) -> None:
    production.roll_back("back-1")
    production.roll_back("back-2", to="3")
    entry = production.ledger.entries(MODEL)[-1]
    assert entry.summary.endswith("Version 3 is released from quarantine.")
    assert list(quarantined(production.ledger.moves(MODEL))) == [production.registry.version(MODEL, "2").model.digest]


@pytest.mark.parametrize("reason", ["", "  "])
def test_named_version_in_quarantine_is_not_released_without_a_reason(production: Production, reason: str) -> None:
    production.roll_back("back-1")
    with pytest.raises(TerminalError, match=r"version 3 is in quarantine \(.*it is late\).*--to 3 --reason"):
        production.roll_back("back-2", to="3", reason=reason)
    assert production.champion == "2"
    assert len(quarantined(production.ledger.moves(MODEL))) == 1


@pytest.mark.parametrize(
    ("to", "error", "message"),
    [
        ("3", TerminalError, r"version 3 is the champion already. Versions there are: 1, 2, 3"),
        ("9", NotFoundError, r"has no version 9. Versions there are: 1, 2, 3. Nothing was changed"),
    ],
)
def test_named_version_that_makes_no_sense_is_refused(
    production: Production, to: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        production.roll_back(to=to)
    assert production.champion == "3"


def test_named_version_whose_digest_is_unknown_is_refused(production: Production) -> None:
    by_hand = production.registry.register_by_hand(MODEL)
    with pytest.raises(ChampionUnusableError, match="did not register it"):
        production.roll_back(to=by_hand)


def test_champion_put_there_by_hand_is_taken_back_without_a_quarantine(production: Production) -> None:
    production.moved_by_hand(production.registry.register_by_hand(MODEL))
    result = production.roll_back()
    assert (result.champion_before, result.champion_after, result.quarantined) == ("4", "3", 0)
    assert "its digest is unknown, no quarantine" in production.ledger.entries(MODEL)[-1].summary
    assert production.moves()[3:] == [("outside", "3", "4"), ("rollback", "4", "3")]
    production.assert_in_step()


def test_alias_that_was_taken_off_comes_back_to_the_newest_champion(production: Production) -> None:
    production.moved_by_hand(None)
    result = production.roll_back()
    assert (result.champion_before, result.champion_after, result.quarantined) == (None, "3", 0)
    assert production.moves()[3:] == [("outside", "3", None), ("rollback", None, "3")]
    production.assert_in_step()


def test_model_without_a_past_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match=r"from no champion.*Versions there are: none"):
        Production(tmp_path).roll_back()


def test_versions_that_are_gone_or_came_by_hand_are_passed_over(production: Production) -> None:
    production.moved_by_hand(production.registry.register_by_hand(MODEL))
    production.settle()
    production.promoted("fourth")
    del production.registry._versions[MODEL]["3"]
    assert production.roll_back().champion_after == "2"


def test_target_whose_bytes_have_changed_is_refused(production: Production) -> None:
    production.registry.corrupt(production.registry.version(MODEL, "2").model.model_uri)
    with pytest.raises(IntegrityError):
        production.roll_back()
    assert production.champion == "3"
    assert len(production.moves()) == 3


def test_target_that_does_not_predict_is_refused(tmp_path: Path) -> None:
    production = Production(tmp_path)
    production.moved_by_hand(production.registry.register(MODEL, production.trained("broken", Broken()), {}))
    production.settle()
    production.promoted("fine")
    with pytest.raises(SmokeTestError, match=r"version 1 of churn .* ZeroDivisionError"):
        production.roll_back()
    assert production.champion == "2"


def test_champion_that_moves_during_the_smoke_test_stops_the_rollback(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = production.registry.open_model

    def meanwhile(model: ModelRef) -> Any:
        production.moved_by_hand("1")
        return opened(model)

    monkeypatch.setattr(production.registry, "open_model", meanwhile)
    with pytest.raises(FenceError, match="champion was moved from version 3 to version 1"):
        production.roll_back()
    assert production.moves()[3:] == [("outside", "3", "1")]
    production.assert_in_step()
