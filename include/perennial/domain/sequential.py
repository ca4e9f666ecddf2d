"""Evidence over many nights: how the gate keeps a year of nightly tests from promoting noise.

Every night has a new challenger, but the champion stays, and most of the holdout was there last night. So the nights'
intervals are neither one test nor independent ones. What is new each night are its new days: each is used once, with
the first challenger whose holdout held it. Of these units' gains an e-value is kept, a number that tends to stay below
1 / level for ever, with probability 1 - level, while no challenger is better (Ville 1939, Etude critique de la notion
de collectif; Robbins & Siegmund 1974, Ann. Statist. 2:415-436; Ramdas, Gruenwald, Vovk & Shafer 2023, Statist. Sci.
38:576-601). Looking every night costs nothing more.

Each champion's reign has a sequence of its own, and that takes a part of the budget, its stake. What was measured, and
why it is made like this: docs/adr/0008-evidence-over-many-nights.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perennial.spec.parts import FalsePromotions

MIN_UNITS: Final = 10
"""With fewer units there is no evidence: a single odd day would make the whole of it."""
PRIOR_SCALE: Final = 1.0
"""Scale of the half-normal prior on the gain in standard deviations of a unit: a gain that can be shown within a month
is about that large. Half or twice as much changes little."""
USUAL_AUTOCORRELATION: Final = 0.1
"""Lag-1 autocorrelation of units expected beforehand: a month is too short to estimate it well."""
USUAL_WEIGHT: Final = 60
"""How many units' worth the expectation counts against what the sequence itself shows."""
RESTART_UNITS: Final = 14
"""A part of the evidence begins anew after so many units, so that a long reign of equal challengers does not drown the
first better one."""
RESTART_SHARE: Final = 0.2
"""How much of the evidence these parts make up together."""
STAKE_SHARE: Final = 0.6
"""How much of what earlier sequences leave of the budget a sequence takes."""
MAX_AUTOCORRELATION: Final = 0.9
"""Above this a sequence says next to nothing anyway, and its effective length would run to 0."""
LARGEST_LOG: Final = 700.0
"""Of an e-value: its exponential is still finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """A part of the error budget that one sequence of tests may use up."""

    since: datetime
    until: datetime
    """The earliest and the latest `as_of` of the sequence's nights so far."""
    level: float
    """The largest part it had in any of them: at most so probable is a false promotion by this sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceState:
    """What the nights so far say about challengers against one champion. Kept in each decision, for the next one."""

    champion: str
    """Digest of the champion that all of `units` were compared with."""
    reign: int
    """See `GateHistory.reign`: the same model made champion again begins anew."""
    metric: str
    limit: float
    """The hypothesis that is tested: the gain (in the metric's better direction) is at most this."""
    unit: str
    """What a unit is, see `EvaluationResult.unit`."""
    units: tuple[tuple[str, float], ...]
    """Label and gain (pseudo-value, in the better direction) of each independent unit, in the order they were used;
    none twice."""
    stakes: tuple[Stake, ...]
    """Of all sequences of this model, in the order in which they began; the last one is this sequence's. None is ever
    dropped: an `as_of` may go back to any of them."""
    level: float
    """This sequence's part of the budget tonight."""
    e_value: float
    """Evidence against the hypothesis: at least 1 / level is needed. 0 on a night whose units are not all finite."""

    @property
    def threshold(self) -> float:
        """What the e-value has to reach; infinite if nothing is left of the budget."""
        return 1 / self.level if self.level > 0 else math.inf

    @property
    def hypothesis(self) -> tuple[str, int, str, float, str]:
        """What one sequence is about: evidence adds up as long as none of it changes."""
        return self.champion, self.reign, self.metric, self.limit, self.unit

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        stakes = [
            {
                "since": stake.since.isoformat(),
                "until": stake.until.isoformat(),
                "level": stake.level,
            }
            for stake in self.stakes
        ]
        return {**asdict(self), "units": [list(unit) for unit in self.units], "stakes": stakes}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: something is missing or not what it has to be; says what.
        """
        try:
            return cls._read(values)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"the evidence of earlier nights cannot be read: {what}") from error

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> Self:
        state = cls(
            champion=_text("champion", values["champion"]),
            reign=_count("reign", values["reign"]),
            metric=_text("metric", values["metric"]),
            limit=_number("limit", values["limit"]),
            unit=_text("unit", values["unit"]),
            units=tuple((_text("a unit's label", label), _number(label, gain)) for label, gain in values["units"]),
            stakes=tuple(_stake(given) for given in values["stakes"]),
            level=_level("level", values["level"]),
            e_value=_number("e_value", values["e_value"]),
        )
        if len({label for label, _ in state.units}) < len(state.units):
            raise ValueError("a unit comes twice")
        if not state.stakes:
            raise ValueError("there is no stake")
        if state.e_value < 0:
            raise ValueError(f"e_value is {state.e_value}, less than 0")
        return state


def next_state(
    previous: EvidenceState | None,
    *,
    champion: str,
    reign: int,
    metric: str,
    limit: float,
    unit: str,
    policy: FalsePromotions,
    as_of: datetime,
    units: Sequence[tuple[str, float]],
) -> EvidenceState:
    """Add tonight's new units to what is known; begin anew where champion, reign, metric, limit or unit changed.

    Args:
        previous: state of the newest decision of this model, whatever champion it judged; None for the first.
        champion: digest of the champion judged tonight.
        reign: see `GateHistory.reign`.
        metric: the primary one.
        limit: see `EvidenceState.limit`.
        unit: see `EvaluationResult.unit`.
        policy: the budget.
        as_of: of tonight's run.
        units: tonight's (label, gain in the better direction) by time; those seen before in this sequence are ignored.
            If one is not finite, tonight has no evidence: none of them is used, and the e-value is 0.

    Raises:
        ValueError: `limit` is not finite.
    """
    if not math.isfinite(limit):
        raise ValueError(f"the gain to exceed is {limit}: it has to be a finite number")
    same = previous is not None and previous.hypothesis == (champion, reign, metric, limit, unit)
    known = dict(previous.units) if previous is not None and same else {}
    readable = all(math.isfinite(gain) for _, gain in units)
    if readable:
        for label, gain in units:
            known.setdefault(label, float(gain))
    given = previous.stakes if previous is not None else ()
    earlier, own = (given[:-1], given[-1]) if same else (given, Stake(since=as_of, until=as_of, level=0.0))
    level = level_left(earlier, policy, as_of)
    own = Stake(since=min(own.since, as_of), until=max(own.until, as_of), level=max(own.level, level))
    return EvidenceState(
        champion=champion,
        reign=reign,
        metric=metric,
        limit=limit,
        unit=unit,
        units=tuple(known.items()),
        stakes=(*earlier, own),
        level=level,
        e_value=e_value([gain - limit for gain in known.values()]) if readable else 0.0,
    )


def after_loss(as_of: datetime) -> EvidenceState:
    """Stands for evidence that is lost: sequences up to `as_of` may have used all of the budget."""
    stake = Stake(since=as_of, until=as_of, level=1.0)
    return EvidenceState(
        champion="", reign=0, metric="", limit=0.0, unit="", units=(), stakes=(stake,), level=0.0, e_value=0.0
    )


def in_use(earlier: Sequence[Stake], policy: FalsePromotions, as_of: datetime) -> tuple[Stake, ...]:
    """Those of the stakes of earlier sequences that still count in a run at `as_of`."""
    since = as_of - timedelta(days=policy.period_days)
    return tuple(stake for stake in earlier if stake.until >= since)


def level_left(earlier: Sequence[Stake], policy: FalsePromotions, as_of: datetime) -> float:
    """The part of the budget that a sequence has in a night at `as_of`, wherever `as_of` jumps.

    Take any period, the sequences with nights in it, and the last of them to begin. Each of its nights there counts all
    the others, which reach into the period; so its part is at most `STAKE_SHARE` of what they leave, and the sum of all
    stays below the budget.
    """
    used = math.fsum(stake.level for stake in in_use(earlier, policy, as_of))
    return max(policy.budget - used, 0.0) * STAKE_SHARE


def e_value(gains: Sequence[float]) -> float:
    """Evidence that the mean of `gains`, in the order they were seen, is above 0; see `log_e_values` and `mixed`."""
    values = np.asarray(gains, dtype=np.float64)
    if len(values) < MIN_UNITS:
        return 1.0
    largest = float(np.abs(values).max())
    if not math.isfinite(largest) or largest == 0:
        return 1.0 if largest == 0 else 0.0
    scaled = values / largest  # the e-value does not depend on the scale, but squares would overflow or vanish
    parts = [_log_e_from(scaled[start:]) for start in restarts(len(scaled))]
    return math.exp(min(float(mixed(np.array(parts))), LARGEST_LOG))


def restarts(count: int) -> range:
    """Where the parts of a sequence of `count` units begin: at the first unit, and wherever a later part is due."""
    return range(0, max(count - MIN_UNITS, 0) + 1, RESTART_UNITS)


def mixed(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the parts' weighted mean: (k, ...) logarithms of the parts that have begun, to (...).

    The weights are 1 - s, s/2, s/6, s/12, ... with s = `RESTART_SHARE`; a part that has not begun counts as 1. A mean
    with fixed weights of e-values that are 1 until they begin is an e-value (Shin, Ramdas & Rinaldo 2024, NEJSDS
    2:229-260, "E-detectors").
    """
    later = np.arange(1, len(parts))
    weights = np.concatenate([[1 - RESTART_SHARE], RESTART_SHARE / (later * (later + 1))])
    weighted = parts + np.log(weights).reshape(-1, *([1] * (parts.ndim - 1)))
    not_begun = np.full_like(parts[:1], math.log(RESTART_SHARE / len(parts)))
    mean: NDArray[np.float64] = np.logaddexp.reduce(np.concatenate([weighted, not_begun]), axis=0)
    return mean


def _log_e_from(values: NDArray[np.float64]) -> float:
    away = values - values.mean()
    return float(log_e_values(len(values), values.mean(), (away**2).sum(), (away[1:] * away[:-1]).sum()))


def log_e_values(
    count: ArrayLike, mean: ArrayLike, squares: ArrayLike, lagged: ArrayLike, *, scale: float = PRIOR_SCALE
) -> NDArray[np.float64]:
    """Logarithm of the one-sided t mixture e-value of sequences, in any shape that broadcasts.

    Bayes factor of "mean / standard deviation is half-normal with `scale`" to "it is 0", with the right Haar prior on
    the standard deviation on both sides: a ratio of densities of the t statistic, and so a test martingale for normal
    units (Lai 1976, Ann. Statist. 4:265-280; Wang & Ramdas 2025, "Anytime-valid t-tests and confidence sequences for
    Gaussian means with unknown variance"). In closed form, with n units, a = n * scale**2 and
    Q = sum(x**2) - n * mean**2 * a / (1 + a):

        2 * T_n(n * scale * mean / sqrt(1 + a) * sqrt(n / Q)) * (1 + a)**-0.5 * (sum(x**2) / Q)**(n / 2)

    T_n is the distribution function of Student's t with n degrees of freedom. Neighbouring days resemble each other, so
    n, and the sums with it, are first reduced by (1 - r) / (1 + r) (Bartlett 1946, Suppl. JRSS 8:27-41): r is the lag-1
    autocorrelation, its bias of about -1/n taken back, drawn towards `USUAL_AUTOCORRELATION`, and at least 0.

    Args:
        count: n, at least 2.
        mean: of the values, less the hypothesis' limit.
        squares: sum of squared deviations from the mean.
        lagged: sum of products of neighbouring deviations.
        scale: of the prior.
    """
    from scipy.special import stdtr

    n, mean, squares, lagged = (np.asarray(given, dtype=np.float64) for given in (count, mean, squares, lagged))
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(squares > 0, n * lagged / squares + 1, 0.0)
        r = ((own + USUAL_WEIGHT * USUAL_AUTOCORRELATION) / (n + USUAL_WEIGHT)).clip(0.0, MAX_AUTOCORRELATION)
        power = squares / n + mean**2
        n = n * (1 - r) / (1 + r)
        a = n * scale**2
        rest = power - mean**2 * a / (1 + a)
        quantile = n * scale * mean / np.sqrt(1 + a) / np.sqrt(rest)
        one_sided = np.log(2 * stdtr(n, quantile))
        log_e = one_sided - 0.5 * np.log1p(a) + n / 2 * np.log(power / rest)
    return np.asarray(np.where(power > 0, log_e, 0.0), dtype=np.float64)


def _stake(given: Mapping[str, Any]) -> Stake:
    return Stake(
        since=_time("since", given["since"]),
        until=_time("until", given["until"]),
        level=_level("the level of a stake", given["level"]),
    )


def _time(name: str, given: Any) -> datetime:
    time = datetime.fromisoformat(_text(name, given))
    if time.tzinfo is None:
        raise ValueError(f"{name} is {given}, which has no time zone")
    return time


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{name} is {given!r}, which is no text")
    return given


def _number(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError(f"{name} is {given!r}, which is no finite number")
    return float(given)


def _level(name: str, given: Any) -> float:
    level = _number(name, given)
    if not 0 <= level <= 1:
        raise ValueError(f"{name} is {level}, which is not in [0, 1]")
    return level


def _count(name: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"{name} is {given!r}, which is no whole number from 0 on")
    return given
