"""Hands alerts from a Kafka topic to Perennial's webhook. See docs/queues.md; copy it to a dags folder and edit TOPIC.

Airflow's trigger commits a message's offset before its event is stored: a triggerer that dies in that very moment loses
the message. Where that matters, post to the webhook from a consumer of your own, and commit after the answer.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from typing import Any

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import Asset, AssetWatcher, dag, task

from perennial.errors import TerminalError, TransientError
from perennial_airflow.hooks.webhook import WebhookHook

TOPIC = "perennial-alerts"
KAFKA_CONN_ID = "kafka_default"  # its extra holds librdkafka's settings: bootstrap.servers, group.id, ...
RETRIES = 288  # a day: the topic does not hand a message out again
RETRY_DELAY = timedelta(minutes=5)

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


@dag(
    schedule=[ALERTS], catchup=False, tags=["perennial"], default_args={"retries": RETRIES, "retry_delay": RETRY_DELAY}
)
def perennial_alerts_from_kafka() -> None:
    """Post each message to the webhook."""

    @task
    def hand_over(triggering_asset_events: Any = None) -> None:
        webhook, unanswered = WebhookHook(), None
        for event in triggering_asset_events[ALERTS]:
            body = event.extra["payload"].encode()
            try:
                # Of a message without an `id`: the same words are the same alert.
                outcome = webhook.send_message(body, message_id=hashlib.sha256(body).hexdigest())
            except TerminalError as error:
                log.error("a message is passed over: %s", error)
                continue
            except TransientError as error:
                log.warning("a message is handed over again by the next try: %s", error)
                unanswered = error
                continue
            log.info("%s (%s)", outcome.fate, outcome.reason)
        if unanswered is not None:
            raise unanswered

    hand_over()


perennial_alerts_from_kafka()
