"""The rollback's operator: what is asked for, what it leads to, and which errors are worth another try."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from perennial import cycle
from perennial.domain.references import RollbackRef
from perennial.domain.run_request import RollbackRequest
from perennial.errors import LockTimeoutError, RequestError
from perennial.spec import load_spec
from perennial_airflow.dag_factory import build_rollback_dag
from perennial_airflow.request import rollback_request
from tests.unit.airflow.conftest import make_context
from tests.unit.core.world import World

pytestmark = pytest.mark.airflow
DONE = RollbackRef(ledger_uri="s3://b/e.json", champion_before="2", champion_after="1", quarantined=1)


def roll_back(world: World, **params: Any) -> Any:
    task = build_rollback_dag(load_spec(world.specs / "toy.yaml")).get_task("roll_back").prepare_for_execution()
    return task.execute(make_context(task, params=params))


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
