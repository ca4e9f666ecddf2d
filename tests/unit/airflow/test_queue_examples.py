"""The example DAGs of docs/queues.md: from a message in a real queue to an alert that the webhook was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from airflow.serialization.serialized_objects import DagSerialization
from moto.server import ThreadedMotoServer

from perennial.errors import WebhookUnavailableError
from tests.airflow_home import REPOSITORY
from tests.unit.airflow.test_hooks import connect
from tests.unit.core.webhook_server import SECRET, STARTED, Webhook, a_webhook

pytestmark = pytest.mark.airflow
EXAMPLES = REPOSITORY / "docs" / "examples"
BODY = {"model": "toy", "summary": "the feed's schema changed", "source": "queue"}


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with a_webhook() as webhook:
        extra = {"keys": {"monitor": SECRET}}
        connect(monkeypatch, "perennial_webhook", conn_type="generic", host=webhook.url, extra=extra)
        yield webhook


class Queue:
    """An SQS queue on a server of its own."""

    def __init__(self, endpoint: str) -> None:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "eu-west-1"}
        self.client = boto3.client("sqs", endpoint_url=endpoint, **keys)
        self.url = self.client.create_queue(QueueName="perennial-alerts")["QueueUrl"]

    def put(self, body: str) -> str:
        return str(self.client.send_message(QueueUrl=self.url, MessageBody=body)["MessageId"])

    @property
    def messages(self) -> int:
        """In the queue, those included that somebody is at."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(number) for number in found.values())


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    extra = {"region_name": "eu-west-1", "endpoint_url": endpoint}
    connect(monkeypatch, "aws_default", conn_type="aws", login="a", password="b", extra=extra)
    try:
        yield Queue(endpoint)
    finally:
        server.stop()


def example(name: str, **changes: str) -> ModuleType:
    """The file as somebody would have it in a dags folder, with its first lines edited."""
    path = EXAMPLES / f"{name}.py"
    source = path.read_text(encoding="utf-8")
    for variable, value in changes.items():
        [line] = [line for line in source.splitlines() if line.startswith(f"{variable} = ")]
        source = source.replace(line, f"{variable} = {value!r}")
    module = ModuleType(name)
    exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the repository's own file
    return module


def the_dag(module: ModuleType) -> Any:
    dag = getattr(module, f"perennial_{module.__name__}")()
    dag.validate()
    return dag


def watched_event(module: ModuleType) -> Any:
    """What the triggerer makes of the example's trigger, once it fires."""
    [watcher] = module.ALERTS.watchers

    async def first() -> Any:
        async for event in watcher.trigger.run():
            return event.payload
        return None

    payload = asyncio.run(asyncio.wait_for(first(), 20))
    return SimpleNamespace(extra={"from_trigger": True, "payload": json.loads(json.dumps(payload))})


def hand_over(module: ModuleType, *events: Any) -> None:
    the_dag(module).get_task("hand_over").python_callable({module.ALERTS: list(events)})


def test_message_of_a_queue_becomes_an_alert_and_leaves_the_queue(queue: Queue, webhook: Webhook) -> None:
    message_id = queue.put(json.dumps(BODY))
    module = example("alerts_from_sqs", QUEUE=queue.url)
    event = watched_event(module)
    assert queue.messages == 1  # nothing is deleted until its alert is on record
    hand_over(module, event)
    assert webhook.received == [("/perennial/v1/alerts", BODY)]
    assert event.extra["payload"]["message_batch"][0]["MessageId"] == message_id
    assert queue.messages == 0


def test_message_stays_while_the_webhook_is_away_and_the_retry_hands_it_over(queue: Queue, webhook: Webhook) -> None:
    queue.put(json.dumps(BODY))
    module = example("alerts_from_sqs", QUEUE=queue.url)
    event = watched_event(module)
    webhook.status = 503
    with pytest.raises(WebhookUnavailableError):
        hand_over(module, event)
    assert queue.messages == 1
    webhook.status = 202
    hand_over(module, event)
    assert queue.messages == 0


def test_message_that_is_no_alert_holds_up_no_other_and_stays(queue: Queue, webhook: Webhook) -> None:
    module = example("alerts_from_sqs", QUEUE=queue.url)
    for body in ("bad", "good"):
        queue.put(json.dumps({**BODY, "summary": body}))
    answer = webhook.answer

    def refusing(path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        return (400, {"message": "no alert"}) if b"bad" in body else answer(path, headers, body)

    webhook.answer = refusing  # type: ignore[method-assign]
    hand_over(module, watched_event(module))
    assert [body["summary"] for _, body in webhook.received] == ["good"]
    assert queue.messages == 1


def test_text_of_a_topic_becomes_an_alert_with_an_id_of_its_words(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("alerts_from_kafka")
    [watcher] = module.ALERTS.watchers
    assert (watcher.trigger.scheme, watcher.trigger.kwargs["topics"]) == ("kafka", ["perennial-alerts"])
    seen: list[str] = []
    answer = webhook.answer

    def noting(path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        seen.append(headers["webhook-id"])
        return answer(path, headers, body)

    monkeypatch.setattr(webhook, "answer", noting)
    event = SimpleNamespace(extra={"from_trigger": True, "payload": json.dumps(BODY)})
    hand_over(module, event, event)
    assert webhook.received == [("/perennial/v1/alerts", BODY)] * 2
    assert webhook.outcome == STARTED
    assert len(set(seen)) == 1


@pytest.mark.parametrize("source", ["kafka", "sqs"])
def test_message_that_gets_no_answer_holds_up_none_behind_it(
    request: pytest.FixtureRequest, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    bodies = [json.dumps({**BODY, "summary": summary}) for summary in ("broken spec", "good")]
    if source == "sqs":
        queue = request.getfixturevalue("queue")
        module = example("alerts_from_sqs", QUEUE=queue.url)
        for body in bodies:
            queue.put(body)
        events = [watched_event(module)]
    else:
        module = example("alerts_from_kafka")
        events = [SimpleNamespace(extra={"from_trigger": True, "payload": body}) for body in bodies]
    answer = webhook.answer

    def for_one(path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        return (503, {"message": "try again"}) if b"broken" in body else answer(path, headers, body)

    monkeypatch.setattr(webhook, "answer", for_one)
    with pytest.raises(WebhookUnavailableError, match="try again"):
        hand_over(module, *events)
    assert [body["summary"] for _, body in webhook.received] == ["good"]


def test_topic_is_tried_for_a_day_since_it_hands_no_message_out_again() -> None:
    task = the_dag(example("alerts_from_kafka")).get_task("hand_over")
    assert task.retries * task.retry_delay == timedelta(days=1)


def test_trigger_is_stored_as_airflows_own_and_deletes_nothing_by_itself() -> None:
    stored = json.dumps(DagSerialization.to_dict(the_dag(example("alerts_from_sqs"))))
    assert "airflow.providers.amazon.aws.triggers.sqs.SqsSensorTrigger" in stored
    assert '"delete_message_on_reception": false' in stored
