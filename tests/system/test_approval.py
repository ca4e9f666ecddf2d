"""A person's answer in a real Airflow: asked without a slot, given through the REST API, kept in the ledger."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from perennial_demo.airflow_api import Question
from perennial_demo.errors import AirflowApiError
from tests.system.conftest import World

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.usefixtures("landed")]
AS_OF = datetime(2013, 2, 18, 3, tzinfo=UTC).isoformat()
SOMEBODY = "Anonymous"
"""Whom SimpleAuthManager takes everybody for who comes without a login, where all are administrators."""


@pytest.fixture(scope="module", autouse=True)
def asked_in_vain(world: World, landed: None) -> tuple[str, str]:
    """DAG and run of a question that nobody answers, put first of all: a minute is the least that a spec may give."""
    dag_id = world.add_twin("asks_in_vain", approval={"required": True, "timeout": "1m"})
    return dag_id, world.stack.airflow.trigger(dag_id, conf={"as_of": AS_OF}).run_id


def asked(world: World, dag_id: str, **conf: Any) -> tuple[str, Question]:
    """A new run, and what it asks."""
    airflow = world.stack.airflow
    run_id = airflow.trigger(dag_id, conf={"as_of": AS_OF, **conf}).run_id
    deadline = time.monotonic() + 180
    while not (questions := airflow.pending_approvals(dag_id, run_id)):
        run = airflow.run(dag_id, run_id)
        assert not run.is_over, world.log_of(dag_id, run_id)
        assert time.monotonic() < deadline, f"run {run_id} is {run.state} and has asked nothing"
        time.sleep(0.5)
    [question] = questions
    return run_id, question


def answered(world: World, question: Question, *, approve: bool) -> None:
    """Answer as often as it asks, and see the run through."""
    airflow, dag_id, run_id = world.stack.airflow, question.dag_id, question.run_id
    airflow.answer_approval(question, approve=approve)
    deadline = time.monotonic() + 180
    while not (run := airflow.run(dag_id, run_id)).is_over and time.monotonic() < deadline:
        for again in airflow.pending_approvals(dag_id, run_id):
            airflow.answer_approval(again, approve=approve)
        time.sleep(0.5)
    assert run.state == "success", world.log_of(dag_id, run_id)


def states(world: World, dag_id: str, run_id: str) -> dict[str, str | None]:
    return {task.task_id: task.state for task in world.stack.airflow.task_instances(dag_id, run_id)}


def told(world: World, model: str) -> list[tuple[str, bool | None, str | None]]:
    """Kind, answer and actor of each entry of the ledger."""
    return [(entry.kind, entry.approved, entry.actor) for entry in world.runtime.ledger.entries(model)]


def test_yes_promotes_and_is_on_record_with_who_gave_it(world: World) -> None:
    dag_id = world.add_twin("asks_for_a_yes", approval={"required": True, "approvers": [SOMEBODY], "timeout": "1h"})
    run_id, question = asked(world, dag_id)
    assert states(world, dag_id, run_id)["approve"] == "awaiting_input"
    assert question.may_answer == (SOMEBODY,)
    links = world.api(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/decide/links")["extra_links"]
    assert f"]({links['Decision']})" in question.body
    assert world.get(links["Decision"]).status_code == 200
    answered(world, question, approve=True)
    assert told(world, "asks_for_a_yes") == [
        ("decision", None, None),
        ("approval", True, SOMEBODY),
        ("promotion", None, SOMEBODY),
    ]
    assert world.runtime.registry.champion_version("asks_for_a_yes") == "1"


def test_no_leaves_a_green_run_and_the_champion_where_it_was(world: World) -> None:
    dag_id = world.add_twin("asks_for_a_no", approval={"required": True, "timeout": "1h"})
    run_id, question = asked(world, dag_id)
    assert question.may_answer == ()
    answered(world, question, approve=False)
    with pytest.raises(AirflowApiError, match="409"):
        world.stack.airflow.answer_approval(question, approve=True)
    after = states(world, dag_id, run_id)
    assert (after["approve"], after["promote_if_better"]) == ("success", "skipped")
    assert f"Declined by {SOMEBODY}" in world.stack.airflow.task_log(dag_id, run_id, "promote_if_better")
    assert told(world, "asks_for_a_no") == [("decision", None, None), ("approval", False, SOMEBODY)]
    assert world.runtime.registry.champion_version("asks_for_a_no") is None


def test_process_killed_with_the_answer_in_hand_asks_again_and_promotes_once(world: World) -> None:
    dag_id = world.add_twin("answered_and_killed", approval={"required": True, "timeout": "1h"})
    (world.kills / "answered_and_killed.approve").touch()
    run_id, question = asked(world, dag_id)
    answered(world, question, approve=True)
    assert (world.kills / "answered_and_killed.approve.done").exists()
    tries = {task.task_id: task.try_number for task in world.stack.airflow.task_instances(dag_id, run_id)}
    assert tries["approve"] >= 2
    kinds = [kind for kind, _, _ in told(world, "answered_and_killed")]
    assert (kinds[0], kinds[-1]) == ("decision", "promotion")
    assert set(kinds[1:-1]) == {"approval"}


def test_gate_broken_by_somebody_named_promotes_on_record_and_asks_nobody(world: World) -> None:
    strict = {"rule": {"kind": "superiority"}, "floors": {"r2": 0.999}, "min_rows": 80, "cluster_by": "visit_date"}
    approval = {"required": True, "timeout": "1h", "break_glass": [SOMEBODY]}
    dag_id = world.add_twin("glass_broken", gate=strict, approval=approval)
    run = world.run(dag_id, as_of=AS_OF, break_glass="nothing else serves")
    assert run.state == "success", world.log_of(dag_id, run.run_id)
    after = states(world, dag_id, run.run_id)
    assert (after["approve"], after["promote_if_better"]) == ("skipped", "success")
    decision, promotion = world.runtime.ledger.entries("glass_broken")
    assert (decision.break_glass, promotion.break_glass, promotion.actor) == (True, True, SOMEBODY)
    assert "nothing else serves" in promotion.summary


def test_silence_is_a_no_on_record(world: World, asked_in_vain: tuple[str, str]) -> None:
    dag_id, run_id = asked_in_vain
    run = world.stack.airflow.wait_for_run(dag_id, run_id, timeout_s=180)
    assert run.state == "success", world.log_of(dag_id, run_id)
    after = states(world, dag_id, run_id)
    assert (after["approve"], after["promote_if_better"]) == ("success", "skipped")
    assert told(world, "asks_in_vain") == [("decision", None, None), ("approval", False, None)]
    entry = world.runtime.ledger.entries("asks_in_vain")[-1]
    assert entry.summary == "No answer within 1m: a No."
    assert world.runtime.registry.champion_version("asks_in_vain") is None
