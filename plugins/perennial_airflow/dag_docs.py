"""A spec in words, for people who read the DAG's page in Airflow. The same spec gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable

from perennial.addresses import monitor_dag_id, retrain_dag_id, rollback_dag_id
from perennial.domain.metric_names import METRICS
from perennial.spec import ModelSpec
from perennial.spec.deployment import Rollout
from perennial.spec.fields import format_duration
from perennial.spec.parts import Superiority


def dag_doc(spec: ModelSpec) -> str:
    """Markdown: what the model is for, its data, how it is judged, what starts a run, what to do when."""
    data = spec.data
    settle = f"; a file younger than {format_duration(data.settle)} is left for the next run" if data.settle else ""
    return "\n".join(
        [
            f"### {spec.name}",
            "",
            spec.description,
            "",
            f"Owner: {spec.owner}. Kind: {spec.task.replace('_', ' ')}. Declared in `{spec.name}.yaml`.",
            "",
            "| | |",
            "| --- | --- |",
            f"| data | `{data.landing}` ({data.format}), {len(data.feature_columns)} features, label "
            f"`{data.label_column}`, known {format_duration(data.label_delay)} after `{data.time_column}`{settle} |",
            f"| windows | {_windows(spec)} |",
            f"| checks | suite `{spec.validation.suite}` |",
            f"| training | `{spec.training.estimator}`, seed {spec.training.seed} |",
            f"| rule | {rule_in_words(spec)} |",
            f"| also required | {_floors(spec)} |",
            f"| approval | {_approval(spec)} |",
            f"| before it serves | {_trials(spec)} |",
            f"| a run starts | {_triggers(spec)} |",
            "",
            "**Colours.** Everything after `snapshot_data` skipped: nothing new to judge. `promote_if_better` skipped: "
            "judged, recorded, the champion stays; the button *Decision* (on the task's tab *Details*; its log has the "
            "address, too) says why. `validate_data` red: the data was refused; the button *Validation report* shows "
            f"the rows.{_trial_colours(spec)}",
            "",
            f"**Trigger by hand** takes a reason (kept in the ledger), a time to stand at (`as_of`), other training "
            f"parameters for this run only, and `force` to judge again what was judged before.{_break_glass(spec)}",
            "",
            f"**The way back** is `{rollback_dag_id(spec.name)}`.{_watched(spec)}",
        ]
    )


def rollback_doc(spec: ModelSpec) -> str:
    """Markdown: what the rollback does."""
    return (
        f"Puts an earlier champion of `{spec.name}` back, at once: the version that the form names, or the one before "
        "the present champion. It is tried out first; who went back, when and why goes into the ledger. The model that "
        f"was removed is kept in quarantine: retraining (`{retrain_dag_id(spec.name)}`) does not promote it again. To "
        "lift that, go back to its version here, with a reason."
    )


def monitor_doc(spec: ModelSpec) -> str:
    """Markdown: what is watched, what becomes of alerts, what to do when."""
    watching = spec.monitoring
    if watching is None:
        looks = (
            f"Comes back to alerts of `{spec.name}` that had to wait (see below); there is no `monitoring` in the spec."
        )
    else:
        rules = watching.alert
        looks = (
            f"Looks at the requests that `{spec.name}` has answered, in windows of {format_duration(watching.window)}: "
            f"whether their columns, the predictions, or (once labels are known) the performance are other than when "
            f"the model was trained, and how the service does. {rules.windows} of the last {rules.of} windows, the "
            f"newest among them, make an alert. The button *Monitoring report* of `observe` shows it all."
        )
    return "\n\n".join([looks, _alerts(spec), _monitor_colours(spec)])


def _alerts(spec: ModelSpec) -> str:
    policy = spec.triggers.on_drift
    retrain = retrain_dag_id(spec.name)
    told = len(spec.monitoring.notify) if spec.monitoring is not None else 0
    people = f" {told} {'address is' if told == 1 else 'addresses are'} told of each alert." if told else ""
    if policy is None:
        return f"**Alerts** start nothing: the spec has no `triggers.on_drift`.{people}"
    rows = f", once {policy.min_new_rows:,} rows have landed" if policy.min_new_rows else ""
    return (
        f"**Alerts** go to the webhook, which starts `{retrain}`: at most {policy.max_runs_per_day} times a day, "
        f"{format_duration(policy.cooldown)} after its last run{rows}. Until then an alert waits, and is come back to "
        f"here, for {format_duration(policy.give_up_after)} at most. What became of each: "
        f"`perennial alert {spec.name} --list`.{people}"
    )


def _monitor_colours(spec: ModelSpec) -> str:
    look = "`observe` red: nothing was judged, the log says why. " if spec.monitoring is not None else ""
    return (
        f"**Colours.** {look}`send_alerts` red: an alert did not get where it has to; it is kept, and the next run "
        f"tries again."
    )


def rule_in_words(spec: ModelSpec) -> str:
    """The gate's rule as a sentence."""
    rule = spec.gate.rule
    metric = spec.evaluation.primary
    direction = "higher" if METRICS[metric].higher_is_better else "lower"
    sure = (
        f"with {rule.confidence:.0%} confidence"
        if round(rule.confidence * 100, 9).is_integer()
        else (f"with confidence {rule.confidence:g}")
    )
    if isinstance(rule, Superiority):
        how = (
            f"better than the champion's by more than {rule.min_effect:g}"
            if rule.min_effect
            else "better than the champion's"
        )
    else:
        how = f"not worse than the champion's by {rule.margin:g} or more"
        if rule.refresh_after_days:
            how += f" (better, if the champion's training data is less than {rule.refresh_after_days} days older)"
    return f"promote only if the challenger's `{metric}` ({direction} is better) is {how}, {sure}"


