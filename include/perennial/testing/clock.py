"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import datetime, timedelta


class FixedClock:
    """A `Clock` that says the same time each time it is asked."""

    def __init__(self, now: datetime) -> None:
        if now.tzinfo is None:
            raise ValueError(f"{now.isoformat()} has no timezone; a clock's times are aware")
        self._now = now

    def now(self) -> datetime:
        """Aware, UTC."""
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move the time on."""
        self._now += by
