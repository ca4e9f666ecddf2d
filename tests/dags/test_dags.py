"""The DAGs of the shipped specs, and of specs of every kind: what Airflow stores, and what parsing costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

from perennial.spec import ModelSpec, load_spec, spec_paths
from perennial_airflow.dag_docs import dag_doc, rollback_doc, rule_in_words
from perennial_airflow.dag_factory import RUN_TIMEOUT, build_dag, build_monitor_dag, build_rollback_dag, is_watched
from tests.airflow_home import REPOSITORY
from tests.unit.core.world import SPEC, SUITE

pytestmark = pytest.mark.airflow
MODELS = REPOSITORY / "include" / "models"
HEAVY = ("pandas", "sklearn", "mlflow", "great_expectations", "boto3", "botocore", "pyarrow", "scipy", "moto", "skops")
SPECS = [load_spec(path) for path in spec_paths(MODELS)]
DAG_IDS = [
    f"perennial__{spec.name}__{what}"
    for spec in SPECS
    for what in ("retrain", "rollback", *(["monitor"] if is_watched(spec) else []))
]


BEFORE_PROMOTION = ["snapshot_data", "validate_data", "train_challenger", "evaluate_on_holdout", "decide"]


def make_spec(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate({**SPEC, **changes})


def in_new_process(code: str, **environ: str) -> Any:
    """What the code prints as JSON on its last line."""
    path = os.pathsep.join(str(REPOSITORY / folder) for folder in ("include", "plugins"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "PERENNIAL_SPECS": str(MODELS), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> DagBag:
    monkeypatch.setenv("PERENNIAL_SPECS", str(MODELS))
    return DagBag(REPOSITORY / "dags", load_op_links=False)


def test_shipped_specs_import_without_an_error(shipped: DagBag) -> None:
    assert shipped.import_errors == {}
    assert set(shipped.dags) == set(DAG_IDS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_dag_is_coarse_safe_and_says_what_it_does(spec: ModelSpec) -> None:
    dag = build_dag(spec)
    assert len(dag.tasks) <= 10
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    assert dag.dagrun_timeout is not None
    assert {"perennial", spec.task, f"owner:{spec.owner}"} <= set(dag.tags)
    assert spec.description in str(dag.doc_md)
    for task in dag.tasks:
        assert task.retries >= 1
        assert task.retry_exponential_backoff
        assert task.execution_timeout is not None
        assert task.owner == spec.owner
        assert task.pool == "default_pool"  # a pool that nobody created would stop the run without a word
    assert dag.get_task("promote_if_better").max_active_tis_per_dag == 1


def test_stages_run_one_after_the_other() -> None:
    dag = build_dag(make_spec())
    order = [task.task_id for task in dag.topological_sort()]
    assert order == [*BEFORE_PROMOTION, "promote_if_better"]
    for earlier, later in pairwise(order):
        assert earlier in dag.get_task(later).upstream_task_ids
    assert dag.get_task("promote_if_better").trigger_rule == "all_success"
    assert dag.dagrun_timeout == RUN_TIMEOUT


def test_person_who_has_to_agree_is_asked_between_decision_and_promotion() -> None:
    dag = build_dag(make_spec(approval={"required": True, "approvers": ["ada"], "timeout": "3d"}))
    order = [task.task_id for task in dag.topological_sort()]
    assert order == [*BEFORE_PROMOTION, "approve", "promote_if_better"]
    approve, promote = dag.get_task("approve"), dag.get_task("promote_if_better")
    assert approve.upstream_task_ids >= {"decide"}
    assert promote.upstream_task_ids >= {"approve", "decide"}
    assert promote.trigger_rule == "none_failed"  # a question that did not have to be asked is skipped
    assert approve.response_timeout == timedelta(days=3)
    assert approve.defaults == ["Reject"]
    assert approve.assigned_users == [{"id": "ada", "name": "ada"}]
    assert dag.dagrun_timeout == RUN_TIMEOUT + timedelta(days=3)
    assert "by ada within 3d" in str(dag.doc_md)


def test_way_back_is_one_quick_task_that_nothing_starts_but_a_person() -> None:
    dag = build_rollback_dag(make_spec())
    [task] = dag.tasks
    assert (dag.dag_id, task.task_id) == ("perennial__toy__rollback", "roll_back")
    assert type(dag.timetable).__name__ == "NullTimetable"
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    assert dag.dagrun_timeout is not None
    assert task.pool == "default_pool"
    assert task.retries >= 1
    assert task.retry_delay <= timedelta(seconds=10)
    assert not task.retry_exponential_backoff
    # Airflow adds the weights of all that comes after a task to its own.
    assert task.priority_weight > sum(other.priority_weight for other in build_dag(make_spec()).tasks)
    assert set(dag.params) == {"to", "reason"}
    assert rollback_doc(make_spec()) == dag.doc_md


@pytest.mark.parametrize("approval", [{"required": True}, {"required": True, "approvers": ["ada"]}])
def test_dags_come_back_from_airflows_database_as_they_went_in(approval: dict[str, Any]) -> None:
    spec = make_spec(approval={**approval, "break_glass": ["ada"]})
    for dag in (build_dag(spec), build_rollback_dag(spec)):
        dag.validate()
        back = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
        assert (back.dag_id, back.dagrun_timeout, set(back.params)) == (dag.dag_id, dag.dagrun_timeout, set(dag.params))
        for task in dag.tasks:
            stored = back.get_task(task.task_id)
            assert stored.task_type == task.task_type
            assert stored.downstream_task_ids == task.downstream_task_ids
            assert (stored.trigger_rule, stored.retry_delay) == (task.trigger_rule, task.retry_delay)
            assert (stored.priority_weight, stored.pool) == (task.priority_weight, task.pool)


def test_form_offers_to_break_the_glass_only_where_somebody_may() -> None:
    assert "break_glass" not in build_dag(make_spec()).params
    param = build_dag(make_spec(approval={"break_glass": ["ada", "bob"]})).params.get_param("break_glass")
    assert "ada, bob" in str(param.description)
    assert param.resolve() is None  # may stay empty
    with pytest.raises(ParamValidationError):
        param.resolve("x" * 501)


@pytest.mark.parametrize("to", ["latest", "-1", "1.0", 3])
def test_way_back_leads_to_a_version_only(to: Any) -> None:
    param = build_rollback_dag(make_spec()).params.get_param("to")
    assert param.resolve() is None
    assert param.resolve("12") == "12"
    with pytest.raises(ParamValidationError):
        param.resolve(to)


TRIGGERS = {
    "none": ({}, "NullTimetable", False),
    "schedule": ({"schedule": "0 2 * * *"}, "CronTriggerTimetable", False),
    "new_data": ({"on_new_data": True}, "AssetTriggeredTimetable", True),
    "both": ({"schedule": "0 2 * * *", "on_new_data": True}, "AssetOrTimeSchedule", True),
}


@pytest.mark.parametrize(("triggers", "timetable", "watches"), TRIGGERS.values(), ids=TRIGGERS)
def test_triggers_become_airflows_schedule(triggers: dict[str, Any], timetable: str, watches: bool) -> None:
    dag = build_dag(make_spec(triggers=triggers))
    dag.validate()
    stored = DagSerialization.to_dict(dag)
    text = json.dumps(stored)
    assert timetable in text or timetable.lower() in text.lower()
    assert ("LandingTrigger" in text) is watches
    assert DagSerialization.from_dict(json.loads(text)).dag_id == "perennial__toy__retrain"


def test_two_models_may_share_a_landing_zone() -> None:
    both = [build_dag(make_spec(name=name, triggers={"on_new_data": True})) for name in ("one", "two")]
    uris = [re.findall(r"x-perennial://[\w/]+", json.dumps(DagSerialization.to_dict(dag)))[0] for dag in both]
    assert len(set(uris)) == 2


STORED = """
import json
from airflow.serialization.serialized_objects import DagSerialization
from perennial_airflow.dag_factory import dags_of
print(json.dumps([json.dumps(DagSerialization.to_dict(dag), sort_keys=True) for dag in dags_of().values()]))
"""


def test_same_specs_give_the_same_bytes_in_every_process() -> None:
    first, second = (in_new_process(STORED, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert first == second
    assert len(first) == len(DAG_IDS)


PARSED = """
import json, sys
from perennial_airflow.dag_factory import dags_of
dags = dags_of()
print(json.dumps([len(dags), sorted(name for name in sys.modules if "." not in name)]))
"""


def test_parsing_loads_no_heavy_module() -> None:
    dags, modules = in_new_process(PARSED)
    assert dags == len(DAG_IDS)
    assert sorted(set(HEAVY) & set(modules)) == []


def test_parsing_reads_nothing_but_specs(monkeypatch: pytest.MonkeyPatch, shipped: DagBag) -> None:
    """No connection, variable, bucket or server is looked at while DAGs are made."""
    del shipped

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("I/O at parse")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("airflow.sdk.bases.hook.BaseHook.get_connection", refuse)
    monkeypatch.setattr("airflow.sdk.Variable.get", refuse)
    for spec in SPECS:
        build_dag(spec)
        build_rollback_dag(spec)
        build_monitor_dag(spec)


def test_broken_spec_in_a_plain_dags_folder_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.json").write_text(SUITE, encoding="utf-8")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    (tmp_path / "bad.yaml").write_text("name: bad", encoding="utf-8")
    monkeypatch.setenv("PERENNIAL_SPECS", str(tmp_path))
    bag = DagBag(REPOSITORY / "dags", load_op_links=False)
    assert set(bag.dags) == {"perennial__toy__retrain", "perennial__toy__rollback"}
    assert bag.import_errors == {}


def test_form_takes_the_specs_own_training_parameters_only() -> None:
    training = {**SPEC["training"], "params": {"depth": 3, "rate": 0.1, "early": True, "loss": "log", "any": None}}
    param = build_dag(make_spec(training=training)).params.get_param("params")
    good = {"depth": 4, "rate": 1, "early": False, "loss": "exp", "any": [1]}
    assert param.resolve(good) == good
    for wrong in ({"depht": 4}, {"depth": "4"}, {"early": 1}, {"loss": 3}):
        with pytest.raises(ParamValidationError):
            param.resolve(wrong)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("reason", "because", "x" * 501),
        ("as_of", "2013-07-01T00:00:00+00:00", "soon"),
        ("as_of", None, 7),
        ("force", True, "yes"),
    ],
)
def test_form_refuses_what_a_run_cannot_use(name: str, good: Any, bad: Any) -> None:
    param = build_dag(make_spec()).params.get_param(name)
    jsonschema.Draft202012Validator.check_schema(param.schema)
    assert param.resolve(good) == good
    with pytest.raises(ParamValidationError):
        param.resolve(bad)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            {"kind": "superiority", "min_effect": 0.01},
            "better than the champion's by more than 0.01, with 95% confidence",
        ),
        ({"kind": "superiority"}, "is better than the champion's, with 95% confidence"),
        (
            {"kind": "non_inferiority", "margin": 0.005, "confidence": 0.975},
            "not worse than the champion's by 0.005 or more",
        ),
    ],
)
def test_rule_reads_as_a_sentence(rule: dict[str, Any], words: str) -> None:
    spec = make_spec(gate={**SPEC["gate"], "rule": rule})
    assert words in rule_in_words(spec)
    assert rule_in_words(spec) in dag_doc(spec)


def test_words_say_every_rule_of_the_gate() -> None:
    gate = {
        **SPEC["gate"],
        "cluster_by": None,
        "rule": {"kind": "non_inferiority", "margin": 0.005, "refresh_after_days": 30},
        "slices": {"margin": 0.02},
        "fairness": [{"column": "day", "groups": ["a", "b"], "max_gap": 0.1}],
        "cost": {"max_size_mib": 10},
        "min_tenure": "2d",
        "max_promotions_per_week": 2,
        "false_promotions": {"budget": 0.05, "period_days": 90},
    }
    words = dag_doc(make_spec(gate=gate, evaluation={**SPEC["evaluation"], "slices": ["day"]}))
    for said in (
        "less than 30 days older",
        "no slice by `day` worse by 0.02",
        "gaps between groups by `day`",
        "limits on latency and size",
        "stays 2d at least",
        "at most 2 promotions in seven days",
        "at most 5.0% chance of a false promotion in 90 days",
    ):
        assert said in words
    assert "None" not in words
