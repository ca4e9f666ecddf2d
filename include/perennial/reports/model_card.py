"""The model card that is kept with a promoted version: Markdown, for people who meet the model without Perennial.

Sections after Mitchell et al. 2019, "Model Cards for Model Reporting", FAT* '19, pp. 220-229.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from perennial.domain.evaluation import EvaluationResult, FairnessResult, MetricEstimate, SliceResult
from perennial.domain.metric_names import METRICS
from perennial.domain.references import ApprovalRef, ModelRef, RolloutRef, SmokeTestRef, SnapshotRef
from perennial.domain.rules.outcome import SLICES, Outcome
from perennial.domain.run_request import RunRequest, training_params
from perennial.domain.times import format_time, parse_time
from perennial.domain.wording import digits_for, number
from perennial.reports.estimate_words import estimate_words, interval_words, p_value
from perennial.reports.markdown import render_markdown
from perennial.reports.page import MISSING
from perennial.reports.rule_words import NAMES
from perennial.spec.model import ModelSpec

SHOWN_SLICES: Final = 25
"""Values of a slice column: those that did not pass, then those with the most rows; the decision page has more."""
_WORST_FIRST: Final = (Outcome.FAIL, Outcome.UNDECIDED, Outcome.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: what, and the texts of both models and of the difference."""

    name: str
    rows: int
    challenger: str
    champion: str
    difference: str
    outcome: str = ""
    """Of the gate; empty where it does not judge this."""
    p: str = ""
    """Of a slice's test, after Holm's correction."""


def model_card(
    spec: ModelSpec,
    *,
    request: RunRequest,
    model: ModelRef,
    snapshot: SnapshotRef,
    evaluation: EvaluationResult,
    decision: Mapping[str, Any],
    approval: ApprovalRef | None = None,
    smoke: SmokeTestRef | None = None,
    rollouts: Sequence[RolloutRef] = (),
    version: str | None = None,
    code_version: str = "",
    run_url: str = "",
    page_address: str = "",
) -> str:
    """Markdown; the same inputs give the same text. Text of users is escaped; no secret gets in.

    Args:
        spec: as it was judged by.
        request: of the run that trained and judged the model.
        model: the challenger, which is to become champion.
        snapshot: its data.
        evaluation: the stored result that the decision rests on.
        decision: content of the stored `decision.json`.
        approval: a person's answer, if one was asked for.
        smoke: what the model did in a clean process, if it was tried out there.
        rollouts: its shadow and canary, if the spec asks for them and there was a champion to compare with.
        version: in the registry, if it is known already.
        code_version: digest of the estimator's sources and libraries (`perennial.stages.estimator.code_version`).
        run_url: where a person looks at the training's run.
        page_address: http address of the decision page, or its `s3://` uri.
    """
    return render_markdown(
        "model_card.md.j2",
        spec=spec,
        request=request,
        model=model,
        snapshot=snapshot,
        evaluation=evaluation,
        decision=decision,
        approval=approval,
        smoke=smoke,
        rollouts=rollouts,
        version=version,
        code_version=code_version,
        run_url=run_url,
        page_address=page_address,
        command=reproducing_command(spec, request, evaluation),
        params={**training_params(spec, request), "seed": spec.training.seed},
        training=(format_time(model.training_start), format_time(model.training_end)),
        metrics=_metric_rows(spec, evaluation),
        slices=_slice_rows(spec, evaluation, decision),
        names=NAMES,
        rules=[rule for rule in decision["rules"] if rule.get("group") != SLICES],
        fairness=[_fairness_row(found) for found in evaluation.fairness],
        interval=interval_words(evaluation),
        calibration=_calibration(evaluation),
    )


def reproducing_command(spec: ModelSpec, request: RunRequest, evaluation: EvaluationResult) -> str:
    """The command that takes the same data, windows and parameters again, for a shell.

    Where the run stood in time is not repeated, but the end of its data: newer files, landed since, would move the
    windows. At the holdout's end plus `data.label_delay` they lie where they lay, whatever came later.
    """
    stood_at = parse_time(evaluation.holdout[1]) + spec.data.label_delay
    overrides = [
        word for name, value in sorted(request.params.items()) for word in ("--param", f"{name}={json.dumps(value)}")
    ]
    return shlex.join(["perennial", "run", spec.name, "--as-of", format_time(stood_at), *overrides, "--force"])


