"""approve: an answer is recorded once, by whom and when; who may not answer is not recorded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from perennial.domain.references import DecisionRef
from perennial.domain.run_request import RunRequest
from perennial.errors import NotAllowedError, TerminalError
from perennial.stages.approve import newest_answer
from tests.unit.core.production import MODEL, NOW, Production, spec


@pytest.fixture
def production(tmp_path: Path) -> Production:
    return Production(tmp_path, spec=spec(approval={"required": True, "approvers": ["ada", "bob"]}))


@pytest.fixture
def asked(production: Production) -> tuple[RunRequest, DecisionRef]:
    request, model = production.request("run-a"), production.trained("a")
    return request, production.decided(model, request)


def _answers(production: Production) -> list[tuple[bool | None, str | None, str]]:
    entries = [entry for entry in production.ledger.entries(MODEL) if entry.kind == "approval"]
    return [(entry.approved, entry.actor, entry.summary) for entry in entries]


def test_yes_is_recorded_with_who_and_when(production: Production, asked: tuple[RunRequest, DecisionRef]) -> None:
    reference = production.answered(*asked)
    assert (reference.approved, reference.by, reference.at) == (True, "ada", NOW)
    assert reference.decision_sha256 == asked[1].sha256
    assert production.store.head(reference.ledger_uri) is not None
    assert _answers(production) == [(True, "ada", "ada approved on 2013-04-01T02:00:00Z.")]


def test_no_and_silence_are_told_apart(production: Production, asked: tuple[RunRequest, DecisionRef]) -> None:
    production.answered(*asked, approved=False, by="bob")
    silence = production.answered(*asked, approved=False, by=None)
    assert (silence.approved, silence.by) == (False, None)
    assert _answers(production) == [
        (False, "bob", "Declined by bob on 2013-04-01T02:00:00Z."),
        (False, None, "No answer within 1d: a No."),
    ]


@pytest.mark.parametrize("by", ["ada", None])
def test_answer_that_is_recorded_again_later_gives_the_same_reference(
    production: Production, asked: tuple[RunRequest, DecisionRef], by: str | None
) -> None:
    first = production.answered(*asked, approved=by is not None, by=by)
    production.pass_time(timedelta(minutes=5))
    assert production.answered(*asked, approved=by is not None, by=by) == first
    assert len(_answers(production)) == 1


def test_newest_answer_counts(production: Production, asked: tuple[RunRequest, DecisionRef]) -> None:
    for approved, by in ((False, None), (True, "ada"), (False, "bob")):
        production.answered(*asked, approved=approved, by=by)
        found = newest_answer(production.ledger, *asked)
        assert found is not None
        assert (found.approved, found.actor) == (approved, by)


def test_answer_to_another_decision_of_the_run_is_not_taken_for_it(
    production: Production, asked: tuple[RunRequest, DecisionRef]
) -> None:
    production.answered(*asked)
    assert newest_answer(production.ledger, asked[0], replace(asked[1], sha256="other")) is None
    assert newest_answer(production.ledger, replace(asked[0], run_id="other"), asked[1]) is None


@pytest.mark.parametrize(("approved", "by"), [(True, "mallory"), (False, "mallory"), (True, None), (True, "")])
def test_answer_of_somebody_who_may_not_is_refused_and_not_recorded(
    production: Production, asked: tuple[RunRequest, DecisionRef], approved: bool, by: str | None
) -> None:
    with pytest.raises(NotAllowedError, match="Nothing was recorded"):
        production.answered(*asked, approved=approved, by=by)
    assert _answers(production) == []


def test_anybody_may_answer_if_nobody_is_named(production: Production, asked: tuple[RunRequest, DecisionRef]) -> None:
    production.spec = spec(approval={"required": True})
    assert production.answered(*asked, by="anybody").approved


@pytest.mark.parametrize("verdict", ["REJECT", "INCONCLUSIVE"])
def test_decision_that_is_no_promote_cannot_be_approved(production: Production, verdict: str) -> None:
    request, model = production.request("run-a"), production.trained("a")
    with pytest.raises(TerminalError, match=f"the decision is {verdict}; only a PROMOTE"):
        production.answered(request, production.decided(model, request, verdict=verdict))
