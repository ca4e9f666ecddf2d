"""How often the intervals miss the truth: simulated holdouts of few days, with effects that differ from day to day.

One-sided errors of nominally 5 % each, in per cent: `low` is the share of holdouts whose lower end lies above the true
difference (with superiority, a false promotion at the limit), `high` that of upper ends below it. Worlds: day effects
`normal`; skewed to the `right` or `left`; `storm`, one day in ten on which the challenger does much worse and which
many a holdout does not contain. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, ndtri

from perennial.domain.bootstrap import cluster_draws, leave_out_weights
from perennial.domain.intervals import Ends, bca_ends, cluster_interval
from perennial.domain.metrics import Floats, metric
from perennial.domain.resampling import Codes, resampled

TAIL = 0.05
WORLDS = ("normal", "right", "left", "storm")
METHODS = ("perennial", "bca", "percentile")


def day_effects(world: str, days: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """By how much the challenger, and the champion, separates the classes better than on average, each day."""
    if world == "normal":
        return 0.25 * generator.normal(size=days), 0.25 * generator.normal(size=days)
    if world == "storm":
        return np.where(generator.random(days) < 0.1, -0.8, 0.09), np.zeros(days)
    sign = 1.0 if world == "right" else -1.0
    mine, theirs = (generator.exponential(1, days) - 1 for _ in range(2))
    return sign * 0.25 * mine, -sign * 0.1 * theirs


def holdout(world: str, days: int, generator: np.random.Generator) -> tuple[Floats, Floats, Floats, Codes]:
    """Labels, both models' probabilities and the day of each row; about 85 rows a day, base rates and offsets vary."""
    size = np.maximum(20, 80 * np.exp(0.4 * generator.normal(size=days))).astype(int)
    day = np.repeat(np.arange(days), size)
    mine, theirs = day_effects(world, days, generator)
    base, offset = ndtr(-0.7 + 0.3 * generator.normal(size=days)), 0.3 * generator.normal(size=days)
    labels = (generator.random(len(day)) < base[day]).astype(float)
    shared = offset[day] + 0.6 * generator.normal(size=len(day))
    scores = [
        ndtr(labels * (0.8 + effect[day]) + shared + 0.8 * generator.normal(size=len(day)) - 1)
        for effect in (mine, theirs)
    ]
    return labels, scores[0], scores[1], day


def ends_of(
    difference: Callable[[Floats], Floats], days: int, replicates: int, generator: np.random.Generator
) -> dict[str, Ends]:
    """The interval of each method from the same draws."""
    drawn = difference(cluster_draws(days, replicates, generator))
    jackknife, value = difference(leave_out_weights(days)), float(difference(np.ones((1, days)))[0])
    drawn = drawn[np.isfinite(drawn)]
    ours = cluster_interval(drawn, value, jackknife, confidence=1 - 2 * TAIL, clusters=days)
    assert ours is not None
    return {
        "perennial": ours,
        "bca": bca_ends(drawn, value, jackknife, float(ndtri(TAIL))),
        "percentile": Ends(*np.quantile(drawn, [TAIL, 1 - TAIL])),
    }


def misses(name: str, world: str, days: int, runs: int, replicates: int) -> dict[str, dict[str, float]]:
    """Per cent of runs in which each end misses, and the mean width, by method."""
    big = holdout(world, 15_000, np.random.default_rng(99))
    truth = metric(name, big[0], big[1]) - metric(name, big[0], big[2])
    generator = np.random.default_rng(0)
    found: dict[str, list[Ends]] = {method: [] for method in METHODS}
    for _ in range(runs):
        labels, mine, theirs, day = holdout(world, days, generator)
        a, b = (resampled(name, labels, scores, day, days) for scores in (mine, theirs))
        for method, ends in ends_of(lambda w, a=a, b=b: a(w) - b(w), days, replicates, generator).items():
            found[method].append(ends)
    return {
        method: {
            "low": round(100 * float(np.mean([end.low > truth for end in ends])), 1),
            "high": round(100 * float(np.mean([end.high < truth for end in ends])), 1),
            "width": round(float(np.mean([end.high - end.low for end in ends])), 4),
        }
        for method, ends in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--days", type=int, nargs="+", default=[5, 14, 40])
    parser.add_argument("--metrics", nargs="+", default=["roc_auc", "log_loss"])
    given = parser.parse_args()
    results = {}
    for name in given.metrics:
        for days in given.days:
            for world in WORLDS:
                results[f"{name} {days} days {world}"] = row = misses(name, world, days, given.runs, given.replicates)
                print(
                    f"{name:8} {days:3} days {world:7}",
                    *(f"{m} {r['low']:4}/{r['high']:4}" for m, r in row.items()),
                    flush=True,
                )
    # The lower end is the one that promotes; `storm` is left out: a holdout without the rare day cannot know of it.
    judged = [row for world, row in results.items() if not world.endswith("storm")]
    ours = float(np.mean([row["perennial"]["low"] for row in judged]))
    usual = float(np.mean([row["percentile"]["low"] for row in judged]))
    line = {
        "bench": "interval_coverage",
        "value": round(ours, 2),
        "unit": "% of holdouts whose lower end lies above the truth",
        "baseline": round(usual, 2),
        "ratio": round(ours / usual, 3),
        "target": 100 * TAIL + 1,
        "holds": ours <= 100 * TAIL + 1,
        "runs": given.runs,
        "results": results,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
