"""How often a year of nightly retrains promotes a challenger that is no better, and how soon one that is.

2,000 simulated model-years of 365 nights, each with a new challenger and a 14-day holdout that overlaps last night's
in 13 days. No challenger is truly better than its champion (true gain = the limit of the rule, 0: the hardest case), so
every promotion is a false one; after it the year goes on with the new champion. Four gates on the same kind of nights:

* `score`      promote if the score is higher;
* `rows`       the 95 % one-sided interval clears 0, rows taken as independent;
* `cluster`    Perennial's interval over days clears 0, without `false_promotions`;
* `perennial`  the same, and the evidence over all nights reaches what {budget: 0.05, period_days: 90} asks for.

Simulated are days, not rows, with the flights' figures (docs/adr/0008). What decides on them is the product's own code
for `cluster` and `perennial`: pseudo-values (`jackknife_values`), interval (`cluster_draws`, `cluster_interval`),
evidence (`log_e_values`, `mixed`) and budget (`level_left`); only the sums that the evidence is made of are updated
for all years at once here, and a few years are decided again, night by night, by `next_state` itself. The error of
`rows` is a formula fitted to DeLong's on the flights. `--rows-nights` nights are simulated row by row, through the
product's metrics, bootstrap and DeLong, to see whether the days behave like them.

Robustness: days that resemble each other more, heavier tails, a holdout that ends within a day, days of very unequal
size. Then power: a true gain of 0.01 within 14 nights. Last line: one JSON object. `value` is the share of model-years
with a false promotion by `perennial`; `holds` says whether that, the same within a day and with unequal days, and the
power reach their targets.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from scipy.special import stdtrit

from nights.rows import compare_with_rows
from nights.worlds import DAYS, Flags, Floats, Nights, World
from perennial.domain.bootstrap import cluster_draws
from perennial.domain.intervals import cluster_interval
from perennial.domain.sequential import (
    MIN_UNITS,
    EvidenceState,
    level_left,
    log_e_values,
    mixed,
    next_state,
    restarts,
)
from perennial.spec.parts import FalsePromotions

BUDGET: Final = 0.05
POLICY: Final = FalsePromotions(budget=BUDGET, period_days=90)
CONFIDENCE: Final = 0.95
REPLICATES: Final = 2000
FIRST: Final = datetime(2013, 1, 1, tzinfo=UTC)
POWER: Final = 0.8
YEAR: Final = 365
DECIDED_BY: Final = {
    "score": "mean of the days",
    "rows": "formula fitted to DeLong's error",
    "cluster": "the product's code",
    "alpha nightly": "t interval over days",
    "alpha fortnightly": "t interval over days",
    "perennial": "the product's code",
}
WEEK: Final = (5.0, 4.0, 4.0, 3.0, 3.0, 1.0, 1.0)
"""Relative numbers of rows."""
MIDDAY: Final = "perennial, holdout ends mid-day"
UNEQUAL: Final = "perennial, days of 1 to 5 rows"


class Evidence:
    """The state of `sequential`, of many sequences at once: the sums that the e-value is a function of.

    Arrays are (parts, sequences): a part begins every `RESTART_UNITS` units.
    """

    def __init__(self, count: int, limit: float, nights: int) -> None:
        self.limit = limit
        self.reigns = np.zeros(count, dtype=int)
        self.states = [self._state(None, 0, 1) for _ in range(count)]
        self.level = np.array([state.level for state in self.states])
        self.begins = np.array(restarts(nights + DAYS))[:, None]
        self.units = np.zeros(count)
        self.total, self.squares, self.lagged, self.first, self.last = np.zeros((5, len(self.begins), count))

    def enough(self, values: Floats, night: int) -> Flags:
        """Whether the evidence of each sequence, with tonight's new days, reaches what is asked for tonight."""
        for at in np.flatnonzero(self.reigns):  # a first champion's part of the budget stays what it is
            self.level[at] = level_left(self.states[at].stakes[:-1], POLICY, as_of(night))
        return np.asarray(self._log_e(values) >= -np.log(self.level))

    def _log_e(self, values: Floats) -> Floats:
        """With tonight's new days: all of them on a sequence's first night, then the newest."""
        last = values.shape[1] - 1
        for day in range(last + 1):
            self._add(values[:, day] - self.limit, (self.units == day) if day < last else self.units >= day)
        n = np.maximum(self.units - self.begins, 1)
        mean = self.total / n
        squares = np.maximum(self.squares - n * mean**2, 0.0)
        lagged = self.lagged - mean * (2 * self.total - self.first - self.last) + (n - 1) * mean**2
        found = np.where(n >= MIN_UNITS, log_e_values(n, mean, squares, lagged), 0.0)  # not begun: an e-value of 1
        return mixed(found)

    def _add(self, gain: Floats, which: Flags) -> None:
        place = self.units - self.begins
        later, begun = which & (place > 0), which & (place >= 0)
        self.lagged += np.where(later, gain * self.last, 0.0)
        self.first = np.where(which & (place == 0), gain, self.first)
        self.last = np.where(begun, gain, self.last)
        self.total += np.where(begun, gain, 0.0)
        self.squares += np.where(begun, gain**2, 0.0)
        self.units += which

    def promote(self, which: Flags, night: int) -> None:
        """A new champion: the product's own code says what is left of the budget."""
        for at in np.flatnonzero(which):
            ended = self._state(self.states[at], int(self.reigns[at]), night)
            self.reigns[at] += 1
            self.states[at] = self._state(ended, int(self.reigns[at]), night + 1)
        for sums in (self.units, self.total, self.squares, self.lagged, self.first, self.last):
            sums[..., which] = 0.0

    def _state(self, before: EvidenceState | None, reign: int, night: int) -> EvidenceState:
        return state_after(before, reign, self.limit, night, [])


