"""The monitor's tasks: what they are told, what they hand on, and which errors are worth another try."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from perennial.domain.alert import Alert
from perennial.domain.references import MonitoringRef
from perennial.errors import RequestError, StoreUnavailableError
from perennial.monitoring_objects import MonitoringObjects
from perennial.stages import monitor
from perennial_airflow import notifiers
from perennial_airflow.hooks.webhook import WebhookHook
from perennial_airflow.links import MonitoringReportLink, RetrainRunLink
from perennial_airflow.operators import ObserveOperator, SendAlertsOperator
from perennial_airflow.request import run_request
from tests.unit.airflow.conftest import DUE, make_context
from tests.unit.airflow.test_hooks import connect
from tests.unit.core.webhook_server import SECRET, STARTED, Webhook, a_webhook
from tests.unit.core.world import SPEC, World

pytestmark = pytest.mark.airflow
WATCHED = {
    **SPEC,
    "deployment": {"kind": "scoring_service"},
    "monitoring": {"notify": [{"kind": "slack", "channel": "#ops"}]},
    "triggers": {"on_drift": {}},
}
ROOT = "s3://bucket/store"
PAGE = f"{ROOT}/monitoring/toy/20260101T000000Z/page.html"
SEEN = MonitoringRef(
    uri=f"{ROOT}/monitoring/toy/20260101T000000Z/report.json",
    sha256="0" * 64,
    page_uri=PAGE,
    window_start=datetime(2025, 12, 31, tzinfo=UTC),
    window_end=datetime(2026, 1, 1, tzinfo=UTC),
    windows=1,
    rows=700,
    open_alerts=1,
    summary="\N{SNOWMAN}" * 500,
)
ALERT = Alert(
    model="toy",
    alert_id="data_drift:2026-01-01T00:00:00Z",
    source="monitor",
    summary="temp is higher",
    raised_at=DUE,
    received_at=DUE,
)


@pytest.fixture
def watched(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """`toy` is monitored, and its alerts may start runs."""
    (world.specs / "toy.yaml").write_text(yaml.safe_dump(WATCHED), encoding="utf-8")
    monkeypatch.setenv("PERENNIAL_SPECS", str(world.specs))
    return world


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """Where the tasks look for it, with the key that they have."""
    with a_webhook() as webhook:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", f"{webhook.url}/execution/")
        extra = {"keys": {"grafana": "not the tasks' own", "monitor": SECRET}}
        connect(monkeypatch, "perennial_webhook", conn_type="generic", extra=extra)
        yield webhook


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    monkeypatch.setattr(notifiers, "tell", lambda _notice, message, context: heard.append(message.alert.alert_id))
    return heard


def observe(monkeypatch: pytest.MonkeyPatch, **run: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What the stage is called with, what the task returns, and what it pushes."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(monitor, "observe", lambda _spec, **arguments: (given.update(arguments), SEEN)[1])
    context = make_context(**run)
    return given, ObserveOperator(task_id="observe", model="toy").execute(context), context["ti"].pushed


def send(observed: Any = "there") -> tuple[Any, dict[str, Any]]:
    """What the task returns, and what it pushes."""
    context = make_context()
    task = SendAlertsOperator(task_id="send_alerts", model="toy", observed=observed)
    return task.execute(context), context["ti"].pushed


def outbox(world: World) -> MonitoringObjects:
    return MonitoringObjects(store=world.store, root=ROOT, model="toy")


def put(world: World) -> None:
    outbox(world).put_alert(ALERT, signal="data_drift", retrain=True, page_uri=PAGE)


def test_look_stands_at_the_runs_time_and_leaves_a_reference_that_fits(
    watched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, returned, pushed = observe(monkeypatch)
    assert given["as_of"] == DUE
    assert given["root"] == watched.runtime.root
    address = "http://airflow.example/perennial/ui/perennial__toy__retrain/monitoring/20260101T000000Z/page.html"
    assert pushed == {MonitoringReportLink.key: address}
    found = MonitoringRef.from_dict(returned)
    assert (found.uri, found.windows, found.open_alerts) == (SEEN.uri, 1, 1)
    assert len(found.summary) < len(SEEN.summary)  # XCom's ASCII has 6 bytes for each of these letters


def test_look_stands_where_a_person_asks_for(watched: World, monkeypatch: pytest.MonkeyPatch) -> None:
    given, _, _ = observe(monkeypatch, params={"as_of": "2025-06-01T00:00:00Z"})
    assert given["as_of"] == datetime(2025, 6, 1, tzinfo=UTC)


def test_look_refuses_what_it_does_not_know(watched: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match="force"):
        observe(monkeypatch, conf={"force": True})


def test_alert_goes_to_webhook_and_people_and_its_run_is_one_click_away(
    watched: World, webhook: Webhook, told: list[str]
) -> None:
    put(watched)
    returned, pushed = send()
    assert returned == {"delivered": 1, "run_id": "drift__1"}
    assert pushed == {RetrainRunLink.key: "http://airflow.example/dags/perennial__toy__retrain/runs/drift__1"}
    assert [path for path, _ in webhook.received] == ["/perennial/v1/tick", "/perennial/v1/alerts"]
    assert webhook.received[1][1]["id"] == ALERT.alert_id
    assert told == [ALERT.alert_id]
    assert outbox(watched).outbox() == ()


def test_deferred_alert_that_is_due_gets_its_button_too(watched: World, webhook: Webhook) -> None:
    webhook.due = [{**STARTED, "run_id": "drift__later"}]
    returned, pushed = send()
    assert returned == {"delivered": 0, "run_id": "drift__later"}
    assert pushed[RetrainRunLink.key].endswith("/drift__later")


def test_outbox_that_cannot_be_read_keeps_no_deferred_alert_waiting(
    watched: World, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_objects: MonitoringObjects) -> Any:
        raise StoreUnavailableError("503 SlowDown")

    monkeypatch.setattr(MonitoringObjects, "outbox", away)
    with pytest.raises(AirflowException, match="SlowDown"):
        send()
    assert [path for path, _ in webhook.received] == ["/perennial/v1/tick"]


def test_tick_that_fails_keeps_no_alert_in_the_outbox_and_turns_the_run_red(
    watched: World, webhook: Webhook, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(watched)
    answer = webhook.answer

    def no_tick(path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        return (503, {"message": "busy"}) if path.endswith("/tick") else answer(path, headers, body)

    monkeypatch.setattr(webhook, "answer", no_tick)
    with pytest.raises(AirflowException, match="busy"):
        send()
    assert told == [ALERT.alert_id]
    assert outbox(watched).outbox() == ()


def test_webhook_that_is_away_is_tried_again_and_people_are_told(
    watched: World, webhook: Webhook, told: list[str]
) -> None:
    put(watched)
    webhook.status = 503
    with pytest.raises(AirflowException) as failed:
        send()
    assert not isinstance(failed.value, AirflowFailException)
    assert told == [ALERT.alert_id]
    webhook.status = 202
    assert send()[0]["delivered"] == 1
    assert told == [ALERT.alert_id]


def test_key_that_is_not_accepted_fails_at_once_and_keeps_the_alert(
    watched: World, webhook: Webhook, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(watched)
    monkeypatch.setenv("PERENNIAL_WEBHOOK_KEY", "monitor:another secret")
    with pytest.raises(AirflowFailException, match="perennial_webhook"):
        send()
    assert len(outbox(watched).outbox()) == 1


def test_look_that_failed_turns_the_run_red_after_alerts_were_sent(
    watched: World, webhook: Webhook, told: list[str]
) -> None:
    put(watched)
    with pytest.raises(AirflowFailException, match="look at the windows failed"):
        send(observed=None)
    assert told == [ALERT.alert_id]
    assert outbox(watched).outbox() == ()


def test_model_without_on_drift_needs_no_webhook(
    watched: World, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (watched.specs / "toy.yaml").write_text(yaml.safe_dump({**WATCHED, "triggers": {}}), encoding="utf-8")
    put(watched)
    assert send() == ({"delivered": 1, "run_id": None}, {})
    assert told == [ALERT.alert_id]


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ({"host": "api-server", "port": 8080}, "http://api-server:8080"),
        ({"host": "http://api-server/", "port": 8080}, "http://api-server:8080"),
        ({"host": "https://airflow.example/base/"}, "https://airflow.example/base"),
        ({"host": "airflow.example", "schema": "https"}, "https://airflow.example"),
        ({"host": "http://airflow.example/base", "port": 8080}, "http://airflow.example:8080/base"),
        ({}, "http://airflow.example"),
    ],
)
def test_webhook_is_looked_for_at_the_connections_host_else_at_airflows(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any], address: str
) -> None:
    connect(monkeypatch, "perennial_webhook", conn_type="generic", **connection)
    assert WebhookHook().address == address


def test_key_is_the_settings_then_the_tasks_own_then_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"grafana": "the first one", "monitor": "the tasks' own"}
    connect(monkeypatch, "perennial_webhook", conn_type="generic", extra={"keys": {"grafana": "the first one"}})
    assert WebhookHook().key.secret == "the first one"
    connect(monkeypatch, "perennial_webhook", conn_type="generic", extra={"keys": keys})
    assert WebhookHook().key.secret == "the tasks' own"
    monkeypatch.setenv("PERENNIAL_WEBHOOK_KEY", "mine:of the environment")
    assert (WebhookHook().key.name, WebhookHook().key.secret) == ("mine", "of the environment")


def test_webhook_without_a_key_says_what_the_connection_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="perennial_webhook has no keys"):
        _ = WebhookHook().key


def test_run_that_an_alert_started_gives_its_summary_as_the_reason() -> None:
    conf = {"alert": ALERT.to_dict()}
    request = run_request("toy", make_context(run_id="drift__1", conf=conf, triggering_user_name=None))
    assert (request.trigger, request.reason, request.requested_by) == ("drift", "temp is higher", "")
