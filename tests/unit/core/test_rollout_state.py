"""What is kept of a rollout: back from JSON as it was, bounded, and refused where it is something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from perennial.domain.canary import Observation, Reading, advance, begin
from perennial.domain.fingerprint import canonical_json
from perennial.domain.rollout import MAX_SUMMARY, RolloutRecord, RolloutState, traced
from perennial.spec.deployment import Canary
from tests.unit.core.rolled_out import BEGAN, MINUTE, a_trial
from tests.unit.core.test_canary import FINE, seen

STEPS = tuple(float(share) for share in range(5, 101, 5))
POLICY = Canary.model_validate({"steps": STEPS, "guardrails": {"performance_loss": {"max": 0.02}}})


def walked(*observations: Observation) -> RolloutState:
    """From the first step on, with an observation at the end of each ten minutes."""
    now, policy = BEGAN, POLICY
    canary, action = begin(policy, now)
    state = RolloutState(trial=a_trial(), looked_at=now, canary=canary, steps=traced((), None, canary, action, now))
    for observation in observations:
        now += 10 * MINUTE
        assert state.canary is not None
        canary, action = advance(policy, state.canary, observation, now)
        steps = traced(state.steps, state.canary, canary, action, now)
        state = RolloutState(trial=state.trial, looked_at=now, classes=("no", "yes"), canary=canary, steps=steps)
    return state


@pytest.mark.parametrize(
    "state",
    [
        RolloutState(trial=a_trial(), looked_at=BEGAN),
        walked(),
        walked(seen(), seen(lapsed=True), seen()),
        walked(seen(), seen(error_rate=Reading(value=float("nan"), samples=300))),
    ],
)
def test_state_survives_json(state: RolloutState) -> None:
    assert RolloutState.from_dict(json.loads(canonical_json(state.to_dict()))) == state


def test_walk_of_the_most_steps_stays_small_and_tells_each_once() -> None:
    state = walked(*[seen()] * len(STEPS))
    assert [step.share for step in state.steps] == list(STEPS)
    assert all(step.ended_at is not None and len(step.findings) == len(FINE) for step in state.steps)
    assert len(canonical_json(state.to_dict())) < 64 * 1024


def test_step_that_began_anew_is_one_step_that_says_how_often() -> None:
    (step,) = walked(*[seen(lapsed=True)] * 3).steps
    assert (step.restarts, step.began_at, step.ended_at) == (3, BEGAN, None)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.pop("trial"),
        lambda d: d["trial"].pop("champion"),
        lambda d: d["trial"].update(more=1),
        lambda d: d.update(looked_at="yesterday"),
        lambda d: d.update(steps=[{}]),
        lambda d: d.update(canary={}),
        lambda d: d.update(classes=3),
    ],
)
def test_what_is_no_state_is_refused(edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(canonical_json(walked(seen()).to_dict()))
    edit(document)
    with pytest.raises(ValueError, match="this is not the state of a rollout"):
        RolloutState.from_dict(document)


def test_summary_of_a_long_reason_is_cut_to_what_a_reference_may_hold() -> None:
    record = RolloutRecord(
        trial=a_trial(),
        ended_at=BEGAN + timedelta(hours=1),
        champion_at_end="1",
        passed=False,
        at_fault=True,
        reason="The error rate is too high. " * 100,
    )
    assert len(record.summary) == MAX_SUMMARY
    assert record.summary.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert RolloutRecord.from_dict(json.loads(record.to_json())) == record
