"""The concerns of a spec, one class each."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from perennial.domain.metric_names import METRICS
from perennial.spec.fields import Column, Columns, Cron, Duration, SpecPart


class Windows(SpecPart):
    """How much time each window spans. All hang on the watermark, none on the wall clock.

    From old to new: training | embargo | holdout.
    """

    training: Duration
    holdout: Duration
    embargo: Duration = timedelta(0)

    @field_validator("training", "holdout")
    @classmethod
    def _longer_than_nothing(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("must be longer than 0s")
        return value


class Data(SpecPart):
    """Where data lands, and what its columns mean."""

    landing: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.*$")]
    format: Literal["parquet"] = "parquet"
    time_column: Column
    label_column: Column
    key_columns: Annotated[Columns, Field(min_length=1)]
    feature_columns: Annotated[Columns, Field(min_length=1)]
    label_delay: Duration = timedelta(0)
    windows: Windows
    settle: Duration = timedelta(0)
    """A file younger than this counts as still being written."""
    on_refused_file: Literal["fail", "skip"] = "fail"
    """What validate does when the landing zone holds files that are not Parquet, or whose schema changed."""

    @field_validator("landing")
    @classmethod
    def _ends_with_slash(cls, value: str) -> str:
        return value if value.endswith("/") else value + "/"

    @field_validator("key_columns", "feature_columns")
    @classmethod
    def _no_column_twice(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({column for column in value if value.count(column) > 1})
        if twice:
            raise ValueError(f"names a column twice: {', '.join(twice)}")
        return value

    @model_validator(mode="after")
    def _label_is_no_feature(self) -> Data:
        if self.label_column in self.feature_columns:
            raise ValueError(f"the label {self.label_column!r} must not be among feature_columns: it would leak")
        return self


class Validation(SpecPart):
    """Which Great Expectations suite the data has to pass."""

    suite: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.json$")]
    """A file beside the spec, or in the folder `expectations` beside the spec's folder."""


class Training(SpecPart):
    """How the estimator is made."""

    estimator: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """`module:function`; called with `params` and `random_state=seed`, it returns an unfitted estimator."""
    params: Annotated[dict[str, JsonValue], Field(default_factory=dict)]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    trusted_types: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Types beside scikit-learn's and numpy's that the model's skops file may hold, such as `flights.training.Clip`."""


