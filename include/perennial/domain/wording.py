"""Numbers in sentences: as many digits as it takes to tell them apart, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

_MOST: Final = 8


def digits_for(values: Sequence[float | None], *, apart_from: float | None = None, least: int = 3) -> int:
    """Decimals with which the values can be told from each other, and from `apart_from`, by eye; at most 8.

    `least` decimals (fewer for values of 100 and more), more until the values' spread shows two digits, and more until
    none of them looks like `apart_from` without being equal to it.
    """
    there = [value for value in values if value is not None and math.isfinite(value)]
    largest = max((abs(value) for value in there), default=0.0)
    digits = max(0, least - max(0, math.floor(math.log10(largest)) - 1)) if largest > 0 else least
    spread = max(there) - min(there) if there else 0.0
    if spread > 0:
        digits = max(digits, min(_MOST, 1 - math.floor(math.log10(spread))))
    for more in range(digits, _MOST + 1):
        if apart_from is None or all(v == apart_from or round(v, more) != round(apart_from, more) for v in there):
            return more
    return digits


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
    """The value with that many decimals, thousands separated; `not available` for None and what is not finite."""
    if value is None or not math.isfinite(value):
        return "not available"
    if round(value, digits) == 0:
        value = 0.0
    return f"{value:{'+' if sign else ''},.{digits}f}"


def plain(value: float) -> str:
    """A limit as its owner wrote it: the shortest text, without an exponent where that is readable."""
    text = repr(float(value)).removesuffix(".0")
    return f"{value:.12f}".rstrip("0") if 1e-9 <= abs(value) < 1e-4 else text


def counted(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def more_needed(count: int) -> str:
    """`1 more is needed`, `2,000 more are needed`."""
    return f"{count:,} more {'is' if count == 1 else 'are'} needed"


def interval_name(one_sided: float) -> str:
    """What an interval is, by the confidence of each end: `90 % interval (each end one-sided at 95 %)` for 0.95."""
    both, each = (plain(round(100 * level, 9)) for level in (2 * one_sided - 1, one_sided))
    return f"{both} % interval (each end one-sided at {each} %)"


def duration(span: timedelta) -> str:
    """Its two largest units, never more than it is: `3d`, `1d 3h`, `2h 5m`, `40s`."""
    left = max(0, int(span.total_seconds()))
    parts = []
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        parts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count:,}{unit}" for count, unit in parts[first : first + 2] if count) or "0s"


def moment(time: datetime) -> str:
    """To the minute, never earlier than it is: `2013-07-04 06:00 UTC`."""
    utc = time.astimezone(UTC)
    whole = utc.replace(second=0, microsecond=0)
    return f"{whole if whole == utc else whole + timedelta(minutes=1):%Y-%m-%d %H:%M} UTC"
