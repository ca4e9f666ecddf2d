"""What happens after a decision, and what a person can do: sentences, with commands and fields between backticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.gate import Decision, Outcome, RuleOutcome, is_champion_itself
from perennial.domain.gate_history import GateHistory
from perennial.domain.references import Verdict
from perennial.domain.rollout import longest
from perennial.domain.rows_needed import rows_needed
from perennial.domain.rules.comparison import holdout_days
from perennial.domain.rules.outcome import direction
from perennial.domain.run_request import RunRequest
from perennial.domain.wording import counted, duration, moment, plain
from perennial.reports.rule_words import rule_row
from perennial.spec.deployment import Rollout
from perennial.spec.model import ModelSpec

SHOWN: Final = 4
"""Ways out that are told; whoever has more obstacles than that begins with these."""
_TOO_SMALL: Final = ("rows", "clusters")
_COMPARISONS: Final = ("superiority", "non_inferiority")
_PARTS: Final = ("slice", "slice_floor", "fairness_increase")
"""Rules on parts of the data: what is open in them is open for want of rows."""
_FIELDS: Final = {
    "floor": "gate.floors",
    "superiority": "gate.rule",
    "non_inferiority": "gate.rule",
    "slice": "gate.slices",
    "slice_floor": "gate.slices.floor",
    "fairness_gap": "gate.fairness",
    "fairness_increase": "gate.fairness",
    "latency": "gate.cost.max_latency_p95_ms",
    "latency_ratio": "gate.cost.max_latency_ratio",
    "size": "gate.cost.max_size_mib",
    "size_ratio": "gate.cost.max_size_ratio",
}
"""Where the spec says what a rule asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    spec: ModelSpec
    evaluation: EvaluationResult
    history: GateHistory | None


def next_steps(
    spec: ModelSpec,
    request: RunRequest,
    *,
    evaluation: EvaluationResult,
    decision: Decision,
    history: GateHistory | None,
) -> list[str]:
    """The sentence that matters most first; at most `SHOWN` + 2.

    Args:
        spec: the model's.
        request: the run's; broken glass needs no approval.
        evaluation: what was judged.
        decision: the verdict that counts.
        history: the champion's past; None: not known.
    """
    if decision.verdict is Verdict.PROMOTE:
        return _carried_out(spec, request, evaluation)
    if is_champion_itself(evaluation):
        found = ["Nothing: the same data, code and parameters gave the champion once more."]
    else:
        found = _ways_out(_Case(spec=spec, evaluation=evaluation, history=history), decision)
    more = len(found) - SHOWN
    told = [*found[:SHOWN], *([f"{counted(more, 'more obstacle')} below."] if more > 0 else [])]
    return [*told, next_run(spec)]


def _carried_out(spec: ModelSpec, request: RunRequest, evaluation: EvaluationResult) -> list[str]:
    before = evaluation.champion_version
    walk = {} if before is None or request.break_glass or spec.deployment is None else spec.deployment.rollouts
    lasts = sum(map(longest, walk.values()), timedelta())
    door = _door(walk, lasts, before)
    if request.break_glass or not spec.approval.required:
        steps = [f"The run goes on by itself: {door}."]
    else:
        who = ", ".join(spec.approval.approvers) or "anybody who may answer this DAG's tasks"
        within = f"within {duration(spec.approval.timeout)} of being asked"
        steps = [
            f"Someone has to approve it in Airflow (Required actions): {who}, {within}. No answer is a No.",
            f"After a Yes {door}. {duration(spec.gate.verdict_expires + lasts)} after this decision the verdict "
            f"expires.",
        ]
    if walk:
        steps.append(f"`perennial rollback {spec.name} --challenger` takes the challenger off live traffic meanwhile.")
    undo = "" if before is None else f" `perennial rollback {spec.name}` takes it back."
    return [*steps, f"`perennial champion {spec.name}` tells whether that has happened.{undo}"]


def _door(walk: Mapping[str, Rollout], lasts: timedelta, before: str | None) -> str:
    """What the challenger goes through on its way to the alias."""
    if not walk:
        fence = "" if before is None else f", if version {before} is champion still"
        return f"the challenger is tried out, registered, and gets the alias `champion`{fence}"
    does = {"shadow": "scores a copy of", "canary": "answers"}
    stages = ", then ".join(f"{does[phase]} {shares(rollout)} of the live requests" for phase, rollout in walk.items())
    return (
        f"the challenger is tried out, registered, {stages} ({' and '.join(walk)}, at most {duration(lasts)}), and "
        f"gets the alias `champion` if every guardrail holds and version {before} is champion still"
    )


def shares(rollout: Rollout) -> str:
    """Such as `5, 25, 50 and 100 %`."""
    *some, last = (plain(share) for share in rollout.shares)
    return f"{', '.join(some)} and {last} %" if some else f"{last} %"


def _ways_out(case: _Case, decision: Decision) -> list[str]:
    """One for each kind of obstacle; of too small a holdout, nothing else."""
    stands = (Outcome.FAIL,) if decision.verdict is Verdict.REJECT else (Outcome.UNDECIDED, Outcome.FAIL)
    obstacles = [rule for rule in decision.rules if rule.verdict in stands]
    small = [rule for rule in obstacles if rule.name in _TOO_SMALL]
    by_kind: dict[tuple[str, Outcome], list[RuleOutcome]] = {}
    for rule in small or obstacles:
        kind = "slice" if rule.verdict is Outcome.UNDECIDED and rule.name in _PARTS else rule.name
        by_kind.setdefault((kind, rule.verdict), []).append(rule)
    return [_way_out(case, rules) for rules in by_kind.values()]


