"""The controller of a canary, or of a shadow: what comes next, from what was seen so far. No I/O, no clock of its own.

Whoever walks it (`perennial.stages.rollout`) looks every few seconds: read the `CanaryState` from the store and the
status of what serves the model, take an `Observation`, call `advance`, store the new state, and only then carry the
action out. What was stored but not carried out is found again: by `split_in_force`, or as the state's `ended`. Carrying
an action out twice must do no harm.

It fails closed. A reading that is missing or no finite number rolls back, and so does a breach, at any look. Too few
samples hold a step back until its time is up, and then roll back. A promotion needs enough samples for each guardrail,
all within their limits, at the end of every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from perennial.domain.rules.outcome import Outcome, RuleOutcome
from perennial.domain.times import format_time, parse_time
from perennial.domain.wording import counted, digits_for, duration, number, plain
from perennial.spec.deployment import Guardrails, Rollout

GUARDRAILS: Final[Mapping[str, tuple[str, float]]] = {
    "error_rate": ("error rate", 0.0),
    "latency_p95_ratio": ("challenger's p95 latency as a multiple of the champion's", 0.0),
    "prediction_distance": ("distance between the two models' predictions", 0.0),
    "performance_loss": ("loss of performance against the champion", -math.inf),
}
"""Fields of `Guardrails`: how to call them, and the least value that they can have."""


SAME_SHARE: Final = 0.01
"""Percent by which a share that is in force may differ from the one asked for: platforms know weights, not percents."""


class Move(StrEnum):
    """What to do."""

    SHIFT = "shift"
    """Put `share` in force."""
    HOLD = "hold"
    """The step is not over: renew the split."""
    EXTEND = "extend"
    """The step is over and has too few samples: renew the split."""
    PROMOTE = "promote"
    """The challenger has proved itself (after a shadow: it may go on to its canary)."""
    ROLL_BACK = "roll_back"
    """All requests to the champion; if the challenger is at fault, it is quarantined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What to do, and why."""

    move: Move
    share: float = 0.0
    """Percent of the keys from now on; 0 when all is over."""
    reason: str
    """For people, one or more sentences."""
    findings: tuple[RuleOutcome, ...] = ()
    """Each guardrail with its limit, what was read and on how many samples. UNDECIDED: too few samples."""

    @property
    def is_final(self) -> bool:
        """Whether the canary is over."""
        return self.move in (Move.PROMOTE, Move.ROLL_BACK)

    @property
    def at_fault(self) -> bool:
        """Whether a guardrail did not hold; else samples or time were too short, which says nothing of the model."""
        failed = any(finding.verdict is Outcome.FAIL for finding in self.findings)
        return self.move is Move.ROLL_BACK and failed


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryState:
    """Where a canary stands; all that has to survive a crash."""

    started_at: datetime
    step: int
    """Position in the policy's shares, from 0."""
    step_started_at: datetime
    """The challenger's samples count from here, and the champion's from `started_at` less one `every`: at 100 percent
    the champion has none of its own."""
    ended: Action | None = None
    """The final action, once there is one."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        times = {name: format_time(getattr(self, name)) for name in ("started_at", "step_started_at")}
        return {**times, "step": self.step, "ended": None if self.ended is None else asdict(self.ended)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: it is not such an object.
        """
        try:
            step, ended = values["step"], values["ended"]
            if isinstance(step, bool) or not isinstance(step, int) or step < 0 or len(values) != 4:
                raise ValueError(f"step is {step!r}, fields are {sorted(values)}")
            return cls(
                started_at=parse_time(values["started_at"]),
                step=step,
                step_started_at=parse_time(values["step_started_at"]),
                ended=None if ended is None else _final_action(ended),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is not the state of a canary: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a guardrail watches, as it was measured."""

    value: float | None
    """In the guardrail's own unit; None or NaN: it could not be computed."""
    samples: int
    """What it rests on; where two models are compared, the smaller number of the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen since the step began."""

    readings: Mapping[str, Reading] = field(default_factory=dict)
    """By the names of `GUARDRAILS`. One that the policy asks for and that is not here counts as missing."""
    lapsed: bool = False
    """The step's split was not in force all the time, see `split_in_force`: the step begins anew."""


def begin(policy: Rollout, now: datetime) -> tuple[CanaryState, Action]:
    """The first step."""
    state = CanaryState(started_at=now, step=0, step_started_at=now)
    return state, Action(move=Move.SHIFT, share=policy.shares[0], reason="The first step.")


def split_in_force(policy: Rollout, state: CanaryState, share: float | None) -> bool:
    """Whether the platform gives the challenger what this step says.

    It does not after a crash between storing the state and carrying it out, after one so long that the split expired,
    and while the platform still works on it.

    Args:
        policy: the rollout.
        state: where it stands.
        share: percent that is in force for this very rollout; None: nothing is, or something is on its way.
    """
    known = state.step < len(policy.shares)
    return known and share is not None and abs(share - policy.shares[state.step]) <= SAME_SHARE


def advance(policy: Rollout, state: CanaryState, observation: Observation, now: datetime) -> tuple[CanaryState, Action]:
    """The next state, and what to do. Once it has ended it stays so, with the same action.

    A step lasts `every`, and longer while samples are too few, until the time is up at which the steps before it, it
    itself and `max_extend` would be over: no look at or after `started_at + policy.longest` leaves the canary open.
    """
    if state.ended is not None:
        return state, state.ended
    findings = tuple(judge(policy.guardrails, observation.readings))
    refusal = _refusal(policy, state, findings)
    if refusal:
        return _ended(state, Move.ROLL_BACK, refusal, findings)
    return _walk(policy, state, findings, lapsed=observation.lapsed, now=now)


def judge(guardrails: Guardrails, readings: Mapping[str, Reading]) -> Iterator[RuleOutcome]:
    """One outcome for each guardrail that is asked for; UNDECIDED with too few samples."""
    for name, (title, least) in GUARDRAILS.items():
        limit = getattr(guardrails, name)
        if limit is None:
            continue
        reading = readings.get(name)
        value, samples = (None, None) if reading is None else (_finite(reading.value, least), _count(reading.samples))
        if samples is None:
            verdict, sentence = Outcome.FAIL, f"The {title} was not measured."
        elif samples < limit.min_samples:
            # Rounded, because 3 / 187 * 187 is more than 3.
            if name == "error_rate" and value is not None and round(value * samples, 6) / limit.min_samples > limit.max:
                # Even if all that are still to come went well: nobody has to wait for them.
                verdict, sentence = Outcome.FAIL, _told(title, value, samples, limit.max)
            else:
                verdict = Outcome.UNDECIDED
                sentence = f"The {title} rests on {counted(samples, 'sample')}; {limit.min_samples:,} are needed."
        elif value is None:
            verdict, sentence = Outcome.FAIL, f"The {title} could not be computed from {counted(samples, 'sample')}."
        else:
            verdict = Outcome.PASS if value <= limit.max else Outcome.FAIL
            sentence = _told(title, value, samples, limit.max)
        yield RuleOutcome(name=name, threshold=limit.max, estimate=value, n=samples, verdict=verdict, sentence=sentence)


def _refusal(policy: Rollout, state: CanaryState, findings: tuple[RuleOutcome, ...]) -> str:
    """Why the challenger is taken back at once; empty: it is not."""
    if state.step >= len(policy.shares):
        return f"The spec has no step {state.step + 1} any more."
    if not findings:
        return "The spec has no guardrail."
    return " ".join(finding.sentence for finding in findings if finding.verdict is Outcome.FAIL)


def _walk(
    policy: Rollout, state: CanaryState, findings: tuple[RuleOutcome, ...], *, lapsed: bool, now: datetime
) -> tuple[CanaryState, Action]:
    """What comes next while nothing is wrong."""
    share = policy.shares[state.step]
    deadline = state.started_at + policy.every * (state.step + 1) + policy.max_extend
    short = [finding.sentence for finding in findings if finding.verdict is not Outcome.PASS]
    if lapsed and now < deadline:
        reason = f"The split of {plain(share)} % was not in force; the step begins anew."
        return replace(state, step_started_at=now), Action(move=Move.SHIFT, share=share, reason=reason)
    over = not lapsed and now >= state.step_started_at + policy.every
    if over and not short and state.step == len(policy.shares) - 1:
        return _ended(state, Move.PROMOTE, "Every guardrail held at every step.", findings)
    if over and not short and now <= deadline:
        return _next_step(policy, state, findings, now)
    if now >= deadline:
        late = f"Step {state.step + 1} had to be over {duration(deadline - state.started_at)} after the first began."
        return _ended(state, Move.ROLL_BACK, " ".join([late, *short]), findings)
    reason = " ".join(short) or "Every guardrail holds so far."
    return state, Action(move=Move.EXTEND if over else Move.HOLD, share=share, reason=reason, findings=findings)


def _next_step(
    policy: Rollout, state: CanaryState, findings: tuple[RuleOutcome, ...], now: datetime
) -> tuple[CanaryState, Action]:
    share = policy.shares[state.step + 1]
    reason = f"Every guardrail held at {plain(policy.shares[state.step])} %."
    action = Action(move=Move.SHIFT, share=share, reason=reason, findings=findings)
    return replace(state, step=state.step + 1, step_started_at=now), action


def _ended(
    state: CanaryState, move: Move, reason: str, findings: tuple[RuleOutcome, ...]
) -> tuple[CanaryState, Action]:
    action = Action(move=move, reason=reason, findings=findings)
    return replace(state, ended=action), action


def _final_action(values: Mapping[str, Any]) -> Action:
    findings = (RuleOutcome(**{**given, "verdict": Outcome(given["verdict"])}) for given in values["findings"])
    action = Action(**{**values, "move": Move(values["move"]), "findings": tuple(findings)})
    if not action.is_final:
        raise ValueError(f"{action.move} is no end")
    return action


def _finite(value: Any, least: float) -> float | None:
    """None for what no measurement can be."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value >= least else None


def _count(samples: Any) -> int | None:
    return samples if isinstance(samples, int) and not isinstance(samples, bool) and samples >= 0 else None


def _told(title: str, value: float, samples: int, limit: float) -> str:
    shown = number(value, digits_for([value], apart_from=limit, least=4))
    return f"The {title} is {shown} over {counted(samples, 'sample')}; at most {plain(limit)} is allowed."
