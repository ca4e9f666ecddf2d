"""Perennial's own form of an alert: what `perennial.alert_sender` sends, and what is easiest to send by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from perennial.domain.alert import MAX_ID_LENGTH, MAX_SUMMARY_LENGTH
from perennial.domain.times import parse_time
from perennial_airflow.webhook.signals import BadMessageError, Signal, require

FIELDS: Final = ("model", "id", "summary", "raised_at", "source", "evidence")
SOURCES: Final = ("monitor", "command", "queue")
"""What a sender of ours says of itself; everybody else is `native`."""


def read(body: Any, message_id: str | None) -> Signal:
    """The alert.

    Args:
        body: an object of `FIELDS`, of which only `model` and `summary` have to be there.
        message_id: of the header, which is the alert's id if the body has none.

    Raises:
        BadMessageError: says which field is wrong.
    """
    require(isinstance(body, Mapping), "the body is not an object")
    unknown = sorted(name for name in body if name not in FIELDS)
    require(not unknown, f"there is no field {', '.join(unknown)[:200]}; there are {', '.join(FIELDS)}")
    alert_id = body.get("id", message_id)
    require(alert_id is not None, "there is no id: neither the field `id` nor the header webhook-id")
    source = body.get("source")
    evidence = {} if body.get("evidence") is None else body["evidence"]
    require(isinstance(evidence, Mapping), "evidence is not an object")
    return Signal(
        model=_text(body.get("model"), "model", 63),
        alert_id=_text(alert_id, "id", MAX_ID_LENGTH),
        summary=_text(body.get("summary"), "summary", MAX_SUMMARY_LENGTH),
        raised_at=_time(body["raised_at"]) if body.get("raised_at") is not None else None,
        source=source if source in SOURCES else "native",
        evidence=evidence,
    )


def read_tick(body: Any) -> str:
    """The model whose deferred alerts are to be looked at.

    Raises:
        BadMessageError: none is named.
    """
    require(isinstance(body, Mapping) and set(body) == {"model"}, 'the body is not {"model": "<name>"}')
    return _text(body["model"], "model", 63)


def _text(value: Any, name: str, longest: int) -> str:
    fits = isinstance(value, str) and len(value.strip()) > 0 and len(value) <= longest
    require(fits, f"{name} is not a text of 1 to {longest} characters")
    return str(value)


def _time(value: Any) -> datetime:
    try:
        return parse_time(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessageError("raised_at is not a time; write it as 2026-01-02T03:04:05Z") from error
