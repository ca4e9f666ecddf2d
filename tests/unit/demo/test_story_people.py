"""What the story leaves to people: an approval, taking a champion back, and a look at whether the ledgers are whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.demo import test_story
from tests.unit.demo.test_story import Told, a_run, an_entry

from perennial_demo.airflow_api import Question
from perennial_demo.chapters import DIABETES, FLIGHTS
from perennial_demo.closing import verify_ledgers
from perennial_demo.errors import DemoError
from perennial_demo.story import MODELS, dag_id

told = test_story.told
"""The fixture."""


def ask(told: Told, run_id: str) -> list[bool]:
    """Airflow waits for an answer until it gets one; the answers that it gets."""
    answers: list[bool] = []
    airflow: Any = told.airflow
    question = Question(
        dag_id=dag_id(DIABETES),
        run_id=run_id,
        task_id="approve",
        map_index=-1,
        subject="Promote?",
        body="",
        may_answer=(),
    )

    def answer(_question: Question, *, approve: bool) -> None:
        answers.append(approve)
        airflow.runs_of[dag_id(DIABETES)] = [replace(a_run(run_id), dag_id=dag_id(DIABETES))]

    airflow.runs_of[dag_id(DIABETES)] = [replace(a_run(run_id, "running"), dag_id=dag_id(DIABETES))]
    airflow.run = lambda dag, run: next(r for r in airflow.runs_of[dag] if r.run_id == run)
    airflow.pending_approvals = lambda _dag, _run: [] if answers else [question]
    airflow.answer_approval = answer
    return answers


def test_run_that_asks_for_approval_gets_one_yes(told: Told) -> None:
    answers = ask(told, "r1")
    finished = told.teller._wait(DIABETES, "r1")
    assert finished.state == "success"
    assert answers == [True]
    assert "the run asks: Promote?" in told.output


def test_model_that_asks_nobody_is_only_waited_for(told: Told) -> None:
    told.airflow.add(a_run("r2", "running"))
    assert told.teller._wait(FLIGHTS, "r2").state == "success"
    assert "asks" not in told.output


def promote(told: Told, version: int) -> None:
    entry = an_entry(
        f"run-{version}",
        "promotion",
        champion_before=str(version - 1) if version > 1 else None,
        champion_after=str(version),
    )
    told.teller.runtime.ledger.append(entry)


def roll_back(told: Told) -> None:
    entry = an_entry("back", "rollback", champion_before="2", champion_after="1", summary="went back")
    told.teller.runtime.ledger.append(entry)


@pytest.fixture
def taking_back(told: Told, monkeypatch: pytest.MonkeyPatch) -> Told:
    airflow: Any = told.airflow
    airflow.wait_for_dag = lambda dag, timeout_s: None
    airflow.trigger = lambda dag, *, conf: a_run("back", "running", "manual")
    airflow.wait_for_run = lambda dag, run_id, *, timeout_s: a_run(run_id, "success", "manual")
    return told


def test_champion_is_taken_back_once(taking_back: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told = taking_back
    promote(told, 1)
    promote(told, 2)
    monkeypatch.setattr(told.airflow, "wait_for_dag", lambda *_a, **_k: roll_back(told))
    told.teller.take_back(FLIGHTS)
    assert "v2 -> v1" in told.output
    told.teller.take_back(FLIGHTS)
    assert "taken back in an earlier demo" in told.output
    assert sum(entry.kind == "rollback" for entry in told.teller.runtime.ledger.entries(FLIGHTS)) == 1


def test_rollback_that_left_no_entry_fails_the_demo(taking_back: Told) -> None:
    promote(taking_back, 1)
    promote(taking_back, 2)
    with pytest.raises(DemoError, match="took nothing back"):
        taking_back.teller.take_back(FLIGHTS)


def test_single_champion_is_not_taken_back(taking_back: Told) -> None:
    promote(taking_back, 1)
    taking_back.teller.take_back(FLIGHTS)
    assert "nothing to go back to" in taking_back.output


def test_whole_ledgers_are_said_to_be_sound(told: Told) -> None:
    promote(told, 1)
    verify_ledgers(told.teller.stack.console, told.teller.runtime, MODELS)
    assert "flights_delay: yes; 1 entry, each" in told.output


def test_ledger_with_a_changed_byte_fails_the_demo(told: Told, tmp_path: Path) -> None:
    promote(told, 1)
    promote(told, 2)
    first = min((tmp_path / "perennial/store/ledger/flights_delay").glob("*.json"))
    first.write_bytes(first.read_bytes().replace(b'"why"', b'"wye"'))
    with pytest.raises(DemoError, match="damaged"):
        verify_ledgers(told.teller.stack.console, told.teller.runtime, MODELS)
