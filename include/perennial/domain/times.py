"""Times are UTC and timezone-aware; intervals are half-open [start, end) (invariant 9)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Where Unix begins to count."""


def parse_time(text: str) -> datetime:
    """ISO 8601 text as an aware UTC time; a text without an offset is taken as UTC, a date as its midnight.

    Raises:
        ValueError: the text is no ISO 8601 date or time.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC with `Z`, with microseconds only where there are any.

    Raises:
        ValueError: `moment` has no timezone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no timezone; Perennial's times are UTC and aware")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Interval:
    """[start, end), both aware and in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("an interval's ends must be timezone-aware")
        if self.start >= self.end:
            raise ValueError(f"an interval must start before it ends: {self.start} .. {self.end}")

    def __str__(self) -> str:
        return f"[{format_time(self.start)}, {format_time(self.end)})"