def as_of(night: int) -> datetime:
    """When it runs."""
    return FIRST + timedelta(days=night)


def state_after(
    before: EvidenceState | None, reign: int, limit: float, night: int, units: list[tuple[str, float]]
) -> EvidenceState:
    """The product's own code."""
    return next_state(
        before,
        champion=str(reign),
        reign=reign,
        metric="roc_auc",
        limit=limit,
        unit="UTC day",
        policy=POLICY,
        as_of=as_of(night),
        units=units,
    )


class Clusters:
    """Perennial's interval over days, of the mean of their rows."""

    def __init__(self, seed: int) -> None:
        self.draws = np.random.default_rng(seed)

    def clears(self, days: Floats, share: Floats, limit: float, candidates: Flags | None = None) -> Flags:
        """Whether the lower end is above the limit. The jackknife's end, which is never below it, goes first.

        Args:
            days: (n, k) what each day says.
            share: (k,) of the rows.
            limit: to exceed.
            candidates: (n,) the others do not matter; None: all do.
        """
        count, whole = len(share), (days @ share)[:, None]
        away = (whole - days * share) / (1 - share)
        away -= away.mean(axis=1, keepdims=True)
        error = np.sqrt((count - 1) / count * (away**2).sum(axis=1))
        fine: Flags = whole[:, 0] + float(stdtrit(count - 1, 1 - CONFIDENCE)) * error > limit
        if candidates is not None:
            fine &= candidates
        for at in np.flatnonzero(fine):
            fine[at] = self.low(days[at], share) > limit
        return fine

    def low(self, days: Floats, share: Floats) -> float:
        """Lower end for one night."""
        weights, count = cluster_draws(len(days), REPLICATES, self.draws), len(days)
        drawn, whole = weights @ (days * share) / (weights @ share), float(days @ share)
        without = (whole - days * share) / (1 - share)
        ends = cluster_interval(drawn, whole, without, confidence=2 * CONFIDENCE - 1, clusters=count)
        return math.nan if ends is None else ends.low


def t_clears(days: Floats, limit: float, level: float) -> Flags:
    """Whether the plain t interval over days clears the limit at a one-sided error `level`."""
    reach = -float(stdtrit(DAYS - 1, level)) / math.sqrt(DAYS)
    return np.asarray(days.mean(axis=1) - reach * days.std(axis=1, ddof=1) > limit)


