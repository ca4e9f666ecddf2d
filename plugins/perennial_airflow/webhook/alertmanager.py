"""Prometheus Alertmanager's webhook, version 4.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config

A repeat of a firing alert has the same fingerprint and start, hence the same id: it is one alert for as long as it
fires. An alert that resolved and fires anew is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perennial.domain.fingerprint import digest_of
from perennial_airflow.webhook.signals import (
    Signal,
    first_line,
    fitted,
    joined_id,
    named_model,
    require,
    require_few,
    time_or_none,
)

_EVIDENCE: Final = ("labels", "annotations", "startsAt", "generatorURL")
FEWER: Final = "set max_alerts of the webhook_config, or group_by the model's label"


def read(body: Any) -> list[Signal]:
    """The alerts of a notification.

    Raises:
        BadMessageError: it is none of Alertmanager's, or has too many alerts.
    """
    return [signal_of(alert, body, "alertmanager") for alert in alerts_of(body, FEWER)]


def alerts_of(body: Any, fewer: str) -> list[Mapping[str, Any]]:
    """The list `alerts` of a notification, each with labels, and a fingerprint or a start."""
    require(isinstance(body, dict) and isinstance(body.get("alerts"), list), "there is no list `alerts`")
    for alert in body["alerts"]:
        require(isinstance(alert, dict) and isinstance(alert.get("labels"), dict), "an alert has no object `labels`")
        require(isinstance(alert.get("startsAt"), str), "an alert has no `startsAt`")
        require(isinstance(alert.get("annotations") or {}, dict), "an alert's `annotations` are no object")
    require_few(body["alerts"], fewer)
    return list(body["alerts"])


def signal_of(alert: Mapping[str, Any], body: Mapping[str, Any], source: str, *more: str) -> Signal:
    """One alert of a notification; `more` names further fields of it that are evidence."""
    labels, annotations = alert["labels"], alert.get("annotations") or {}
    fingerprint = alert.get("fingerprint")
    named = fingerprint if isinstance(fingerprint, str) and fingerprint else digest_of(labels)[:16]
    status = alert.get("status", body.get("status"))
    return Signal(
        model=named_model(labels, annotations),
        alert_id=joined_id(named, alert["startsAt"]),
        summary=first_line(
            annotations.get("summary"), annotations.get("description"), labels.get("alertname"), "an alert fires"
        ),
        raised_at=time_or_none(alert["startsAt"]),
        source=source,
        evidence=fitted({name: alert.get(name) for name in (*_EVIDENCE, *more)}),
        wanted=status != "resolved",
    )
