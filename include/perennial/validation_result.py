"""What validate found, as it is published: the evidence behind a `ValidationRef`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, Self

from perennial.domain.fingerprint import canonical_json
from perennial.ports import ExpectationResult

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One expectation's outcome, and whose expectation it was."""

    outcome: ExpectationResult
    source: Literal["suite", "perennial"]
    """From the model's suite, or one that Perennial makes of every model's data."""
    example_rows: tuple[Mapping[str, Any], ...] = ()
    """Key and time of the first rows at fault, to look them up where they came from."""
    rows_between: tuple[str, str] | None = None
    """Times of the earliest and the latest row at fault, ISO 8601; None if no row is to blame."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the rows at fault are counted, their positions are left to the quarantine file."""
        outcome = asdict(self.outcome)
        del outcome["rows"]
        return {
            **outcome,
            "source": self.source,
            "example_rows": [dict(row) for row in self.example_rows],
            "rows_between": self.rows_between,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`, without the rows' positions."""
        names = {field.name for field in fields(ExpectationResult)}
        outcome = ExpectationResult(**{name: value for name, value in values.items() if name in names})
        between = values["rows_between"]
        return cls(
            outcome=outcome,
            source=values["source"],
            example_rows=tuple(values["example_rows"]),
            rows_between=(between[0], between[1]) if between else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """All checks of one snapshot's windows."""

    model: str
    success: bool
    snapshot_uri: str
    snapshot_sha256: str
    suite: str
    """File name of the suite."""
    suite_sha256: str
    perennial_version: str
    parameters: Mapping[str, Any]
    """The parameters that the suite uses, JSON-ready."""
    window: tuple[str, str]
    """Start and end of the rows checked, ISO 8601."""
    rows: int
    columns: tuple[str, ...]
    checks: tuple[Check, ...]
    faulty_rows: int = 0
    """Rows that broke at least one failed expectation."""
    quarantine_uri: str | None = None

    @property
    def failed(self) -> tuple[Check, ...]:
        """Failed checks: most rows at fault first, then in the order of the suite."""
        return tuple(
            sorted((c for c in self.checks if not c.outcome.success), key=lambda c: -c.outcome.unexpected_count)
        )

    @property
    def passed(self) -> tuple[Check, ...]:
        """Passed checks, in the order of the suite."""
        return tuple(check for check in self.checks if check.outcome.success)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        checks = [check.to_dict() for check in self.checks]
        return canonical_json({**values, "checks": checks, "schema_version": SCHEMA_VERSION})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Inverse of `to_bytes`; unknown fields of later versions are left out.

        Raises:
            KeyError, TypeError, ValueError: not a validation result.
        """
        values = json.loads(content)
        known = {field.name: values[field.name] for field in fields(cls)}
        start, end = known["window"]
        return cls(
            **{
                **known,
                "window": (start, end),
                "columns": tuple(known["columns"]),
                "checks": tuple(Check.from_dict(check) for check in known["checks"]),
            }
        )
