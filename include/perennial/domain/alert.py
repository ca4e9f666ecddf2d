"""What an alert is, and what can become of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from perennial.domain.fingerprint import canonical_json, digest_of
from perennial.domain.times import format_time, parse_time
from perennial.errors import RequestError

MAX_ID_LENGTH: Final = 200
MAX_SUMMARY_LENGTH: Final = 500
MAX_EVIDENCE_BYTES: Final = 8 * 1024
SOURCES: Final = (
    "monitor",
    "command",
    "native",
    "alertmanager",
    "grafana",
    "cloudevents",
    "sns",
    "mlflow",
    "queue",
)
_MODEL: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A signal that a model may have to be retrained. The same in whatever form it came.

    Raises:
        RequestError: a field is not as described here; says which, and all that are wrong.
    """

    model: str
    alert_id: str
    """Who sends the same alert again, sends the same id. 1 to 200 printable characters."""
    source: str
    """One of `SOURCES`."""
    summary: str
    """One sentence, 1 to 500 printable characters (see `one_line`): what was seen."""
    raised_at: datetime
    """When it was seen, by its sender's clock."""
    received_at: datetime
    """By ours."""
    sender: str = ""
    """Name of the key that vouched for it; never the key."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What else the sender says, JSON; at most 8 KiB as canonical JSON."""

    def __post_init__(self) -> None:
        problems = [problem for problem in self._problems() if problem]
        if problems:
            raise RequestError(f"the alert cannot be taken: {'; '.join(problems)}")

    @property
    def key(self) -> str:
        """Names the alert in the store: 32 hexadecimal digits of model and id."""
        return digest_of({"model": self.model, "alert_id": self.alert_id})[:32]

    def restates(self, other: Alert) -> bool:
        """Whether this is the same alert sent again: the same words, whenever, by whichever way and key."""
        return self._content() == other._content()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; with `key`, for those who look for it."""
        return {
            "key": self.key,
            "model": self.model,
            "alert_id": self.alert_id,
            "source": self.source,
            "summary": self.summary,
            "raised_at": format_time(self.raised_at),
            "received_at": format_time(self.received_at),
            "sender": self.sender,
            "evidence": dict(self.evidence),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; fields of later versions are left out.

        Raises:
            ValueError: not an alert.
        """
        try:
            return cls(
                model=values["model"],
                alert_id=values["alert_id"],
                source=values["source"],
                summary=values["summary"],
                raised_at=parse_time(values["raised_at"]),
                received_at=parse_time(values["received_at"]),
                sender=str(values.get("sender", "")),
                evidence=dict(values.get("evidence", {})),
            )
        except (KeyError, TypeError, AttributeError, RequestError) as error:
            raise ValueError(f"not an alert: {type(error).__name__}: {error}") from error

    def _content(self) -> bytes:
        return canonical_json([self.model, self.alert_id, self.summary, dict(self.evidence)])

    def _problems(self) -> list[str]:
        return [
            "" if _matches(_MODEL, self.model) else f"model = {self.model!r} is not a model's name",
            _printable("id", self.alert_id, MAX_ID_LENGTH),
            _printable("summary", self.summary, MAX_SUMMARY_LENGTH),
            "" if self.source in SOURCES else f"source = {self.source!r} is not one of {', '.join(SOURCES)}",
            *(_aware(name, getattr(self, name)) for name in ("raised_at", "received_at")),
            _small(self.evidence),
        ]


class Fate(StrEnum):
    """What became of an alert."""

    STARTED = "started"
    """A run, `Outcome.run_id`."""
    COALESCED = "coalesced"
    """With a run that had its data to look at anyway, `Outcome.run_id`."""
    DEFERRED = "deferred"
    """Until `Outcome.until`, when it is looked at again."""
    REFUSED = "refused"
    """`Outcome.reason` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The governor's answer, as the sender gets it and the ledger keeps it."""

    fate: Fate
    reason: str
    """One sentence."""
    at: datetime
    run_id: str | None = None
    until: datetime | None = None
    rule: str = ""
    """Which rule of `perennial.domain.governor.RULES` said so; empty: none of them spoke against a start."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "fate": self.fate.value,
            "reason": self.reason,
            "rule": self.rule,
            "at": format_time(self.at),
            "run_id": self.run_id,
            "until": None if self.until is None else format_time(self.until),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: not an outcome.
        """
        try:
            until, run_id = values["until"], values["run_id"]
            return cls(
                fate=Fate(values["fate"]),
                reason=str(values["reason"]),
                rule=str(values["rule"]),
                at=parse_time(values["at"]),
                run_id=None if run_id is None else str(run_id),
                until=None if until is None else parse_time(until),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an alert's outcome: {type(error).__name__}: {error}") from error


def one_line(text: str, most: int = MAX_SUMMARY_LENGTH) -> str:
    """Foreign text as a line that people read: white space closed up, unprintable characters out, cut to `most`."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _printable(name: str, value: Any, most: int) -> str:
    if not isinstance(value, str):
        return f"{name} is {type(value).__name__}, expected text"
    if not 1 <= len(value) <= most:
        return f"{name} has {len(value)} characters, allowed are 1 to {most}"
    return "" if value.isprintable() else f"{name} has characters that cannot be printed"


def _aware(name: str, value: Any) -> str:
    if not isinstance(value, datetime):
        return f"{name} is {type(value).__name__}, expected a time"
    return "" if value.tzinfo is not None else f"{name} {value.isoformat()} has no timezone"


def _small(evidence: Any) -> str:
    if not isinstance(evidence, Mapping):
        return f"evidence is {type(evidence).__name__}, expected an object"
    try:
        size = len(canonical_json(dict(evidence)))
    except (TypeError, ValueError, RecursionError) as error:
        return f"evidence is not JSON: {error}"
    return "" if size <= MAX_EVIDENCE_BYTES else f"evidence has {size} bytes, at most {MAX_EVIDENCE_BYTES} are kept"
