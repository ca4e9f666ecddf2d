"""When windows beyond their limits become an alert, and when it is over: one state machine a signal, without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from perennial.domain.times import format_time, parse_time


class AlarmRules(Protocol):
    """Of `perennial.spec.monitoring.AlertRules`."""

    @property
    def windows(self) -> int:
        """So many windows: k."""

    @property
    def of(self) -> int:
        """Of so many: n."""

    @property
    def close_after(self) -> int:
        """Calm windows in a row."""

    @property
    def close_below(self) -> float:
        """Multiple of the limit, in (0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowVerdict:
    """What one window says of one signal."""

    signal: str
    end: datetime
    """Of the window."""
    beyond: tuple[str, ...]
    """What is beyond its limit: columns of `data_drift`, scores of `prediction_drift`, the metric of `performance`,
    figures of `service`. Empty: nothing."""
    strength: float
    """The largest value in multiples of its limit, 0 or more."""
    enough: bool = True
    """False: too few rows, or nothing to compare with. The window is passed over."""
    version: str | None = None
    """The model version that the signal is about: with another one, the alarm begins anew. None: about no version."""
    strengths: Mapping[str, float] = field(default_factory=dict)
    """In multiples of its limit, by the names that `beyond` may hold: what `AlarmRules.close_below` is compared with. A
    name that is not there is calm; empty: each has `strength`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmState:
    """What is known of one signal after a window; `AlarmState(signal=...)` before the first."""

    signal: str
    version: str | None = None
    last: datetime | None = None
    """End of the newest window folded in, passed over or not."""
    recent: tuple[tuple[str, ...], ...] = ()
    """`beyond` of the newest judged windows, oldest first, n at most."""
    opened_at: datetime | None = None
    """End of the window that raised the open alert; None: no alert is open."""
    because: tuple[str, ...] = ()
    """What was beyond its limit in k of n windows when the open alert was raised, and in those before that it took
    the place of."""
    calm: int = 0
    """Judged windows in a row since the alert in which all of `because` has been below `close_below`."""

    @property
    def is_open(self) -> bool:
        """An alert has been raised and has not ended."""
        return self.opened_at is not None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` reads it."""
        return {
            "signal": self.signal,
            "version": self.version,
            "last": None if self.last is None else format_time(self.last),
            "recent": [list(names) for names in self.recent],
            "opened_at": None if self.opened_at is None else format_time(self.opened_at),
            "because": list(self.because),
            "calm": self.calm,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AlarmState:
        """Raises ValueError: names the field that is missing, or is not what it has to be."""
        known = {"signal", "version", "last", "recent", "opened_at", "because", "calm"}
        if set(data) != known:
            raise ValueError(f"an alarm's state has the fields {sorted(known)}, not {sorted(map(str, data))}")
        if not (isinstance(data["signal"], str) and data["signal"]):
            raise ValueError(f"signal: is {data['signal']!r}, has to be a text")
        if not isinstance(data["version"], str | None):
            raise ValueError(f"version: is {data['version']!r}, has to be a text or null")
        if type(data["calm"]) is not int or data["calm"] < 0:
            raise ValueError(f"calm: is {data['calm']!r}, has to be a whole number, 0 or more")
        if not isinstance(data["recent"], Sequence) or isinstance(data["recent"], str):
            raise ValueError(f"recent: is {data['recent']!r}, has to be a list of lists of texts")
        return cls(
            signal=data["signal"],
            version=data["version"],
            last=_time("last", data["last"]),
            recent=tuple(_names("recent", names) for names in data["recent"]),
            opened_at=_time("opened_at", data["opened_at"]),
            because=_names("because", data["because"]),
            calm=data["calm"],
        )


def _time(field: str, text: Any) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{field}: is {text!r}, has to be an ISO 8601 time or null") from error


def _names(field: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{field}: holds {names!r}, has to be a list of texts")
    return tuple(names)


def fold(state: AlarmState, verdict: WindowVerdict, rules: AlarmRules) -> tuple[AlarmState, bool, bool]:
    """The state after one more window, whether this window opened an alert, and whether it closed one.

    An alert opens when one and the same thing is beyond its limit in the newest window and in k of the newest n judged
    ones. While it is open, another thing for which that holds opens a new alert in its place, which is about both. It
    closes when another version serves, or after `close_after` judged windows in a row in which nothing that it is about
    is beyond, and all of that is below `close_below`; then k windows are needed anew. A window that is not newer than
    the last changes nothing, one with too few rows can do no more than tell that another version serves.

    Returns:
        The state, `opened`, `closed`; both are True if another version's first window opens an alert at once (k = 1).

    Raises:
        ValueError: the verdict is about another signal.
    """
    if verdict.signal != state.signal:
        raise ValueError(f"a verdict on {verdict.signal} can't go into the state of {state.signal}")
    if state.last is not None and verdict.end <= state.last:
        return state, False, False
    replaced = verdict.version is not None and verdict.version != state.version
    closed = replaced and state.is_open
    if replaced:
        state = AlarmState(signal=state.signal, version=verdict.version)
    state = replace(state, last=verdict.end)
    if not verdict.enough:
        return state, False, closed
    state = replace(state, recent=(*state.recent, verdict.beyond)[-rules.of :])
    fresh = tuple(name for name in _persistent(state.recent, rules.windows) if name not in state.because)
    if fresh:
        return replace(state, opened_at=verdict.end, because=(*state.because, *fresh), calm=0), True, closed
    calm = state.calm + 1 if state.is_open and _is_calm(verdict, state.because, rules.close_below) else 0
    if calm < rules.close_after:
        return replace(state, calm=calm), False, closed
    others = tuple(tuple(name for name in names if name not in state.because) for names in state.recent)
    return AlarmState(signal=state.signal, version=state.version, last=verdict.end, recent=others), False, True


def _is_calm(verdict: WindowVerdict, names: tuple[str, ...], below: float) -> bool:
    found = verdict.strengths
    strengths = (found.get(name, 0.0) if found else verdict.strength for name in names)
    return not set(names) & set(verdict.beyond) and all(strength < below for strength in strengths)


def _persistent(recent: tuple[tuple[str, ...], ...], windows: int) -> tuple[str, ...]:
    """What is beyond in the newest, and in so many of all."""
    return tuple(name for name in recent[-1] if sum(name in names for names in recent) >= windows)
