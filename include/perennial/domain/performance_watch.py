"""Whether a served model does worse than on the holdout that it was judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perennial.domain.metric_names import METRICS
from perennial.domain.profile import MetricValue
from perennial.domain.wording import digits_for, number

_ENDLESS: Final = 1e6
"""Strength of a loss where none at all is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceVerdict:
    """A window's performance against the holdout's."""

    beyond: bool
    """The window's 95 % interval lies altogether on the wrong side of the limit."""
    strength: float
    """What is lost at least, in multiples of what may be lost; 0 or more, above 1 beyond the limit."""
    says: str
    """A sentence without its subject and full stop, such as `0.61 (0.59 to 0.64), worse than the limit of 0.69`."""


def performance_limit(holdout: MetricValue, max_loss: float) -> float:
    """What the metric may come down to, or up to if lower is better.

    `max_loss` beyond the worse end of the holdout's interval, or beyond what stretches of the holdout as long as a
    window were worse by than the whole of it, whichever is further.
    """
    sign = _sign(holdout.metric)
    worse = holdout.low if sign > 0 else holdout.high
    uncertain = 0.0 if worse is None else sign * (holdout.value - worse)
    return holdout.value - sign * (max(uncertain, holdout.varies_by) + max_loss)


def judge_performance(
    holdout: MetricValue, value: float, low: float | None, high: float | None, *, max_loss: float
) -> PerformanceVerdict:
    """Compare a window with the holdout.

    Args:
        holdout: metric, value and 95 % interval of the model on the holdout.
        value: of the same metric in the window, finite.
        low: end of its 95 % interval; None: there is none, and nothing is beyond.
        high: as `low`.
        max_loss: allowed beyond the holdout's interval, in the metric's unit, >= 0.
    """
    sign, limit = _sign(holdout.metric), performance_limit(holdout, max_loss)
    better = high if sign > 0 else low
    digits = digits_for([value, low, high, limit], apart_from=limit, least=2)
    shown = number(value, digits)
    if low is None or high is None or better is None:
        return PerformanceVerdict(beyond=False, strength=0.0, says=f"{shown}, without an interval")
    lost, allowed = sign * (holdout.value - better), sign * (holdout.value - limit)
    beyond = lost > allowed
    strength = lost / allowed if allowed > 0 else _ENDLESS * beyond
    against = "worse than the limit of" if beyond else "not shown to be worse than the limit of"
    says = f"{shown} ({number(low, digits)} to {number(high, digits)}), {against} {number(limit, digits)}"
    return PerformanceVerdict(beyond=beyond, strength=max(0.0, strength), says=says)


def _sign(metric: str) -> int:
    return 1 if METRICS[metric].higher_is_better else -1
