"""Smoke test, shadow and canary as tasks: what is skipped, deferred, green or red, and what a failure leaves."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskDeferralError,
    TaskDeferralTimeout,
    TaskDeferred,
)

from perennial import cycle
from perennial.domain.references import PromotionRef, RolloutRef, SmokeTestRef
from perennial.domain.rollout import longest
from perennial.errors import DeployerUnavailableError, FenceError, SmokeTestError, StoreUnavailableError
from perennial.spec import load_spec
from perennial_airflow import links
from perennial_airflow.dag_factory import build_dag
from perennial_airflow.triggers.rollout import RolloutTrigger
from perennial_airflow.xcom import MAX_XCOM_BYTES, ReferenceXComBackend
from tests.unit.airflow.conftest import FakeTaskInstance, make_context
from tests.unit.airflow.rollouts import (
    REQUEST,
    SHA,
    Platform,
    going_on,
    make_decision,
    make_evaluation,
    make_model,
    make_rollout,
    make_snapshot,
    over,
    play,
)
from tests.unit.core.world import ROOT, World

pytestmark = pytest.mark.airflow
PAGE = f"{ROOT}/rollouts/toy/0123456789abcdef/page.html"
REFERENCES = {
    "snapshot": make_snapshot().to_dict(),
    "challenger": make_model().to_dict(),
    "evaluation": make_evaluation().to_dict(),
    "decision": make_decision().to_dict(),
    "rollouts": [],
}
SMOKE = SmokeTestRef(uri=f"{ROOT}/smoke_tests/toy/1.json", sha256=SHA, digest="d", passed=True, rows=100)


class Task:
    """One task of the DAG of `toy`, with the references of those before it in place."""

    def __init__(self, world: World, task_id: str = "canary", *, try_number: int = 1, **given: Any) -> None:
        dag = build_dag(load_spec(world.specs / "toy.yaml"))
        self.task: Any = dag.get_task(task_id).prepare_for_execution()
        for name in self.task.template_fields:
            setattr(self.task, name, {**REFERENCES, **given}.get(name))
        self.context = make_context(self.task, params={"params": {"depth": 3}})
        self.ti: FakeTaskInstance = self.context["ti"]
        self.ti.try_number = try_number

    def execute(self) -> Any:
        return self.task.execute(self.context)

    def resume(self, event: dict[str, Any]) -> Any:
        """As Airflow's task runner does when the trigger's event came."""
        return self.task.resume_execution("walked", {"event": event}, self.context)

    def resume_failed(self, reason: str) -> Any:
        """The same when the trigger failed, or the deferral's time was up."""
        return self.task.resume_execution(TRIGGER_FAIL_REPR, {"error": reason}, self.context)


@pytest.fixture(autouse=True)
def something_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle, "nothing_to_try", lambda *_args, **_how: None)


@pytest.mark.parametrize("task_id", ["smoke_test", "canary"])
def test_nothing_to_try_is_skipped_with_the_cores_sentence(
    world: World, platform: Platform, monkeypatch: pytest.MonkeyPatch, task_id: str
) -> None:
    asked: list[Any] = []

    def nothing_to_try(spec: Any, decision: Any, approval: Any, rollouts: Any = (), *, phase: str) -> str:
        asked.append((spec.name, phase, decision, approval, rollouts))
        return "nothing to try: REJECT: worse."

    monkeypatch.setattr(cycle, "nothing_to_try", nothing_to_try)
    shadow = make_rollout(passed=False, phase="shadow")
    with pytest.raises(AirflowSkipException, match=r"^nothing to try: REJECT: worse\.$"):
        Task(world, task_id, rollouts=[shadow.to_dict(), None]).execute()
    rollouts = (shadow,) if task_id == "canary" else ()
    assert asked == [("toy", task_id, make_decision(), None, rollouts)]
    assert platform.rolled_back_to == []


