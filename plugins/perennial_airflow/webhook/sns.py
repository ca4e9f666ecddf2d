"""Amazon SNS: what a notification says. `sns_signature` says whether it is to be believed.

https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html

The message is JSON with a model's name (`perennial_model` or `model`), as an EventBridge rule's input transformer makes
it; or a CloudWatch alarm, whose metric has the dimension `perennial_model` or `model`; or any text, with the message
attribute `perennial_model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perennial_airflow.webhook.bodies import parse_json
from perennial_airflow.webhook.signals import Signal, first_line, fitted, joined_id, named_model, time_or_none


def read(notification: Mapping[str, Any]) -> list[Signal]:
    """The alert of a message of the type `Notification`, which `SnsVerifier.verify` has let pass."""
    message = _message(notification["Message"])
    trigger = message.get("Trigger")
    dimensions = trigger.get("Dimensions") if isinstance(trigger, Mapping) else None
    state = message.get("NewStateValue")
    return [
        Signal(
            model=named_model(_attributes(notification), message, _pairs(dimensions)),
            alert_id=joined_id("sns", notification["MessageId"]),
            summary=first_line(
                message.get("summary"),
                _alarm(message),
                notification.get("Subject"),
                None if message else notification["Message"],
                "a message of SNS",
            ),
            raised_at=time_or_none(notification["Timestamp"]),
            source="sns",
            evidence=fitted(
                {"topic": notification["TopicArn"], "subject": notification.get("Subject"), "message": message}
            ),
            wanted=state in (None, "ALARM") and message.get("status") != "resolved",
        )
    ]


def _message(text: str) -> Mapping[str, Any]:
    try:
        found = parse_json(text.encode())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _alarm(message: Mapping[str, Any]) -> str | None:
    name, reason = message.get("AlarmName"), message.get("NewStateReason")
    return f"{name}: {reason}" if name and reason else None


def _attributes(notification: Mapping[str, Any]) -> dict[str, Any]:
    found = notification.get("MessageAttributes")
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {name: value.get("Value") for name, value in pairs if isinstance(value, Mapping)}


def _pairs(dimensions: Any) -> dict[str, Any]:
    """CloudWatch's dimensions are a list of name and value."""
    found = dimensions if isinstance(dimensions, list) else ()
    pairs = [(part.get("name"), part.get("value")) for part in found if isinstance(part, Mapping)]
    return {name: value for name, value in pairs if isinstance(name, str)}
