"""MLflow's registry webhooks: `mlflow.webhooks.delivery` and `mlflow.webhooks.types` of MLflow 3.

Most of their events are no alert, and are acknowledged. Whoever wants a model retrained sets the tag `perennial.alert`
on one of its versions, in MLflow's own web page or by any client; the tag's value is what was seen.
"""

from __future__ import annotations

from typing import Any, Final

from perennial.domain.fingerprint import digest_of
from perennial_airflow.webhook.signals import Signal, first_line, fitted, joined_id, require, time_or_none

ALERT_TAG: Final = "perennial.alert"
_TAG_SET: Final = ("model_version_tag", "set")


def read(body: Any, delivery_id: str | None) -> list[Signal]:
    """The alert that an event is, or an event that asks for nothing.

    Args:
        body: `entity`, `action`, `timestamp` and `data`.
        delivery_id: of the header, the same in each repeat; None if it was not sent.

    Raises:
        BadMessageError: it is none of MLflow's.
    """
    require(isinstance(body, dict), "the body is not an object")
    entity, action, data = (body.get(name) for name in ("entity", "action", "data"))
    require(isinstance(entity, str) and isinstance(action, str), "there is no `entity` or no `action`")
    require(isinstance(data, dict), "there is no object `data`")
    assert isinstance(data, dict)  # noqa: S101 - says to mypy what the line above made sure of
    tag, name = data.get("key"), data.get("name")
    wanted = (entity, action) == _TAG_SET and tag == ALERT_TAG
    return [
        Signal(
            model=name if isinstance(name, str) else None,
            alert_id=joined_id("mlflow", delivery_id or digest_of(body)),
            summary=first_line(data.get("value"), f"the tag {ALERT_TAG} was set on a version"),
            raised_at=time_or_none(body.get("timestamp")),
            source="mlflow",
            evidence=fitted({"version": data.get("version"), "tag": tag, "value": data.get("value")}),
            wanted=wanted,
        )
    ]
