"""What a challenger costs to serve: latency and size, absolute and as a multiple of the champion's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from perennial.domain.evaluation import Cost, EvaluationResult
from perennial.domain.rules.comparison import has_champion
from perennial.domain.rules.outcome import Outcome, RuleOutcome, finite
from perennial.domain.wording import digits_for, number, plain
from perennial.spec.parts import Gate

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measure:
    """One of the two things that cost."""

    name: str
    title: str
    unit: str
    of: Callable[[Cost], float | None]
    limit: float | None
    ratio: float | None


def judge_costs(gate: Gate, evaluation: EvaluationResult) -> Iterator[RuleOutcome]:
    """One outcome for each limit of `gate.cost`."""
    rules = gate.cost
    if rules is None:
        return
    measures = (
        _Measure(
            name="latency",
            title="95th percentile of predicting one row",
            unit="ms",
            of=lambda cost: cost.latency_p95_ms,
            limit=rules.max_latency_p95_ms,
            ratio=rules.max_latency_ratio,
        ),
        _Measure(
            name="size",
            title="size",
            unit="MiB",
            of=lambda cost: None if cost.size_bytes is None else cost.size_bytes / MIB,
            limit=rules.max_size_mib,
            ratio=rules.max_size_ratio,
        ),
    )
    for measure in measures:
        mine, theirs = (_value(measure, evaluation.costs.get(who)) for who in ("challenger", "champion"))
        if measure.limit is not None:
            yield _absolute(measure, mine, measure.limit)
        if measure.ratio is not None:
            yield _relative(measure, mine, theirs, measure.ratio, champion=has_champion(evaluation))


def _value(measure: _Measure, cost: Cost | None) -> float | None:
    """None for what was not measured, and for what no measurement can be."""
    value = None if cost is None else measure.of(cost)
    return value if value is not None and finite(value) and value > 0 else None


def _absolute(measure: _Measure, mine: float | None, limit: float) -> RuleOutcome:
    if mine is None:
        verdict, sentence = Outcome.UNDECIDED, f"Challenger's {measure.title} was not measured."
    else:
        verdict = Outcome.PASS if mine <= limit else Outcome.FAIL
        shown = number(mine, digits_for([mine], apart_from=limit, least=2))
        sentence = f"Challenger's {measure.title} is {shown} {measure.unit}; gate.cost allows {plain(limit)}."
    return RuleOutcome(name=measure.name, threshold=limit, estimate=mine, verdict=verdict, sentence=sentence)


def _relative(
    measure: _Measure, mine: float | None, theirs: float | None, limit: float, *, champion: bool
) -> RuleOutcome:
    ratio = None
    if not champion:
        verdict = Outcome.PASS
        sentence = f"There is no champion, so the {measure.title} as a multiple of its own does not apply."
    elif mine is None or theirs is None or not finite(mine / theirs):
        verdict, sentence = Outcome.UNDECIDED, f"The {measure.title} was not measured for both models."
    else:
        ratio = mine / theirs
        verdict = Outcome.PASS if ratio <= limit else Outcome.FAIL
        digits = digits_for([mine, theirs], least=2)
        sentence = (
            f"Challenger's {measure.title} is {number(mine, digits)} {measure.unit}, the champion's "
            f"{number(theirs, digits)}: {number(ratio, digits_for([ratio], apart_from=limit, least=2))} times as much; "
            f"gate.cost allows {plain(limit)} times."
        )
    return RuleOutcome(
        name=f"{measure.name}_ratio", threshold=limit, estimate=ratio, verdict=verdict, sentence=sentence
    )
