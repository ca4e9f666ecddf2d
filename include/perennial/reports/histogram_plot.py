"""Small drawings of a column in the reference and in a window: inline SVG, coloured by the page's style."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from perennial.reports.page import percent

WIDTH: Final = 216
BASE: Final = 94
"""Where the bars of numbers stand; the axis' figures are below."""
CELLS: Final = 24
"""Bars of a histogram, all of one width."""
SHOWN_LEVELS: Final = 6
LEVEL_HEIGHT: Final = 17
BAR_FROM: Final = 84
"""Left of it are the levels' names."""
_LEAST_BAR: Final = 0.5
_TAIL: Final = 0.75
"""Of the distance between the outermost edges: the most that is drawn of either tail beyond them, so that one far value
does not press all others into one bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelBars:
    """One level of a category: two bars, one below the other."""

    name: str
    y: int
    reference: float
    """Length in px, from `BAR_FROM`."""
    current: float
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A drawing WIDTH wide: of a number `area`, `outline` and `ticks`, of a category `levels`."""

    label: str
    """What it shows, for those who don't see it."""
    height: int
    area: str = ""
    """Points of the reference's outline, closed."""
    outline: str = ""
    """Points of the window's; empty where it has no values."""
    ticks: tuple[tuple[float, str, str], ...] = ()
    """Position, text and anchor."""
    levels: tuple[LevelBars, ...] = ()


def histogram(bins: Mapping[str, Any]) -> Histogram | None:
    """The drawing of a compared column; None where the reference has nothing that could be drawn.

    Numbers are counted into quantiles of the reference, so their rows are spread evenly over each bin before they are
    drawn in bars of one width. What lies outside of the reference's range is in the outermost bars.

    Args:
        bins: `kind`, `reference` and `current` counts, with `edges`, `lowest` and `highest` of numbers and `levels` of
            categories, as a monitoring report has them.
    """
    if not sum(bins["reference"]):
        return None
    return _numbers(bins) if bins["kind"] == "number" else _levels(bins)


def _numbers(bins: Mapping[str, Any]) -> Histogram | None:
    bounds = _bounds(bins["edges"], bins["lowest"], bins["highest"])
    if bounds is None:
        return None
    reference, current = (_shares(bins[side], bounds) for side in ("reference", "current"))
    most = max(*reference, *current)
    outline = _outline(current, most) if any(current) else ""
    ticks = ((0.0, bounds[0], "start"), (float(WIDTH), min(bounds[-1], bins["highest"]), "end"))
    return Histogram(
        label=_said_of_numbers(bins, bounds),
        height=BASE + 18,
        area=f"0,{BASE} {_outline(reference, most)} {WIDTH},{BASE}",
        outline=outline,
        ticks=tuple((x, _tick(value), anchor) for x, value, anchor in ticks),
    )


def _bounds(edges: Sequence[float], lowest: float | None, highest: float | None) -> list[float] | None:
    """All ends of the bins, the outermost at what is drawn; None: a constant, or nothing is known of the range.

    A last bin of one value is as wide as the one before it.
    """
    if not edges or lowest is None or highest is None or lowest >= edges[0]:
        return None
    tail = _TAIL * (edges[-1] - edges[0]) or math.inf
    low, high = max(lowest, edges[0] - tail), min(highest, edges[-1] + tail)
    if high <= edges[-1]:
        high = edges[-1] + (edges[-1] - (edges[-2] if len(edges) > 1 else low))
    # A range so narrow that a bar's width is no normal number any more can't be drawn either.
    return [low, *edges, high] if CELLS * sys.float_info.min < high - low < math.inf else None


def _shares(counts: Sequence[int], bounds: Sequence[float]) -> list[float]:
    """Shares of the rows by bar; the rows of a bin without width are in the bar that it lies in."""
    low, width = bounds[0], (bounds[-1] - bounds[0]) / CELLS
    found = [0.0] * CELLS
    for count, (start, end) in zip(counts, pairwise(bounds), strict=True):
        first, last = (min(CELLS - 1, int((at - low) / width)) for at in (start, end))
        if first == last:
            found[first] += count
            continue
        for cell in range(first, last + 1):
            overlap = min(end, low + (cell + 1) * width) - max(start, low + cell * width)
            found[cell] += count * max(0.0, overlap) / (end - start)
    total = sum(counts)
    return [rows / total for rows in found] if total else found


def _outline(shares: Sequence[float], most: float) -> str:
    """The upper side of the bars, from left to right."""
    points = []
    for cell, share in enumerate(shares):
        y = round(BASE - (BASE - 4) * share / most, 1)
        points += [f"{WIDTH * cell / CELLS:g},{y}", f"{WIDTH * (cell + 1) / CELLS:g},{y}"]
    return " ".join(points)


def _tick(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _said_of_numbers(bins: Mapping[str, Any], bounds: Sequence[float]) -> str:
    """Where the middle of both lies, as far as bins tell."""
    middles = [_median(bins[side], bounds) for side in ("reference", "current")]
    before, now = ("no value" if at is None else f"about {_tick(at)}" for at in middles)
    return f"median {before} in training, {now} in this window"


def _median(counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    left = sum(counts) / 2
    for count, (start, end) in zip(counts, pairwise(bounds), strict=True):
        if count and count >= left:
            return start + (end - start) * left / count
        left -= count
    return None


def _levels(bins: Mapping[str, Any]) -> Histogram:
    """Of many levels those whose share changed most, in the order of the reference."""
    names = [*bins["levels"], "(others)"]
    reference, current = (_by_total(bins[side]) for side in ("reference", "current"))
    places = [place for place in range(len(names)) if reference[place] or current[place] or place < len(names) - 1]
    places = sorted(places, key=lambda place: -abs(current[place] - reference[place]))[:SHOWN_LEVELS]
    most = max(max(reference[place], current[place]) for place in places) or 1.0
    room = WIDTH - BAR_FROM - 2

    def length(share: float) -> float:
        return max(_LEAST_BAR if share else 0.0, round(room * share / most, 1))

    rows = tuple(
        LevelBars(
            name=_short_name(names[place]),
            y=line * LEVEL_HEIGHT + 4,
            reference=length(reference[place]),
            current=length(current[place]),
            said=f"{names[place]}: {percent(reference[place])} in training, {percent(current[place])} in this window",
        )
        for line, place in enumerate(sorted(places))
    )
    return Histogram(label="; ".join(row.said for row in rows), height=LEVEL_HEIGHT * len(rows) + 4, levels=rows)


def _by_total(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _short_name(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}\N{HORIZONTAL ELLIPSIS}"
