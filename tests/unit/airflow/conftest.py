"""What Airflow tests share: a home of their own, a world behind the hook, and a task's context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.airflow_home import prepare

prepare()

from perennial_airflow.hooks.runtime import PerennialHook  # noqa: E402 - after the environment is set
from perennial_airflow.triggers import landing as landing_trigger  # noqa: E402
from perennial_airflow.triggers import rollout as rollout_trigger  # noqa: E402
from tests.unit.airflow.rollouts import Platform, make_model  # noqa: E402
from tests.unit.core.world import SPEC, World  # noqa: E402

DUE = datetime(2026, 1, 1, 2, tzinfo=UTC)


@dataclass
class FakeTaskInstance:
    """Keeps what is pushed."""

    id: str = "ti-1"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 3
    pushed: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def make_dag_run(**changes: Any) -> SimpleNamespace:
    """What a task is told of its run."""
    run = {
        "run_id": "manual__1",
        "run_type": "manual",
        "run_after": DUE,
        "conf": None,
        "triggering_user_name": "ada",
        "consumed_asset_events": [],
    }
    return SimpleNamespace(**{**run, **changes})


def make_context(task: Any = None, *, params: dict[str, Any] | None = None, **run: Any) -> dict[str, Any]:
    """A task's context."""
    ti = FakeTaskInstance()
    return {
        "ti": ti,
        "task_instance": ti,
        "task": task,
        "dag_run": make_dag_run(**run),
        "params": params or {},
    }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A folder, fakes and the spec `toy`, where the hook looks."""
    world = World(tmp_path)
    (world.specs / "toy.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    monkeypatch.setattr(PerennialHook, "runtime", lambda _hook: world.runtime)
    monkeypatch.setattr(PerennialHook, "store", lambda _hook: world.store)
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    return world


@pytest.fixture
def platform(world: World, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """`toy` has a canary; version 1 is champion, and the split of `rollouts.MINE` is in force.

    No trigger waits for what is down.
    """
    spec = {**SPEC, "deployment": {"kind": "scoring_service", "canary": {}}}
    (world.specs / "toy.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    world.registry.point_alias("toy", "champion", world.registry.register("toy", make_model("d-champion"), {}))
    platform = Platform()
    runtime = replace(world.runtime, own_deployer=platform)  # type: ignore[arg-type]
    monkeypatch.setattr(PerennialHook, "runtime", lambda _hook: runtime)
    monkeypatch.setattr(rollout_trigger, "MAX_BACKOFF_S", 0.0)
    monkeypatch.setattr(rollout_trigger, "ONCE_MORE_AFTER_S", 0.0)
    return platform


@pytest.fixture(autouse=True)
def forget_clients() -> Iterator[None]:
    """Triggers keep them for the process."""
    yield
    landing_trigger._store.cache_clear()
    rollout_trigger._runtime.cache_clear()
