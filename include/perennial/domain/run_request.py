"""What was asked for: which model, as of when, why, by whom."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from perennial.domain.times import format_time
from perennial.errors import NotAllowedError, RequestError
from perennial.spec.model import ModelSpec

MAX_REASON_LENGTH: Final = 500
TRIGGERS: Final = ("manual", "schedule", "new_data", "drift", "command")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One asked-for cycle. `run_id` is unique per model and stays the same when a stage is retried."""

    model: str
    run_id: str
    as_of: datetime
    trigger: str
    """One of `TRIGGERS`."""
    reason: str = ""
    requested_by: str = ""
    force: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of `training.params`, for this run only."""
    break_glass: str = ""
    """Why the gate's verdict is to be overridden; empty: it is not. See `require_break_glass_allowed`."""

    def __post_init__(self) -> None:
        if self.as_of.tzinfo is None:
            raise RequestError(f"as_of {self.as_of.isoformat()} has no timezone; write it as 2013-07-01T02:00:00Z")
        if self.trigger not in TRIGGERS:
            raise RequestError(f"trigger {self.trigger!r} is not one of {', '.join(TRIGGERS)}")
        for name, text in (("reason", self.reason), ("break_glass", self.break_glass)):
            if len(text) > MAX_REASON_LENGTH:
                raise RequestError(f"{name} has {len(text)} characters, at most {MAX_REASON_LENGTH} are kept")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for the ledger."""
        return {
            "model": self.model,
            "run_id": self.run_id,
            "as_of": format_time(self.as_of),
            "trigger": self.trigger,
            "reason": self.reason,
            "requested_by": self.requested_by,
            "force": self.force,
            "params": dict(self.params),
            "break_glass": self.break_glass,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequest:
    """An asked-for way back. `run_id` is unique per model and stays the same when it is retried."""

    model: str
    run_id: str
    as_of: datetime
    """When it was asked for."""
    trigger: str
    """`manual` or `command`."""
    reason: str = ""
    requested_by: str = ""
    to: str | None = None
    """Version to go back to; None: the one before the present champion."""

    def __post_init__(self) -> None:
        if len(self.reason) > MAX_REASON_LENGTH:
            raise RequestError(f"reason has {len(self.reason)} characters, at most {MAX_REASON_LENGTH} are kept")
        if self.to is not None and not re.fullmatch(r"[1-9][0-9]{0,17}", self.to):  # not 02: the alias would say 2
            raise RequestError(f"to = {self.to!r} is not a version; versions are whole numbers, such as 3")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for the ledger."""
        return {
            "model": self.model,
            "run_id": self.run_id,
            "as_of": format_time(self.as_of),
            "trigger": self.trigger,
            "reason": self.reason,
            "requested_by": self.requested_by,
            "to": self.to,
        }


def require_break_glass_allowed(spec: ModelSpec, request: RunRequest) -> None:
    """Pass if the request overrides nothing, or comes from somebody who may.

    Raises:
        NotAllowedError: the user is not named in `approval.break_glass`.
    """
    allowed = spec.approval.break_glass
    if request.break_glass and (not request.requested_by or request.requested_by not in allowed):
        raise NotAllowedError(
            f"{spec.name}: {request.requested_by or 'an unnamed user'} may not break the glass; the spec names "
            f"{', '.join(allowed) or 'nobody'} in approval.break_glass. Nothing was changed"
        )


def training_params(spec: ModelSpec, request: RunRequest) -> dict[str, Any]:
    """The spec's training parameters with the request's overrides.

    Raises:
        RequestError: an override names a parameter that the spec does not declare, or has another type.
    """
    declared = spec.training.params
    problems = []
    for name, value in request.params.items():
        if name not in declared:
            allowed = ", ".join(sorted(declared)) or "none"
            problems.append(f"params.{name}: the spec declares no such training parameter (declared: {allowed})")
        elif not _same_type(declared[name], value):
            problems.append(
                f"params.{name} = {value!r}: expected {type(declared[name]).__name__} as in the spec, "
                f"got {type(value).__name__}"
            )
    if problems:
        raise RequestError("; ".join(problems))
    return {**declared, **request.params}


def _same_type(declared: Any, given: Any) -> bool:
    if declared is None or given is None:
        return True
    if isinstance(declared, float):
        return isinstance(given, int | float) and not isinstance(given, bool)
    return type(declared) is type(given)
