"""The trigger that walks a shadow or canary: what ends it, what it survives, and what a person's kill does."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from airflow.jobs.triggerer_job_runner import _USER_ACTION_CANCEL_MSG, TriggerRunner

from perennial import cycle
from perennial.errors import DeployerUnavailableError, FenceError, StoreUnavailableError
from perennial.stages.rollout import Look
from perennial_airflow.hooks.runtime import PerennialHook
from perennial_airflow.triggers import rollout as module
from perennial_airflow.triggers.rollout import RolloutTrigger
from tests.unit.airflow.rollouts import REQUEST, Platform, going_on, make_decision, make_model, over, play
from tests.unit.core.world import World

pytestmark = pytest.mark.airflow
DOWN = StoreUnavailableError("s3 does not answer")


def make_trigger(**changes: Any) -> RolloutTrigger:
    given = {
        "model": "toy",
        "phase": "canary",
        "request": REQUEST.to_dict(),
        "decision": make_decision().to_dict(),
        "challenger": make_model().to_dict(),
    }
    return RolloutTrigger(**{**given, **changes})


def events(trigger: RolloutTrigger) -> list[Any]:
    """Payloads of all events until the trigger ends."""

    async def collect() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(collect(), 20))


def test_trigger_survives_its_serialisation_and_holds_plain_values_only() -> None:
    path, arguments = make_trigger().serialize()
    assert path == "perennial_airflow.triggers.rollout.RolloutTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    assert RolloutTrigger(**arguments).serialize() == (path, arguments)


@pytest.mark.usefixtures("platform")
def test_walk_looks_until_the_end_and_tells_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    script = play(monkeypatch, going_on(), going_on(), over(passed=False))
    assert events(make_trigger()) == [{"ended": True}]
    assert len(script.calls) == 3
    call = script.calls[0]
    assert (call["request"], call["phase"]) == (REQUEST, "canary")
    assert (call["decision"], call["model"]) == (make_decision(), make_model())


@pytest.mark.usefixtures("platform")
def test_looks_run_beside_the_event_loop_with_the_tasks_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bound: list[Any] = []

    def look(*_arguments: Any, **_how: Any) -> Look:
        bound.append((threading.get_ident(), structlog.contextvars.get_contextvars()))
        return [going_on("One."), going_on("One."), going_on("Two."), over()][len(bound) - 1]

    monkeypatch.setattr(cycle, "roll_out", look)
    with caplog.at_level(logging.INFO), structlog.contextvars.bound_contextvars(trigger_id=7):
        events(make_trigger())
    assert threading.get_ident() not in {thread for thread, _ in bound}
    assert [context for _, context in bound] == [{"trigger_id": 7}] * 4
    said = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert said == ["toy canary: One.", "toy canary: Two.", "toy canary: It is over."]


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("error", [DOWN, DeployerUnavailableError("busy"), OSError("no route"), TimeoutError()])
def test_what_is_not_there_for_a_while_is_asked_again_for_as_long_as_it_takes(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    script = play(monkeypatch, *[error] * 1500, over())
    assert events(make_trigger()) == [{"ended": True}]
    assert len(script.calls) == 1501


def test_waits_between_failing_looks_grow_and_keep_a_plan_alive() -> None:
    waits = [module.backoff_s(failures) for failures in (1, 2, 3, 10, 100, 100_000)]
    assert waits == sorted(waits)
    assert waits[0] <= 2
    assert waits[-1] <= 20


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(
    ("error", "terminal", "said"),
    [
        (FenceError("moved by ada"), True, "FenceError: moved by ada"),
        (KeyError("shares"), True, "KeyError: 'shares'"),
        (RuntimeError("odd"), False, "RuntimeError: odd"),
    ],
)
def test_error_that_stays_with_new_connections_ends_the_walk(
    monkeypatch: pytest.MonkeyPatch, error: Exception, terminal: bool, said: str
) -> None:
    script = play(monkeypatch, going_on(), error)
    assert events(make_trigger()) == [{"error": said, "terminal": terminal}]
    assert len(script.calls) == 3


@pytest.mark.usefixtures("platform")
def test_credentials_that_ran_out_are_read_anew_and_the_walk_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = play(monkeypatch, going_on(), FenceError("ExpiredToken"), going_on(), FenceError("ExpiredToken"), over())
    monkeypatch.setattr(PerennialHook, "runtime", lambda _hook: world.runtime)
    assert events(make_trigger()) == [{"ended": True}]
    runtimes = [call["runtime"] for call in script.calls]
    assert runtimes[0] is runtimes[1]
    assert runtimes[1] is not runtimes[2]
    assert runtimes[2] is runtimes[3]


@pytest.mark.usefixtures("platform")
def test_rollouts_of_a_process_share_their_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    script = play(monkeypatch, over())
    for trigger in (make_trigger(), make_trigger(phase="shadow")):
        events(trigger)
    assert script.calls[0]["runtime"] is script.calls[1]["runtime"]


class Killed:
    """A trigger in Airflow's own runner, whose look is in flight when it is cancelled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, platform: Platform, state: str | None) -> None:
        self.order: list[str] = []
        self._looking, self._go_on = threading.Event(), threading.Event()
        self._platform = platform
        monkeypatch.setattr(cycle, "roll_out", self._look)
        monkeypatch.setattr(
            "airflow.sdk.execution_time.task_runner.RuntimeTaskInstance.get_task_states",
            lambda dag_id, **_given: {"manual__1": {"canary": state}} if dag_id == "perennial__toy__retrain" else {},
        )

    def _look(self, *_arguments: Any, **_how: Any) -> Look:
        self._looking.set()
        assert self._go_on.wait(10)
        self.order.append(f"look ended, rolled back {len(self._platform.rolled_back_to)} times")
        return going_on()

    def cancelled(self, *reason: str) -> list[str]:
        """Versions that were given all requests."""
        asyncio.run(asyncio.wait_for(self._run(*reason), 20))
        return self._platform.rolled_back_to

    async def _run(self, *reason: str) -> None:
        runner, trigger = TriggerRunner(), make_trigger()
        trigger.task_instance = SimpleNamespace(  # type: ignore[assignment]
            id="ti-1",
            dag_id="perennial__toy__retrain",
            task_id="canary",
            run_id="manual__1",
            try_number=1,
            map_index=-1,
            context_carrier=None,
        )
        runner.triggers[1] = {"name": "canary", "events": 0}  # type: ignore[typeddict-item]
        walk = asyncio.create_task(runner.run_trigger(1, trigger))
        assert await asyncio.to_thread(self._looking.wait, 10)
        walk.cancel(*reason)
        await asyncio.sleep(0.05)
        self._go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await walk
        assert runner.triggers[1]["events"] == 0


@pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed", None])
def test_task_that_a_person_ends_gives_all_requests_back_after_the_look_in_flight(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    killed = Killed(monkeypatch, platform, state)
    assert killed.cancelled(_USER_ACTION_CANCEL_MSG) == ["1"]
    assert killed.order == ["look ended, rolled back 0 times"]


@pytest.mark.parametrize("state", ["deferred", "scheduled", "queued", "running"])
def test_trigger_that_moved_to_another_triggerer_leaves_the_split_alone(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    assert Killed(monkeypatch, platform, state).cancelled(_USER_ACTION_CANCEL_MSG) == []


def test_triggerer_that_stops_leaves_the_split_alone(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Killed(monkeypatch, platform, "failed").cancelled() == []


def test_split_of_another_rollout_is_left_alone(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.split = "of-another-run"
    assert Killed(monkeypatch, platform, "failed").cancelled(_USER_ACTION_CANCEL_MSG) == []