def _metric_rows(spec: ModelSpec, evaluation: EvaluationResult) -> list[Row]:
    rows = []
    for name in spec.evaluation.all_metrics:
        found = evaluation.comparisons.get(name)
        if found is None:
            continue
        info = METRICS[name]
        better = f"{name}, {'higher' if info.higher_is_better else 'lower'} is better"
        rows.append(
            Row(
                name=f"{better}, primary" if name == spec.evaluation.primary else better,
                rows=evaluation.rows,
                challenger=_estimate(found.challenger),
                champion=_estimate(found.champion),
                difference=_estimate(found.difference, sign=True),
            )
        )
    return rows


def _slice_rows(spec: ModelSpec, evaluation: EvaluationResult, decision: Mapping[str, Any]) -> list[Row]:
    """Those that did not pass first; then the evaluation's order, most rows first."""
    rules: dict[str, list[Mapping[str, Any]]] = {}
    for rule in sorted(decision["rules"], key=lambda rule: _WORST_FIRST.index(Outcome(rule["verdict"]))):
        if rule.get("group") == SLICES and rule.get("subject"):
            rules.setdefault(rule["subject"], []).append(rule)
    rows = []
    for column in spec.evaluation.slices:
        parts = [part for part in evaluation.slices if part.column == column]
        judged = [(part, rules.get(f"{column} = {part.value}", [])) for part in parts]
        judged.sort(key=lambda pair: _WORST_FIRST.index(Outcome(pair[1][0]["verdict"])) if pair[1] else len(rules))
        rows += [_slice_row(part, found) for part, found in judged[:SHOWN_SLICES]]
    return rows


def _slice_row(part: SliceResult, rules: list[Mapping[str, Any]]) -> Row:
    gap = part.difference
    if gap is None and part.challenger is not None and part.champion is not None:
        gap = MetricEstimate(value=part.challenger - part.champion, low=None, high=None)
    test = next((rule for rule in rules if rule.get("p_adjusted") is not None), None)
    return Row(
        name=f"{part.column} = {part.value}",
        rows=part.rows,
        challenger=_value(part.challenger),
        champion=_value(part.champion),
        difference=_estimate(gap, sign=True),
        outcome=str(rules[0]["verdict"]) if rules else "not judged",
        p=p_value(None if test is None else test["p_adjusted"]),
    )


def _fairness_row(found: FairnessResult) -> Row:
    return Row(
        name=f"{found.metric} between {found.column} = {', '.join(group.group for group in found.groups)}",
        rows=sum(group.rows for group in found.groups),
        challenger=_estimate(found.challenger_gap),
        champion=_estimate(found.champion_gap),
        difference=_estimate(found.increase, sign=True),
    )


def _estimate(found: MetricEstimate | None, *, sign: bool = False) -> str:
    value, interval = estimate_words(found, sign=sign)
    return f"{value} {interval}" if interval.startswith("[") else value


def _value(value: float | None) -> str:
    return MISSING if value is None else number(value, digits_for([value]))


def _calibration(evaluation: EvaluationResult) -> str:
    """A sentence, or nothing where there are no calibration curves.

    The mean distance, weighted by rows, of predicted probability and observed share (the expected calibration error of
    Naeini, Cooper & Hauskrecht 2015, AAAI-15, pp. 2901-2907, with groups of equal size).
    """
    said = []
    for who in ("challenger", "champion"):
        groups = evaluation.curves[who].calibration if who in evaluation.curves else ()
        rows = sum(n for _, _, n in groups)
        if rows:
            error = sum(n * abs(share - predicted) for predicted, share, n in groups) / rows
            said.append(f"{error:.3f} for the {who}")
    return " and ".join(said)
