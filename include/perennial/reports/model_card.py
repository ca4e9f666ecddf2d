"""The model card that is kept with a promoted version: Markdown, for people who meet the model without Perennial.

Sections after Mitchell et al. 2019, "Model Cards for Model Reporting", FAT* '19, pp. 220-229.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from perennial.domain.evaluation import EvaluationResult, FairnessResult, MetricEstimate
from perennial.domain.metric_names import METRICS
from perennial.domain.references import ApprovalRef, ModelRef, SnapshotRef
from perennial.domain.run_request import RunRequest, training_params
from perennial.domain.times import format_time
from perennial.domain.wording import digits_for, number, plain
from perennial.reports.markdown import render_markdown
from perennial.spec.model import ModelSpec

SHOWN_SLICES: Final = 25
"""Values of a slice column, those with the most rows; the evaluation has more."""
MISSING: Final = "\N{EN DASH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: what, and the texts of both models and of the difference."""

    name: str
    rows: int
    challenger: str
    champion: str
    difference: str


def model_card(
    spec: ModelSpec,
    *,
    request: RunRequest,
    model: ModelRef,
    snapshot: SnapshotRef,
    evaluation: EvaluationResult,
    decision: Mapping[str, Any],
    approval: ApprovalRef | None = None,
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
        version=version,
        code_version=code_version,
        run_url=run_url,
        page_address=page_address,
        as_of=format_time(request.as_of),
        params={**training_params(spec, request), "seed": spec.training.seed},
        training=(format_time(model.training_start), format_time(model.training_end)),
        metrics=_metric_rows(spec, evaluation),
        slices=_slice_rows(spec, evaluation),
        fairness=[_fairness_row(found) for found in evaluation.fairness],
        two_sided=f"{plain(round(100 * evaluation.confidence, 9))} %",
        calibration=_calibration(evaluation),
    )


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


def _slice_rows(spec: ModelSpec, evaluation: EvaluationResult) -> list[Row]:
    rows = []
    for column in spec.evaluation.slices:
        for part in [part for part in evaluation.slices if part.column == column][:SHOWN_SLICES]:
            gap = part.difference
            if gap is None and part.challenger is not None and part.champion is not None:
                gap = MetricEstimate(value=part.challenger - part.champion, low=None, high=None)
            rows.append(
                Row(
                    name=f"{column} = {part.value}",
                    rows=part.rows,
                    challenger=_value(part.challenger),
                    champion=_value(part.champion),
                    difference=_estimate(gap, sign=True),
                )
            )
    return rows


def _fairness_row(found: FairnessResult) -> Row:
    return Row(
        name=f"{found.metric} between {found.column} = {', '.join(group.group for group in found.groups)}",
        rows=sum(group.rows for group in found.groups),
        challenger=_estimate(found.challenger_gap),
        champion=_estimate(found.champion_gap),
        difference=_estimate(found.increase, sign=True),
    )


def _estimate(found: MetricEstimate | None, *, sign: bool = False) -> str:
    if found is None:
        return MISSING
    digits = digits_for([found.low, found.value, found.high])
    if found.low is None or found.high is None:
        return number(found.value, digits, sign=sign)
    return f"{number(found.value, digits, sign=sign)} [{number(found.low, digits)}, {number(found.high, digits)}]"


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
