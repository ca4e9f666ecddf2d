"""A small drawing of an interval against the lines that it is judged by: inline SVG, coloured by the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 240
HEIGHT: Final = 26
_MARGIN: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A vertical line at `at`: `zero` (no difference) or `limit` (what the gate asks for)."""

    at: float
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalPlot:
    """Positions in a WIDTH x HEIGHT drawing, better to the right."""

    low: float
    high: float
    value: float
    lines: tuple[tuple[float, str], ...]
    """Position and kind of each line."""
    tone: str
    """`ok`, `bad` or `neutral`: the colour."""


def interval_plot(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    lines: Sequence[Line],
    higher_is_better: bool,
    tone: str,
    reach: float | None = None,
) -> IntervalPlot | None:
    """Place an interval and its lines on a scale that fits them all; None where there is no interval to draw.

    A line of kind `zero` is in the middle, so that it lines up in drawings below each other. Positions are rounded to
    0.1, so that the same figures give the same page.

    Args:
        value: the estimate.
        low: lower end.
        high: upper end.
        lines: what to draw besides.
        higher_is_better: which way is right.
        tone: of the drawing.
        reach: with a line `zero`, the largest distance from it that has to fit: drawings with the same one have the
            same scale. None: what this drawing needs.
    """
    if value is None or low is None or high is None or not all(map(math.isfinite, (value, low, high))):
        return None
    sign = 1.0 if higher_is_better else -1.0
    places = [sign * x for x in (value, low, high, *(line.at for line in lines))]
    least, most = min(places), max(places)
    if any(line.kind == "zero" for line in lines):
        most = max(abs(least), abs(most), reach or 0.0)
        least = -most
    room = (most - least) or abs(most) or 1.0

    def place(x: float) -> float:
        share = (sign * x - least) / room if most > least else 0.5
        return round(_MARGIN + share * (WIDTH - 2 * _MARGIN), 1)

    ends = sorted((place(low), place(high)))
    return IntervalPlot(
        low=ends[0],
        high=ends[1],
        value=place(value),
        lines=tuple((place(line.at), line.kind) for line in lines),
        tone=tone,
    )