def _windows(spec: ModelSpec) -> str:
    windows = spec.data.windows
    embargo = f", {format_duration(windows.embargo)} of embargo" if windows.embargo else ""
    return (
        f"the newest {format_duration(windows.holdout)} of complete data judge both models{embargo}, "
        f"the {format_duration(windows.training)} before that train the challenger"
    )


def _floors(spec: ModelSpec) -> str:
    gate = spec.gate
    groups = f" in {gate.min_clusters} groups by `{gate.cluster_by}`" if gate.cluster_by else ""
    limits = [
        f"`{name}` {'at least' if METRICS[name].higher_is_better else 'at most'} {limit:g}"
        for name, limit in sorted(gate.floors.items())
    ]
    return ", ".join([f"{gate.min_rows} holdout rows{groups}", *limits, *_guards(spec)])


def _guards(spec: ModelSpec) -> list[str]:
    """What else the gate looks at, in short; the decision's page has the numbers."""
    gate = spec.gate
    guards = []
    if gate.slices is not None:
        guards.append(f"no slice by {_names(spec.evaluation.slices)} worse by {gate.slices.margin:g}")
    if gate.fairness:
        guards.append(f"gaps between groups by {_names(rule.column for rule in gate.fairness)}")
    if gate.cost is not None:
        guards.append("limits on latency and size")
    if gate.min_tenure:
        guards.append(f"a champion stays {format_duration(gate.min_tenure)} at least")
    if gate.max_promotions_per_week is not None:
        guards.append(f"at most {gate.max_promotions_per_week} promotions in seven days")
    if gate.false_promotions is not None:
        budget = gate.false_promotions
        guards.append(f"at most {budget.budget:.1%} chance of a false promotion in {budget.period_days} days")
    return guards


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f"`{column}`" for column in dict.fromkeys(columns))


def _approval(spec: ModelSpec) -> str:
    approval = spec.approval
    if not approval.required:
        return "not needed"
    who = ", ".join(approval.approvers) or "whoever may answer tasks of this DAG"
    return (
        f"by {who} within {format_duration(approval.timeout)}; no answer is a No. The model's next run starts after "
        f"the answer"
    )


def _trials(spec: ModelSpec) -> str:
    if spec.deployment is None:
        return "it is tried out on its input example; then the alias `champion` moves, and nothing more"
    walks = [f"{name} of {rollout_in_words(rollout)}" for name, rollout in spec.deployment.rollouts.items()]
    return ", then ".join(["smoke test in a clean process", *walks])


def rollout_in_words(rollout: Rollout) -> str:
    """Its shares, and how long they last."""
    shares = ", ".join(f"{share:g}" for share in rollout.shares)
    each = "" if len(rollout.shares) == 1 else " each"
    longest = format_duration(rollout.longest)
    return f"{shares} % of the keys for {format_duration(rollout.every)}{each} (all in all {longest} at most)"


def _trial_colours(spec: ModelSpec) -> str:
    if spec.deployment is None:
        return ""
    said = " `smoke_test` red: the challenger does not work outside its training."
    if walks := " or ".join(f"`{name}`" for name in spec.deployment.rollouts):
        said += (
            f" {walks} deferred: live traffic is trying the challenger out, and the model's next run starts after it; "
            f"green: over, and the button *Rollout* says whether the challenger passed or was taken back."
        )
    return said


def _break_glass(spec: ModelSpec) -> str:
    named = ", ".join(spec.approval.break_glass)
    return f" {named} may also *break the glass*: promote against the gate's verdict, on record." if named else ""


def _watched(spec: ModelSpec) -> str:
    return "" if spec.monitoring is None else f" While it serves, `{monitor_dag_id(spec.name)}` watches it."


def _triggers(spec: ModelSpec) -> str:
    triggers = spec.triggers
    ways = []
    if triggers.schedule:
        ways.append(f"by the clock (`{triggers.schedule}` UTC)")
    if triggers.on_new_data:
        ways.append("when data has landed")
    if triggers.on_drift:
        ways.append("when an alert of drift comes")
    return ", ".join([*ways, "when a person triggers it"])
