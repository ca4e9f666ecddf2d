"""Curves of challenger and champion in one frame (ROC, calibration): inline SVG, coloured by the page's style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from perennial.domain.evaluation import Curves

SIDE: Final = 250
"""Length of both axes."""
LEFT: Final = 52
TOP: Final = 8
FRAME: Final = {
    "left": LEFT,
    "right": LEFT + SIDE,
    "top": TOP,
    "bottom": TOP + SIDE,
    "width": LEFT + SIDE + 12,
    "height": TOP + SIDE + 40,
}
"""Where the axes are in the drawing, and its size."""
MODELS: Final = ("champion", "challenger")
"""In the order of drawing: the challenger is on top."""
_LARGEST_DOT: Final = 5.0
_SMALLEST_DOT: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One model's curve."""

    who: str
    points: str
    """Of the line, as SVG writes them."""
    dots: tuple[tuple[float, float, float, str], ...]
    """Centre, radius and a text for each group; empty for a curve without groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePlot:
    """A square frame from 0 to `limit` on both axes, with a diagonal."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...]
    """Position and label."""
    y_ticks: tuple[tuple[float, str], ...]
    series: tuple[Series, ...]
    reading: str
    """For those who don't see the drawing."""


def roc_plot(curves: Mapping[str, Curves], areas: Mapping[str, float | None]) -> CurvePlot | None:
    """ROC of both models; None if there is none.

    Args:
        curves: by `challenger` and `champion`.
        areas: AUC by model, for those who don't see the drawing.
    """
    drawn = {who: [p for p in curves[who].roc if _all_finite(p)] for who in MODELS if who in curves}
    series = tuple(Series(who=who, points=_line(points, 1.0), dots=()) for who, points in drawn.items() if points)
    said = (f"{one.who} {areas[one.who]:.3f}" for one in reversed(series) if areas.get(one.who) is not None)
    return _plot("ROC", "false positive rate", "true positive rate", series, 1.0, "area below it: " + ", ".join(said))


def calibration_plot(curves: Mapping[str, Curves]) -> CurvePlot | None:
    """Reliability diagram of both models: a dot a group, its area that of the group's rows; None if there is none.

    Both axes end at the same tenth, beyond every dot, so that the diagonal means "as often as predicted".
    """
    drawn = {who: [g for g in curves[who].calibration if _all_finite(g)] for who in MODELS if who in curves}
    drawn = {who: groups for who, groups in drawn.items() if groups}
    most = max((max(p, share) for groups in drawn.values() for p, share, _ in groups), default=0.0)
    largest = max((rows for groups in drawn.values() for _, _, rows in groups), default=1)
    limit = min(1.0, max(1, math.ceil(round(most * 10, 6))) / 10)
    series = tuple(
        Series(
            who=who,
            points=_line([(p, share) for p, share, _ in groups], limit),
            dots=tuple(_dot(who, group, limit, largest) for group in groups),
        )
        for who, groups in drawn.items()
    )
    sizes = [rows for groups in drawn.values() for _, _, rows in groups]
    least, most_rows = min(sizes, default=0), max(sizes, default=0)
    said = f"{least:,}{'' if least == most_rows else f' to {most_rows:,}'} rows a group"
    return _plot("Calibration", "predicted probability", "share of positives", series, limit, said)


def _plot(
    title: str, x_label: str, y_label: str, series: Sequence[Series], limit: float, reading: str
) -> CurvePlot | None:
    if not series:
        return None
    ticks = _ticks(limit)
    return CurvePlot(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple((_x(at, limit), f"{at:g}") for at in ticks),
        y_ticks=tuple((_y(at, limit), f"{at:g}") for at in ticks),
        series=tuple(series),
        reading=reading,
    )


def _ticks(limit: float) -> list[float]:
    """From 0 to at most `limit`, four to six of them, round."""
    step = next(step for step in (0.02, 0.05, 0.1, 0.2) if limit / step <= 5 + 1e-9)
    return [round(step * place, 2) for place in range(math.floor(limit / step + 1e-9) + 1)]


def _dot(who: str, group: tuple[float, float, int], limit: float, largest: int) -> tuple[float, float, float, str]:
    predicted, share, rows = group
    radius = max(_SMALLEST_DOT, round(_LARGEST_DOT * math.sqrt(rows / largest), 1))
    said = f"{who}: predicted {predicted:.3f}, found {share:.3f}, {rows:,} rows"
    return _x(predicted, limit), _y(share, limit), radius, said


def _line(points: Sequence[tuple[float, float]], limit: float) -> str:
    return " ".join(f"{_x(x, limit)},{_y(y, limit)}" for x, y in points)


def _x(value: float, limit: float) -> float:
    return round(LEFT + SIDE * min(1.0, max(0.0, value / limit)), 1)


def _y(value: float, limit: float) -> float:
    return round(TOP + SIDE * (1 - min(1.0, max(0.0, value / limit))), 1)


def _all_finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))
