"""promote: what may pass the door, what may not, and what is put on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.champion_door import ANCHOR_TAG
from perennial.domain.ledger_entry import quarantined
from perennial.errors import (
    ExpiredVerdictError,
    FenceError,
    IntegrityError,
    NotAllowedError,
    SmokeTestError,
)
from tests.unit.core.production import MODEL, Broken, Constant, Production, spec

NAN = float("nan")


@pytest.fixture
def production(tmp_path: Path) -> Production:
    return Production(tmp_path)


def _ready(production: Production, **how: Any) -> tuple[Any, Any, Any]:
    """Request, challenger and decision of a run that says PROMOTE."""
    request, model = production.request("run-a", **how), production.trained("a")
    return request, model, production.decided(model, request, judged=production.champion)


def test_first_promotion_registers_moves_the_alias_and_records(production: Production) -> None:
    request, model, decision = _ready(production)
    result = production.carry_out(request, model, decision)
    assert (result.promoted, result.champion_before, result.champion_after) == (True, None, "1")
    entry = production.ledger.entries(MODEL)[-1]
    assert (entry.kind, entry.verdict, entry.digest) == ("promotion", "PROMOTE", model.digest)
    assert entry.reasons == ("because",)
    assert entry.summary == "Version 1 became champion as the first."
    assert set(entry.references) == {"model", "decision"}
    production.assert_in_step()


def test_registered_version_carries_card_addresses_and_anchor(production: Production) -> None:
    request, model, decision = _ready(production)
    result = production.carry_out(request, model, decision)
    tags = production.registry.version_tags(MODEL)["1"]
    assert tags["perennial.decision_uri"] == decision.uri
    assert tags["perennial.decision_url"] == "https://airflow/decision"
    sequence, sha256 = tags[ANCHOR_TAG].split(":")
    assert result.ledger_uri.rpartition("/")[2].startswith(f"{int(sequence):08d}-promotion-")
    assert len(sha256) == 64
    assert production.registry.description(MODEL, "1") == "# Card"
    assert production.registry.texts[model.run_id]["model_card.md"] == "# Card"


@pytest.mark.parametrize("verdict", ["REJECT", "INCONCLUSIVE"])
def test_other_verdicts_move_and_record_nothing(production: Production, verdict: str) -> None:
    request, model = production.request("run-a"), production.trained("a")
    decision = production.decided(model, request, verdict=verdict)
    result = production.carry_out(request, model, decision)
    assert (result.promoted, result.champion_after, result.ledger_uri) == (False, None, decision.ledger_uri)
    assert production.registry.versions(MODEL) == []
    assert [entry.kind for entry in production.ledger.entries(MODEL)] == ["decision"]


def test_promotion_that_is_repeated_changes_nothing(production: Production) -> None:
    request, model, decision = _ready(production)
    first = production.carry_out(request, model, decision)
    production.pass_time(timedelta(days=30))  # a record needs no fresh verdict
    assert production.carry_out(request, model, decision) == first
    assert production.moves() == [("promotion", None, "1")]


def test_promotion_that_is_repeated_after_a_rollback_does_not_come_back(production: Production) -> None:
    production.promoted("first")
    request, model, decision = _ready(production)
    first = production.carry_out(request, model, decision)
    production.roll_back()
    assert production.carry_out(request, model, decision) == first
    assert production.champion == "1"
    production.assert_in_step()


def test_champion_moved_by_hand_since_the_decision_stops_the_promotion(production: Production) -> None:
    request, model, decision = _ready(production)
    production.moved_by_hand(production.registry.register(MODEL, production.trained("other"), {}))
    with pytest.raises(
        FenceError, match=r"no champion was to be replaced, but .* names version 1\..*moved outside Perennial"
    ):
        production.carry_out(request, model, decision)
    assert production.moves() == [("outside", None, "1")]
    production.assert_in_step()


def test_champion_promoted_by_another_run_since_the_decision_stops_the_promotion(production: Production) -> None:
    request, model, decision = _ready(production)
    production.promoted("other")
    with pytest.raises(FenceError, match="Version 1 became champion as the first"):
        production.carry_out(request, model, decision)
    assert production.moves() == [("promotion", None, "1")]


def test_challenger_that_is_champion_already_is_recorded_once_and_not_moved(production: Production) -> None:
    production.promoted("first")
    request, model, decision = _ready(production)
    production.moved_by_hand(production.registry.register(MODEL, model, {}))
    result = production.carry_out(request, model, decision)
    assert production.carry_out(request, model, decision) == result
    assert (result.promoted, result.champion_before, result.champion_after) == (True, "2", "2")
    assert production.moves()[1:] == [("outside", "1", "2"), ("promotion", "2", "2")]
    production.assert_in_step()


def test_challenger_that_was_taken_back_since_the_decision_is_refused(production: Production) -> None:
    production.promoted("first")
    request, model, decision = _ready(production)
    other = production.request("run-b")
    production.carry_out(other, model, production.decided(model, other, judged="1"))
    production.roll_back()
    with pytest.raises(FenceError, match=r"taken back since it was judged \(Version 2 was taken back by grace"):
        production.carry_out(request, model, decision)
    assert production.champion == "1"


def test_changed_decision_file_is_refused(production: Production) -> None:
    request, model, decision = _ready(production)
    production.store.write(decision.uri, b'{"verdict": "PROMOTE"}\n', content_type="application/json")
    with pytest.raises(IntegrityError, match="was changed after the decision"):
        production.carry_out(request, model, decision)
    assert production.champion is None


@pytest.mark.parametrize("change", [{"verdict": "PROMOTE"}, {"champion_version": "7"}])
def test_reference_that_claims_something_else_than_the_decision_is_refused(
    production: Production, change: dict[str, Any]
) -> None:
    request, model = production.request("run-a"), production.trained("a")
    decision = production.decided(model, request, verdict="REJECT")
    with pytest.raises(IntegrityError, match="nothing was moved"):
        production.carry_out(request, model, replace(decision, **change))
    assert production.champion is None


def test_decision_on_another_model_is_refused(production: Production) -> None:
    request, _, decision = _ready(production)
    with pytest.raises(IntegrityError, match="nothing was moved"):
        production.carry_out(request, production.trained("b"), decision)


def test_decision_that_is_not_in_the_ledger_is_refused(production: Production) -> None:
    _, model, decision = _ready(production)
    with pytest.raises(IntegrityError, match="run another-run has no entry in the ledger"):
        production.carry_out(production.request("another-run"), model, decision)
    assert production.champion is None


def test_verdict_that_is_too_old_is_refused_with_age_and_limit(production: Production) -> None:
    request, model, decision = _ready(production)
    production.pass_time(timedelta(days=7, hours=1))
    with pytest.raises(ExpiredVerdictError, match=r"169\.0 hours old, gate\.verdict_expires is 7d"):
        production.carry_out(request, model, decision)
    assert production.champion is None


def test_changed_byte_of_the_challenger_is_refused(production: Production) -> None:
    request, model, decision = _ready(production)
    production.registry.corrupt(model.model_uri)
    with pytest.raises(IntegrityError):
        production.carry_out(request, model, decision)
    assert production.champion is None


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Broken(), "ZeroDivisionError: a user's mistake"),
        (Constant((0.5, NAN)), "2 of 4 values are not finite"),
        (Constant((-0.5, 1.5)), "probabilities lie between -0.5 and 1.5"),
        (Constant((0.2, 0.3, 0.5)), r"their shape is \(2, 3\), expected \(2, 2\)"),
        (Constant(("a", "b")), "ValueError"),
    ],
)
def test_challenger_that_gives_no_usable_predictions_is_refused(
    production: Production, estimator: Constant, message: str
) -> None:
    request, model = production.request("run-a"), production.trained("a", estimator)
    with pytest.raises(SmokeTestError, match=message):
        production.carry_out(request, model, production.decided(model, request))
    assert production.champion is None
    assert production.registry.versions(MODEL) == []


@pytest.mark.parametrize(("says", "passes"), [((0.0, 5e6), True), ((0.0, NAN), False), ((0.0, float("inf")), False)])
def test_regression_may_predict_any_finite_number(tmp_path: Path, says: Sequence[float], passes: bool) -> None:
    production = Production(tmp_path, spec=spec(task="regression", evaluation={"primary": "mae"}, gate=_REGRESSION))
    request, model = production.request("run-a"), production.trained("a", Constant(says))
    decision = production.decided(model, request)
    if passes:
        assert production.carry_out(request, model, decision).promoted
    else:
        with pytest.raises(SmokeTestError, match="not finite"):
            production.carry_out(request, model, decision)


_REGRESSION = {"rule": {"kind": "superiority", "min_effect": 0.01}, "cluster_by": "day"}
_APPROVED = {"required": True, "approvers": ["ada", "bob"], "break_glass": ["root"]}


@pytest.fixture
def strict(tmp_path: Path) -> Production:
    """A model whose promotions a person has to approve."""
    return Production(tmp_path, spec=spec(approval=_APPROVED))


def test_promotion_with_a_yes_on_record_names_the_approver(strict: Production) -> None:
    request, model, decision = _ready(strict)
    strict.carry_out(request, model, decision, strict.answered(request, decision))
    entry = strict.ledger.entries(MODEL)[-1]
    assert (entry.kind, entry.actor) == ("promotion", "ada")
    assert entry.summary.endswith("Approved by ada.")


def test_promotion_without_an_answer_is_refused(strict: Production) -> None:
    request, model, decision = _ready(strict)
    with pytest.raises(NotAllowedError, match="the ledger has: nothing"):
        strict.carry_out(request, model, decision)
    assert strict.champion is None


def test_promotion_after_a_no_is_refused(strict: Production) -> None:
    request, model, decision = _ready(strict)
    refusal = strict.answered(request, decision, approved=False)
    for claimed in (refusal, replace(refusal, approved=True)):
        with pytest.raises(NotAllowedError, match="Declined by ada"):
            strict.carry_out(request, model, decision, claimed)
    assert strict.champion is None


def test_no_after_a_yes_counts(strict: Production) -> None:
    request, model, decision = _ready(strict)
    approval = strict.answered(request, decision)
    strict.answered(request, decision, approved=False, by="bob")
    with pytest.raises(NotAllowedError, match="Declined by bob"):
        strict.carry_out(request, model, decision, approval)


def test_yes_that_only_the_reference_claims_is_refused(strict: Production) -> None:
    request, model, decision = _ready(strict)
    other_request = strict.request("run-b")
    other = strict.answered(other_request, strict.decided(model, other_request))
    for forged in (other, replace(other, decision_sha256=decision.sha256)):
        with pytest.raises(NotAllowedError, match="the ledger has: nothing"):
            strict.carry_out(request, model, decision, forged)
    assert strict.champion is None


def test_yes_of_somebody_who_is_no_approver_any_more_is_refused(strict: Production) -> None:
    request, model, decision = _ready(strict)
    approval = strict.answered(request, decision)
    strict.spec = spec(approval={**_APPROVED, "approvers": ["bob"]})
    with pytest.raises(NotAllowedError, match="ada may not answer; the spec names bob"):
        strict.carry_out(request, model, decision, approval)


def test_verdict_that_ran_out_while_approval_was_awaited_is_refused_and_the_yes_stays_on_record(
    strict: Production,
) -> None:
    request, model = strict.request("late"), strict.trained("late")
    decision = strict.decided(model, request, judged=strict.champion)
    strict.pass_time(strict.spec.gate.verdict_expires + timedelta(seconds=1))
    approval = strict.answered(request, decision)
    with pytest.raises(ExpiredVerdictError):
        strict.carry_out(request, model, decision, approval)
    assert [entry.kind for entry in strict.ledger.entries(MODEL)][-2:] == ["decision", "approval"]
    strict.assert_in_step()


def test_of_two_promotions_that_were_approved_the_second_meets_the_fence(strict: Production) -> None:
    asked = []
    for name in ("one", "other"):
        request, model = strict.request(name), strict.trained(name)
        decision = strict.decided(model, request, judged=strict.champion)
        asked.append((request, model, decision, strict.answered(request, decision)))
    promoted = strict.carry_out(*asked[1])
    with pytest.raises(FenceError, match="was to be replaced"):
        strict.carry_out(*asked[0])
    assert strict.champion == promoted.champion_after
    strict.assert_in_step()


def test_champion_that_moved_while_approval_was_awaited_stops_the_promotion(strict: Production) -> None:
    request, model, decision = _ready(strict)
    approval = strict.answered(request, decision)
    strict.moved_by_hand(strict.registry.register(MODEL, strict.trained("other"), {}))
    with pytest.raises(FenceError):
        strict.carry_out(request, model, decision, approval)
    assert strict.champion == "1"


def test_broken_glass_needs_no_approval_and_is_recorded_loudly(strict: Production) -> None:
    request, model, decision = _ready(strict, requested_by="root", break_glass="the old one is down")
    strict.carry_out(request, model, decision)
    entry = strict.ledger.entries(MODEL)[-1]
    assert (entry.kind, entry.actor, entry.break_glass) == ("promotion", "root", True)
    assert entry.summary.endswith("root broke the glass: the old one is down. Overridden: approval.")
    assert entry.reasons == ("because", "Overridden: nobody was asked to approve.")


def test_broken_glass_overrides_age_and_smoke_test_and_says_so(
    strict: Production, caplog: pytest.LogCaptureFixture
) -> None:
    request = strict.request("run-a", requested_by="root", break_glass="anything is better")
    model = strict.trained("a", Broken())
    decision = strict.decided(model, request)
    strict.pass_time(timedelta(days=7, hours=1))
    assert strict.carry_out(request, model, decision).promoted
    entry = strict.ledger.entries(MODEL)[-1]
    assert entry.summary == (
        "Version 1 became champion as the first. root broke the glass: anything is better. "
        "Overridden: approval, age of the verdict, smoke test."
    )
    because, _, age, smoke = entry.reasons
    assert because == "because"
    assert "169.0 hours old, gate.verdict_expires is 7d" in age
    assert "ZeroDivisionError: a user's mistake" in smoke
    assert "Nothing was moved" not in age + smoke
    assert [record.levelname for record in caplog.records if "the glass is broken" in record.message] == ["WARNING"] * 2
    strict.assert_in_step()
    assert strict.carry_out(request, model, decision).promoted
    assert strict.ledger.entries(MODEL)[-1] == entry


def test_broken_glass_that_only_the_reference_claims_is_refused(strict: Production) -> None:
    request, model, decision = _ready(strict)
    with pytest.raises(IntegrityError, match="break_glass=False, asked was to carry out PROMOTE with break_glass=True"):
        strict.carry_out(request, model, replace(decision, break_glass=True))


def test_broken_glass_by_somebody_who_may_not_is_refused(strict: Production) -> None:
    request, model, decision = _ready(strict, requested_by="mallory", break_glass="because")
    with pytest.raises(NotAllowedError, match="mallory may not break the glass"):
        strict.carry_out(request, model, decision)
    assert strict.champion is None


def test_broken_glass_does_not_open_the_fence_nor_the_digest_check(strict: Production) -> None:
    request, model, decision = _ready(strict, requested_by="root", break_glass="because")
    files = dict(strict.registry.files[model.model_uri])
    strict.registry.corrupt(model.model_uri)
    with pytest.raises(IntegrityError):
        strict.carry_out(request, model, decision)
    strict.registry.files[model.model_uri] = files
    strict.moved_by_hand(strict.registry.register(MODEL, strict.trained("other"), {}))
    with pytest.raises(FenceError):
        strict.carry_out(request, model, decision)


def test_broken_glass_promotes_what_was_taken_back_and_releases_it(strict: Production) -> None:
    strict.spec = spec(approval={**_APPROVED, "required": False})
    strict.promoted("first")
    model = strict.promoted("second")
    strict.roll_back()
    strict.spec = spec(approval=_APPROVED)
    request = strict.request("run-x", requested_by="root", break_glass="it was the network")
    strict.carry_out(request, model, strict.decided(model, request, judged="1"))
    assert strict.champion == "2"
    assert strict.ledger.entries(MODEL)[-1].summary.endswith("Overridden: approval, quarantine.")
    assert quarantined(strict.ledger.moves(MODEL)) == {}
    strict.assert_in_step()
