"""How large a holdout would have a fair chance to settle a comparison that is undecided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from perennial.domain.wording import counted

MOST: Final = 100.0
"""Beyond this many times the data, the answer is that more data is not the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsNeeded:
    """Size of the holdout, what is there included, at which the comparison is as likely settled as not."""

    rows: int | None
    """None: not with less than `MOST` times the data."""
    days: int | None
    """None: as `rows`, or nobody knows how many days the holdout spans."""

    def sentence(self, where: str = "") -> str:
        """For people; `where`, such as " of this slice", says what the rows are of."""
        if self.rows is None:
            return f"If the figures stay as they are, a holdout of {MOST:.0f} times the size would still leave it open."
        size = f"{counted(self.rows, 'row')}{where}"
        if self.days is not None:
            size = f"{counted(self.days, 'day')} ({size})"
        return f"If the figures stay as they are, a holdout of about {size} has even odds of settling it."


def rows_needed(
    gain: float, low: float, high: float, *, limit: float, rows: int, days: float | None = None
) -> RowsNeeded | None:
    """Size of the holdout that would move the deciding end of the interval to the limit.

    An interval's width shrinks with the square root of the number of independent units. So with half-width w on the
    deciding side and d from the estimate to the limit, (w / d)^2 times the units bring the end to the limit: the sample
    size, by the normal approximation, at which the test has even odds if the estimate is the truth.

    Args:
        gain: the estimate, in the better direction.
        low: lower end of its interval; has to exceed `limit` for a pass.
        high: upper end; has to be at most `limit` for a fail.
        limit: see above.
        rows: that there are now.
        days: that they span; None if unknown.

    Returns:
        None where nothing can be said: the estimate is at the limit, a value is not finite, or the end has cleared the
        limit already.
    """
    if not all(map(math.isfinite, (gain, low, high, limit))) or gain == limit or rows <= 0:
        return None
    width, distance = (gain - low, gain - limit) if gain > limit else (high - gain, limit - gain)
    if width < distance:
        return None
    if width > math.sqrt(MOST) * distance:
        return RowsNeeded(rows=None, days=None)
    # An interval that ends at the limit exactly does not pass: one more row is needed at least.
    ratio = max((width / distance) ** 2, 1 + 1 / rows)
    return RowsNeeded(
        rows=_round_up(rows * ratio), days=None if days is None or not days > 0 else _round_up(days * ratio)
    )


def _round_up(count: float) -> int:
    """To two significant digits, never down. 1e-9 of it is rounding, not a row."""
    whole = math.ceil(count * (1 - 1e-9))
    unit = int(10 ** max(0, len(str(whole)) - 2))
    return -(-whole // unit) * unit
