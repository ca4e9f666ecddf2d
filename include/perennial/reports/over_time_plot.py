"""Performance and signals of the last windows in one drawing: inline SVG, coloured by the page's style.

It fits every width without a script: positions from left to right are per cent of the drawing, those from top to bottom
are px, and so letters and dots keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from perennial.domain.times import parse_time
from perennial.domain.wording import counted, digits_for, number
from perennial.reports.page import when

TOP: Final = 22
"""Above it are the names of promoted versions."""
PANEL: Final = 170
STRIP: Final = 30
_AXIS: Final = 34
_PAD: Final = 10
_NAME: Final = 8.0
"""Per cent of a narrow drawing that a version's name takes."""
MAX_TICKS: Final = 5
_MOST_REACH: Final = 4
_FIGURES: Final = ("value", "low", "high")

Position = tuple[float, float]
"""Per cent from the left, px from the top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One window's realised or estimated performance with its interval."""

    at: Position
    low: float | None
    """px; None: no interval."""
    high: float | None
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One signal over the windows."""

    name: str
    y: float
    """Of its line; the name is above it."""
    marks: tuple[tuple[float, str, str], ...]
    """Position in per cent, `quiet`, `beyond` or `opened`, and what to say of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverTime:
    """The whole drawing."""

    height: float
    bottom: float
    """Of strips and panel; the axis' texts are below."""
    panel_bottom: float
    """Of the performance; 0 where there is none to draw."""
    label: str
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str, str], ...]
    """Position, text and anchor."""
    holdout: tuple[float, float] | None
    """Upper and lower end of the holdout's interval."""
    limit: float | None
    realised: tuple[Reading, ...]
    estimated: tuple[Reading, ...]
    lines: tuple[tuple[str, Position, Position], ...]
    """From reading to reading, with `realised` or `estimated`."""
    promotions: tuple[tuple[float, str, str, str], ...]
    """Position, text, anchor, and what to say of it."""
    alerts: tuple[tuple[float, str], ...]
    """Where one was opened, and what to say of it."""
    strips: tuple[Strip, ...]


@dataclass(frozen=True, slots=True)
class _Scale:
    """From figures to px: `low` at the panel's bottom."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(TOP + _PAD + (PANEL - 2 * _PAD) * (1 - min(1.0, max(0.0, share))), 1)


@dataclass(frozen=True, slots=True)
class _Axis:
    """From times to per cent."""

    start: datetime
    end: datetime

    def __call__(self, moment: datetime) -> float:
        return round(100 * ((moment - self.start) / (self.end - self.start)), 2)


def over_time_plot(report: Mapping[str, Any], names: Mapping[str, str]) -> OverTime | None:
    """What `history`, `matured` and `promotions` of a monitoring report say; None with fewer than two windows.

    Performance is that in the metric of today. Labels that take long reach further back than the history, and so does
    the drawing then, up to `_MOST_REACH` times as far.

    Args:
        report: the report.
        names: of the signals, for people, in the order of drawing.
    """
    history = report["history"]
    if len(history) < 2:
        return None
    ends = [parse_time(window["window_end"]) for window in history]
    length = parse_time(report["window_end"]) - parse_time(report["window_start"])
    first = ends[-1] - _MOST_REACH * (ends[-1] - ends[0] + length)
    known = _known(report, first + length)
    matured = [parse_time(each["window_end"]) for each in known["realised"]]
    axis = _Axis(min([ends[0], *matured]) - length, ends[-1])
    places = [axis(end - length / 2) for end in ends]
    scale = _scale_of(report, known)
    realised, estimated = (
        tuple(_readings(known[kind], axis, length, scale, kind)) for kind in ("realised", "estimated")
    )
    performance = report["performance"]
    panel_bottom = TOP + PANEL if scale is not None else TOP
    strips = _strips(history, places, names, top=panel_bottom)
    bottom = panel_bottom + STRIP * len(strips) + 4
    return OverTime(
        height=bottom + _AXIS,
        bottom=bottom,
        panel_bottom=panel_bottom if scale is not None else 0,
        label=_said(report, names, known),
        y_ticks=() if scale is None else tuple(_y_ticks(scale)),
        x_ticks=tuple(_x_ticks(axis, length)),
        holdout=_band(performance["holdout"], scale),
        limit=None if scale is None or performance["limit"] is None else scale(performance["limit"]),
        realised=realised,
        estimated=estimated,
        lines=(*_lines("estimated", estimated), *_lines("realised", realised)),
        promotions=tuple(_promotions(report["promotions"], axis)),
        alerts=tuple(_alerts(history, places, names)),
        strips=strips,
    )


def _known(report: Mapping[str, Any], first: datetime) -> dict[str, list[Mapping[str, Any]]]:
    """Realised and estimated figures with their `window_end`, of windows from `first` on, in the metric of today."""
    metric, estimates = report["performance"]["metric"], ("estimate", "estimate_low", "estimate_high")
    estimated = (
        {**window, **{key: window[name] for key, name in zip(_FIGURES, estimates, strict=True)}}
        for window in report["history"]
    )
    given = {"realised": report["matured"], "estimated": estimated}
    return {
        kind: [
            each
            for each in windows
            if each["metric"] == metric and each["value"] is not None and parse_time(each["window_end"]) >= first
        ]
        for kind, windows in given.items()
    }


def _scale_of(report: Mapping[str, Any], known: Mapping[str, Sequence[Mapping[str, Any]]]) -> _Scale | None:
    """One that fits all readings with their intervals, and the holdout's; None where there is no reading."""
    found = [each[key] for kind in known.values() for each in kind for key in _FIGURES if each[key] is not None]
    if not found:
        return None
    holdout, limit = report["performance"]["holdout"], report["performance"]["limit"]
    found += [value for value in (holdout["value"], holdout["low"], holdout["high"], limit) if value is not None]
    low, high = min(found), max(found)
    room = (high - low) or abs(high) or 1.0
    return _Scale(low, low + room)


