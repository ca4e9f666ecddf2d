"""A shadow or canary as it is kept: where it stands while it is walked, and the record of how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Final, Self

from perennial.domain.canary import Action, CanaryState
from perennial.domain.fingerprint import canonical_json, digest_of
from perennial.domain.ledger_entry import ROLLOUT, LedgerEntry
from perennial.domain.references import DecisionRef, ModelRef, Reference, RolloutRef
from perennial.domain.rules.outcome import Outcome, RuleOutcome
from perennial.domain.times import format_time, parse_time
from perennial.domain.wording import duration, plain
from perennial.spec.deployment import Rollout

BRING_UP: Final = timedelta(minutes=30)
"""How long a platform may take to bring the challenger up; SageMaker takes five to fifteen minutes."""
MAX_SUMMARY: Final = 500


def longest(rollout: Rollout) -> timedelta:
    """From the beginning to the end, whatever happens: the challenger comes up, and all steps are walked."""
    return BRING_UP + rollout.longest


def rollout_id(run_id: str, decision: DecisionRef, model: ModelRef, phase: str) -> str:
    """The same for every try of one run's shadow or canary; 16 hex digits."""
    return digest_of([run_id, decision.sha256, model.digest, phase])[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A share of the traffic that the challenger was given."""

    share: float
    """Percent of the keys; for a shadow, of those whose requests were copied."""
    began_at: datetime
    """When it was asked for first."""
    ended_at: datetime | None = None
    restarts: int = 0
    """How often it began anew, because the split was not in force: a platform that took its time, or a crash."""
    findings: tuple[RuleOutcome, ...] = ()
    """Each guardrail with its limit, what was read and on how many samples; at the step's end."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **asdict(self),
            "began_at": format_time(self.began_at),
            "ended_at": None if self.ended_at is None else format_time(self.ended_at),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        findings = (RuleOutcome(**{**given, "verdict": Outcome(given["verdict"])}) for given in values["findings"])
        ended_at = values["ended_at"]
        return cls(
            share=values["share"],
            began_at=parse_time(values["began_at"]),
            ended_at=None if ended_at is None else parse_time(ended_at),
            restarts=values["restarts"],
            findings=tuple(findings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is tried out against what, and by whom; the same from a rollout's beginning to its end."""

    rollout_id: str
    model: str
    phase: str
    """`shadow` or `canary`."""
    request: Mapping[str, Any]
    """`RunRequest.to_dict()`."""
    decision: DecisionRef
    champion: str
    """Registry version."""
    champion_model: ModelRef
    challenger: str
    """Registry version."""
    challenger_model: ModelRef
    asked_at: datetime
    """When the platform was asked to bring the challenger up."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        models = {name: ModelRef.from_dict(values[name]) for name in ("champion_model", "challenger_model")}
        times = {"asked_at": parse_time(values["asked_at"])}
        return cls(**{**values, **models, **times, "decision": DecisionRef.from_dict(values["decision"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """Where a rollout stands; all that has to survive a crash."""

    trial: Trial
    looked_at: datetime
    """When somebody walked it last."""
    classes: tuple[Any, ...] | None = None
    """What the labels' values are called, in the order of the predicted probabilities; empty for a regression; None:
    nobody needed to know so far."""
    canary: CanaryState | None = None
    """None: the challenger is being brought up."""
    steps: tuple[Step, ...] = ()
    """Those that were begun, in their order."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "trial": self.trial.to_dict(),
            "looked_at": format_time(self.looked_at),
            "classes": None if self.classes is None else list(self.classes),
            "canary": None if self.canary is None else self.canary.to_dict(),
            "steps": [step.to_dict() for step in self.steps],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: it is not such an object.
        """
        try:
            classes, canary = values["classes"], values["canary"]
            return cls(
                trial=Trial.from_dict(values["trial"]),
                looked_at=parse_time(values["looked_at"]),
                classes=None if classes is None else tuple(classes),
                canary=None if canary is None else CanaryState.from_dict(canary),
                steps=tuple(map(Step.from_dict, values["steps"])),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is not the state of a rollout: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """How a rollout ended; written once."""

    trial: Trial
    ended_at: datetime
    champion_at_end: str | None
    """Version that the alias named; None: there was no champion."""
    passed: bool
    at_fault: bool
    """Whether the challenger is not to be promoted: a guardrail did not hold, or a person took it back."""
    reason: str
    """For people, one or more sentences."""
    stopped_by: str | None = None
    """The person who took it back; None: the guardrails decided, or the circumstances."""
    steps: tuple[Step, ...] = ()
    """The last one's findings are those that decided."""

    @property
    def share(self) -> float:
        """Percent that the challenger had at the end."""
        return self.steps[-1].share if self.steps else 0.0

    @property
    def summary(self) -> str:
        """One sentence, at most `MAX_SUMMARY` characters."""
        trial = self.trial
        if self.passed:
            shares = ", ".join(plain(step.share) for step in self.steps)
            took = duration(self.ended_at - trial.asked_at)
            said = f"Version {trial.challenger} passed its {trial.phase} beside version {trial.champion}: {shares} % in"
            return f"{said} {took}."
        where = f"from its {trial.phase} at {plain(self.share)} %" if self.steps else f"before its {trial.phase} began"
        said = f"Version {trial.challenger} was taken back {where}: {self.reason}"
        return said if len(said) <= MAX_SUMMARY else f"{said[: MAX_SUMMARY - 1]}…"

    def entry(self, *, recorded_at: datetime, reference: RolloutRef) -> LedgerEntry:
        """Its entry in the ledger: the same for whoever writes it.

        Args:
            recorded_at: now.
            reference: to this record, with an empty `ledger_uri`.
        """
        trial = self.trial
        why = f"Version {trial.challenger} was taken back from its {trial.phase} on {format_time(self.ended_at)}: "
        return LedgerEntry(
            kind=ROLLOUT,
            model=trial.model,
            recorded_at=recorded_at,
            request=trial.request,
            evidence_sha256=digest_of(self.to_dict()),
            summary=self.summary,
            champion_before=self.champion_at_end,
            champion_after=self.champion_at_end,
            reasons=(self.reason,),
            fingerprint=trial.challenger_model.fingerprint,
            page_uri=reference.page_uri,
            references={item.kind: item.to_dict() for item in (trial.challenger_model, trial.decision, reference)},
            actor=self.stopped_by,
            approved=self.passed,
            quarantined={trial.challenger_model.digest: f"{why}{self.reason}"} if self.at_fault else {},
        )

    def to_json(self) -> bytes:
        """As it is stored."""
        return canonical_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**_plain(self), "trial": self.trial.to_dict(), "steps": [step.to_dict() for step in self.steps]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: it is not such an object.
        """
        try:
            return cls(
                **{
                    **values,
                    "trial": Trial.from_dict(values["trial"]),
                    "ended_at": parse_time(values["ended_at"]),
                    "steps": tuple(map(Step.from_dict, values["steps"])),
                }
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is not the record of a rollout: {type(error).__name__}: {error}") from error


def traced(
    steps: tuple[Step, ...], before: CanaryState | None, after: CanaryState, action: Action, now: datetime
) -> tuple[Step, ...]:
    """The steps after `action` led from one state to the next; at most as many as the spec has had."""
    if before is None:
        return (Step(share=action.share, began_at=now),)
    *earlier, last = steps
    over = replace(last, ended_at=now, findings=action.findings)
    if after.step != before.step:
        return (*earlier, over, Step(share=action.share, began_at=now))
    if action.is_final:
        return (*earlier, over)
    if after.step_started_at != before.step_started_at:
        return (*earlier, replace(last, restarts=last.restarts + 1))
    return steps


def _plain(value: Trial | RolloutRecord) -> dict[str, Any]:
    """Fields as JSON has them; references keep their kind."""
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(value)):
        given = getattr(value, name)
        if isinstance(given, datetime):
            given = format_time(given)
        elif isinstance(given, Reference):
            given = given.to_dict()
        found[name] = given
    return found