def promotions(gate: str, world: World, *, runs: int, nights: int, seed: int, limit: float = 0.0) -> Floats:
    """(runs, nights) 1.0 where the gate promotes; the history goes on with the new champion."""
    history, clusters = Nights(world, runs, seed), Clusters(seed + 1)
    evidence = Evidence(runs, limit, nights) if gate == "perennial" else None
    made = np.zeros((runs, nights))
    for night in range(1, nights + 1):
        days = history.next()
        if evidence is not None:
            enough = evidence.enough(history.pseudo_values(days), night)
            promoted = clusters.clears(days, history.share(), limit, enough)
            evidence.promote(promoted, night)
        else:
            promoted = single_night(gate, days, history, clusters, limit)
        history.promote(promoted)
        made[:, night - 1] = promoted
    return made


def single_night(gate: str, days: Floats, history: Nights, clusters: Clusters, limit: float) -> Flags:
    """Gates that look at tonight only."""
    gates: dict[str, Callable[[], Flags]] = {
        "score": lambda: days.mean(axis=1) > limit,
        "rows": lambda: days.mean(axis=1) - 1.6449 * history.row_error() > limit,
        "cluster": lambda: clusters.clears(days, history.share(), limit),
        "alpha nightly": lambda: t_clears(days, limit, BUDGET / 90),
        "alpha fortnightly": lambda: t_clears(days, limit, BUDGET / 7) & (history.night % DAYS == 1),
    }
    return gates[gate]()


