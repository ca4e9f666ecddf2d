"""The concerns of a spec, one class each."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from perennial.domain.metric_names import METRICS
from perennial.spec.fields import Column, Columns, Duration, SpecPart

_CRON_FIELDS: Final = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)


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
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95


class Gate(SpecPart):
    """What a challenger has to show before it may replace the champion."""

    rule: Annotated[Superiority | NonInferiority, Field(discriminator="kind")]
    floors: Annotated[dict[str, float], Field(default_factory=dict)]
    """Limit by metric: the least value where higher is better, the largest where lower is better."""
    min_rows: Annotated[int, Field(ge=1)] = 100
    """Least number of holdout rows."""
    cluster_by: Column
    """Rows that share this column's value are not independent; the bootstrap draws whole clusters."""
    min_clusters: Annotated[int, Field(ge=2)] = 5
    replicates: Annotated[int, Field(ge=200, le=100_000)] = 2000
    """Bootstrap replicates."""


class Approval(SpecPart):
    """Whether a person has to agree before a promotion. Only `required: false` is possible so far."""

    required: Literal[False] = False


class ScoringService(SpecPart):
    """The champion is served by Perennial's own scoring service. Checked; nothing acts on it so far."""

    kind: Literal["scoring_service"]


class DriftTrigger(SpecPart):
    """How often drift alerts may start a run. Checked; nothing acts on it so far."""

    cooldown: Duration = timedelta(hours=6)
    max_runs_per_day: Annotated[int, Field(ge=1, le=288)] = 4


class NewDataTrigger(SpecPart):
    """When landed files start a run."""

    quiet: Duration = timedelta(seconds=30)
    """Files often land in groups; a run starts once nothing has landed for this long."""


class Triggers(SpecPart):
    """What starts a run by itself; a person may always."""

    schedule: str | None = None
    """Cron expression of five fields, in UTC."""
    on_new_data: bool | NewDataTrigger = False
    """`true` stands for `{quiet: 30s}`."""
    on_drift: DriftTrigger | None = None

    @property
    def new_data(self) -> NewDataTrigger | None:
        """The trigger on landed files, or None if there is none."""
        if isinstance(self.on_new_data, NewDataTrigger):
            return self.on_new_data
        return NewDataTrigger() if self.on_new_data else None

    @field_validator("schedule")
    @classmethod
    def _five_cron_fields(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(?:[\d*/,A-Za-z#L-]+\s+){4}[\d*/,A-Za-z#L-]+", value.strip()):
            raise ValueError("a cron expression has five fields, such as '0 2 * * *' for 02:00 UTC each night")
        for (name, low, high), text in zip(_CRON_FIELDS, (value or "").split(), strict=False):
            wrong = [found for found in re.findall(r"(?<![/#\d])\d+", text) if not low <= int(found) <= high]
            if wrong:
                raise ValueError(f"{name} {wrong[0]} must be between {low} and {high}")
        return value
