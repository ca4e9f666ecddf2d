"""Many tests at once: keeping the chance of even one false alarm among them at the level of a single test."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Step-down adjusted p-values: reject those at most alpha, and P(any true hypothesis rejected) <= alpha.

    Holds whatever the dependence between the tests (Holm 1979, Scandinavian Journal of Statistics 6:65-70; adjusted
    values as in Wright 1992, Biometrics 48:1005-1013).

    Args:
        p_values: one in [0, 1] a hypothesis. What could not be tested has no p-value and must not be left out
            silently: say 1.0 where no evidence means no rejection.

    Returns:
        Adjusted p-values in [0, 1], in the order given; none smaller than its unadjusted one.

    Raises:
        ValueError: a p-value is not in [0, 1], NaN included.
    """
    wrong = {key: p for key, p in p_values.items() if not 0 <= p <= 1}
    if wrong:
        raise ValueError(f"p-values must be in [0, 1], got {wrong}")
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}
