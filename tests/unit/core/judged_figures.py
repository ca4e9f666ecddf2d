"""Figures of a whole judgement as a busy night would have them, for the pages that tell of it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from perennial.domain.evaluation import (
    Cost,
    Curves,
    EvaluationResult,
    FairnessResult,
    GroupValues,
    MetricComparison,
    MetricEstimate,
    SliceResult,
)
from perennial.domain.gate import Decision, Outcome, RuleOutcome
from perennial.domain.gate_history import GateHistory, Reign
from perennial.domain.references import Verdict
from perennial.domain.rules.outcome import SLICES
from perennial.domain.sequential import EvidenceState, Stake

NOW = datetime(2013, 3, 15, 6, tzinfo=UTC)
GATE: dict[str, Any] = {
    "slices": {"margin": 0.03, "floor": 0.6, "min_rows": 200},
    "fairness": [{"column": "origin", "groups": ["JFK", "EWR", "LGA"], "max_gap": 0.1, "max_increase": 0.02}],
    "cost": {"max_latency_p95_ms": 50.0, "max_size_ratio": 2.0},
    "false_promotions": {"budget": 0.05, "period_days": 90},
    "min_tenure": "3d",
    "max_promotions_per_week": 2,
}
REASON = (
    "Challenger's roc_auc is 0.712, the champion's 0.676: +0.036 [0.025, 0.047] at 95 % one-sided confidence; more "
    "than the 0.002 asked for."
)


def around(value: float, reach: float | None = 0.011) -> MetricEstimate:
    if reach is None:
        return MetricEstimate(value=value, low=None, high=None)
    return MetricEstimate(value=value, low=value - reach, high=value + reach)


def compared(metric: str, value: float, base: float, reach: float | None = 0.011) -> MetricComparison:
    return MetricComparison(
        metric=metric,
        challenger=around(value, reach),
        champion=around(base, reach),
        difference=around(value - base, reach),
    )


def a_slice(value: str, rows: int, challenger: float, champion: float, reach: float | None) -> SliceResult:
    return SliceResult(
        column="origin",
        value=value,
        rows=rows,
        challenger=challenger,
        champion=champion,
        challenger_low=None if reach is None else challenger - reach,
        challenger_high=None if reach is None else challenger + reach,
        difference=around(challenger - champion, reach),
        p_safe=0.001,
        p_harm=0.999,
    )


def curves(bend: float, lift: float) -> Curves:
    steps = [step / 50 for step in range(51)]
    groups = [0.05 + 0.07 * group for group in range(10)]
    return Curves(
        roc=tuple((x, 1 - (1 - x) ** bend) for x in steps),
        calibration=tuple((p, p + lift * math.sin(9 * p), 320 + int(900 * p)) for p in groups),
    )


def an_evaluation(**changes: Any) -> EvaluationResult:
    model = {
        "model_uri": "models:/m-8f1e",
        "run_id": "7c3b1f",
        "digest": "c" * 64,
        "training_start": "2013-01-01T00:00:00Z",
        "training_end": "2013-02-28T00:00:00Z",
    }
    facts: dict[str, Any] = {
        "model": "flights_delay",
        "champion_version": "3",
        "rows": 11872,
        "clusters": 14,
        "confidence": 0.9,
        "comparisons": {
            "roc_auc": compared("roc_auc", 0.712, 0.676),
            "log_loss": compared("log_loss", 0.481, 0.499, 0.012),
            "brier": compared("brier", 0.1512, 0.1506, 0.004),
        },
        "slices": (
            a_slice("JFK", 4510, 0.721, 0.68, 0.018),
            a_slice("EWR", 4200, 0.705, 0.671, 0.021),
            a_slice("LGA", 3012, 0.66, 0.69, 0.026),
            a_slice("HPN", 150, 0.7, 0.69, None),
        ),
        "holdout": ("2013-03-01T00:00:00Z", "2013-03-15T00:00:00Z"),
        "holdout_sha256": "4" * 64,
        "challenger": {**model, "digest": "d" * 64},
        "champion": {**model, "training_start": "2012-11-01T00:00:00Z", "training_end": "2012-12-30T00:00:00Z"},
        "notes": ("12 of 11,884 holdout rows have no label yet and were left out.",),
        "fairness": (
            FairnessResult(
                column="origin",
                metric="roc_auc",
                groups=tuple(
                    GroupValues(group=name, rows=rows, challenger=a, champion=b)
                    for name, rows, a, b in (
                        ("JFK", 4510, 0.721, 0.68),
                        ("EWR", 4200, 0.705, 0.671),
                        ("LGA", 3012, 0.66, 0.69),
                    )
                ),
                challenger_gap=around(0.061, 0.02),
                champion_gap=around(0.019, 0.015),
                increase=around(0.042, 0.025),
            ),
        ),
        "costs": {
            "challenger": Cost(latency_p95_ms=5.71, size_bytes=2_512_000),
            "champion": Cost(latency_p95_ms=5.2, size_bytes=1_400_000),
        },
        "curves": {"challenger": curves(2.6, 0.02), "champion": curves(2.1, -0.06)},
    }
    return EvaluationResult(**{**facts, **changes})


def a_rule(name: str, verdict: str = "PASS", **figures: Any) -> RuleOutcome:
    return RuleOutcome(**{"name": name, "verdict": Outcome(verdict), "sentence": f"About {name}.", **figures})


def slice_rules(
    value: str, rows: int, gap: float, reach: float, *, p: float, adjusted: float, verdict: str = "PASS"
) -> tuple[RuleOutcome, RuleOutcome]:
    """Of one slice of `origin`: the test against the champion, and its floor."""
    subject = {"group": SLICES, "metric": "roc_auc", "subject": f"origin = {value}", "n": rows}
    test = {"p": p, "p_adjusted": adjusted, "p_limit": 0.05, "tests": 3}
    ends = {"low": gap - reach, "high": gap + reach}
    return (
        a_rule("slice", verdict, threshold=-0.03, estimate=gap, **ends, **subject, **test),
        a_rule("slice_floor", threshold=0.6, estimate=0.7, low=0.68, high=0.72, **subject),
    )


def a_decision(**changes: Any) -> Decision:
    gap = {"threshold": -0.03, "metric": "roc_auc"}
    rules = (
        a_rule("rows", threshold=2000, estimate=11872, n=11872),
        a_rule("clusters", threshold=5, estimate=14, n=14),
        a_rule("scores", n=11872, sentence="The challenger's scores are finite, and not all the same."),
        a_rule("quarantine", sentence="The challenger was never taken back from production."),
        a_rule("floor", metric="roc_auc", threshold=0.55, estimate=0.712, low=0.7, high=0.72, n=11872),
        a_rule("superiority", metric="roc_auc", threshold=0.002, estimate=0.036, low=0.025, high=0.047, n=11872),
        *slice_rules("JFK", 4510, 0.041, 0.018, p=0.00002, adjusted=0.00006),
        *slice_rules("EWR", 4200, 0.034, 0.021, p=0.0013, adjusted=0.0026),
        *slice_rules("LGA", 3012, -0.03, 0.026, p=0.5, adjusted=0.5, verdict="UNDECIDED"),
        a_rule("slices", n=2, sentence="2 of 3 slices are shown not to be worse by 0.03 or more.", **gap),
        a_rule(
            "fairness_gap", metric="roc_auc", subject="origin", threshold=0.1, estimate=0.061, low=0.041, high=0.081
        ),
        a_rule(
            "fairness_increase",
            "FAIL",
            metric="roc_auc",
            subject="origin",
            threshold=0.02,
            estimate=0.052,
            low=0.023,
            high=0.081,
            n=11722,
        ),
        a_rule("latency", threshold=50.0, estimate=5.71),
        a_rule("size_ratio", threshold=2.0, estimate=1.794),
        a_rule("tenure", threshold=3 * 86400.0, estimate=14.25 * 86400),
        a_rule("promotions_per_week", threshold=2, estimate=1, n=1),
        a_rule("evidence", "UNDECIDED", metric="roc_auc", threshold=60.0, estimate=41.3, n=23),
    )
    facts: dict[str, Any] = {
        "verdict": Verdict.REJECT,
        "reasons": (
            "The gap in roc_auc by origin is 0.061, the champion's 0.019: +0.052 [0.023, 0.081]; more than the 0.02 of "
            "max_increase, beyond chance.",
            "In origin = LGA (3,012 rows), a loss of the 0.03 of gate.slices.margin is not ruled out.",
        ),
        "rules": rules,
        "evidence": EvidenceState(
            champion="c" * 64,
            reign=3,
            metric="roc_auc",
            limit=0.002,
            unit="day",
            units=tuple((f"2013-02-{day:02}", 0.03) for day in range(1, 24)),
            stakes=(Stake(since=NOW - timedelta(days=23), until=NOW, level=1 / 60),),
            level=1 / 60,
            e_value=41.3,
        ),
    }
    return Decision(**{**facts, **changes})


def a_history() -> GateHistory:
    return GateHistory(
        as_of=NOW,
        reigns=(
            Reign(version="2", since=NOW - timedelta(days=60), how="promotion"),
            Reign(version="3", since=NOW - timedelta(days=14, hours=6), how="rollback"),
        ),
    )
