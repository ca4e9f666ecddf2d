"""What a rule came to, and the comparisons that all rules share: a NaN makes each of them false."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeGuard

from perennial.domain.metric_names import METRICS

SAME_VALUE: Final = 1e-9
"""Figures that should agree may differ by this, relative to the largest and at least 1."""


SLICES: Final = "slices"
"""`RuleOutcome.group` of all outcomes of single slices."""


class Outcome(StrEnum):
    """What one rule came to."""

    PASS = "PASS"  # noqa: S105 - not a password
    FAIL = "FAIL"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOutcome:
    """One rule, what it asked for, what was found, and what that means."""

    name: str
    """Of data and model: `rows`, `clusters`, `scores`, `measured`, `quarantine`. Of the comparison: `floor`,
    `superiority`, `non_inferiority`, `policy`, `evidence`. Of parts: `slices` (sums up those that pass), `slice` (each
    that is judged), `slice_floor`, `fairness_gap`, `fairness_increase`. Of cost: `latency`, `latency_ratio`, `size`,
    `size_ratio`. Of the past: `tenure`, `promotions_per_week`, `history`. Of a canary:
    the guardrails' fields in the spec."""
    group: str | None = None
    """`SLICES`: one of the many outcomes of single slices, which a page may fold up; None: stands for itself."""
    metric: str | None = None
    subject: str | None = None
    """Which part of the data, such as `origin = JFK`; None: all of it."""
    threshold: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    """`threshold`, `estimate`, `low` and `high` are in the metric's own unit and sign; for superiority,
    non_inferiority, slices and slice they are of the difference, challenger minus champion. Latencies are in ms, sizes
    in MiB, tenure in seconds; evidence is an e-value."""
    n: int | None = None
    """Rows that the outcome rests on; for `clusters` clusters, for `evidence` independent units, for `slices` slices,
    for `promotions_per_week` promotions."""
    p: float | None = None
    """Of a `slice` compared with the champion: one-sided p-value of the test that its verdict rests on, of "worse by
    the margin or more", or for a FAIL of "worse by less". None: not computed, or the rule tests nothing."""
    p_adjusted: float | None = None
    """The same after Holm's correction for `tests` tests; the verdict compares this one."""
    p_limit: float | None = None
    """Error level that `p_adjusted` has to be at most: 1 less the confidence of the gate's rule."""
    tests: int | None = None
    """Slices that were tested together."""
    verdict: Outcome
    sentence: str


def finite(value: float | None) -> TypeGuard[float]:
    """There, and neither NaN nor infinite."""
    return value is not None and math.isfinite(value)


def all_finite(*values: float | None) -> bool:
    """`finite` of each."""
    return all(finite(value) for value in values)


def same(a: float, b: float) -> bool:
    """Equal but for rounding."""
    return abs(a - b) <= SAME_VALUE * max(abs(a), abs(b), 1.0)


def direction(metric: str) -> int:
    """1 where a higher value is better, -1 where a lower one is."""
    info = METRICS.get(metric)
    return 1 if info is None or info.higher_is_better else -1
