"""The concern `deployment`: how a challenger gets to production, and what takes it back."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from perennial.spec.fields import Columns, Duration, SpecPart

MIN_SPAN: Final = timedelta(seconds=10)
"""Of a step and of what extends it: what is looked at each few seconds cannot be timed more finely."""
MAX_WALK: Final = timedelta(days=30)
"""Of a whole rollout: its state, its log and its people are expected to be around so long."""

Percent = Annotated[float, Field(gt=0, le=100)]
MinSamples = Annotated[int, Field(ge=1, le=10_000_000)]
S3Folder = Annotated[
    str,
    Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+$"),
    AfterValidator(lambda value: value if value.endswith("/") else value + "/"),
]


class ErrorRate(SpecPart):
    """Share of the challenger's requests that it could not score."""

    max: Annotated[float, Field(ge=0, lt=1)] = 0.01
    min_samples: MinSamples = 200
    """Requests to the challenger in the step."""


class LatencyRatio(SpecPart):
    """95th percentile of the challenger's latency, as a multiple of the champion's."""

    max: Annotated[float, Field(gt=0)] = 2.0
    min_samples: MinSamples = 200
    """Requests to each of the two."""


class PredictionDistance(SpecPart):
    """How far the two models' predictions are apart as distributions: the first Wasserstein distance.

    Of probabilities in their own unit, 0 to 1, of several classes the largest; of a regression in standard deviations
    of the champion's predictions. A better model is somewhere else too: this is for one that is somewhere else
    altogether.
    """

    max: Annotated[float, Field(gt=0)] = 0.25
    min_samples: MinSamples = 200
    """Rows scored by each of the two."""


class PerformanceLoss(SpecPart):
    """How much worse the challenger is in `evaluation.primary` on live rows whose labels have come.

    Once asked for it is needed: where labels come too late, the canary ends in a roll-back.
    """

    max: Annotated[float, Field(ge=0)]
    """In the metric's own unit; the champion's value less the challenger's, or the other way where lower is better."""
    min_samples: MinSamples = 200
    """Labelled rows of each of the two."""


class Guardrails(SpecPart):
    """What must hold at every step; `null` takes one away.

    With `min_samples` or more, a value above `max`, a missing one and a NaN roll back at once. With fewer, the step
    waits, and is extended.
    """

    error_rate: ErrorRate | None = ErrorRate()
    latency_p95_ratio: LatencyRatio | None = LatencyRatio()
    prediction_distance: PredictionDistance | None = PredictionDistance()
    performance_loss: PerformanceLoss | None = None

    @model_validator(mode="after")
    def _something_is_guarded(self) -> Guardrails:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(f"needs at least one of {', '.join(type(self).model_fields)}: nothing could roll back")
        return self


class Rollout(SpecPart):
    """What canary and shadow have in common: steps in time, and guardrails."""

    every: Duration = timedelta(minutes=10)
    """How long each step lasts at least."""
    max_extend: Duration = timedelta(hours=1)
    """How much longer all steps together may last, waiting for samples."""
    guardrails: Guardrails = Guardrails()

    @property
    def shares(self) -> tuple[float, ...]:
        """Percent of the keys, a step each."""
        raise NotImplementedError

    @property
    def longest(self) -> timedelta:
        """From the first step to the end, whatever happens."""
        return self.every * len(self.shares) + self.max_extend

    @field_validator("every", "max_extend")
    @classmethod
    def _can_be_timed(cls, value: timedelta) -> timedelta:
        if value < MIN_SPAN:
            raise ValueError("must be at least 10s")
        if value > MAX_WALK:
            raise ValueError(f"must be at most {MAX_WALK.days}d")
        return value


class Canary(Rollout):
    """A growing share of the keys is answered by the challenger, until it is promoted or taken back."""

    steps: Annotated[tuple[Percent, ...], Field(strict=False, min_length=1, max_length=20)] = (5.0, 25.0, 50.0, 100.0)
    """Percent of the keys at each step, growing. `[100]`: at once."""

    @property
    def shares(self) -> tuple[float, ...]:
        """The steps."""
        return self.steps

    @field_validator("steps")
    @classmethod
    def _grow(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise ValueError("each step must be larger than the one before, such as [5, 25, 50, 100]")
        return value


class Shadow(Rollout):
    """The challenger scores a copy of the requests and answers nobody; it comes before the canary."""

    percent: Percent = 100.0
    """Of the keys."""

    @property
    def shares(self) -> tuple[float, ...]:
        """One step."""
        return (self.percent,)


class Log(SpecPart):
    """What is kept of each request."""

    percent: Percent = 100.0
    """Of the requests, the same ones for champion, canary and shadow. Guardrails see no others."""
    exclude: Columns = ()
    """Features that are never written."""
    labels: S3Folder | None = None
    """Where outcomes land as files, besides those that are sent to the service; see docs/serving.md."""


class SmokeTest(SpecPart):
    """Before any traffic: the model loads in a clean process, and scores rows of the holdout as evaluate did.

    A challenger that fails is not registered, and the run fails.
    """

    rows: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Of the holdout."""
    tolerance: Annotated[float, Field(ge=0, le=1e-3)] = 1e-9
    """Largest difference of a score from evaluate's; relative to the score where that is larger than 1."""
    timeout: Duration = timedelta(minutes=5)
    max_memory_mib: Annotated[int, Field(ge=64)] = 4096
    """Of the whole process. The libraries alone take about 270."""

    @field_validator("timeout")
    @classmethod
    def _can_load(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("must be longer than 0s")
        return value


class Deployment(SpecPart):
    """What all ways of serving have in common."""

    smoke_test: SmokeTest = SmokeTest()
    shadow: Shadow | None = None
    canary: Canary | None = None
    """None: the promoted version takes all requests at once."""
    log: Log | None = Log()
    """None: nothing is kept."""

    @property
    def rollouts(self) -> dict[str, Rollout]:
        """Those that are asked for, by their field's name, in the order they are walked."""
        given: dict[str, Rollout | None] = {"shadow": self.shadow, "canary": self.canary}
        return {name: rollout for name, rollout in given.items() if rollout is not None}

    @model_validator(mode="after")
    def _rollouts_can_be_judged(self) -> Self:
        if self.log is None and self.rollouts:
            raise ValueError(f"log: is what the {' and '.join(self.rollouts)} is judged by; it cannot be null")
        return self


class ScoringService(Deployment):
    """Perennial's own scoring service, `perennial serve`."""

    kind: Literal["scoring_service"]
