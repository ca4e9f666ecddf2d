"""What was asked for: which model, as of when, why, by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from perennial.domain.times import format_time
from perennial.errors import RequestError
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

    def __post_init__(self) -> None:
        if self.as_of.tzinfo is None:
            raise RequestError(f"as_of {self.as_of.isoformat()} has no timezone; write it as 2013-07-01T02:00:00Z")
        if self.trigger not in TRIGGERS:
            raise RequestError(f"trigger {self.trigger!r} is not one of {', '.join(TRIGGERS)}")
        if len(self.reason) > MAX_REASON_LENGTH:
            raise RequestError(f"reason has {len(self.reason)} characters, at most {MAX_REASON_LENGTH} are kept")

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
        }


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
