"""Whole runs of the monitor's DAG in `dag.test()`: real operators and outbox; what the look finds is the test's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from perennial.domain.alert import Alert
from perennial.domain.references import MonitoringRef
from perennial.errors import TerminalError
from perennial.monitoring_objects import MonitoringObjects
from perennial.spec import load_spec
from perennial.stages import monitor
from perennial_airflow import notifiers
from perennial_airflow.dag_factory import build_monitor_dag
from perennial_airflow.hooks.runtime import PerennialHook
from tests.unit.core.webhook_server import SECRET, Webhook, a_webhook
from tests.unit.core.world import SPEC, World

pytestmark = pytest.mark.airflow
AT = datetime(2026, 1, 2, tzinfo=UTC)
WATCHED = {
    **SPEC,
    "deployment": {"kind": "scoring_service"},
    "monitoring": {"notify": [{"kind": "slack", "channel": "#ops"}]},
    "triggers": {"on_drift": {}},
}
NOTHING_ENDED = MonitoringRef(
    uri=None,
    sha256=None,
    page_uri=None,
    window_start=None,
    window_end=None,
    windows=0,
    rows=0,
    open_alerts=0,
    summary="no window has ended",
)
ALERT = Alert(model="toy", alert_id="a-1", source="monitor", summary="temp is higher", raised_at=AT, received_at=AT)


@pytest.fixture
def world(airflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """`toy` is monitored, and an alert of it is in the outbox."""
    world = World(tmp_path)
    (world.specs / "toy.yaml").write_text(yaml.safe_dump(WATCHED), encoding="utf-8")
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    monkeypatch.setenv("PERENNIAL_SPECS", str(world.specs))
    monkeypatch.setenv("PERENNIAL_WEBHOOK_KEY", f"monitor:{SECRET}")
    monkeypatch.setattr(PerennialHook, "runtime", lambda _hook: world.runtime)
    monkeypatch.setattr(PerennialHook, "store", lambda _hook: world.store)
    monkeypatch.setattr(notifiers, "tell", lambda _notice, _message, context: None)
    outbox(world).put_alert(ALERT, signal="data_drift", retrain=True, page_uri="")
    return world


def outbox(world: World) -> MonitoringObjects:
    return MonitoringObjects(store=world.store, root="s3://bucket/store", model="toy")


def run_dag(world: World, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, str]]:
    """State of the run, and of its tasks."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", f"{webhook.url}/execution/")
    run = build_monitor_dag(load_spec(world.specs / "toy.yaml")).test()
    return str(run.state), {task.task_id: str(task.state) for task in run.get_task_instances()}


def test_look_is_green_and_its_alerts_are_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "observe", lambda *_arguments, **_how: NOTHING_ENDED)
    with a_webhook() as webhook:
        run, tasks = run_dag(world, webhook, monkeypatch)
    assert (run, tasks) == ("success", {"observe": "success", "send_alerts": "success"})
    assert [path for path, _ in webhook.received] == ["/perennial/v1/tick", "/perennial/v1/alerts"]
    assert outbox(world).outbox() == ()


def test_look_that_fails_turns_the_run_red_and_alerts_are_sent_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: Any, **_how: Any) -> MonitoringRef:
        raise TerminalError("a report in the store is none")

    monkeypatch.setattr(monitor, "observe", broken)
    with a_webhook() as webhook:
        run, tasks = run_dag(world, webhook, monkeypatch)
    assert (run, tasks) == ("failed", {"observe": "failed", "send_alerts": "failed"})
    assert [path for path, _ in webhook.received] == ["/perennial/v1/tick", "/perennial/v1/alerts"]
    assert outbox(world).outbox() == ()
