"""The page that tells how a challenger's shadow or canary ended: what serves, what was tried, why, what to do next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from perennial.domain.canary import GUARDRAILS
from perennial.domain.rollout import RolloutRecord, Step
from perennial.domain.rules.outcome import Outcome, RuleOutcome
from perennial.domain.wording import counted, digits_for, duration, number, plain
from perennial.reports.next_steps import next_run, shares
from perennial.reports.page import MISSING, render
from perennial.reports.rule_words import TONES
from perennial.spec.model import ModelSpec

LIMIT_AT: Final = 80.0
"""Where a drawing has the limit, in px of `WIDTH`."""
WIDTH: Final = 120.0
_MULTIPLE: Final = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One guardrail at the end of a step, as the table shows it."""

    name: str
    asked: str
    found: str
    samples: str
    bar: float | None
    """Length in px, the limit being at `LIMIT_AT`; None: nothing to draw."""
    sentence: str
    """What is wrong, where the figures don't say it."""
    verdict: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step as the table shows it."""

    share: str
    percent: float
    began: str
    lasted: str
    note: str
    outcome: str
    tone: str
    findings: list[Finding]


def rollout_page(spec: ModelSpec, record: RolloutRecord) -> bytes:
    """Self-contained HTML, UTF-8; the same inputs give the same bytes.

    Args:
        spec: the model's.
        record: how it ended. The page is true of that moment, and says how to ask what serves now.
    """
    steps = [_step(spec, record, step) for step in record.steps]
    return render(
        "rollout.html.j2",
        spec=spec,
        record=record,
        trial=record.trial,
        request=record.trial.request,
        badge=_badge(record),
        tone="ok" if record.passed else "bad" if record.at_fault else "neutral",
        serving=_serving(record),
        steps=_next_steps(spec, record),
        walked=steps,
        last=steps[-1] if steps else None,
        took=duration(record.ended_at - record.trial.asked_at),
        waited=_waited(record),
        decision_link=_decision_link(record),
        limit_at=LIMIT_AT,
        width=WIDTH,
    )


def _badge(record: RolloutRecord) -> str:
    if record.passed:
        return "PASSED"
    return "TAKEN BACK" if record.stopped_by is None else "STOPPED"


def _serving(record: RolloutRecord) -> str:
    """What answers requests from the end on, in one sentence."""
    trial, champion = record.trial, record.champion_at_end
    if champion is None:
        return (
            f"Somebody took the alias `champion` away; what served last, version {trial.champion}, goes on without it."
        )
    if champion != trial.champion:
        return f"Champion version {champion}, which took over meanwhile, answers all requests."
    if not record.passed or trial.phase == "shadow":
        return f"Champion version {champion} answers all requests."
    return (
        f"Version {trial.challenger} answers {plain(record.share)} % of the requests and is to take over from champion "
        f"version {champion}."
    )


def _next_steps(spec: ModelSpec, record: RolloutRecord) -> list[str]:
    """Sentences, with commands and fields between backticks; the one that matters most first."""
    name, trial = spec.name, record.trial
    now = f"What serves at this moment: `perennial champion {name}`."
    if record.passed:
        return [*_goes_on(spec, record), now]
    if record.champion_at_end is None:
        back = f"`perennial rollback {name} --to {trial.champion}` puts version {trial.champion} back."
        return [back, "Then start a new run.", now]
    if not record.at_fault:
        return [_no_fault(spec, record), "The model is not in quarantine: a new run may try it again.", now]
    causes = [] if record.stopped_by else [_cause(spec, record, finding) for finding in _failed(record)]
    return [
        "Nothing has to be done for production.",
        *causes,
        f"The model is in quarantine: the same bytes are not promoted again. {next_run(spec)}",
        f"To put version {trial.challenger} into production all the same, at once and on record: `perennial rollback "
        f"{name} --to {trial.challenger} --reason TEXT`.",
        now,
    ]


def _goes_on(spec: ModelSpec, record: RolloutRecord) -> list[str]:
    trial = record.trial
    fence = f"if version {trial.champion} is champion still"
    canary = None if spec.deployment is None else spec.deployment.canary
    stop = f"`perennial rollback {spec.name} --challenger` takes it off live traffic."
    if trial.phase == "shadow" and canary is not None:
        return [f"The run goes on by itself with the canary: {shares(canary)} of the requests, {fence}.", stop]
    goes = f"The run goes on by itself: version {trial.challenger} gets the alias `champion`, {fence}."
    back = f"`perennial rollback {spec.name}`"
    return [goes, f"Until then `perennial rollback {spec.name} --challenger` takes it back, afterwards {back}."]


def _no_fault(spec: ModelSpec, record: RolloutRecord) -> str:
    """What stood in the way of a challenger that no guardrail speaks against."""
    trial = record.trial
    if record.champion_at_end != trial.champion:
        return "Start a new run: it judges against the version that is champion now."
    undecided = [finding for finding in _last_findings(record) if finding.verdict is Outcome.UNDECIDED]
    short = [finding for finding in undecided if finding.sentence in record.reason]
    if not short:
        return "Repair what the reason names."
    rollout = None if spec.deployment is None else spec.deployment.rollouts.get(trial.phase)
    now = "" if rollout is None else f" (now {duration(rollout.max_extend)})"
    fields = ", ".join(f"`{finding.name}.min_samples`" for finding in short)
    return (
        f"Too few samples: it takes more requests (for `performance_loss` labels that come sooner), a longer "
        f"`deployment.{trial.phase}.max_extend`{now}, or less for {fields} in `deployment.{trial.phase}.guardrails`."
    )


def _cause(spec: ModelSpec, record: RolloutRecord, finding: RuleOutcome) -> str:
    """Where to look for the cause of a breach."""
    if finding.estimate is None:
        return (
            f"The {_name(spec, finding)} could not be measured: does the prediction log reach the store? Metrics "
            f"`perennial_serving_log_*` of the scoring service, and its log, tell."
        )
    return _CAUSES[finding.name](record)


_CAUSES: Final[dict[str, Callable[[RolloutRecord], str]]] = {
    "error_rate": lambda record: (
        f"What version {record.trial.challenger} raised is in the scoring service's log, and in column `error` of the "
        f"prediction log."
    ),
    "latency_p95_ratio": lambda record: (
        f"Compare the costs of versions {record.trial.champion} and {record.trial.challenger} on the decision's page; "
        f"`gate.cost` can refuse a slow model before it meets live traffic."
    ),
    "prediction_distance": lambda record: (
        f"Compare both versions' predictions in the prediction log: either live features are not those of training, or "
        f"the new model is meant to differ, and `deployment.{record.trial.phase}.guardrails.prediction_distance` is "
        f"too strict."
    ),
    "performance_loss": lambda record: (
        f"On live rows whose labels have come version {record.trial.challenger} is worse, which the holdout did not "
        f"show: look for features that live requests have otherwise than the landed data."
    ),
}


def _last_findings(record: RolloutRecord) -> tuple[RuleOutcome, ...]:
    return record.steps[-1].findings if record.steps else ()


def _failed(record: RolloutRecord) -> list[RuleOutcome]:
    return [finding for finding in _last_findings(record) if finding.verdict is Outcome.FAIL]


def _step(spec: ModelSpec, record: RolloutRecord, step: Step) -> StepRow:
    verdicts = {finding.verdict for finding in step.findings}
    outcome, tone = "every guardrail held", "ok"
    if not verdicts:
        outcome, tone = "not judged", "neutral"
    elif Outcome.FAIL in verdicts:
        outcome, tone = "a guardrail did not hold", "bad"
    elif Outcome.UNDECIDED in verdicts:
        outcome, tone = "too few samples", "neutral"
    return StepRow(
        share=f"{plain(step.share)} %",
        percent=step.share,
        began=step.began_at.isoformat(),
        lasted=duration((step.ended_at or record.ended_at) - step.began_at),
        note=f"began anew {counted(step.restarts, 'time')}" if step.restarts else "",
        outcome=outcome,
        tone=tone,
        findings=[_finding(spec, finding) for finding in step.findings],
    )


def _finding(spec: ModelSpec, finding: RuleOutcome) -> Finding:
    value, limit = finding.estimate, finding.threshold
    unit, least = (_MULTIPLE, 2) if finding.name == "latency_p95_ratio" else ("", 4)
    digits = digits_for([value], apart_from=limit, least=least)
    return Finding(
        name=_name(spec, finding),
        asked=MISSING if limit is None else f"at most {plain(limit)}{unit}",
        found="not available" if value is None else f"{number(value, digits)}{unit}",
        samples=MISSING if finding.n is None else f"{finding.n:,}",
        bar=None if value is None or not limit else min(WIDTH, max(0.0, round(LIMIT_AT * value / limit, 1))),
        sentence=finding.sentence if value is None or finding.verdict is Outcome.UNDECIDED else "",
        verdict=finding.verdict.value,
        tone=TONES[finding.verdict],
    )


def _name(spec: ModelSpec, finding: RuleOutcome) -> str:
    if finding.name == "performance_loss":
        return f"loss of {spec.evaluation.primary} against the champion"
    return GUARDRAILS[finding.name][0] if finding.name in GUARDRAILS else finding.name.replace("_", " ")


def _waited(record: RolloutRecord) -> str:
    """How long the platform took to bring the challenger up; empty if that is nothing to speak of."""
    began = record.steps[0].began_at if record.steps else record.ended_at
    waited = began - record.trial.asked_at
    return duration(waited) if waited >= timedelta(seconds=1) else ""


def _decision_link(record: RolloutRecord) -> str:
    """From this page to the decision's, as both are served in Airflow; empty if it does not lie beside it."""
    _, there, rest = record.trial.decision.page_uri.partition(f"/decisions/{record.trial.model}/")
    return f"../../../decisions/{rest}" if there else ""
