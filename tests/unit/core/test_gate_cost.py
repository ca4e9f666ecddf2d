"""The gate's rules on what a challenger costs to serve."""

from __future__ import annotations

import math
from typing import Any

import pytest

from perennial.domain.gate import Decision
from perennial.domain.references import Verdict
from tests.unit.core.gating import COST, alone, costs, evaluation, gate, judge, rule


def _cost(measured: Any, champion: bool = True, **limits: Any) -> Decision:
    policy = gate(floors={"roc_auc": 0.55}, cost=limits or COST)
    return judge(evaluation(costs=measured) if champion else alone(costs=measured), policy)


def test_within_all_limits_passes_with_figures() -> None:
    decision = _cost(costs(12.0, 2**21))
    assert decision.verdict is Verdict.PROMOTE
    assert (rule(decision, "latency").threshold, rule(decision, "latency").estimate) == (50, 12.0)
    assert (rule(decision, "latency_ratio").threshold, rule(decision, "latency_ratio").estimate) == (2, 1.5)
    assert (rule(decision, "size").threshold, rule(decision, "size").estimate) == (10, 2.0)
    assert (rule(decision, "size_ratio").threshold, rule(decision, "size_ratio").estimate) == (3, 2.0)
    assert rule(decision, "latency_ratio").sentence == (
        "Challenger's 95th percentile of predicting one row is 12.00 ms, the champion's 8.00: 1.50 times as much; "
        "gate.cost allows 2 times."
    )


@pytest.mark.parametrize(
    ("measured", "name"),
    [
        (costs(51.0, latency_p95_ms=40.0), "latency"),
        (costs(17.0), "latency_ratio"),
        (costs(size=11 * 2**20, size_bytes=10 * 2**20), "size"),
        (costs(size=4 * 2**20), "size_ratio"),
    ],
)
def test_beyond_one_limit_rejects(measured: Any, name: str) -> None:
    decision = _cost(measured)
    assert decision.verdict is Verdict.REJECT
    assert decision.reasons == (rule(decision, name).sentence,)


LATENCY = {"max_latency_p95_ms", "max_latency_ratio"}
RATIOS = {"max_latency_ratio", "max_size_ratio"}


@pytest.mark.parametrize("limit", list(COST))
@pytest.mark.parametrize(
    ("measured", "unknown"),
    [
        ({}, set(COST)),
        (costs(None, None), set(COST)),
        (costs(0.0, 0), set(COST)),
        (costs(math.nan), LATENCY),
        (costs(math.inf), LATENCY),
        (costs(latency_p95_ms=None, size_bytes=None), RATIOS),
        (costs(latency_p95_ms=math.nan, size_bytes=0), RATIOS),
    ],
)
def test_what_was_not_measured_is_inconclusive_where_a_limit_asks_for_it(
    measured: Any, unknown: set[str], limit: str
) -> None:
    verdict = _cost(measured, **{limit: COST[limit]}).verdict
    assert verdict is (Verdict.INCONCLUSIVE if limit in unknown else Verdict.PROMOTE)


def test_multiples_of_the_champions_do_not_apply_to_the_first_one() -> None:
    measured = {"challenger": costs()["challenger"]}
    assert _cost(measured, champion=False).verdict is Verdict.PROMOTE
    assert _cost({}, champion=False).verdict is Verdict.INCONCLUSIVE
    assert _cost({}, champion=False, max_latency_ratio=2).verdict is Verdict.PROMOTE
