"""The one place that turns an Airflow run into a RunRequest or a RollbackRequest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from perennial.domain.governor import RUN_PREFIX
from perennial.domain.run_request import MAX_REASON_LENGTH, RollbackRequest, RunRequest
from perennial.domain.times import parse_time
from perennial.errors import RequestError

DRIFT_RUN_PREFIX: Final = RUN_PREFIX
"""Runs that a drift alert starts have a run_id that begins so."""

KEYS: Final = ("reason", "as_of", "force", "params", "break_glass")
"""What the `conf` of a retraining's run may say."""
ROLLBACK_KEYS: Final = ("reason", "to")
"""What the `conf` of a rollback's run may say."""
LOOK_KEYS: Final = ("as_of",)
"""What the `conf` of a monitor's run may say."""
_ALERT: Final = "alert"
"""In the `conf` of a run that an alert started: the alert."""

_TRIGGERS: Final = {
    "scheduled": "schedule",
    "backfill": "schedule",
    "asset_triggered": "new_data",
}


def run_request(model: str, context: Mapping[str, Any]) -> RunRequest:
    """What was asked for. Depends on the run alone, so every task and every retry of a run gets the same.

    The form's values (`params`) come first, then the run's `conf`; `as_of` is else the time that the run was due.

    Raises:
        RequestError: a key that is not known, a value of the wrong type, or out of bounds.
    """
    dag_run = context["dag_run"]
    asked = _asked(context, KEYS)
    break_glass = _typed(asked, "break_glass", str, "")
    if break_glass and not break_glass.strip():
        raise RequestError("break_glass is blank; say why the gate is to be overridden, or leave it out")
    return RunRequest(
        model=model,
        run_id=dag_run.run_id,
        as_of=_as_of(asked.get("as_of"), dag_run.run_after),
        trigger=_trigger(dag_run),
        reason=_typed(asked, "reason", str, "") or _reason(dag_run),
        requested_by=dag_run.triggering_user_name or "",
        # Whoever overrides last night's verdict wants this very training judged again, not called nothing new.
        force=_typed(asked, "force", bool, False) or bool(break_glass),
        params=_typed(asked, "params", dict, {}),
        break_glass=break_glass.strip(),
    )


def rollback_request(model: str, context: Mapping[str, Any]) -> RollbackRequest:
    """What was asked for, of the run of a rollback's DAG; the same for every retry.

    Raises:
        RequestError: a key that is not known, a value of the wrong type, or out of bounds.
    """
    dag_run = context["dag_run"]
    asked = _asked(context, ROLLBACK_KEYS)
    return RollbackRequest(
        model=model,
        run_id=dag_run.run_id,
        as_of=dag_run.run_after.astimezone(UTC),
        trigger="manual",
        reason=_typed(asked, "reason", str, ""),
        requested_by=dag_run.triggering_user_name or "",
        to=_typed(asked, "to", str, "").strip() or None,
    )


def look_as_of(context: Mapping[str, Any]) -> datetime:
    """Time that a run of the monitor stands at: windows that end later are left for the next look.

    Raises:
        RequestError: a key that is not known, or an `as_of` that is no time.
    """
    return _as_of(_asked(context, LOOK_KEYS).get("as_of"), context["dag_run"].run_after)


def _asked(context: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The run's `conf` with the filled in fields of its form in front."""
    conf = context["dag_run"].conf or {}
    # A misspelt `as_of` must not become a run that stands at now.
    unknown = sorted(str(name) for name in conf if name not in (*keys, _ALERT))
    if unknown:
        raise RequestError(f"conf has {', '.join(unknown)}, which no run knows; it may have {', '.join(keys)}")
    given = {name: value for name, value in conf.items() if value is not None}
    return {**given, **_filled_in(context.get("params") or {})}


def _filled_in(params: Mapping[str, Any]) -> dict[str, Any]:
    """Without the form's empty fields, so that they hide nothing in `conf`."""
    return {name: params[name] for name in params if params[name] not in (None, "", {}, False)}


def _as_of(asked: Any, due: datetime) -> datetime:
    if asked in (None, ""):
        return due.astimezone(UTC)
    try:
        return parse_time(str(asked))
    except ValueError as error:
        raise RequestError(f"as_of = {asked!r} is not a time; write it as 2013-07-01T02:00:00Z") from error


def _trigger(dag_run: Any) -> str:
    if dag_run.run_id.startswith(DRIFT_RUN_PREFIX):
        return "drift"
    run_type = getattr(dag_run.run_type, "value", dag_run.run_type)
    return _TRIGGERS.get(str(run_type), "manual")


def _reason(dag_run: Any) -> str:
    """What the alert or the landing trigger said, for a run that nobody gave a reason for."""
    alert = (dag_run.conf or {}).get(_ALERT)
    if isinstance(alert, Mapping) and alert.get("summary"):
        return str(alert["summary"])[:MAX_REASON_LENGTH]
    for event in dag_run.consumed_asset_events or ():
        payload = (event.extra or {}).get("payload")
        if isinstance(payload, Mapping) and payload.get("why"):
            return str(payload["why"])[:MAX_REASON_LENGTH]
    return ""


def _typed(asked: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = asked.get(name, default)
    if not isinstance(value, kind):
        raise RequestError(f"{name} = {value!r}: expected {kind.__name__}, got {type(value).__name__}")
    return value
