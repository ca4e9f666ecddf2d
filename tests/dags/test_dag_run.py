"""Whole runs of the DAG in `dag.test()`: real operators, trigger and core; time, traffic and platform are fakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from perennial.domain.canary import Reading
from perennial.domain.references import PromotionRef, RolloutRef, SmokeTestRef
from perennial.runtime import Runtime
from perennial.spec import load_spec
from perennial.stages import rollout_walk
from perennial.testing import MemoryDeployer
from perennial.whole_cycle import run_cycle
from perennial_airflow.dag_factory import build_dag
from perennial_airflow.hooks.runtime import PerennialHook
from perennial_airflow.triggers import rollout as rollout_trigger
from perennial_airflow.xcom import MAX_XCOM_BYTES
from tests.unit.core.world import SPEC, World

pytestmark = pytest.mark.airflow
DEPLOYMENT = {"kind": "scoring_service", "shadow": {}, "canary": {"steps": [10, 100]}}
TRIALS = ("smoke_test", "shadow", "canary", "promote_if_better")
GOOD = {"error_rate": 0.0, "latency_p95_ratio": 1.0, "prediction_distance": 0.05}


class ShiftedClock:
    """The machine's clock, ahead of it by what a test has let pass."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, by: timedelta) -> None:
        self._ahead += by


class Traffic:
    """What the challenger's rows in the prediction log say; a look at them takes five minutes."""

    def __init__(self, clock: ShiftedClock) -> None:
        self.values: dict[str, float] = dict(GOOD)
        self._clock = clock

    def observe(self, *_arguments: Any, **_how: Any) -> Mapping[str, Reading]:
        self._clock.advance(timedelta(minutes=5))
        return {name: Reading(value=value, samples=1000) for name, value in self.values.items()}


@pytest.fixture
def world(airflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    world.clock = ShiftedClock()  # type: ignore[assignment]
    spec = {**SPEC, "deployment": DEPLOYMENT}
    (world.specs / "toy.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    monkeypatch.setenv("PERENNIAL_SPECS", str(world.specs))
    monkeypatch.setattr(rollout_walk, "SHORTEST_WAIT", timedelta(0))
    monkeypatch.setattr(rollout_walk, "LONGEST_WAIT", timedelta(0))
    rollout_trigger._runtime.cache_clear()
    return world


@pytest.fixture
def platform(world: World, monkeypatch: pytest.MonkeyPatch) -> MemoryDeployer:
    platform = MemoryDeployer()

    def runtime(_hook: PerennialHook) -> Runtime:
        return replace(world.runtime, own_deployer=platform)

    monkeypatch.setattr(PerennialHook, "runtime", runtime)
    return platform


@pytest.fixture
def traffic(world: World, monkeypatch: pytest.MonkeyPatch) -> Traffic:
    traffic = Traffic(world.clock)  # type: ignore[arg-type]
    monkeypatch.setattr(rollout_walk, "observe", traffic.observe)
    return traffic


def run_dag(world: World) -> tuple[dict[str, str], dict[str, Any]]:
    """State of each task of a run, and what each left in XCom."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run = build_dag(load_spec(world.specs / "toy.yaml")).test()
    world.clock.advance(timedelta(days=1))
    with create_session() as session:
        query = select(XComModel).where(XComModel.run_id == run.run_id, XComModel.key == "return_value")
        left = {row.task_id: XComModel.deserialize_value(row) for row in session.scalars(query)}
    return {task.task_id: str(task.state) for task in run.get_task_instances()}, left


@pytest.fixture
def challenged(world: World, platform: MemoryDeployer) -> World:
    """Version 1 is champion, and the world has turned round since: whoever learns from the new days is better."""
    world.land(range(28))
    run_cycle(world.runtime, world.spec, world.request())
    world.land(range(28, 60), sign=-1.0)
    platform.changes.clear()
    return world


def kinds(world: World) -> list[tuple[str, bool | None]]:
    return [(entry.kind, entry.approved) for entry in world.runtime.ledger.entries("toy")]


def test_first_champion_serves_at_once_and_a_worse_challenger_is_not_tried_out(
    world: World, platform: MemoryDeployer
) -> None:
    world.land(range(28))
    states, left = run_dag(world)
    assert [states[name] for name in TRIALS] == ["success", "skipped", "skipped", "success"]
    assert SmokeTestRef.from_dict(left["smoke_test"]).passed
    assert PromotionRef.from_dict(left["promote_if_better"]).promoted
    world.land(range(28, 35))
    states, left = run_dag(world)
    assert states["decide"] == "success"
    assert [states[name] for name in TRIALS] == ["skipped"] * 4
    assert not PromotionRef.from_dict(left["promote_if_better"]).promoted
    assert platform.changes == [("promote", "1", 100.0)]


@pytest.mark.usefixtures("traffic")
def test_challenger_that_proves_itself_on_live_traffic_is_promoted(challenged: World, platform: MemoryDeployer) -> None:
    states, left = run_dag(challenged)
    assert [states[name] for name in TRIALS] == ["success"] * 4
    shadow, canary = (RolloutRef.from_dict(left[name]) for name in ("shadow", "canary"))
    assert (shadow.phase, shadow.passed, canary.phase, canary.passed) == ("shadow", True, "canary", True)
    assert PromotionRef.from_dict(left["promote_if_better"]).champion_after == "2"
    assert platform.changes == [
        ("deploy", "2", 0.0),
        ("shift", "2", 100.0),
        ("roll_back", "1", 100.0),
        ("deploy", "2", 0.0),
        ("shift", "2", 10.0),
        ("shift", "2", 100.0),
        ("promote", "2", 100.0),
    ]
    assert kinds(challenged)[2:] == [("decision", None), ("rollout", True), ("rollout", True), ("promotion", None)]
    assert max(len(json.dumps(reference)) for reference in left.values()) <= MAX_XCOM_BYTES


def test_challenger_that_live_traffic_refuses_is_a_green_run_without_a_promotion(
    challenged: World, platform: MemoryDeployer, traffic: Traffic
) -> None:
    traffic.values["error_rate"] = 0.2
    states, left = run_dag(challenged)
    assert [states[name] for name in TRIALS] == ["success", "success", "skipped", "skipped"]
    assert not RolloutRef.from_dict(left["shadow"]).passed
    assert PromotionRef.from_dict(left["promote_if_better"]) == PromotionRef(
        ledger_uri=left["shadow"]["ledger_uri"], promoted=False, champion_before="1", champion_after="1"
    )
    assert platform.changes[-1] == ("roll_back", "1", 100.0)
    assert kinds(challenged)[2:] == [("decision", None), ("rollout", False)]
    assert len(challenged.runtime.ledger.quarantine("toy")) == 1
