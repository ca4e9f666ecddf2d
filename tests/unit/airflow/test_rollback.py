"""The rollback's operator: what is asked for, what it leads to, and which errors are worth another try."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from perennial import cycle
from perennial.domain.references import RollbackRef
from perennial.domain.run_request import RollbackRequest
from perennial.errors import LockTimeoutError, RequestError
from perennial.spec import load_spec
from perennial_airflow.dag_factory import build_rollback_dag
from perennial_airflow.links import MlflowVersionLink
from perennial_airflow.operators import RollbackOperator
from perennial_airflow.request import rollback_request
from tests.unit.airflow.conftest import make_context
from tests.unit.core.world import World

pytestmark = pytest.mark.airflow
SETTINGS = SimpleNamespace(mlflow_tracking_uri="https://ada:secret@mlflow.example/")
DONE = RollbackRef(ledger_uri="s3://b/e.json", champion_before="2", champion_after="1", quarantined=1)


def roll_back(world: World, **params: Any) -> Any:
    return run_task(world, params)[0]


def run_task(world: World, params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the task returns, and what it pushed."""
    task = build_rollback_dag(load_spec(world.specs / "toy.yaml")).get_task("roll_back").prepare_for_execution()
    context = make_context(task, params=params)
    return task.execute(context), context["ti"].pushed


def test_rollback_hands_on_what_the_run_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RollbackRequest] = []
    monkeypatch.setattr(cycle, "rollback", lambda _runtime, _spec, request: (asked.append(request), DONE)[1])
    assert roll_back(world, to="1", reason="false alarms") == DONE.to_dict()
    assert asked == [
        RollbackRequest(
            model="toy",
            run_id="manual__1",
            as_of=datetime(2026, 1, 1, 2, tzinfo=UTC),
            trigger="manual",
            reason="false alarms",
            requested_by="ada",
            to="1",
        )
    ]


def test_version_that_serves_now_is_one_click_and_one_line_of_the_log_away(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cycle, "rollback", lambda *_args: DONE)
    monkeypatch.setattr(
        RollbackOperator, "hook", lambda _task: SimpleNamespace(runtime=lambda: world.runtime, settings=SETTINGS)
    )
    _, pushed = run_task(world, {"to": "1"})
    address = "https://mlflow.example/#/models/toy/versions/1"
    assert pushed == {MlflowVersionLink.key: address}
    said = capsys.readouterr().out
    assert f"Version in MLflow: {address} " in said
    assert "version 2 is in quarantine" in said
    assert "secret" not in said


def test_form_says_that_it_acts_at_once_and_what_is_quarantined(world: World) -> None:
    dag = build_rollback_dag(load_spec(world.specs / "toy.yaml"))
    said = dag.params.get_param("to").description
    assert said is not None
    for text in ("acts at once", "goes into quarantine", "takes a reason"):
        assert text in said
    assert "at once" in str(dag.doc_md)


def test_rollback_of_a_model_without_a_past_fails_at_once(world: World) -> None:
    with pytest.raises(AirflowFailException, match="no earlier champion"):
        roll_back(world)


def test_lock_that_others_hold_is_waited_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(*_args: Any) -> None:
        raise LockTimeoutError("toy: held by manual__7")

    monkeypatch.setattr(cycle, "rollback", held)
    with pytest.raises(AirflowException, match=r"manual__7 .*tried again") as caught:
        roll_back(world)
    assert not isinstance(caught.value, AirflowFailException)


def test_form_left_empty_goes_back_to_the_champion_before() -> None:
    request = rollback_request("toy", make_context(params={"to": None, "reason": None}))
    assert (request.to, request.reason) == (None, "")


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"version": "1"}, "conf has version, .* may have reason, to"),
        ({"to": "latest"}, "not a version"),
        ({"to": 3}, "expected str"),
        ({"reason": "x" * 501}, "501 characters"),
    ],
)
def test_request_that_makes_no_sense_is_refused(conf: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        rollback_request("toy", make_context(conf=conf))
