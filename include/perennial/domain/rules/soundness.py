"""Is there enough data, and is the challenger itself in order?"""

from __future__ import annotations

from collections.abc import Iterator

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.gate_history import GateHistory
from perennial.domain.rules.outcome import Outcome, RuleOutcome, finite
from perennial.domain.wording import counted, more_needed
from perennial.spec.parts import Gate


def enough_data(gate: Gate, evaluation: EvaluationResult) -> Iterator[RuleOutcome]:
    """Rows, and clusters where rows are not independent."""
    asked = [("rows", evaluation.rows, gate.min_rows, counted(evaluation.rows, "row"))]
    if gate.cluster_by is not None:
        what = f"{counted(evaluation.clusters, 'cluster')} of {gate.cluster_by}"
        asked.append(("clusters", evaluation.clusters, gate.min_clusters, what))
    for name, found, least, what in asked:
        if found >= least:
            verdict, sentence = Outcome.PASS, f"The holdout has {what}; at least {least:,} are asked for."
        else:
            verdict = Outcome.UNDECIDED
            sentence = f"The holdout has {what}; {more_needed(least - found)} to reach the {least:,} asked for."
        yield RuleOutcome(name=name, threshold=least, estimate=found, n=found, verdict=verdict, sentence=sentence)


def sound_challenger(evaluation: EvaluationResult) -> Iterator[RuleOutcome]:
    """Its scores are usable, and every metric of the spec has a value for it."""
    for defect in evaluation.defects:
        yield RuleOutcome(name="scores", n=evaluation.rows, verdict=Outcome.FAIL, sentence=defect)
    if not evaluation.defects:
        sentence = "The challenger's scores are finite, and not all the same."
        yield RuleOutcome(name="scores", n=evaluation.rows, verdict=Outcome.PASS, sentence=sentence)
    without = [name for name, found in evaluation.comparisons.items() if not finite(found.challenger.value)]
    if without or not evaluation.comparisons:
        sentence = f"{', '.join(without) or 'No metric'} could not be computed for the challenger."
        if not evaluation.comparisons:
            sentence = "No metric was measured."
        yield RuleOutcome(name="measured", n=evaluation.rows, verdict=Outcome.UNDECIDED, sentence=sentence)


def not_quarantined(evaluation: EvaluationResult, history: GateHistory) -> RuleOutcome:
    """A model that was taken back once is not promoted again."""
    digest = evaluation.challenger.get("digest")
    if not isinstance(digest, str) or not digest:
        verdict = Outcome.UNDECIDED
        sentence = "The evaluation does not give the challenger's digest, so nobody knows whether it was taken back."
    elif digest in history.quarantined:
        verdict, sentence = Outcome.FAIL, history.quarantined[digest]
    else:
        verdict, sentence = Outcome.PASS, "The challenger was never taken back from production."
    return RuleOutcome(name="quarantine", verdict=verdict, sentence=sentence)