def shares(made: Floats) -> dict[str, float]:
    """Share of histories, and of their whole 90-day periods, with a promotion."""
    years, nights = made.shape
    whole = made[:, : nights // 90 * 90].reshape(years, -1, 90).any(axis=2)
    year = float(made.any(axis=1).mean())
    return {
        "year": round(year, 4),
        "error": round(math.sqrt(year * (1 - year) / years), 4),
        "period": round(float(whole.mean()), 4),
        "worst_period": round(float(whole.mean(axis=0).max()), 4),
        "a_year": round(float(made.sum(axis=1).mean()), 2),
    }


def decided_again(world: World, years: int, nights: int) -> bool:
    """Whether `next_state`, fed a night at a time as the product feeds it, promotes in the same nights."""
    history, clusters = Nights(world, years, 7), Clusters(8)
    same, evidence = True, Evidence(years, 0.0, nights)
    states: list[EvidenceState | None] = [None] * years
    for night in range(1, nights + 1):
        days = history.next()
        values = history.pseudo_values(days)
        fast = evidence.enough(values, night)
        labels = [str(night + day) for day in range(values.shape[1])]
        for at in range(years):
            units = list(zip(labels, values[at].tolist(), strict=True))
            states[at] = state = state_after(states[at], int(evidence.reigns[at]), 0.0, night, units)
            same &= (state.e_value >= state.threshold) == bool(fast[at])
            same &= math.isclose(state.threshold, 1 / evidence.level[at])
        promoted = clusters.clears(days, history.share(), 0.0, fast)
        evidence.promote(promoted, night)
        history.promote(promoted)
    return same and int(evidence.reigns.sum()) > 0


def power(gate: str, world: World, *, runs: int, limit: float, within: int = DAYS) -> float:
    """Share of runs in which the gate promotes within so many nights from the first better challenger on."""
    start = world.from_night
    made = promotions(gate, world, runs=runs, nights=start + within - 1, seed=5, limit=limit)
    kept = ~made[:, : start - 1].any(axis=1)  # still the champion that the gain is measured against
    return round(float(made[kept, start - 1 :].any(axis=1).mean()), 3)


def print_errors(years: int) -> dict[str, dict[str, float]]:
    """No challenger is better: all gates in the flights' world, Perennial's also in harder ones."""
    flights = World()
    cases: list[tuple[str, str, World, float]] = [
        (gate, gate, flights, 0.0) for gate in ("score", "rows", "cluster", "alpha nightly", "alpha fortnightly")
    ]
    cases += [
        ("perennial", "perennial", flights, 0.0),
        ("perennial, min_effect 0.002", "perennial", flights, 0.002),
        ("perennial, autocorrelation 0.35", "perennial", World(autocorrelation=0.35), 0.0),
        ("perennial, autocorrelation 0.5", "perennial", World(autocorrelation=0.5), 0.0),
        ("perennial, tails of kurtosis 35", "perennial", World(volatility=0.8), 0.0),
        ("perennial, 0.35 and these tails", "perennial", World(autocorrelation=0.35, volatility=0.8), 0.0),
        ("perennial, independent days", "perennial", World(autocorrelation=0.0, volatility=0.0), 0.0),
        (MIDDAY, "perennial", World(part=0.5), 0.0),
        ("perennial, a tenth of a day", "perennial", World(part=0.1), 0.0),
        (UNEQUAL, "perennial", World(sizes=WEEK), 0.0),
        ("perennial, both of these", "perennial", World(part=0.5, sizes=WEEK), 0.0),
    ]
    print(f"No challenger is better: {years} model-years of {YEAR} nights")
    print(f"{'gate':34}{'years with one':>18}{'90-day periods':>16}{'worst':>9}{'promotions a year':>20}  decided by")
    found = {}
    for name, gate, world, limit in cases:
        found[name] = row = shares(promotions(gate, world, runs=years, nights=YEAR, seed=1, limit=limit))
        print(
            f"{name:34}{100 * row['year']:8.2f} % +-{100 * row['error']:5.2f}{100 * row['period']:14.2f} %"
            f"{100 * row['worst_period']:7.2f} %{row['a_year']:20.2f}  {DECIDED_BY[gate]}",
            flush=True,
        )
    return found


def print_power(runs: int) -> dict[str, dict[str, float]]:
    """A true gain of 0.01: each gate by noise, for a limit of 0 and for the flights' min_effect."""
    cases = {
        "flights, new champion": World(gain=0.01),
        **{f"day sd {sd}": World(gain=0.01, sd=sd) for sd in (0.005, 0.0075, 0.01, 0.0115, 0.015, 0.02, 0.03, 0.06)},
        "day sd 0.0115, after 60 null nights": World(gain=0.01, sd=0.0115, from_night=61),
        "flights, holdout ends mid-day": World(gain=0.01, part=0.5),
        "flights, days of 1 to 5 rows": World(gain=0.01, sizes=WEEK),
        "flights, new champion, gain 0.02": World(gain=0.02),
    }
    print(f"\nA true gain of 0.01: share of {runs} runs promoted within 14 nights (s.e. up to {0.5 / runs**0.5:.3f})")
    columns = ("perennial", "perennial, 0.002", "cluster", "alpha nightly", "alpha fortnightly")
    print(f"{'noise':36}" + "".join(f"{name:>19}" for name in columns))
    found: dict[str, dict[str, float]] = {}
    for name, world in cases.items():
        found[name] = row = {
            column: power(column.split(",")[0], world, runs=runs, limit=0.002 if "," in column else 0.0)
            for column in columns
        }
        print(f"{name:36}" + "".join(f"{row[column]:19.3f}" for column in columns), flush=True)
    late = cases["day sd 0.0115, after 60 null nights"]
    found["late, by nights"] = waits = {
        str(within): power("perennial", late, runs=runs, limit=0.0, within=within) for within in (14, 28, 42, 56, 84)
    }
    print(f"{late.from_night - 1} null nights first, promoted within (nights): {waits}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=2000, help="of each power figure")
    parser.add_argument("--rows-nights", type=int, default=400, help="nights simulated row by row")
    given = parser.parse_args()
    errors = print_errors(given.years)
    powers = print_power(given.runs)
    again = all(decided_again(World(gain=0.01, part=part), 20, 120) for part in (1.0, 0.5))
    print(f"\n40 histories of 120 nights decided again by next_state: {'the same' if again else 'NOT THE SAME'}")
    rows = compare_with_rows(given.rows_nights, lambda days: Clusters(7).clears(days, np.full(DAYS, 1 / DAYS), 0.0))
    ours, usual = errors["perennial"]["year"], errors["score"]["year"]
    bounded = all(errors[name]["year"] <= BUDGET for name in ("perennial", MIDDAY, UNEQUAL))
    reached = powers["flights, new champion"]["perennial"]
    line: dict[str, Any] = {
        "bench": "gate_error",
        "value": ours,
        "unit": "share of model-years with a false promotion",
        "baseline": usual,
        "ratio": round(ours / usual, 4),
        "target": BUDGET,
        "holds": bounded and again and reached >= POWER,
        "checks": {"error": bounded, "next_state_agrees": again, "power": reached >= POWER},
        "power": reached,
        "power_target": POWER,
        "power_by_noise": powers,
        "errors": errors,
        "row_level": rows,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