def _way_out(case: _Case, rules: Sequence[RuleOutcome]) -> str:
    name, verdict = rules[0].name, rules[0].verdict
    if verdict is Outcome.UNDECIDED and name in _PARTS:
        return _more_rows(case, rules)
    told = (_AFTER_FAIL if verdict is Outcome.FAIL else _AFTER_UNDECIDED).get(name)
    if told is not None:
        return told(case, rules[0])
    what = _called(rules)
    if verdict is Outcome.UNDECIDED:
        return _not_judged(rules[0])
    row, field = rule_row(rules[0]), _FIELDS.get(name)
    if not row.asked or rules[0].estimate is None or field is None:
        return f"Repair what fails: {what}; what is wrong stands below."
    figures = f", {row.found} where {row.asked} is asked for" if len(rules) == 1 else ""
    way = f"another challenger, or another `{field}` in the spec"
    if name in _COMPARISONS:
        way = "a better challenger: newer data, other features or parameters"
    return f"What fails: {what}{figures}. It takes {way}."


def _not_judged(rule: RuleOutcome) -> str:
    return f"Not judged: {_called([rule])}; what is missing stands below."


def _called(rules: Sequence[RuleOutcome]) -> str:
    """Such as `growth of the gap (origin, roc_auc)` or `slice not worse (origin = LGA and 3 more, roc_auc)`."""
    row = rule_row(rules[0])
    subject = row.subject + (f" and {len(rules) - 1:,} more" if row.subject and len(rules) > 1 else "")
    about = ", ".join(part for part in (subject, row.metric) if part)
    return f"{row.name} ({about})" if about else row.name


def _longer_holdout(case: _Case, days: str = "") -> str:
    return f"a longer `data.windows.holdout` (now {duration(case.spec.data.windows.holdout)}{days})"


def _too_few(case: _Case, rule: RuleOutcome) -> str:
    short = counted(int((rule.threshold or 0) - (rule.n or 0)), "row" if rule.name == "rows" else "cluster")
    return f"The holdout lacks {short}: {_longer_holdout(case)}, more data a day, or a lower `gate.min_{rule.name}`."


def _more_data(case: _Case, rule: RuleOutcome) -> str:
    """By how many days, if the figures tell."""
    needed = None
    if rule.estimate is not None and rule.low is not None and rule.high is not None and rule.threshold is not None:
        sign = direction(rule.metric or "")
        low, high = sorted((sign * rule.low, sign * rule.high))
        days = holdout_days(case.evaluation)
        needed = rows_needed(sign * rule.estimate, low, high, limit=sign * rule.threshold, rows=rule.n or 0, days=days)
    if needed is None:
        return _not_judged(rule)
    if needed.rows is None:
        return "More data of this kind would hardly settle it: it takes a challenger that is clearly better."
    days_words = "" if needed.days is None else f", about {counted(needed.days, 'day')} would have even odds"
    return f"It takes {_longer_holdout(case, days_words)}, or a challenger that is more clearly better."


def _more_rows(case: _Case, rules: Sequence[RuleOutcome]) -> str:
    parts = list(dict.fromkeys(rule.subject or "all rows" for rule in rules))
    more = f" and {len(parts) - 1:,} more" if len(parts) > 1 else ""
    return f"Open for want of rows: {parts[0]}{more}. It takes {_longer_holdout(case)}, or more data a day."


def _more_nights(_case: _Case, rule: RuleOutcome) -> str:
    if rule.threshold is None or rule.estimate is None:
        return _not_judged(rule)
    if not math.isfinite(rule.threshold):
        return "Wait: the budget of `gate.false_promotions` is in use; from when on it is free stands below."
    return "Nothing has to be done for the evidence: each run adds what its new days say."


def _until(case: _Case, rule: RuleOutcome) -> str:
    if rule.name == "tenure" and rule.estimate is not None and case.history is not None and case.history.reigns:
        since = case.history.reigns[-1].since
        return f"From {moment(since + case.spec.gate.min_tenure)} on `gate.min_tenure` is no obstacle any more."
    return "Wait: from when on a promotion may follow stands below."


def _told(_case: _Case, _rule: RuleOutcome) -> str:
    return "The way out stands with the reason."


def _damaged(case: _Case, _rule: RuleOutcome) -> str:
    return f"Repair the record first: `perennial history {case.spec.name} --verify` tells the damage and the way out."


def _bad_scores(case: _Case, _rule: RuleOutcome) -> str:
    return f"Repair the estimator `{case.spec.training.estimator}`: its scores cannot be used."


def _taken_back(case: _Case, _rule: RuleOutcome) -> str:
    back = f"`perennial rollback {case.spec.name} --to VERSION`"
    return f"It takes another model: other data, code or parameters. To put this one back on purpose: {back}."


_AFTER_FAIL: Final[dict[str, Callable[[_Case, RuleOutcome], str]]] = {
    "scores": _bad_scores,
    "quarantine": _taken_back,
}
_AFTER_UNDECIDED: Final[dict[str, Callable[[_Case, RuleOutcome], str]]] = {
    "rows": _too_few,
    "clusters": _too_few,
    "superiority": _more_data,
    "non_inferiority": _more_data,
    "evidence": _more_nights,
    "tenure": _until,
    "promotions_per_week": _until,
    "history": _damaged,
    "policy": _told,
}


def next_run(spec: ModelSpec) -> str:
    """What starts it."""
    triggers = spec.triggers
    ways = []
    if triggers.schedule is not None:
        ways.append(f"the schedule (`{triggers.schedule}`, in UTC)")
    if triggers.new_data is not None:
        ways.append("newly landed data")
    if not ways:
        return f"Nothing starts the next run by itself: trigger the DAG, or `perennial run {spec.name}`."
    return f"The next run, started by {' or '.join(ways)}, trains and judges a new challenger."
