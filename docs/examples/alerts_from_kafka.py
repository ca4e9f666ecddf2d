"""Hands alerts from a Kafka topic to Perennial's webhook. See docs/queues.md; copy it to a dags folder and edit TOPIC.

Airflow's trigger commits a message's offset before its event is stored: a triggerer that dies in that very moment loses
the message. Where that matters, post to the webhook from a consumer of your own, and commit after the answer.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import Asset, AssetWatcher, dag, task

from perennial.errors import TerminalError
from perennial_airflow.hooks.webhook import WebhookHook

TOPIC = "perennial-alerts"
KAFKA_CONN_ID = "kafka_default"  # its extra holds librdkafka's settings: bootstrap.servers, group.id, ...

log = logging.getLogger(__name__)
ALERTS = Asset(
    name="perennial alerts kafka",
    uri="x-perennial://alerts/kafka",
    watchers=[
        AssetWatcher(
            name="perennial_alerts_kafka",
            trigger=MessageQueueTrigger(scheme="kafka", topics=[TOPIC], kafka_config_id=KAFKA_CONN_ID),
        )
    ],
)


@dag(schedule=[ALERTS], catchup=False, tags=["perennial"], default_args={"retries": 4, "retry_delay": 30})
def perennial_alerts_from_kafka() -> None:
    """Post each message to the webhook."""

    @task
    def hand_over(triggering_asset_events: Any = None) -> None:
        webhook = WebhookHook()
        for event in triggering_asset_events[ALERTS]:
            body = event.extra["payload"].encode()
            try:
                # Of a message without an `id`: the same words are the same alert.
                outcome = webhook.send_message(body, message_id=hashlib.sha256(body).hexdigest())
            except TerminalError as error:
                log.error("a message is passed over: %s", error)
                continue
            log.info("%s (%s)", outcome.fate, outcome.reason)

    hand_over()


perennial_alerts_from_kafka()