class Evaluation(SpecPart):
    """What is measured on the holdout."""

    primary: str
    metrics: Annotated[tuple[str, ...], Field(strict=False)] = ()
    slices: Columns = ()

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """The primary metric first, then the others, none twice."""
        return tuple(dict.fromkeys((self.primary, *self.metrics)))

    @field_validator("primary", "metrics")
    @classmethod
    def _known(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise ValueError(f"unknown metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
        return value


class Superiority(SpecPart):
    """Promote only a challenger that is better by more than `min_effect`, with `confidence`."""

    kind: Literal["superiority"]
    min_effect: Annotated[float, Field(ge=0)] = 0.0
    """Least gain in the primary metric's own unit, in its better direction."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95


class NonInferiority(SpecPart):
    """Promote a challenger that is not worse by `margin` or more, with `confidence`."""

    kind: Literal["non_inferiority"]
    margin: Annotated[float, Field(gt=0)]
    """Largest loss in the primary metric's own unit that is still acceptable."""
    refresh_after_days: Annotated[int, Field(ge=0, le=3650)] = 0
    """An equal but fresher model may replace a champion whose training data ends at least this many days before the
    challenger's. A younger champion is replaced by a better one only (superiority with `min_effect` 0)."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95


class FalsePromotions(SpecPart):
    """How many false promotions nightly testing may make over time: see `perennial.domain.sequential`."""

    budget: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Largest probability of a promotion that is no improvement, within any stretch of `period_days`."""
    period_days: Annotated[int, Field(ge=1, le=3650)] = 90


class SliceRules(SpecPart):
    """What has to hold for the primary metric within each value of each of `evaluation.slices`."""

    margin: Annotated[float, Field(gt=0)]
    """Largest loss against the champion, in the primary metric's own unit, that a slice may suffer (Holm over slices,
    at the confidence of the gate's rule)."""
    floor: float | None = None
    """Limit on the challenger's primary metric in each slice: least value, or largest where lower is better."""
    min_rows: Annotated[int, Field(ge=1)] = 100
    """A slice with fewer rows is shown and not judged, unless it is `required`."""
    required: Annotated[dict[str, Columns], Field(default_factory=dict)]
    """Values by slice column that have to be there with at least `min_rows` rows: a missing one fails."""


class FairnessRule(SpecPart):
    """How far apart a metric may be between named groups: the largest less the smallest of the groups' values."""

    column: Column
    """One of `evaluation.slices`."""
    groups: Annotated[tuple[str, ...], Field(strict=False, min_length=2)]
    """Values of the column, as text. A group without rows fails."""
    min_rows: Annotated[int, Field(ge=1)] = 100
    """Least number of rows of each group: with fewer in one, the gap is mostly chance, and not judged."""
    metric: str | None = None
    """One of the evaluation's metrics; the primary one if left out."""
    max_gap: Annotated[float | None, Field(ge=0)] = None
    """Largest gap of the challenger; compared with the estimate itself, not with an end of its interval."""
    max_increase: Annotated[float | None, Field(ge=0)] = None
    """Largest growth of the gap against the champion's, beyond chance."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> FairnessRule:
        if self.max_gap is None and self.max_increase is None:
            raise ValueError("needs max_gap, max_increase, or both")
        return self


class CostRules(SpecPart):
    """Guardrails on what a challenger costs to serve; both models are measured in one process, taking turns."""

    max_latency_p95_ms: Annotated[float | None, Field(gt=0)] = None
    """95th percentile of the time for predicting one row."""
    max_latency_ratio: Annotated[float | None, Field(gt=0)] = None
    """The same, as a multiple of the champion's."""
    max_size_mib: Annotated[float | None, Field(gt=0)] = None
    """All files of the model."""
    max_size_ratio: Annotated[float | None, Field(gt=0)] = None
    """The same, as a multiple of the champion's."""


class Gate(SpecPart):
    """What a challenger has to show before it may replace the champion."""

    rule: Annotated[Superiority | NonInferiority, Field(discriminator="kind")]
    floors: Annotated[dict[str, float], Field(default_factory=dict)]
    """Limit by metric: the least value where higher is better, the largest where lower is better."""
    min_rows: Annotated[int, Field(ge=1)] = 100
    """Least number of holdout rows."""
    cluster_by: Column | None
    """Rows that share this column's value are not independent; the bootstrap draws whole clusters. `null`, which has to
    be written out, says that all rows are independent of each other."""
    min_clusters: Annotated[int, Field(ge=2)] = 5
    """Least number of clusters; without `cluster_by` only `min_rows` counts."""
    replicates: Annotated[int, Field(ge=200, le=100_000)] = 2000
    """Bootstrap replicates."""
    false_promotions: FalsePromotions | None = None
    """Without it, the error of each single decision is bounded, that of many nights is not."""
    slices: SliceRules | None = None
    fairness: Annotated[tuple[FairnessRule, ...], Field(strict=False)] = ()
    cost: CostRules | None = None
    min_tenure: Duration = timedelta(0)
    """How long a champion stays at least, from the `as_of` of the run that made it one."""
    max_promotions_per_week: Annotated[int | None, Field(ge=1)] = None
    """Within any seven days, by the runs' `as_of`."""
    verdict_expires: Duration = timedelta(days=7)
    """A PROMOTE older than this is not carried out any more."""

    @field_validator("verdict_expires")
    @classmethod
    def _can_be_carried_out(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("must be longer than 0s: no verdict could be carried out in time")
        return value


class Approval(SpecPart):
    """Whether a person has to agree before a promotion, and who may override the gate."""

    required: bool = False
    approvers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """User names of Airflow. Empty: everybody who may answer a task of the DAG."""
    timeout: Duration = timedelta(hours=24)
    """No answer by then is a No."""
    break_glass: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """User names of those who may promote against the gate's verdict, with a reason, on record. Empty: nobody."""

    @field_validator("timeout")
    @classmethod
    def _can_be_answered(cls, value: timedelta) -> timedelta:
        if value < timedelta(minutes=1):
            raise ValueError("must be at least 1m: nobody could answer in time")
        return value


class DriftTrigger(SpecPart):
    """How often drift alerts may start a run: the governor's policy, see `perennial.domain.governor`."""

    cooldown: Duration = timedelta(hours=6)
    """Least time from the end of one run, whatever started it, to the start of one for an alert; sooner ones wait."""
    max_runs_per_day: Annotated[int, Field(ge=1, le=288)] = 4
    """Runs that alerts start within any 24 hours; more wait."""
    min_new_rows: Annotated[int, Field(ge=0)] = 0
    """Rows that have to have landed since the last training; with fewer, an alert waits."""
    stop_after_rejections: Annotated[int, Field(ge=1, le=100)] = 5
    """So many challengers that alerts trained, none promoted and no promotion in between, stop retraining on drift: a
    person has to look. Those of the schedule do not count: night for night, most find nothing better."""
    resume_after: Duration = timedelta(days=7)
    """After this long without a run for an alert one is let through again; the next rejection stops it anew."""
    give_up_after: Duration = timedelta(days=7)
    """An alert that has waited so long is refused."""


class NewDataTrigger(SpecPart):
    """When landed files start a run."""

    quiet: Duration = timedelta(seconds=30)
    """Files often land in groups; a run starts once nothing has landed for this long."""


class Triggers(SpecPart):
    """What starts a run by itself; a person may always."""

    schedule: Cron | None = None
    on_new_data: bool | NewDataTrigger = False
    """`true` stands for `{quiet: 30s}`."""
    on_drift: DriftTrigger | None = None

    @property
    def new_data(self) -> NewDataTrigger | None:
        """The trigger on landed files, or None if there is none."""
        if isinstance(self.on_new_data, NewDataTrigger):
            return self.on_new_data
        return NewDataTrigger() if self.on_new_data else None
