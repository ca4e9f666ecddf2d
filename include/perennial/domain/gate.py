"""The gate: whether a challenger may replace the champion. Pure, and it fails closed (invariant 4).

A rule passes only on evidence; whatever is missing, not finite or contradictory leaves it undecided, and an undecided
rule never promotes. All comparisons are written so that a NaN makes them false, and false never leads to PASS.
The rules themselves: `perennial.domain.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.gate_history import GateHistory
from perennial.domain.references import Verdict
from perennial.domain.rules.comparison import against_champion, floors, is_champion_itself
from perennial.domain.rules.cost import judge_costs
from perennial.domain.rules.fairness import judge_fairness
from perennial.domain.rules.outcome import SLICES, Outcome, RuleOutcome
from perennial.domain.rules.over_time import calm, enough_evidence, evidence_state, known_past
from perennial.domain.rules.slices import judge_slices
from perennial.domain.rules.soundness import enough_data, not_quarantined, sound_challenger
from perennial.domain.sequential import EvidenceState
from perennial.domain.wording import counted
from perennial.spec.parts import Gate

__all__ = ["Decision", "Outcome", "RuleOutcome", "decide", "is_champion_itself"]

SHOWN_SLICES: Final = 5
"""Slices that get a reason of their own; all of them are in the rules."""
_FOR: Final = ("superiority", "non_inferiority", "floor", "policy", "slices")
"""What a promotion is said to rest on first, in this order."""
_BASICS: Final = ("rows", "clusters", "scores", "quarantine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict, the sentences that explain it, and every rule that was looked at."""

    verdict: Verdict
    reasons: tuple[str, ...]
    rules: tuple[RuleOutcome, ...]
    evidence: EvidenceState | None = None
    """What the nights so far say, to be kept for the next one; the same if tonight adds nothing or is overridden."""


def decide(
    gate: Gate,
    evaluation: EvaluationResult,
    *,
    primary: str,
    history: GateHistory,
    slice_columns: Sequence[str] = (),
) -> Decision:
    """Judge the challenger.

    Too few rows or clusters: INCONCLUSIVE, whatever else. Else, a rule that fails: REJECT. Else, one that is undecided:
    INCONCLUSIVE. PROMOTE if all pass, and at least one of them is a floor or a comparison with the champion.

    Args:
        gate: the spec's policy.
        evaluation: what was measured, its intervals with two-sided confidence 2 * gate.rule.confidence - 1.
        primary: the metric that the rule compares.
        history: what happened before.
        slice_columns: the spec's `evaluation.slices`, so that a column that was not measured is missed.
    """
    enough = tuple(enough_data(gate, evaluation))
    is_enough = all(rule.verdict is Outcome.PASS for rule in enough)
    state = evidence_state(gate, evaluation, history, primary=primary, enough=is_enough)
    rules = (
        *enough,
        *sound_challenger(evaluation),
        not_quarantined(evaluation, history),
        *known_past(history),
        *floors(gate, evaluation, primary),
        against_champion(gate, evaluation, primary, history),
        *judge_slices(gate, evaluation, primary=primary, columns=slice_columns),
        *judge_fairness(gate, evaluation, primary=primary),
        *judge_costs(gate, evaluation),
        *calm(gate, evaluation, history),
        *enough_evidence(gate, evaluation, history, state),
    )
    verdict = _verdict(is_enough, rules)
    return Decision(
        verdict=verdict,
        reasons=tuple(dict.fromkeys(_reasons(verdict, rules))),
        rules=rules,
        evidence=state if isinstance(state, EvidenceState) and not history.is_overridden else history.evidence,
    )


def _verdict(is_enough: bool, rules: Iterable[RuleOutcome]) -> Verdict:
    found = {rule.verdict for rule in rules}
    if is_enough and Outcome.FAIL in found:
        return Verdict.REJECT
    return Verdict.PROMOTE if is_enough and found == {Outcome.PASS} else Verdict.INCONCLUSIVE


def _reasons(verdict: Verdict, rules: Sequence[RuleOutcome]) -> Iterator[str]:
    """Of a promotion, what it rests on; else what stands in its way, the comparison as a whole before its parts."""
    if verdict is Verdict.PROMOTE:
        telling = [rule for rule in rules if rule.name not in _BASICS and rule.group != SLICES]
        telling.sort(key=lambda rule: _FOR.index(rule.name) if rule.name in _FOR else len(_FOR))
    elif verdict is Verdict.REJECT:
        telling = [rule for rule in rules if rule.verdict is Outcome.FAIL]
    else:
        telling = [rule for rule in rules if rule.verdict is not Outcome.PASS]
    parts = [rule for rule in telling if rule.group == SLICES]
    hidden = parts[SHOWN_SLICES:]
    for rule in telling:
        if not any(rule is other for other in hidden):
            yield rule.sentence
        elif rule is hidden[0]:
            more = counted(len({part.subject for part in hidden}), "more slice")
            yield f"The same goes for {more}; see the rules."
