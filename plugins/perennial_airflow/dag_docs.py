"""A spec in words, for people who read the DAG's page in Airflow. The same spec gives the same bytes."""

from __future__ import annotations

from perennial.domain.metric_names import METRICS
from perennial.spec import ModelSpec
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
            f"| a run starts | {_triggers(spec)} |",
            "",
            "**Colours.** Everything after `snapshot_data` skipped: nothing new to judge. `promote_if_better` skipped: "
            "judged, recorded, the champion stays; the button *Decision* says why. `validate_data` red: the data was "
            "refused; the button *Validation report* shows the rows.",
            "",
            "**Trigger by hand** takes a reason (kept in the ledger), a time to stand at (`as_of`), other training "
            "parameters for this run only, and `force` to judge again what was judged before.",
        ]
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
    return f"promote only if the challenger's `{metric}` ({direction} is better) is {how}, {sure}"


def _windows(spec: ModelSpec) -> str:
    windows = spec.data.windows
    embargo = f", {format_duration(windows.embargo)} of embargo" if windows.embargo else ""
    return (
        f"the newest {format_duration(windows.holdout)} of complete data judge both models{embargo}, "
        f"the {format_duration(windows.training)} before that train the challenger"
    )


def _floors(spec: ModelSpec) -> str:
    rows = f"{spec.gate.min_rows} holdout rows in {spec.gate.min_clusters} groups by `{spec.gate.cluster_by}`"
    limits = [
        f"`{name}` {'at least' if METRICS[name].higher_is_better else 'at most'} {limit:g}"
        for name, limit in sorted(spec.gate.floors.items())
    ]
    return ", ".join([rows, *limits])


def _triggers(spec: ModelSpec) -> str:
    triggers = spec.triggers
    ways = []
    if triggers.schedule:
        ways.append(f"by the clock (`{triggers.schedule}` UTC)")
    if triggers.on_new_data:
        ways.append("when data has landed")
    return ", ".join([*ways, "when a person triggers it"])
