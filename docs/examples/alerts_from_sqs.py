"""Hands alerts from an SQS queue to Perennial's webhook. See docs/queues.md; copy it to a dags folder and edit QUEUE.

A message is deleted once its alert is on record, not before: whatever dies on the way, SQS delivers it again after
VISIBILITY_S, and the webhook knows an alert that it has seen.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import Asset, AssetWatcher, dag, task

from perennial.errors import TerminalError, TransientError
from perennial_airflow.hooks.webhook import WebhookHook

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/perennial-alerts"
AWS_CONN_ID = "aws_default"
VISIBILITY_S = 600  # longer than the task below takes; a message that comes again is the same alert

log = logging.getLogger(__name__)
ALERTS = Asset(
    name="perennial alerts sqs",
    uri="x-perennial://alerts/sqs",
    watchers=[
        AssetWatcher(
            name="perennial_alerts_sqs",
            trigger=MessageQueueTrigger(
                scheme="sqs",
                sqs_queue=QUEUE,
                aws_conn_id=AWS_CONN_ID,
                max_messages=10,
                wait_time_seconds=20,
                waiter_delay=5,
                visibility_timeout=VISIBILITY_S,
                delete_message_on_reception=False,
            ),
        )
    ],
)


@dag(schedule=[ALERTS], catchup=False, tags=["perennial"], default_args={"retries": 4, "retry_delay": 30})
def perennial_alerts_from_sqs() -> None:
    """Post each message to the webhook."""

    @task
    def hand_over(triggering_asset_events: Any = None) -> None:
        from airflow.providers.amazon.aws.hooks.sqs import SqsHook

        queue = SqsHook(aws_conn_id=AWS_CONN_ID).conn
        webhook, unanswered = WebhookHook(), None
        for event in triggering_asset_events[ALERTS]:
            for message in event.extra["payload"]["message_batch"]:
                try:
                    outcome = webhook.send_message(message["Body"].encode(), message_id=message["MessageId"])
                except TerminalError as error:  # no alert of ours: the queue's dead-letter queue gets it in the end
                    log.error("message %s stays in the queue: %s", message["MessageId"], error)
                    continue
                except TransientError as error:
                    log.warning("message %s is handed over again by the next try: %s", message["MessageId"], error)
                    unanswered = error
                    continue
                log.info("message %s: %s (%s)", message["MessageId"], outcome.fate, outcome.reason)
                queue.delete_message(QueueUrl=QUEUE, ReceiptHandle=message["ReceiptHandle"])
        if unanswered is not None:
            raise unanswered

    hand_over()


perennial_alerts_from_sqs()
