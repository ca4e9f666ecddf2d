"""Walks a shadow or a canary in the triggerer, so that no worker waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from perennial.domain.references import DecisionRef, ModelRef
from perennial.domain.times import parse_time
from perennial.errors import TransientError
from perennial_airflow.errors import is_terminal
from perennial_airflow.hooks.runtime import MLFLOW_CONN_ID, S3_CONN_ID, PerennialHook

if TYPE_CHECKING:
    from perennial.runtime import Runtime
    from perennial.spec import ModelSpec
    from perennial.stages.rollout import Look

log = logging.getLogger(__name__)

MAX_BACKOFF_S: Final = 20.0
"""Between looks that fail: well within the 3 minutes that a traffic plan lives."""
ONCE_MORE_AFTER_S: Final = 1.0
"""After an error that no retry would help, if it were not for credentials that run out."""
STILL_WALKED: Final = ("deferred", "scheduled", "queued", "running")
"""States of a task whose rollout goes on: in another triggerer, or in a worker."""


class RolloutTrigger(BaseTrigger):
    """Looks again and again until the rollout has ended, or cannot go on; then one event.

    All that it knows from one look to the next is in the store, so a triggerer that dies is followed by another one,
    and two that walk the same rollout do no harm. A look runs in a thread and, once begun, to its end, also if the
    triggerer is stopped meanwhile. A store, registry or platform that does not answer is asked again and again: how
    long is the deferral's timeout.

    Events: `{"ended": True}`, or `{"error": what, "terminal": whether no retry would help}`.

    Args:
        model: name of the spec.
        phase: `shadow` or `canary`.
        request: `RunRequest.to_dict()`.
        decision: `DecisionRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        s3_conn_id: Airflow connection (`aws`) of the store.
        mlflow_conn_id: Airflow connection (`mlflow`) of the registry. A triggerer is one process, and MLflow takes its
            credentials from the process's environment: walks with other credentials need a triggerer of their own.
    """

    def __init__(
        self,
        *,
        model: str,
        phase: str,
        request: Mapping[str, Any],
        decision: Mapping[str, Any],
        challenger: Mapping[str, Any],
        s3_conn_id: str = S3_CONN_ID,
        mlflow_conn_id: str = MLFLOW_CONN_ID,
    ) -> None:
        super().__init__()
        self.model = model
        self.phase = phase
        self.request = dict(request)
        self.decision = dict(decision)
        self.challenger = dict(challenger)
        self.s3_conn_id = s3_conn_id
        self.mlflow_conn_id = mlflow_conn_id
        self._looking: asyncio.Future[Look] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        names = ("model", "phase", "request", "decision", "challenger", "s3_conn_id", "mlflow_conn_id")
        return (f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, wait, look."""
        said, failures, refused = "", 0, False
        while True:
            try:
                seen = await self._look_in_thread()
            except (TransientError, OSError) as error:
                _runtime.cache_clear()  # perhaps a connection was changed
                failures += 1
                wait_s = backoff_s(failures)
                log.warning("%s %s: no look, trying again in %g s: %s", self.model, self.phase, wait_s, error)
            except Exception as error:
                _runtime.cache_clear()
                if refused:
                    log.exception("%s %s: cannot go on", self.model, self.phase)
                    event = {"error": f"{type(error).__name__}: {error}", "terminal": is_terminal(error)}
                    break
                # Credentials run out, and a connection is given new ones.
                refused, wait_s = True, ONCE_MORE_AFTER_S
                log.warning("%s %s: trying once more, with connections read anew: %s", self.model, self.phase, error)
            else:
                failures, refused, wait_s = 0, False, seen.wait.total_seconds()
                if seen.said != said:
                    said = seen.said
                    log.info("%s %s: %s", self.model, self.phase, said)
                if seen.ended is not None:
                    event = {"ended": True}
                    break
            await asyncio.sleep(wait_s)
        yield TriggerEvent(event)

    async def on_kill(self) -> None:
        """A person has ended the task, or the run's time is up: all requests to the champion now.

        Airflow calls this, too, when it has given the trigger to another triggerer, or another one's event came first:
        the task's state tells.
        """
        if self._looking is not None:  # it may be giving the challenger a share just now
            await asyncio.wait([self._looking])
        await asyncio.to_thread(self._end_split)

    async def _look_in_thread(self) -> Look:
        # Shielded: a thread cannot be stopped, and on_kill has to wait for it.
        self._looking = asyncio.ensure_future(asyncio.to_thread(self._look))
        return await asyncio.shield(self._looking)

    def _look(self) -> Look:
        """One look; blocks for seconds, the first one of a process for longer: it imports pandas, MLflow and boto3."""
        from perennial import cycle
        from perennial.domain.run_request import RunRequest

        runtime, spec = self._world()
        request = RunRequest(**{**self.request, "as_of": parse_time(self.request["as_of"])})
        decision, challenger = DecisionRef.from_dict(self.decision), ModelRef.from_dict(self.challenger)
        return cycle.roll_out(runtime, spec, request, phase=self.phase, model=challenger, decision=decision)

    def _end_split(self) -> None:
        from perennial.domain.rollout import rollout_id

        state = self._task_state()
        if state in STILL_WALKED:
            log.info("%s %s: the task is %s; others go on with it", self.model, self.phase, state)
            return
        decision, challenger = DecisionRef.from_dict(self.decision), ModelRef.from_dict(self.challenger)
        end_split(*self._world(), rollout_id(self.request["run_id"], decision, challenger, self.phase))

    def _task_state(self) -> str | None:
        """None: it was cleared, or nothing is known."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        ti = self.task_instance
        if ti is None:
            return None
        states = RuntimeTaskInstance.get_task_states(ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id])
        state: str | None = states.get(ti.run_id, {}).get(ti.task_id)
        return state

    def _world(self) -> tuple[Runtime, ModelSpec]:
        from perennial.spec import load_model

        runtime = _runtime(self.s3_conn_id, self.mlflow_conn_id)
        return runtime, load_model(runtime.specs, self.model)


def backoff_s(failures: int) -> float:
    """How long to wait after so many looks in a row that failed."""
    return min(2.0 * failures, MAX_BACKOFF_S)


@cache
def _runtime(s3_conn_id: str, mlflow_conn_id: str) -> Runtime:
    """One for all rollouts of a process: clients of their own for each would cost gigabytes."""
    return PerennialHook(s3_conn_id=s3_conn_id, mlflow_conn_id=mlflow_conn_id).runtime()


def end_split(runtime: Runtime, spec: ModelSpec, rollout: str) -> None:
    """Give all requests to the champion, unless the split in force is another rollout's.

    Nothing is put on record: another look would go on with the rollout.
    """
    from perennial.stages.takeover import give_back

    give_back(spec.name, rollout, door=runtime.door, deployer=runtime.deployer(spec))
    log.info("%s: the champion answers all requests again", spec.name)
