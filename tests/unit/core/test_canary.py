"""The canary's controller as a table: from where, seeing what, at which time, to what."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perennial.domain.canary import (
    GUARDRAILS,
    Action,
    CanaryState,
    Move,
    Observation,
    Reading,
    advance,
    begin,
    judge,
    split_in_force,
)
from perennial.domain.rules.outcome import Outcome
from perennial.spec.deployment import Canary, Guardrails, Shadow

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
POLICY = Canary.model_validate(
    {
        "steps": [5, 25, 100],
        "every": "10m",
        "max_extend": "1h",
        "guardrails": {"performance_loss": {"max": 0.02}},
    }
)
FINE = {
    "error_rate": Reading(value=0.0, samples=500),
    "latency_p95_ratio": Reading(value=1.1, samples=500),
    "prediction_distance": Reading(value=0.02, samples=500),
    "performance_loss": Reading(value=-0.01, samples=500),
}
NAN = math.nan


def seen(lapsed: bool = False, **changes: Any) -> Observation:
    """A fine observation, but for these; `...` leaves a reading out."""
    readings = {name: reading for name, reading in {**FINE, **changes}.items() if reading is not ...}
    return Observation(readings=readings, lapsed=lapsed)


def at(step: int, minutes: float, *, since: float | None = None) -> tuple[CanaryState, datetime]:
    """A canary in this step, begun on time or `since` minutes after the start; and now, in minutes after the start."""
    began = START + timedelta(minutes=10 * step if since is None else since)
    return CanaryState(started_at=START, step=step, step_started_at=began), START + timedelta(minutes=minutes)


def few(samples: int = 199, value: float | None = 0.0) -> Reading:
    return Reading(value=value, samples=samples)


@pytest.mark.parametrize(
    ("where", "observation", "move", "share"),
    [
        # In time.
        (at(0, 0), seen(), Move.HOLD, 5),
        (at(0, 9.99), seen(), Move.HOLD, 5),
        (at(0, 10), seen(), Move.SHIFT, 25),
        (at(1, 19.99), seen(), Move.HOLD, 25),
        (at(1, 20), seen(), Move.SHIFT, 100),
        (at(2, 29.99), seen(), Move.HOLD, 100),
        (at(2, 30), seen(), Move.PROMOTE, 0),
        # A clock that was turned back.
        (at(1, -30), seen(), Move.HOLD, 25),
        # Too few samples: hold, extend, give up.
        (at(0, 9), seen(error_rate=few()), Move.HOLD, 5),
        (at(0, 10), seen(error_rate=few()), Move.EXTEND, 5),
        (at(0, 10), seen(latency_p95_ratio=few()), Move.EXTEND, 5),
        (at(0, 10), seen(prediction_distance=few()), Move.EXTEND, 5),
        (at(0, 10), seen(performance_loss=few()), Move.EXTEND, 5),
        (at(2, 89.99), seen(performance_loss=few()), Move.EXTEND, 100),
        (at(0, 69.99), seen(error_rate=few()), Move.EXTEND, 5),
        (at(0, 70), seen(error_rate=few()), Move.ROLL_BACK, 0),
        (at(1, 80), seen(error_rate=few()), Move.ROLL_BACK, 0),
        (at(2, 90), seen(error_rate=few()), Move.ROLL_BACK, 0),
        # Few samples may have no value yet.
        (at(0, 10), seen(**{name: few(0, None) for name in FINE}), Move.EXTEND, 5),
        (at(0, 10), seen(error_rate=few(0, NAN)), Move.EXTEND, 5),
        # Late, but with all that is needed.
        (at(0, 70), seen(), Move.SHIFT, 25),
        (at(0, 70.01), seen(), Move.ROLL_BACK, 0),
        (at(2, 95), seen(), Move.PROMOTE, 0),
        (at(2, 90, since=80.01), seen(), Move.ROLL_BACK, 0),
        (at(2, 90, since=80), seen(), Move.PROMOTE, 0),
        # A breach, at any time.
        (at(0, 0), seen(error_rate=Reading(value=0.011, samples=200)), Move.ROLL_BACK, 0),
        (at(2, 30), seen(latency_p95_ratio=Reading(value=2.01, samples=200)), Move.ROLL_BACK, 0),
        (at(1, 15), seen(prediction_distance=Reading(value=0.26, samples=200)), Move.ROLL_BACK, 0),
        (at(1, 15), seen(performance_loss=Reading(value=0.021, samples=200)), Move.ROLL_BACK, 0),
        (at(1, 15), seen(performance_loss=Reading(value=0.02, samples=200)), Move.HOLD, 25),
        # Three errors of a handful are more than 1 % of 200, whatever comes.
        (at(0, 1), seen(error_rate=Reading(value=1.0, samples=3)), Move.ROLL_BACK, 0),
        (at(0, 1), seen(error_rate=Reading(value=1.0, samples=2)), Move.HOLD, 5),
        # Missing, NaN, or what no measurement can be.
        (at(0, 1), seen(error_rate=...), Move.ROLL_BACK, 0),
        (at(0, 1), seen(performance_loss=...), Move.ROLL_BACK, 0),
        (at(0, 1), Observation(), Move.ROLL_BACK, 0),
        (at(0, 1), seen(error_rate=Reading(value=NAN, samples=200)), Move.ROLL_BACK, 0),
        (at(0, 1), seen(latency_p95_ratio=Reading(value=None, samples=200)), Move.ROLL_BACK, 0),
        (at(0, 1), seen(latency_p95_ratio=Reading(value=-1.0, samples=200)), Move.ROLL_BACK, 0),
        (at(0, 1), seen(performance_loss=Reading(value=-math.inf, samples=200)), Move.ROLL_BACK, 0),
        (at(0, 1), seen(error_rate=Reading(value=0.0, samples=-1)), Move.ROLL_BACK, 0),
        (at(0, 1), seen(error_rate=Reading(value="0", samples=500)), Move.ROLL_BACK, 0),  # type: ignore[arg-type]
        (at(0, 1), seen(error_rate=Reading(value=0.0, samples=NAN)), Move.ROLL_BACK, 0),  # type: ignore[arg-type]
        # The split was not in force.
        (at(1, 15), seen(lapsed=True), Move.SHIFT, 25),
        (at(1, 30), seen(lapsed=True), Move.SHIFT, 25),
        (at(2, 89), seen(lapsed=True), Move.SHIFT, 100),
        (at(2, 90), seen(lapsed=True), Move.ROLL_BACK, 0),
        (at(1, 15), seen(lapsed=True, error_rate=...), Move.ROLL_BACK, 0),
        # The spec was cut meanwhile.
        (at(3, 31), seen(), Move.ROLL_BACK, 0),
    ],
)
def test_from_a_state_and_an_observation_follows_one_move(
    where: tuple[CanaryState, datetime], observation: Observation, move: Move, share: float
) -> None:
    state, now = where
    after, action = advance(POLICY, state, observation, now)
    assert (action.move, action.share) == (move, share)
    assert action.reason
    assert (after.ended == action) is action.is_final
    if move is Move.SHIFT:
        assert after.step_started_at == now
        assert POLICY.shares[after.step] == share
    elif not action.is_final:
        assert after == state


def test_first_step_begins_with_the_first_share() -> None:
    state, action = begin(POLICY, START)
    assert (action.move, action.share) == (Move.SHIFT, 5)
    assert state == CanaryState(started_at=START, step=0, step_started_at=START)


def test_shadow_is_walked_as_one_step() -> None:
    shadow = Shadow(percent=30.0)
    state, action = begin(shadow, START)
    assert action.share == 30
    assert advance(shadow, state, seen(), START + timedelta(minutes=10))[1].move is Move.PROMOTE


def test_policy_without_any_guardrail_never_promotes() -> None:
    """The spec refuses it; this is the second lock on the door."""
    nothing = Guardrails.model_construct(**dict.fromkeys(GUARDRAILS))
    policy = Canary.model_construct(
        steps=(100.0,), every=timedelta(minutes=1), max_extend=timedelta(minutes=1), guardrails=nothing
    )
    assert advance(policy, begin(policy, START)[0], seen(), START + timedelta(minutes=1))[1].move is Move.ROLL_BACK


def test_guardrail_that_is_switched_off_is_not_looked_at() -> None:
    policy = Canary.model_validate({"steps": [100], "guardrails": {"prediction_distance": None}})
    state, _ = begin(policy, START)
    _, action = advance(policy, state, seen(prediction_distance=...), START + timedelta(minutes=10))
    assert action.move is Move.PROMOTE
    assert [finding.name for finding in action.findings] == ["error_rate", "latency_p95_ratio"]


def test_breach_names_every_guardrail_at_fault_with_limit_and_value() -> None:
    broken = seen(error_rate=Reading(value=0.0345, samples=1200), prediction_distance=Reading(value=NAN, samples=300))
    _, action = advance(POLICY, *_with(at(0, 5), broken))
    assert action.reason == (
        "The error rate is 0.0345 over 1,200 samples; at most 0.01 is allowed. "
        "The distance between the two models' predictions could not be computed from 300 samples."
    )
    verdicts = {finding.name: finding.verdict for finding in action.findings}
    assert verdicts["error_rate"] is verdicts["prediction_distance"] is Outcome.FAIL
    assert verdicts["latency_p95_ratio"] is Outcome.PASS


def test_giving_up_says_what_it_waited_for() -> None:
    _, action = advance(POLICY, *_with(at(0, 70), seen(performance_loss=few(30))))
    assert action.reason == (
        "Step 1 had to be over 1h 10m after the first began. "
        "The loss of performance against the champion rests on 30 samples; 200 are needed."
    )


def test_ended_canary_stays_ended_whatever_is_seen() -> None:
    ended, action = advance(POLICY, *_with(at(0, 5), Observation()))
    for minutes in (0, 5, 10_000):
        assert advance(POLICY, ended, seen(), START + timedelta(minutes=minutes)) == (ended, action)


@pytest.mark.parametrize("observation", [seen(), Observation(), seen(error_rate=Reading(value=NAN, samples=300))])
def test_state_survives_json_also_with_what_could_not_be_computed(observation: Observation) -> None:
    for state in (at(1, 0)[0], advance(POLICY, *_with(at(2, 30), observation))[0]):
        assert CanaryState.from_dict(json.loads(json.dumps(state.to_dict(), allow_nan=False))) == state


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.pop("step"),
        lambda d: d.update(step=-1),
        lambda d: d.update(step="1"),
        lambda d: d.update(step=True),
        lambda d: d.update(started_at=None),
        lambda d: d.update(ended={}),
        lambda d: d.update(ended={"move": "hold", "share": 5, "reason": "x", "findings": []}),
        lambda d: d.update(ended={"move": "dance", "share": 5, "reason": "x", "findings": []}),
        lambda d: d.update(ended={"move": "promote", "share": 0, "reason": "x", "findings": [{}]}),
        lambda d: d.update(more=1),
    ],
)
def test_what_is_no_state_is_refused(edit: Any) -> None:
    document = at(1, 0)[0].to_dict()
    edit(document)
    with pytest.raises(ValueError, match="this is not the state of a canary"):
        CanaryState.from_dict(document)


@pytest.mark.parametrize(
    ("share", "in_force"), [(25, True), (25.009, True), (24.9, False), (5, False), (math.nan, False), (None, False)]
)
def test_split_is_in_force_where_the_platform_says_the_share_of_this_step(share: float | None, in_force: bool) -> None:
    assert split_in_force(POLICY, at(1, 12)[0], share) is in_force
    assert not split_in_force(POLICY, at(3, 31)[0], share)


@pytest.mark.parametrize(
    ("where", "observation", "at_fault"),
    [
        (at(0, 5), seen(error_rate=Reading(value=0.5, samples=500)), True),
        (at(0, 5), seen(error_rate=...), True),
        (at(0, 70), seen(error_rate=few()), False),
        (at(2, 90), seen(lapsed=True), False),
        (at(3, 31), seen(), False),
        (at(2, 30), seen(), False),
        (at(0, 5), seen(), False),
    ],
)
def test_challenger_is_at_fault_where_a_guardrail_did_not_hold_only(
    where: tuple[CanaryState, datetime], observation: Observation, at_fault: bool
) -> None:
    assert advance(POLICY, where[0], observation, where[1])[1].at_fault is at_fault


def _with(where: tuple[CanaryState, datetime], observation: Observation) -> tuple[CanaryState, Observation, datetime]:
    return where[0], observation, where[1]


def test_action_is_final_only_where_all_is_over() -> None:
    final = {move for move in Move if Action(move=move, reason="x").is_final}
    assert final == {Move.PROMOTE, Move.ROLL_BACK}


@pytest.mark.parametrize(("errors", "samples", "verdict"), [(3, 187, Outcome.UNDECIDED), (4, 187, Outcome.FAIL)])
def test_errors_that_are_allowed_among_all_samples_are_no_breach_before(
    errors: int, samples: int, verdict: Outcome
) -> None:
    """At most 3 of 300; in floating point, 3 / 187 * 187 is more than 3."""
    rails = Guardrails.model_validate({"error_rate": {"max": 0.01, "min_samples": 300}})
    found = {
        outcome.name: outcome
        for outcome in judge(rails, {"error_rate": Reading(value=errors / samples, samples=samples)})
    }
    assert found["error_rate"].verdict is verdict
