"""Runs a DAG's tasks by hand, one after the other, as Airflow would hand them their references."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk.definitions.xcom_arg import XComArg

from perennial.spec import load_spec
from perennial_airflow.dag_factory import build_dag
from tests.unit.airflow.conftest import FakeTaskInstance, make_context
from tests.unit.core.world import World

ORDER = ("snapshot_data", "validate_data", "train_challenger", "evaluate_on_holdout", "decide", "promote_if_better")
ANSWERED_AT = datetime(2026, 1, 2, 9, 30, tzinfo=UTC)


class Run:
    """One run of the retraining DAG of the model `toy`."""

    def __init__(self, world: World, run_id: str = "manual__1", **params: Any) -> None:
        self.dag = build_dag(load_spec(world.specs / "toy.yaml"))
        self.returned: dict[str, Any] = {}
        self.pushed: dict[str, dict[str, Any]] = {}
        self.run_id = run_id
        self.params = params

    def task(self, task_id: str) -> Any:
        """Execute a task."""
        return self._call(task_id, "execute")

    def answered(self, option: str, by: str | None = "ada", *, user_id: str | None = None) -> Any:
        """What `approve` does once Airflow has the answer; `by` None: nobody answered in time."""
        event = {
            "chosen_options": [option],
            "params_input": {},
            "responded_at": ANSWERED_AT,
            "responded_by_user": None if by is None else {"id": user_id or by, "name": by},
            "timedout": by is None,
        }
        return self._call("approve", "execute_complete", event)

    def _call(self, task_id: str, method: str, *arguments: Any) -> Any:
        task = self.dag.get_task(task_id).prepare_for_execution()
        context = make_context(task, run_id=self.run_id, params=self.params)
        ti: FakeTaskInstance = context["ti"]
        self.pushed[task_id] = ti.pushed
        for name in task.template_fields:
            setattr(task, name, self._resolved(getattr(task, name)))
        try:
            self.returned[task_id] = getattr(task, method)(context, *arguments)
        finally:
            self.returned.setdefault(task_id, ti.pushed.get("return_value"))
        return self.returned[task_id]

    def _resolved(self, value: Any) -> Any:
        """What Airflow would put in a template field's place: None for a task that left nothing."""
        if isinstance(value, list):
            return [self._resolved(item) for item in value]
        return self.returned.get(value.operator.task_id) if isinstance(value, XComArg) else value

    def tasks(self, until: str) -> Any:
        for task_id in ORDER[: ORDER.index(until) + 1]:
            self.task(task_id)
        return self.returned[until]
