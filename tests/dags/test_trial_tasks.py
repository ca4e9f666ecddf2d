"""Smoke test, shadow and canary in the DAG: which tasks there are, when they run, how long, and what they say."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from perennial.domain.rollout import longest
from perennial_airflow.dag_docs import dag_doc
from perennial_airflow.dag_factory import RUN_TIMEOUT, build_dag, build_rollback_dag
from perennial_airflow.operators.rollout import walk_timeout
from perennial_airflow.task_docs import promote_doc, rollout_doc, smoke_test_doc
from tests.dags.test_dags import BEFORE_PROMOTION, STORED, in_new_process, make_spec
from tests.unit.core.world import SPEC, SUITE

pytestmark = pytest.mark.airflow
SERVICE = {"kind": "scoring_service"}
CANARY = {"steps": [5, 100], "every": "1h", "max_extend": "3h"}
FULL = {**SERVICE, "shadow": {"percent": 20, "every": "30m"}, "canary": CANARY}


def make_dag(deployment: dict[str, Any] | None, **changes: Any) -> DAG:
    return build_dag(make_spec(deployment=deployment, **changes))


@pytest.mark.parametrize("approval", [{}, {"required": True}])
@pytest.mark.parametrize(
    ("deployment", "trials"),
    [
        (None, []),
        (SERVICE, ["smoke_test"]),
        ({**SERVICE, "canary": CANARY}, ["smoke_test", "canary"]),
        ({**SERVICE, "shadow": {}}, ["smoke_test", "shadow"]),
        (FULL, ["smoke_test", "shadow", "canary"]),
    ],
)
def test_what_the_spec_asks_for_stands_between_decision_and_promotion(
    deployment: dict[str, Any] | None, trials: list[str], approval: dict[str, Any]
) -> None:
    dag = make_dag(deployment, approval=approval)
    order = [task.task_id for task in dag.topological_sort()]
    assert order == [*BEFORE_PROMOTION, *(["approve"] if approval else []), *trials, "promote_if_better"]
    for earlier, later in pairwise(order):
        assert earlier in dag.get_task(later).upstream_task_ids
    for task_id in trials:  # each says itself why it is skipped, whatever was skipped before
        assert dag.get_task(task_id).trigger_rule == "none_failed"
    after_skips = bool(trials or approval)
    assert dag.get_task("promote_if_better").trigger_rule == ("none_failed" if after_skips else "all_success")


def test_tasks_get_what_the_tasks_before_have_left() -> None:
    dag = make_dag(FULL, approval={"required": True})
    given = {
        task_id: {
            name: [item.operator.task_id for item in value] if isinstance(value, list) else value.operator.task_id
            for name in task.template_fields
            if (value := getattr(task, name)) is not None
        }
        for task_id in ("smoke_test", "shadow", "canary", "promote_if_better")
        for task in [dag.get_task(task_id)]
    }
    seen = {"challenger": "train_challenger", "decision": "decide", "approval": "approve"}
    judged = {**seen, "snapshot": "snapshot_data", "evaluation": "evaluate_on_holdout"}
    assert given == {
        "smoke_test": judged,
        "shadow": {**seen, "rollouts": []},
        "canary": {**seen, "rollouts": ["shadow"]},
        "promote_if_better": {**judged, "smoke": "smoke_test", "rollouts": ["shadow", "canary"]},
    }


def test_nothing_ends_a_walk_before_its_time() -> None:
    spec = make_spec(deployment=FULL, approval={"required": True, "timeout": "3d"})
    assert spec.deployment is not None
    dag, rollouts = build_dag(spec), spec.deployment.rollouts
    for phase, rollout in rollouts.items():
        assert walk_timeout(rollout) > longest(rollout)
        limit = dag.get_task(phase).execution_timeout
        assert limit is not None
        assert limit >= walk_timeout(rollout)
    walks = sum((walk_timeout(rollout) for rollout in rollouts.values()), timedelta(0))
    assert dag.dagrun_timeout == RUN_TIMEOUT + timedelta(days=3) + walks


def test_smoke_test_has_more_time_than_its_own_limit() -> None:
    limit = make_dag({**SERVICE, "smoke_test": {"timeout": "2h"}}).get_task("smoke_test").execution_timeout
    assert limit is not None
    assert timedelta(hours=2, minutes=5) <= limit <= timedelta(hours=3)


def test_trials_are_retried_like_all_other_tasks() -> None:
    dag = make_dag(FULL)
    others = dag.get_task("decide")
    for task_id in ("smoke_test", "shadow", "canary"):
        task = dag.get_task(task_id)
        assert (task.retries, task.retry_delay, task.pool) == (others.retries, others.retry_delay, "default_pool")
        assert task.retry_exponential_backoff


@pytest.mark.parametrize(
    "deployment",
    [
        {"kind": "sagemaker", "image": "scoring", "execution_role": "arn:aws:iam::123456789012:role/scoring"},
        {"kind": "kserve", "image": "scoring"},
    ],
)
def test_platform_that_takes_its_time_is_asked_again_for_half_an_hour(deployment: dict[str, Any]) -> None:
    spec = make_spec(deployment=deployment)
    back = build_rollback_dag(spec)
    for task in (build_dag(spec).get_task("promote_if_better"), back.get_task("roll_back")):
        assert not task.retry_exponential_backoff
        assert task.retries * task.retry_delay >= timedelta(minutes=30)
    assert back.dagrun_timeout is not None
    assert back.dagrun_timeout > timedelta(minutes=30)


def test_dag_comes_back_from_airflows_database_as_it_went_in() -> None:
    dag = make_dag(FULL, approval={"required": True})
    dag.validate()
    back = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert back.dagrun_timeout == dag.dagrun_timeout
    for task in dag.tasks:
        stored = back.get_task(task.task_id)
        assert (stored.task_type, stored.trigger_rule, stored.doc_md) == (
            task.task_type,
            task.trigger_rule,
            task.doc_md,
        )
        assert stored.downstream_task_ids == task.downstream_task_ids


def test_same_spec_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "toy.json").write_text(SUITE, encoding="utf-8")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**SPEC, "deployment": FULL}), encoding="utf-8")
    first, second = (in_new_process(STORED, PYTHONHASHSEED=seed, PERENNIAL_SPECS=str(tmp_path)) for seed in ("1", "2"))
    assert first == second
    assert "RolloutOperator" in first[0]


def test_words_tell_what_is_walked_and_what_to_do_about_it() -> None:
    spec = make_spec(deployment=FULL)
    words = dag_doc(spec)
    for said in (
        "smoke test in a clean process",
        "shadow of 20 % of the keys for 30m",
        "canary of 5, 100 % of the keys",
    ):
        assert said in words
    canary = rollout_doc(spec, "canary")
    for said in (
        "for 1h each (all in all 5h at most)",
        "error rate at most 0.01",
        "ends by itself within 3 minutes",
        "perennial rollback toy --challenger --reason TEXT",
        "Mark as failed",
    ):
        assert said in canary
    assert "answers nobody" in rollout_doc(spec, "shadow")
    assert "100 rows of the holdout" in smoke_test_doc(spec)
    assert "*Rollout*" in promote_doc(spec)
    assert "None" not in words + canary


def test_canary_on_a_platform_whose_splits_do_not_expire_says_so() -> None:
    platform = {"kind": "kserve", "image": "registry.example/perennial:1", "canary": CANARY}
    said = rollout_doc(make_spec(deployment=platform), "canary")
    assert "the split stays as it is" in said
    assert "3 minutes" not in said


def test_model_without_a_deployment_speaks_of_no_trials() -> None:
    spec = make_spec()
    assert "smoke_test" not in dag_doc(spec)
    assert "Rollout" not in promote_doc(spec)