def test_first_look_begins_and_the_trigger_walks_on(
    world: World, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = play(monkeypatch, going_on())
    with pytest.raises(TaskDeferred) as deferred:
        Task(world).execute()
    assert len(script.calls) == 1
    trigger = deferred.value.trigger
    assert isinstance(trigger, RolloutTrigger)
    assert (trigger.model, trigger.phase, trigger.request["run_id"]) == ("toy", "canary", REQUEST.run_id)
    assert (trigger.decision, trigger.challenger) == (make_decision().to_dict(), make_model().to_dict())
    assert deferred.value.method_name == "walked"
    canary = load_spec(world.specs / "toy.yaml").deployment.rollouts["canary"]  # type: ignore[union-attr]
    assert deferred.value.timeout is not None
    assert deferred.value.timeout >= longest(canary) + timedelta(hours=1)
    assert platform.rolled_back_to == []


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("passed", [True, False])
def test_end_is_green_with_its_page_behind_a_button_whether_it_passed_or_not(
    world: World, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    script = play(monkeypatch, going_on(), over(passed=passed, page_uri=PAGE))
    task = Task(world)
    with pytest.raises(TaskDeferred):
        task.execute()
    ended = RolloutRef.from_dict(task.resume({"ended": True}))
    assert ended.passed is passed
    assert len(script.calls) == 2
    page = "http://airflow.example/perennial/ui/perennial__toy__retrain/rollouts/0123456789abcdef/page.html"
    assert task.ti.pushed[links.RolloutLink.key] == page


@pytest.mark.usefixtures("platform")
def test_retry_after_the_end_finds_it_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, over())
    assert RolloutRef.from_dict(Task(world, try_number=2).execute()).passed


@pytest.mark.usefixtures("platform")
def test_event_that_came_too_early_leads_to_another_walk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, going_on())
    with pytest.raises(TaskDeferred):
        Task(world).resume({"ended": True})


def test_mistake_shows_at_the_first_look_and_leaves_no_split(
    world: World, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, FenceError("the champion was moved"))
    with pytest.raises(AirflowFailException, match="the champion was moved"):
        Task(world).execute()
    assert platform.rolled_back_to == ["1"]


def test_error_in_the_triggerer_that_no_retry_helps_fails_at_once_and_leaves_no_split(
    world: World, platform: Platform
) -> None:
    with pytest.raises(AirflowFailException, match="in the triggerer: FenceError: moved"):
        Task(world).resume({"error": "FenceError: moved", "terminal": True})
    assert platform.rolled_back_to == ["1"]


def test_error_in_the_triggerer_that_may_pass_is_retried_and_keeps_the_split(world: World, platform: Platform) -> None:
    with pytest.raises(AirflowException, match=r"in the triggerer: odd.*tried again") as caught:
        Task(world).resume({"error": "odd", "terminal": False})
    assert not isinstance(caught.value, AirflowFailException)
    assert platform.rolled_back_to == []


@pytest.mark.parametrize("error", [DeployerUnavailableError("the canary of run r-7 is under way"), OSError("no route")])
def test_what_is_in_the_way_of_the_first_look_is_waited_for_in_the_triggerer(
    world: World, platform: Platform, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    play(monkeypatch, error)
    with pytest.raises(TaskDeferred) as deferred:
        Task(world).execute()
    assert isinstance(deferred.value.trigger, RolloutTrigger)
    assert platform.rolled_back_to == []


@pytest.mark.parametrize(("try_number", "rolled_back_to"), [(3, []), (4, ["1"])])
def test_store_that_is_down_at_the_last_look_is_retried_and_the_last_try_leaves_no_split(
    world: World,
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    try_number: int,
    rolled_back_to: list[str],
) -> None:
    play(monkeypatch, StoreUnavailableError("s3 does not answer"))
    with pytest.raises(AirflowException, match="s3 does not answer"):
        Task(world, try_number=try_number).resume({"ended": True})
    assert platform.rolled_back_to == rolled_back_to


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (TriggerFailureReason.TRIGGER_TIMEOUT, TaskDeferralTimeout),
        (TriggerFailureReason.TRIGGER_FAILURE, TaskDeferralError),
    ],
)
@pytest.mark.parametrize(("try_number", "rolled_back_to"), [(1, []), (4, ["1"])])
def test_walk_that_came_to_no_end_is_retried_and_the_last_try_leaves_no_split(
    world: World,
    platform: Platform,
    reason: str,
    error: type[Exception],
    try_number: int,
    rolled_back_to: list[str],
) -> None:
    with pytest.raises(error):
        Task(world, try_number=try_number).resume_failed(reason)
    assert platform.rolled_back_to == rolled_back_to


