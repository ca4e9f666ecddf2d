"""A person's answer: who is asked what, what a Yes, a No and silence lead to, and what a retry makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskAwaitingInput

from perennial import cycle
from perennial.domain.references import ApprovalRef, DecisionRef, PromotionRef
from perennial.errors import StoreUnavailableError
from perennial_airflow import links
from tests.unit.airflow.running import Run
from tests.unit.core.world import SPEC, World

pytestmark = pytest.mark.airflow
APPROVAL = {"required": True, "approvers": ["ada", "bob"], "timeout": "6h", "break_glass": ["ada"]}


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Airflow was told to ask."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **question: asked.append(question)
    )
    return asked


@pytest.fixture
def asking(world: World) -> World:
    """The spec `toy` asks for approval, and there is data for a first champion."""
    declare(world, approval=APPROVAL)
    world.land(range(28))
    return world


def declare(world: World, **changes: Any) -> None:
    (world.specs / "toy.yaml").write_text(yaml.safe_dump({**SPEC, **changes}), encoding="utf-8")


def waiting(world: World, run_id: str = "manual__1", **params: Any) -> Run:
    """A run whose `approve` waits for an answer."""
    run = Run(world, run_id, **params)
    run.tasks("decide")
    with pytest.raises(TaskAwaitingInput):
        run.task("approve")
    return run


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in world.runtime.ledger.entries("toy")]


def test_good_challenger_waits_with_everything_that_an_answer_needs(
    asking: World, questions: list[dict[str, Any]]
) -> None:
    run = waiting(asking)
    [question] = questions
    assert question["options"] == ["Approve", "Reject"]
    assert question["defaults"] == ["Reject"]
    assert question["assigned_users"] == [{"id": "ada", "name": "ada"}, {"id": "bob", "name": "bob"}]
    page = run.pushed["decide"][links.DecisionLink.key]
    decision = DecisionRef.from_dict(run.returned["decide"])
    for said in ("toy", "PROMOTE", decision.summary, "none yet", f"({page})", "memory://runs/run-1", "ada, bob"):
        assert said in question["subject"] + question["body"]
    assert "2026-01-02 06:00 UTC (6h after the question)" in question["body"]
    assert kinds(asking) == ["decision"]


def test_nobody_named_leaves_the_answer_to_whoever_may_answer_tasks(
    asking: World, questions: list[dict[str, Any]]
) -> None:
    declare(asking, approval={"required": True})
    waiting(asking)
    assert questions[0]["assigned_users"] == []
    assert "whoever may answer tasks" in questions[0]["body"]


@pytest.mark.usefixtures("questions")
def test_yes_is_put_on_record_and_promotes(asking: World) -> None:
    run = waiting(asking)
    approval = ApprovalRef.from_dict(run.answered("Approve"))
    assert (approval.approved, approval.by) == (True, "ada")
    assert PromotionRef.from_dict(run.task("promote_if_better")).promoted
    entries = asking.runtime.ledger.entries("toy")
    assert [(entry.kind, entry.actor) for entry in entries] == [
        ("decision", None),
        ("approval", "ada"),
        ("promotion", "ada"),
    ]


@pytest.mark.usefixtures("questions")
@pytest.mark.parametrize(
    ("by", "said"), [("bob", "Declined by bob on 2026-01-02T09:30"), (None, "Declined: nobody answered in time")]
)
def test_no_and_silence_are_put_on_record_and_leave_promotion_skipped(asking: World, by: str | None, said: str) -> None:
    run = waiting(asking)
    approval = ApprovalRef.from_dict(run.answered("Reject", by))
    assert (approval.approved, approval.by) == (False, by)
    with pytest.raises(AirflowSkipException, match=said):
        run.task("promote_if_better")
    assert asking.registry.champion("toy") is None
    assert kinds(asking) == ["decision", "approval"]
    assert asking.runtime.ledger.entries("toy")[-1].approved is False


def test_challenger_that_is_not_better_asks_nobody(asking: World, questions: list[dict[str, Any]]) -> None:
    first = waiting(asking)
    first.answered("Approve")
    first.task("promote_if_better")
    asking.land(range(28, 35))
    run = Run(asking, "manual__2")
    verdict = DecisionRef.from_dict(run.tasks("decide")).verdict
    with pytest.raises(AirflowSkipException, match=f"nobody is asked: {verdict}"):
        run.task("approve")
    with pytest.raises(AirflowSkipException, match="stays version 1"):
        run.task("promote_if_better")
    assert len(questions) == 1


def test_broken_glass_asks_nobody_and_promotes_on_record(asking: World, questions: list[dict[str, Any]]) -> None:
    declare(asking, approval=APPROVAL, gate={**SPEC["gate"], "floors": {"roc_auc": 0.999}})
    run = Run(asking, break_glass="the old one is down")
    run.tasks("decide")
    with pytest.raises(AirflowSkipException, match="the glass was broken"):
        run.task("approve")
    assert PromotionRef.from_dict(run.task("promote_if_better")).promoted
    assert questions == []
    assert [entry.break_glass for entry in asking.runtime.ledger.entries("toy")] == [True, True]


def test_glass_that_somebody_else_breaks_stops_the_run_at_its_first_task(asking: World) -> None:
    declare(asking, approval={**APPROVAL, "break_glass": ["bob"]})
    with pytest.raises(AirflowFailException, match="ada may not break the glass"):
        Run(asking, break_glass="I want it").task("snapshot_data")


def test_store_that_is_down_for_a_while_does_not_lose_the_answer(
    asking: World, questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, record, waited = waiting(asking), cycle.approve, []

    def down_twice(*arguments: Any, **given: Any) -> ApprovalRef:
        if len(waited) < 2:
            raise StoreUnavailableError("s3 does not answer")
        return record(*arguments, **given)

    monkeypatch.setattr(cycle, "approve", down_twice)
    monkeypatch.setattr("perennial_airflow.operators.approval.time.sleep", waited.append)
    assert ApprovalRef.from_dict(run.answered("Approve", "bob")).by == "bob"
    assert len(waited) == 2
    assert len(questions) == 1
    assert kinds(asking) == ["decision", "approval"]


def test_store_that_stays_down_ends_in_a_retry_which_asks_again_and_nothing_is_promoted(
    asking: World, questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = waiting(asking)

    def unavailable(*_args: Any, **_kwargs: Any) -> None:
        raise StoreUnavailableError("s3 does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(cycle, "approve", unavailable)
        patch.setattr("perennial_airflow.operators.approval.time.sleep", lambda _seconds: None)
        with pytest.raises(AirflowException, match="tried again") as caught:
            run.answered("Approve", "bob")
    assert not isinstance(caught.value, AirflowFailException)
    assert asking.registry.champion("toy") is None
    with pytest.raises(TaskAwaitingInput):
        run.task("approve")
    assert len(questions) == 2


def test_task_cleared_after_its_answer_asks_again_and_the_newest_answer_counts(
    asking: World, questions: list[dict[str, Any]]
) -> None:
    run = waiting(asking)
    run.answered("Reject", None)
    with pytest.raises(TaskAwaitingInput):
        run.task("approve")
    run.answered("Approve", "ada")
    assert PromotionRef.from_dict(run.task("promote_if_better")).promoted
    assert len(questions) == 2
    assert kinds(asking) == ["decision", "approval", "approval", "promotion"]


def test_yes_that_is_on_record_is_not_asked_for_again_by_a_retry(
    asking: World, questions: list[dict[str, Any]]
) -> None:
    run = waiting(asking)
    given = ApprovalRef.from_dict(run.answered("Approve", "bob"))
    found = ApprovalRef.from_dict(run.task("approve"))
    assert (found.ledger_uri, found.by, found.approved) == (given.ledger_uri, "bob", True)
    assert PromotionRef.from_dict(run.task("promote_if_better")).promoted
    assert len(questions) == 1
    assert kinds(asking) == ["decision", "approval", "promotion"]


def test_answer_of_somebody_who_may_not_is_refused_and_asked_for_anew(
    asking: World, questions: list[dict[str, Any]]
) -> None:
    run = waiting(asking)
    with pytest.raises(AirflowFailException, match="eve may not answer"):
        run.answered("Approve", "eve")
    with pytest.raises(TaskAwaitingInput):
        run.task("approve")
    assert len(questions) == 2
    assert kinds(asking) == ["decision"]


@pytest.mark.usefixtures("questions")
def test_auth_manager_with_ids_of_its_own_is_met_by_ids_in_the_spec(asking: World) -> None:
    declare(asking, approval={"required": True, "approvers": ["17"]})
    run = waiting(asking)
    assert ApprovalRef.from_dict(run.answered("Approve", "ada", user_id="17")).by == "17"


@pytest.mark.usefixtures("questions")
def test_task_marked_success_by_hand_is_no_approval(asking: World) -> None:
    run = waiting(asking)
    with pytest.raises(AirflowFailException, match="asks for a person's Yes"):
        run.task("promote_if_better")
    assert asking.registry.champion("toy") is None


def test_run_that_came_to_another_decision_meanwhile_asks_nobody_about_the_wrong_one(
    asking: World, questions: list[dict[str, Any]]
) -> None:
    run = waiting(asking)
    declare(asking, approval=APPROVAL, gate={**SPEC["gate"], "floors": {"roc_auc": 0.61}})
    run.task("decide")  # the spec was changed, and the task cleared
    with pytest.raises(AirflowFailException, match="another decision before"):
        run.task("approve")
    assert len(questions) == 1
