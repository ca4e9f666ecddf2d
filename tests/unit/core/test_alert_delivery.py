"""Alerts on their way out of the outbox: each reaches webhook and people, whatever breaks or dies meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.alert_delivery import AlertMessage, Delivery, deliver, notice_name
from perennial.domain.alert import Alert, Fate, Outcome
from perennial.errors import NotAllowedError, PerennialError, TerminalError, TransientError, WebhookUnavailableError
from perennial.monitoring_objects import MonitoringObjects
from perennial.spec import ModelSpec
from perennial.spec.monitoring import Notice
from perennial.testing.store import FolderStore
from tests.unit.core.faulty import Fault, ProcessDied, crashing
from tests.unit.core.world import SPEC

ROOT = "s3://bucket/store"
AT = datetime(2026, 1, 2, tzinfo=UTC)
STARTED = Outcome(fate=Fate.STARTED, reason="nothing spoke against it", at=AT, run_id="drift__1")
SLACK = {"kind": "slack", "channel": "#ops"}
EMAIL = {"kind": "email", "to": ["ada@example.com", "bob@example.com"]}
HTTP = {"kind": "webhook", "connection": "pager"}
MOST_CALLS = 60


def a_spec(*notices: dict[str, Any], on_drift: bool = True) -> ModelSpec:
    changes = {
        "deployment": {"kind": "scoring_service"},
        "monitoring": {"notify": list(notices)},
        "triggers": {"on_drift": {}} if on_drift else {},
    }
    return ModelSpec.model_validate({**SPEC, **changes})


def an_alert(number: int = 1, signal: str = "data_drift") -> Alert:
    at = AT + timedelta(days=number)
    return Alert(
        model="toy",
        alert_id=f"{signal}:{number}",
        source="monitor",
        summary="temp is higher",
        raised_at=at,
        received_at=at,
    )


@dataclass
class Outside:
    """The webhook and the people; both count by alert, and fail where a test says so."""

    outcome: Outcome = STARTED
    posted: list[str] = field(default_factory=list)
    told: list[tuple[str, AlertMessage]] = field(default_factory=list)
    webhook_error: PerennialError | None = None
    deaf: dict[str, Exception] = field(default_factory=dict)

    def post(self, alert: Alert) -> Outcome:
        if self.webhook_error is not None:
            raise self.webhook_error
        self.posted.append(alert.alert_id)
        return self.outcome

    def tell(self, notice: Notice, message: AlertMessage) -> None:
        if error := self.deaf.get(notice.kind):
            raise error
        self.told.append((notice.kind, message))

    @property
    def heard(self) -> list[tuple[str, str]]:
        return [(kind, message.alert.alert_id) for kind, message in self.told]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path)
    store.add_bucket("bucket")
    return store


def outbox(store: Any) -> MonitoringObjects:
    return MonitoringObjects(store=store, root=ROOT, model="toy")


def put(store: Any, alert: Alert, *, retrain: bool = True) -> None:
    page = f"{ROOT}/monitoring/toy/20260102T000000Z/page.html"
    outbox(store).put_alert(alert, signal=alert.alert_id.split(":")[0], retrain=retrain, page_uri=page)


def send(store: Any, spec: ModelSpec, outside: Outside) -> Delivery:
    return deliver(
        spec, objects=outbox(store), post=outside.post, tell=outside.tell, airflow_url="https://airflow.example"
    )


def test_alert_reaches_webhook_and_people_and_leaves_the_outbox(store: FolderStore) -> None:
    put(store, an_alert(2))
    put(store, an_alert(1))
    outside = Outside()
    done = send(store, a_spec(SLACK, HTTP), outside)
    done.require_all()
    assert (done.delivered, done.run_id) == (2, "drift__1")
    assert outside.posted == ["data_drift:1", "data_drift:2"]
    assert outside.heard == [
        (kind, alert) for alert in ("data_drift:1", "data_drift:2") for kind in ("slack", "webhook")
    ]
    assert outbox(store).outbox() == ()


def test_message_says_what_was_seen_what_follows_and_where_to_look(store: FolderStore) -> None:
    put(store, an_alert())
    outside = Outside()
    send(store, a_spec(SLACK), outside)
    [(_, message)] = outside.told
    base = "https://airflow.example"
    page = f"{base}/perennial/ui/perennial__toy__retrain/monitoring/20260102T000000Z/page.html"
    run = f"{base}/dags/perennial__toy__retrain/runs/drift__1"
    assert message.title == "toy: data drift"
    assert message.lines == ("temp is higher", "A retraining was started.", f"Report: {page}", f"Run: {run}")
    told = message.to_dict()
    assert (told["id"], told["page_url"], told["outcome"]["run_id"]) == ("data_drift:1", page, "drift__1")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            Outcome(fate=Fate.DEFERRED, reason="cool-down", at=AT, until=AT),
            "A retraining has to wait until 2026-01-02 00:00 UTC: cool-down",
        ),
        (Outcome(fate=Fate.REFUSED, reason="nothing new", at=AT), "No retraining: nothing new"),
        (
            Outcome(fate=Fate.COALESCED, reason="it is running", at=AT, run_id="r"),
            "A retraining was under way already: it is running",
        ),
    ],
)
def test_people_are_told_what_the_webhook_decided(store: FolderStore, outcome: Outcome, said: str) -> None:
    put(store, an_alert())
    outside = Outside(outcome=outcome)
    send(store, a_spec(SLACK), outside).require_all()
    assert outside.told[0][1].next_step == said


@pytest.mark.parametrize(
    ("retrain", "on_drift", "said"),
    [(False, True, "look at the service"), (True, False, "no triggers.on_drift")],
)
def test_alert_that_may_start_nothing_goes_to_people_only(
    store: FolderStore, retrain: bool, on_drift: bool, said: str
) -> None:
    put(store, an_alert(), retrain=retrain)
    outside = Outside()
    done = send(store, a_spec(SLACK, on_drift=on_drift), outside)
    assert (done.delivered, done.run_id, outside.posted) == (1, None, [])
    assert said in outside.told[0][1].next_step


def test_webhook_that_is_away_holds_nobody_up_and_is_asked_again(store: FolderStore) -> None:
    put(store, an_alert())
    outside = Outside(webhook_error=WebhookUnavailableError("no answer"))
    done = send(store, a_spec(SLACK), outside)
    assert done.delivered == 0
    with pytest.raises(TransientError, match="kept in the outbox: no answer"):
        done.require_all()
    assert "the monitor tries again: no answer" in outside.told[0][1].next_step
    outside.webhook_error = None
    send(store, a_spec(SLACK), outside).require_all()
    assert outside.posted == ["data_drift:1"]
    assert outside.heard == [("slack", "data_drift:1")]


def test_refusal_that_no_retry_can_help_is_terminal(store: FolderStore) -> None:
    put(store, an_alert(1))
    put(store, an_alert(2))
    outside = Outside(webhook_error=NotAllowedError("wrong key"))
    with pytest.raises(TerminalError, match=r"wrong key$"):
        send(store, a_spec(), outside).require_all()
    assert len(outbox(store).outbox()) == 2


def test_one_deaf_address_holds_up_neither_others_nor_the_run(store: FolderStore) -> None:
    put(store, an_alert())
    outside = Outside(deaf={"slack": OSError("channel_not_found")})
    done = send(store, a_spec(SLACK, EMAIL), outside)
    assert outside.posted == ["data_drift:1"]
    assert outside.heard == [("email", "data_drift:1")]
    with pytest.raises(TransientError, match="slack #ops"):
        done.require_all()
    outside.deaf = {}
    send(store, a_spec(SLACK, EMAIL), outside).require_all()
    assert outside.heard == [("email", "data_drift:1"), ("slack", "data_drift:1")]
    assert outside.posted == ["data_drift:1"]
    assert outside.told[-1][1].outcome == STARTED


def test_each_notice_has_a_name_of_its_own() -> None:
    monitoring = a_spec(SLACK, EMAIL, HTTP).monitoring
    assert monitoring is not None
    assert [notice_name(notice) for notice in monitoring.notify] == [
        "slack #ops (slack_api_default)",
        "email ada@example.com, bob@example.com (smtp_default)",
        "webhook (pager)",
    ]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_at_any_effect_loses_nothing_and_repeats_one_step_at_most(store: FolderStore, after: bool) -> None:
    spec = a_spec(SLACK, HTTP)
    for number in range(1, MOST_CALLS):
        put(store, an_alert(number))
        outside, fault = Outside(), Fault(at=number, after=after, fatal=True)
        dying, _ = crashing(store, None, fault)
        try:
            send(dying, spec, outside)
        except ProcessDied:
            send(store, spec, outside).require_all()
        else:
            assert number > 4
            return
        alert = f"data_drift:{number}"
        assert set(outside.posted) == {alert}
        assert set(outside.heard) == {("slack", alert), ("webhook", alert)}
        assert len(outside.posted) + len(outside.heard) <= 4, f"fault at {number}"
        assert outbox(store).outbox() == ()
    pytest.fail("no end")


def test_providers_words_are_told_to_nobody_for_they_may_hold_a_secret(
    store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, an_alert())
    refused = ConnectionError("Max retries exceeded with url: /services/T0/B0/s3cr3t")
    missing = TerminalError("monitoring.notify: kind email needs the package smtp")
    done = send(store, a_spec(HTTP, EMAIL), Outside(deaf={"webhook": refused, "email": missing}))
    with pytest.raises(TransientError) as caught:
        done.require_all()
    for text in (str(caught.value), caplog.text):
        assert "webhook (pager) was not told: ConnectionError" in text
        assert str(missing) in text
        assert "s3cr3t" not in text
