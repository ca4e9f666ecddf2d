"""The forms behind "Trigger": what a run may be asked for."""

from __future__ import annotations

from typing import Any, Final

from airflow.sdk import Param

from perennial.domain.run_request import MAX_REASON_LENGTH
from perennial.spec import ModelSpec

_JSON_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def retrain_form(spec: ModelSpec) -> dict[str, Param]:
    """The form behind "Trigger"; also what the REST API takes as `conf`."""
    declared = spec.training.params
    properties = {name: _schema(declared[name]) for name in sorted(declared)}
    known = ", ".join(f"{name} ({declared[name]!r})" for name in sorted(declared)) or "none"
    form = {
        "reason": _text("Reason", "Kept in the ledger with the decision."),
        "as_of": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="As of",
            description="Time to stand at: nothing newer is used. Empty: when the run is due.",
        ),
        "force": Param(
            False, type="boolean", title="Judge again", description="Also if this very training was judged before."
        ),
        "params": Param(
            {},
            type="object",
            properties=properties,
            additionalProperties=False,
            title="Training parameters",
            description=f'For this run only, such as {{"name": value}}. Declared, with the spec\'s values: {known}.',
        ),
    }
    if spec.approval.break_glass:
        form["break_glass"] = _text(
            "Break the glass",
            "Why the challenger is to be promoted whatever the gate says, and without an approval, a shadow or a "
            f"canary. Only for {', '.join(spec.approval.break_glass)}; kept in the ledger. Leave it empty to let the "
            "gate decide.",
        )
    return form


def rollback_form() -> dict[str, Param]:
    """The form behind "Trigger" of a rollback. A reason is asked for, not demanded: nothing may hold a rollback up."""
    return {
        "to": Param(
            None,
            type=["null", "string"],
            pattern="^[1-9][0-9]*$",
            title="Back to version",
            description="Empty: the champion before the present one. Trigger acts at once: the version is tried out "
            "and becomes champion, and the one that it replaces goes into quarantine: it is not promoted again. A "
            "version in quarantine can be named too; that releases it, and takes a reason.",
        ),
        "reason": _text("Reason", "Kept in the ledger, and told with the quarantine."),
    }


def monitor_form() -> dict[str, Param]:
    """The form behind "Trigger" of a monitor."""
    return {
        "as_of": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="As of",
            description="Windows that end later are left for the next look. Empty: now.",
        )
    }


def _text(title: str, description: str) -> Param:
    """A text field that may stay empty; with an empty text as its default, the form would insist on one."""
    return Param(None, type=["null", "string"], maxLength=MAX_REASON_LENGTH, title=title, description=description)


def _schema(value: Any) -> dict[str, Any]:
    kind = _JSON_TYPES.get(type(value))
    return {"type": [kind, "null"]} if kind else {}
