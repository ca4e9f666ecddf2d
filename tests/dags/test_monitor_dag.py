"""The DAG that watches a model: which models have one, what it does when, and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

from perennial.errors import SpecError
from perennial.spec import ModelSpec
from perennial_airflow.dag_docs import dag_doc, monitor_doc
from perennial_airflow.dag_factory import build_monitor_dag, checked, dags_of, is_watched
from perennial_airflow.task_docs import observe_doc, send_alerts_doc
from tests.unit.core.world import SPEC, SUITE

pytestmark = pytest.mark.airflow
LOGGED = {"deployment": {"kind": "scoring_service"}}
BOTH = {**LOGGED, "monitoring": {}, "triggers": {"on_drift": {}}}
ALERTS_ONLY = {"triggers": {"on_drift": {}}}


def make_spec(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate({**SPEC, **changes})


@pytest.mark.parametrize(
    ("changes", "watched"),
    [({}, False), (ALERTS_ONLY, True), ({**LOGGED, "monitoring": {}}, True), (BOTH, True)],
    ids=["neither", "alerts only", "monitoring only", "both"],
)
def test_model_has_a_monitor_if_it_is_monitored_or_takes_alerts(
    tmp_path: Path, changes: dict[str, Any], watched: bool
) -> None:
    (tmp_path / "toy.json").write_text(SUITE, encoding="utf-8")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**SPEC, **changes}), encoding="utf-8")
    assert ("perennial__toy__monitor" in dags_of(tmp_path)) is watched
    assert is_watched(make_spec(**changes)) is watched


def test_alerts_are_sent_after_the_look_and_also_after_one_that_failed() -> None:
    dag = build_monitor_dag(make_spec(**BOTH))
    assert [task.task_id for task in dag.topological_sort()] == ["observe", "send_alerts"]
    send = dag.get_task("send_alerts")
    assert send.upstream_task_ids == {"observe"}
    assert send.trigger_rule == "all_done"
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    assert dag.dagrun_timeout is not None
    for task in dag.tasks:
        assert task.retries >= 1
        assert task.execution_timeout is not None
        assert task.execution_timeout < dag.dagrun_timeout
        assert task.owner == "tests"
        assert task.pool == "default_pool"


def test_model_that_only_takes_alerts_is_come_back_to_each_quarter_of_an_hour() -> None:
    dag = build_monitor_dag(make_spec(**ALERTS_ONLY))
    assert [task.task_id for task in dag.tasks] == ["send_alerts"]
    assert timetable(dag)["expression"] == "*/15 * * * *"


@pytest.mark.parametrize("schedule", ["5 * * * *", None])
def test_clock_is_the_specs(schedule: str | None) -> None:
    dag = build_monitor_dag(make_spec(**{**BOTH, "monitoring": {"schedule": schedule}}))
    assert timetable(dag).get("expression") == schedule


def timetable(dag: Any) -> dict[str, Any]:
    stored = DagSerialization.to_dict(dag)["dag"]["timetable"]
    return dict(stored["__var"])


def test_time_that_never_comes_is_a_mistake_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "toy.json").write_text(SUITE, encoding="utf-8")
    spec = {**SPEC, **BOTH, "monitoring": {"schedule": "0 0 30 2 *"}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    with pytest.raises(SpecError, match=r"monitoring\.schedule"):
        checked(tmp_path / "toy.yaml")


@pytest.mark.parametrize("changes", [BOTH, ALERTS_ONLY], ids=["both", "alerts only"])
def test_dag_comes_back_from_airflows_database_as_it_went_in(changes: dict[str, Any]) -> None:
    dag = build_monitor_dag(make_spec(**changes))
    dag.validate()
    back = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert (back.dag_id, back.dagrun_timeout, set(back.params)) == (dag.dag_id, dag.dagrun_timeout, set(dag.params))
    for task in dag.tasks:
        stored = back.get_task(task.task_id)
        assert stored.task_type == task.task_type
        assert (stored.trigger_rule, stored.upstream_task_ids) == (task.trigger_rule, task.upstream_task_ids)


def test_form_takes_a_time_and_nothing_else() -> None:
    dag = build_monitor_dag(make_spec(**BOTH))
    assert set(dag.params) == {"as_of"}
    param = dag.params.get_param("as_of")
    assert param.resolve() is None
    assert param.resolve("2013-07-01T00:00:00+00:00") == "2013-07-01T00:00:00+00:00"
    with pytest.raises(ParamValidationError):
        param.resolve("soon")


def test_words_say_what_is_looked_at_and_what_becomes_of_alerts() -> None:
    monitoring = {"window": "6h", "alert": {"windows": 3, "of": 5}, "notify": [{"kind": "slack", "channel": "#ops"}]}
    policy = {"cooldown": "12h", "max_runs_per_day": 2, "min_new_rows": 1000, "give_up_after": "3d"}
    spec = make_spec(**{**BOTH, "monitoring": monitoring, "triggers": {"on_drift": policy}})
    words = monitor_doc(spec)
    for said in (
        "windows of 6h",
        "3 of the last 5 windows",
        "at most 2 times a day",
        "12h after its last run, once 1,000 rows have landed",
        "for 3d at most",
        "`perennial alert toy --list`",
        "1 address is told",
    ):
        assert said in words
    assert "None" not in words
    assert "`perennial__toy__monitor`" in dag_doc(spec)
    assert "when an alert of drift comes" in dag_doc(spec)


def test_words_of_a_model_without_on_drift_promise_no_run() -> None:
    spec = make_spec(**LOGGED, monitoring={"label_delay": "2d"})
    assert "start nothing" in monitor_doc(spec)
    assert "starts no retraining" in send_alerts_doc(spec)
    assert "2d after a request" in observe_doc(spec)
    assert "when an alert of drift comes" not in dag_doc(spec)


def test_words_of_a_model_that_only_takes_alerts_promise_no_look() -> None:
    spec = make_spec(**ALERTS_ONLY)
    assert "no `monitoring`" in monitor_doc(spec)
    assert "`observe`" not in monitor_doc(spec)
    assert "6h after its last run. Until" in monitor_doc(spec)