def test_platform_that_cannot_be_told_does_not_hide_the_first_error(
    world: World, platform: Platform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.fails = DeployerUnavailableError("SageMaker does not answer")
    play(monkeypatch, FenceError("the champion was moved"))
    with pytest.raises(AirflowFailException, match="the champion was moved"):
        Task(world).execute()
    said = capsys.readouterr().out
    assert "SageMaker does not answer" in said
    assert "perennial rollback toy --challenger" in said


def smoke_task(world: World, monkeypatch: pytest.MonkeyPatch, outcome: SmokeTestRef | Exception) -> Task:
    """A task whose core gives this."""

    def smoke_test(*_arguments: Any) -> SmokeTestRef:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(cycle, "smoke_test", smoke_test)
    return Task(world, "smoke_test")


@pytest.mark.usefixtures("platform")
def test_smoke_test_hands_its_reference_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    task = smoke_task(world, monkeypatch, SMOKE)
    assert SmokeTestRef.from_dict(task.execute()) == SMOKE
    assert links.DecisionLink.key in task.ti.pushed


@pytest.mark.usefixtures("platform")
def test_smoke_test_that_fails_is_red_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    task = smoke_task(world, monkeypatch, SmokeTestError("scores differ by 0.3; at most 1e-9 is allowed"))
    with pytest.raises(AirflowFailException, match="scores differ"):
        task.execute()


@pytest.mark.usefixtures("platform")
def test_challenger_that_was_taken_back_leaves_promotion_skipped_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle, "promote", lambda *_args, **_how: pytest.fail("nothing may be promoted"))
    lost = make_rollout(passed=False, page_uri=PAGE, summary="Version 7 was taken back: the error rate is 0.2.")
    rollouts = [make_rollout(phase="shadow").to_dict(), lost.to_dict()]
    task = Task(world, "promote_if_better", smoke=SMOKE.to_dict(), rollouts=rollouts)
    with pytest.raises(
        AirflowSkipException, match=r"the error rate is 0\.2\. The champion stays version 1; recorded at"
    ):
        task.execute()
    promotion = PromotionRef.from_dict(task.ti.pushed["return_value"])
    assert promotion == PromotionRef(
        ledger_uri=lost.ledger_uri, promoted=False, champion_before="1", champion_after="1"
    )
    assert task.ti.pushed[links.RolloutLink.key].endswith("/rollouts/0123456789abcdef/page.html")


@pytest.mark.usefixtures("platform")
def test_promotion_gets_what_was_tried_and_nothing_for_what_was_skipped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    done = PromotionRef(ledger_uri="s3://b/e.json", promoted=True, champion_before="1", champion_after="7")
    monkeypatch.setattr(cycle, "promote", lambda *_args, **how: (given.update(how), done)[1])
    task = Task(world, "promote_if_better", smoke=SMOKE.to_dict(), rollouts=[None, make_rollout().to_dict()])
    assert task.execute() == done.to_dict()
    assert given == {"approval": None, "smoke": SMOKE, "rollouts": (make_rollout(),)}


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("letter", ["x", '"', "…", "ü", "例", "😀"])
def test_longest_end_of_a_rollout_fits_into_xcom(world: World, monkeypatch: pytest.MonkeyPatch, letter: str) -> None:
    summary = "Version 7 was taken back from its canary at 25 %: " + letter * 450
    play(monkeypatch, over(passed=False, summary=summary))
    reference = Task(world).execute()
    stored = ReferenceXComBackend.serialize_value(reference, key="return_value")
    assert len(json.dumps(stored)) <= MAX_XCOM_BYTES - 300  # room for longer names
    assert summary.startswith(reference["summary"].rstrip("…"))
    assert len(reference["summary"]) > 80
    assert reference["summary"] == summary or reference["summary"].endswith("…")
