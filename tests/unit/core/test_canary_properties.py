"""What no sequence of observations, looks and crashes may lead to."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.domain.canary import (
    GUARDRAILS,
    Action,
    CanaryState,
    Move,
    Observation,
    Reading,
    advance,
    begin,
    split_in_force,
)
from perennial.domain.traffic import Role, TrafficPlan
from perennial.spec.deployment import Canary
from tests.unit.core.test_canary import FINE, START

LIFETIME = timedelta(minutes=3)
LIMITS = {"error_rate": 0.01, "latency_p95_ratio": 2.0, "prediction_distance": 0.25, "performance_loss": 0.02}


@st.composite
def policies(draw: st.DrawFn, longest_minutes: int = 120) -> Canary:
    rails: dict[str, Any] = {name: {"max": limit} for name, limit in LIMITS.items()}
    for name in draw(st.sets(st.sampled_from(sorted(LIMITS)), max_size=3)):
        rails[name] = None
    shares = sorted(draw(st.sets(st.floats(1, 100), min_size=1, max_size=5)))
    every, extend = (timedelta(minutes=draw(st.integers(1, longest_minutes))) for _ in range(2))
    return Canary.model_validate({"steps": shares, "every": every, "max_extend": extend, "guardrails": rails})


GOOD = st.fixed_dictionaries(
    {
        name: st.builds(Reading, value=st.floats(0, limit), samples=st.integers(200, 10_000))
        for name, limit in LIMITS.items()
    }
)
NOT_ENOUGH = st.builds(Reading, value=st.none() | st.floats(-1, 1) | st.just(math.nan), samples=st.integers(0, 199))
UNUSABLE = st.builds(
    Reading, value=st.sampled_from([None, math.nan, math.inf, -math.inf]), samples=st.integers(200, 10_000)
)
ABOVE = st.builds(Reading, value=st.floats(2.1, 1e9), samples=st.integers(200, 10_000))
ANYTHING = st.builds(
    Observation,
    readings=st.dictionaries(
        st.sampled_from(sorted(GUARDRAILS)),
        st.builds(Reading, value=st.none() | st.floats(), samples=st.integers(-1, 1000)),
    ),
    lapsed=st.booleans(),
)
UNSEEN = Reading(value=None, samples=0)
WAITS = st.lists(st.integers(1, 3600), min_size=1, max_size=60)


@settings(deadline=None)
@given(policies(), st.data(), WAITS)
def test_with_one_guardrail_never_in_order_there_is_no_promotion(
    policy: Canary, data: st.DataObject, waits: list[int]
) -> None:
    """Missing, not finite, above its limit or on too few samples, by turns; all others are as good as can be."""
    asked = [name for name in GUARDRAILS if getattr(policy.guardrails, name) is not None]
    bad = data.draw(st.sampled_from(asked))
    (state, action), now = begin(policy, START), START
    for wait in waits:
        now += timedelta(seconds=wait)
        readings = {**data.draw(GOOD), bad: data.draw(st.none() | NOT_ENOUGH | UNUSABLE | ABOVE)}
        seen = {name: reading for name, reading in readings.items() if reading is not None}
        state, action = advance(policy, state, Observation(readings=seen), now)
        assert action.move is not Move.PROMOTE
        if readings[bad] is None or readings[bad].samples >= 200:
            assert action.move is Move.ROLL_BACK
    _, action = advance(policy, state, Observation(readings=seen), START + policy.longest)
    assert action.move is Move.ROLL_BACK


@settings(deadline=None)
@given(policies(), st.lists(st.tuples(st.integers(0, 7200), ANYTHING), max_size=60))
def test_no_look_after_the_longest_time_leaves_a_canary_open(
    policy: Canary, looks: list[tuple[int, Observation]]
) -> None:
    (state, action), now = begin(policy, START), START
    for wait, observation in looks:
        now += timedelta(seconds=wait)
        state, action = advance(policy, state, observation, now)
        assert action.is_final or now < START + policy.longest
        assert 0 <= action.share <= 100
    state, action = advance(policy, state, Observation(readings=FINE), START + policy.longest)
    assert action.is_final


@settings(deadline=None)
@given(
    policies(),
    st.lists(st.tuples(st.integers(0, 600), ANYTHING | GOOD.map(lambda r: Observation(readings=r))), max_size=80),
)
def test_promotion_needs_every_step_to_have_lasted_and_to_have_been_in_order(
    policy: Canary, looks: list[tuple[int, Observation]]
) -> None:
    (state, action), now, shares, since = begin(policy, START), START, [policy.shares[0]], START
    for wait, observation in looks:
        now += timedelta(seconds=wait)
        before = state
        state, action = advance(policy, state, observation, now)
        forward = action.move is Move.PROMOTE or state.step > before.step
        if forward and before.ended is None:
            assert now - since >= policy.every
            assert not observation.lapsed
            for name in GUARDRAILS:
                rail = getattr(policy.guardrails, name)
                assert rail is None or observation.readings[name].samples >= rail.min_samples
                assert rail is None or (observation.readings[name].value or 0) <= rail.max
        if action.move is Move.SHIFT:
            since = now
            shares += [action.share] if state.step > before.step else []
        if action.is_final:
            break
    assert tuple(shares) == policy.shares[: len(shares)]
    assert action.move is not Move.PROMOTE or tuple(shares) == policy.shares


@dataclass
class World:
    """What lies in the store, and what was done: all that is left after a crash."""

    policy: Canary
    observations: dict[int, Observation]
    state: str = ""
    plan: TrafficPlan | None = None
    done: list[tuple[Move, float]] = field(default_factory=list)

    def look(self, now: datetime, crash: str = "") -> Action | None:
        """One look of whoever walks the canary; `crash` says before what it dies."""
        if not self.state:
            state, action = begin(self.policy, now)
        else:
            state = CanaryState.from_dict(json.loads(self.state))
            lapsed = not split_in_force(self.policy, state, self._share(now))
            # Of a split that was not in force nothing was seen.
            readings = dict.fromkeys(GUARDRAILS, UNSEEN) if lapsed else self.observations[state.step].readings
            observation = Observation(readings=readings, lapsed=lapsed)
            state, action = advance(self.policy, state, observation, now)
        if crash == "before storing":
            return None
        self.state = json.dumps(state.to_dict(), allow_nan=False)
        if crash == "before acting":
            return None
        self._carry_out(action, now)
        return None if crash == "after acting" else action

    def _share(self, now: datetime) -> float | None:
        return None if self.plan is None or not self.plan.is_live(now) else self.plan.share

    def _carry_out(self, action: Action, now: datetime) -> None:
        if action.is_final:
            self.plan = None
        else:
            self.plan = TrafficPlan(
                model="churn",
                challenger="7",
                role=Role.CANARY,
                share=action.share,
                rollout_id="run",
                issued_at=now,
                expires_at=now + LIFETIME,
            )
        told = (Move.SHIFT if not action.is_final else action.move, action.share)
        if not self.done or self.done[-1] != told:  # the same again is idempotent
            self.done.append(told)


CRASHES = st.lists(st.sampled_from(["", "", "", "before storing", "before acting", "after acting"]), max_size=60)


@settings(deadline=None)
@given(
    policies(longest_minutes=8),
    st.lists(
        GOOD | st.just({}) | GOOD.map(lambda r: {**r, "error_rate": Reading(value=1.0, samples=300)}),
        min_size=5,
        max_size=5,
    ),
    CRASHES,
)
def test_crash_at_any_point_leads_to_the_same_actions(
    policy: Canary, readings: list[dict[str, Reading]], crashes: list[str]
) -> None:
    """With an observation for each step, and looks each 30 s, some of which die half way and are made up for."""
    observations = {step: Observation(readings=given) for step, given in enumerate(readings)}
    calm, rough = (World(policy, observations) for _ in range(2))
    for world, dying in ((calm, []), (rough, crashes)):
        now, action, left = START, None, list(dying)
        while action is None or not action.is_final:
            assert now <= START + policy.longest + timedelta(seconds=30)
            action = world.look(now, left.pop() if left else "")
            now += timedelta(seconds=30) if action is not None else timedelta(seconds=1)
    assert calm.plan is rough.plan is None
    if calm.done[-1] == rough.done[-1]:
        assert calm.done == rough.done
    else:  # crashes took the time that there was
        assert rough.done[-1][0] is Move.ROLL_BACK
        assert rough.done[:-1] == calm.done[: len(rough.done) - 1]


@settings(deadline=None)
@given(policies(), GOOD, st.integers(0, 5), st.integers(181, 100_000))
def test_controller_that_was_away_longer_than_its_plan_starts_the_step_anew_or_rolls_back(
    policy: Canary, readings: dict[str, Reading], step: int, away: int
) -> None:
    world = World(policy, dict.fromkeys(range(5), Observation(readings=readings)))
    now = START
    world.look(now)
    for _ in range(step):
        now += timedelta(seconds=30)
        world.look(now)
    before = CanaryState.from_dict(json.loads(world.state))
    if before.ended is not None:
        return
    now += timedelta(seconds=away)
    action = world.look(now)
    after = CanaryState.from_dict(json.loads(world.state))
    assert action is not None
    if action.move is Move.ROLL_BACK:
        assert now >= START + policy.every * (before.step + 1) + policy.max_extend
    else:
        assert (action.move, after.step, after.step_started_at) == (Move.SHIFT, before.step, now)
