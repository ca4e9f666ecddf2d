"""The concern `monitoring`: what is watched while a model serves, and when that is worth an alert."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from perennial.spec.fields import Columns, Cron, Duration, SpecPart

MIN_WINDOW: Final = timedelta(seconds=10)
MAX_WINDOW: Final = timedelta(days=31)

Share = Annotated[float, Field(gt=0, lt=1)]
ConnectionId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.-]+$")]


class DriftRules(SpecPart):
    """How far a window's values may be from the model's reference profile.

    A column has drifted if its effect's lower confidence limit is above the limit here and above what the column
    varies by itself from window to window in the reference, and if that is significant among all columns.
    """

    min_effect: Annotated[float, Field(gt=0)] = 0.1
    """Of numbers: first Wasserstein distance in units of the reference's spread. Of categories: total variation."""
    min_missing_change: Share = 0.05
    """Of the share of missing values."""
    false_discovery_rate: Share = 0.01
    """Benjamini and Hochberg's, over the columns of a window."""


class PerformanceRules(SpecPart):
    """How much worse than on the holdout a model may be in `evaluation.primary`."""

    max_loss: Annotated[float, Field(ge=0)] = 0.0
    """In the metric's own unit, beyond the holdout's confidence interval. The window's own interval has to lie
    altogether on the wrong side."""
    estimate: bool = True
    """Of a classification: whether a loss that is only estimated, before labels come, is worth an alert too."""


class ServiceRules(SpecPart):
    """How the service itself has to do; an alert of it goes to people, and starts no run."""

    max_error_rate: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the requests that could not be scored."""
    min_requests: Annotated[int, Field(ge=0)] = 0
    """Requests that each window has to have."""


class AlertRules(SpecPart):
    """When windows become an alert: each signal on its own."""

    windows: Annotated[int, Field(ge=1, le=30)] = 2
    """k: of the last `of` windows, the newest among them, so many have to be beyond their limits."""
    of: Annotated[int, Field(ge=1, le=30)] = 3
    """n. A window with too few rows is passed over, it counts neither way."""
    close_after: Annotated[int, Field(ge=1, le=30)] = 2
    """So many windows in a row below `close_below` end an alert; until then no new one is sent."""
    close_below: Annotated[float, Field(gt=0, le=1)] = 0.8
    """As a multiple of the limit that the alert is raised at."""

    @model_validator(mode="after")
    def _k_of_n(self) -> AlertRules:
        if self.windows > self.of:
            raise ValueError(f"windows: is {self.windows}, above of ({self.of})")
        return self


class SlackNotice(SpecPart):
    """A message to a Slack channel."""

    kind: Literal["slack"]
    connection: ConnectionId = "slack_api_default"
    channel: Annotated[str, Field(min_length=1, max_length=80)]


class EmailNotice(SpecPart):
    """A mail."""

    kind: Literal["email"]
    connection: ConnectionId = "smtp_default"
    to: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=50)]


class WebhookNotice(SpecPart):
    """A POST of the alert as JSON, to the address of an Airflow connection."""

    kind: Literal["webhook"]
    connection: ConnectionId


Notice = Annotated[SlackNotice | EmailNotice | WebhookNotice, Field(discriminator="kind")]


class Monitoring(SpecPart):
    """What `perennial__<model>__monitor` does; it reads the prediction log."""

    schedule: Cron | None = "10 * * * *"
    """Each run looks at all windows that have ended since the last one."""
    window: Duration = timedelta(days=1)
    """Length of a window. Windows lie on a grid that begins at 1970-01-01T00:00:00Z."""
    reference_window: Duration | None = None
    """Length of the stretches of the training data whose differences are natural: a column has to differ by more. None:
    as `window`. Something else only where a window's requests are not about a window's worth of the data's time, as in
    a replay."""
    min_rows: Annotated[int, Field(ge=1)] = 500
    """A window with fewer rows is reported, and not judged."""
    label_delay: Duration | None = None
    """How long after a request its label is known. None: `data.label_delay`."""
    slices: Columns = ()
    """Features within whose values drift is looked at, too."""
    drift: DriftRules = DriftRules()
    performance: PerformanceRules = PerformanceRules()
    service: ServiceRules = ServiceRules()
    alert: AlertRules = AlertRules()
    notify: Annotated[tuple[Notice, ...], Field(strict=False, max_length=20)] = ()
    """Who is told of an alert, besides the webhook that may start a run."""

    @field_validator("window", "reference_window")
    @classmethod
    def _can_be_looked_at(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and not MIN_WINDOW <= value <= MAX_WINDOW:
            raise ValueError(f"must be 10s to {MAX_WINDOW.days}d")
        return value