def _band(holdout: Mapping[str, Any], scale: _Scale | None) -> tuple[float, float] | None:
    if scale is None or holdout["low"] is None or holdout["high"] is None:
        return None
    return scale(holdout["high"]), scale(holdout["low"])


def _readings(
    windows: Sequence[Mapping[str, Any]], axis: _Axis, length: timedelta, scale: _Scale | None, kind: str
) -> Iterator[Reading]:
    if scale is None:
        return
    for window in windows:
        value, low, high = (window[key] for key in _FIGURES)
        digits = digits_for([value, low, high])
        ends = "" if low is None or high is None else f" [{number(low, digits)}, {number(high, digits)}]"
        yield Reading(
            at=(axis(parse_time(window["window_end"]) - length / 2), scale(value)),
            low=None if low is None else scale(low),
            high=None if high is None else scale(high),
            said=f"{kind} {number(value, digits)}{ends}, window to {when(window['window_end'])}",
        )


def _lines(kind: str, readings: Sequence[Reading]) -> Iterator[tuple[str, Position, Position]]:
    return ((kind, before.at, after.at) for before, after in pairwise(readings))


def _strips(
    history: Sequence[Mapping[str, Any]], places: Sequence[float], names: Mapping[str, str], *, top: float
) -> tuple[Strip, ...]:
    def mark(window: Mapping[str, Any], signal: str) -> tuple[str, str]:
        end = when(window["window_end"])
        if signal in window["opened"]:
            return "opened", f"{names[signal]}: alert opened, window to {end}"
        if signal in window["beyond"]:
            return "beyond", f"{names[signal]}: beyond its limit, window to {end}"
        return ("quiet" if window["judged"] else "none"), ""

    return tuple(
        Strip(
            name=name,
            y=top + STRIP * line + 22,
            marks=tuple((x, *mark(window, signal)) for window, x in zip(history, places, strict=True)),
        )
        for line, (signal, name) in enumerate(names.items())
    )


def _promotions(promotions: Sequence[Mapping[str, Any]], axis: _Axis) -> Iterator[tuple[float, str, str, str]]:
    """Those within the history; of names that would be on top of each other the newest."""
    found = [(parse_time(change["at"]), change["how"], change["version"]) for change in promotions]
    told = sorted((one for one in found if axis.start <= one[0] <= axis.end), key=lambda one: one[0])
    places = [axis(moment) for moment, _, _ in told]
    for (moment, how, version), x, after in zip(told, places, [*places, math.inf][1:], strict=True):
        name = "none" if version is None else f"v{version}"
        anchor = "start" if x < _NAME else "end" if x > 100 - _NAME else "middle"
        yield x, name if after - x > _NAME else "", anchor, f"{how.replace('_', ' ')}: {name}, {when(moment)}"


def _alerts(
    history: Sequence[Mapping[str, Any]], places: Sequence[float], names: Mapping[str, str]
) -> Iterator[tuple[float, str]]:
    for window, x in zip(history, places, strict=True):
        if window["opened"]:
            what = ", ".join(names.get(signal, signal) for signal in window["opened"])
            yield x, f"alert opened: {what}, window to {when(window['window_end'])}"


def _y_ticks(scale: _Scale) -> Iterator[tuple[float, str]]:
    """At round figures, two to `MAX_TICKS` of them."""
    power = 10.0 ** math.floor(math.log10((scale.high - scale.low) / MAX_TICKS))
    for step in (power, 2 * power, 5 * power, 10 * power):
        first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
        if last - first < MAX_TICKS:
            digits = max(0, -math.floor(math.log10(step) + 1e-9))
            yield from ((scale(place * step), number(place * step, digits)) for place in range(first, last + 1))
            return


def _x_ticks(axis: _Axis, length: timedelta) -> Iterator[tuple[float, str, str]]:
    """Days at both ends and in the middle; of shorter windows within two days, times at both ends."""
    span = axis.end - axis.start
    if span <= timedelta(days=2) and length < timedelta(days=1):
        yield 0.0, when(axis.start), "start"
        yield 100.0, when(axis.end), "end"
        return
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        yield 100 * share, f"{axis.start + span * share:%Y-%m-%d}", anchor


def _said(report: Mapping[str, Any], names: Mapping[str, str], known: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """For those who don't see the drawing."""
    history = report["history"]
    parts = [f"{counted(len(history), 'window')} to {when(history[-1]['window_end'])}"]
    for kind, windows in known.items():
        found = [window["value"] for window in windows]
        if found:
            digits = digits_for(found)
            metric = report["performance"]["metric"]
            parts.append(f"{kind} {metric} from {number(found[0], digits)} to {number(found[-1], digits)}")
    for signal, name in names.items():
        beyond = sum(signal in window["beyond"] for window in history)
        if beyond:
            parts.append(f"{name} beyond its limit in {counted(beyond, 'window')}")
    opened = sum(len(window["opened"]) for window in history)
    return "; ".join([*parts, f"{counted(opened, 'alert')} opened"])
