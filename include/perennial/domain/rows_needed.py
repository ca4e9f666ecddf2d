"""How much more data would settle a comparison that is undecided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from perennial.domain.wording import counted

MOST: Final = 100.0
"""Beyond this many times the data, the answer is that more data is not the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsNeeded:
    """What to collect beside what is there, if the figures stay as they are."""

    rows: int | None
    """None: not with less than `MOST` times the data."""
    clusters: int | None
    """None: as `rows`, or rows are independent."""

    def sentence(self, cluster_by: str | None) -> str:
        """For people."""
        if self.rows is None:
            return f"If the figures stay as they are, this is not settled with less than {MOST:.0f} times the data."
        more = counted(self.rows, "more row")
        if self.clusters is not None and cluster_by is not None:
            more += f", {counted(self.clusters, 'more cluster')} of {cluster_by},"
        return f"If the figures stay as they are, about {more} would settle it."


def rows_needed(
    gain: float, low: float, high: float, *, limit: float, rows: int, clusters: int | None
) -> RowsNeeded | None:
    """Rows that would move the deciding end of the interval to the limit.

    An interval's width shrinks with the square root of the number of independent units. So with half-width w on the
    deciding side, d from the estimate to the limit and k units now, k * (w / d)^2 units bring the end to the limit: the
    sample size, by the normal approximation, at which the test has even odds if the estimate is the truth.

    Args:
        gain: the estimate, in the better direction.
        low: lower end of its interval; has to exceed `limit` for a pass.
        high: upper end; has to be at most `limit` for a fail.
        limit: see above.
        rows: in the data.
        clusters: independent units in the data; None where each row is one.

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
        return RowsNeeded(rows=None, clusters=None)
    ratio = (width / distance) ** 2
    # An interval that ends at the limit exactly does not pass: one more is needed at least.
    return RowsNeeded(
        rows=_round_up(max(1.0, rows * (ratio - 1))),
        clusters=None if clusters is None else _round_up(max(1.0, clusters * (ratio - 1))),
    )


def _round_up(count: float) -> int:
    """To two significant digits, never down. 1e-9 of it is rounding, not a row."""
    whole = math.ceil(count * (1 - 1e-9))
    unit = int(10 ** max(0, len(str(whole)) - 2))
    return -(-whole // unit) * unit
