"""Grafana's alerting: the webhook contact point's own body, which extends Alertmanager's.

https://grafana.com/docs/grafana/latest/alerting/configure-notifications/manage-contact-points/integrations/webhook-notifier/
"""

from __future__ import annotations

from typing import Any, Final

from perennial_airflow.webhook.alertmanager import alerts_of, signal_of
from perennial_airflow.webhook.signals import Signal

_EVIDENCE: Final = ("values", "dashboardURL", "panelURL")
FEWER: Final = "set Max Alerts of the contact point, or group by the model's label"


def read(body: Any) -> list[Signal]:
    """The alerts of a notification.

    Raises:
        BadMessageError: it is none of Grafana's, or has too many alerts.
    """
    return [signal_of(alert, body, "grafana", *_EVIDENCE) for alert in alerts_of(body, FEWER)]
