"""One look at a shadow or canary that has begun, and its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from perennial.champion_door import QUARANTINE_TAG, ChampionDoor, named
from perennial.domain.canary import Action, CanaryState, Move, Observation, advance, begin, split_in_force
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import RolloutRef
from perennial.domain.rollout import BRING_UP, RolloutRecord, RolloutState, Trial, traced
from perennial.domain.traffic import Role
from perennial.domain.wording import duration, plain
from perennial.errors import PerennialError, TerminalError
from perennial.lock import Lease
from perennial.ports import Deployer, DeploymentStatus, RegisteredVersion, Split
from perennial.reports.rollout_page import rollout_page
from perennial.spec.deployment import Rollout
from perennial.spec.model import ModelSpec
from perennial.stages.canary_observation import observe
from perennial.stages.rollout_objects import RolloutObjects, StoredRecord
from perennial.stages.takeover import give_back

_log = logging.getLogger(__name__)
SHORTEST_WAIT: Final = timedelta(seconds=2)
LONGEST_WAIT: Final = timedelta(seconds=30)
LOOKS_A_STEP: Final = 5
"""At least, unless that were more often than each `SHORTEST_WAIT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look came to."""

    ended: RolloutRef | None = None
    """How the rollout ended; None: it has not."""
    wait: timedelta = timedelta(0)
    """Until the next look; zero when it has ended."""
    said: str
    """One or more sentences for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One rollout's surroundings."""

    spec: ModelSpec
    phase: str
    deployer: Deployer
    door: ChampionDoor
    objects: RolloutObjects = field(init=False)

    def __post_init__(self) -> None:
        objects = RolloutObjects(store=self.door.store, root=self.door.root, model=self.spec.name)
        object.__setattr__(self, "objects", objects)

    @property
    def policy(self) -> Rollout | None:
        """What the spec asks for now; None: nothing any more."""
        return None if self.spec.deployment is None else self.spec.deployment.rollouts.get(self.phase)

    def look(self, state: RolloutState) -> Look:
        """One look at a rollout that has begun and is not over."""
        if state.canary is not None and state.canary.ended is not None:  # a crash came before the record
            return self.end(state, state.canary.ended)
        try:
            return self._look(state, self.door.clock.now())
        except TerminalError as error:
            return self.end(state, reason=f"It could not go on: {error}")

    def _look(self, state: RolloutState, now: datetime) -> Look:
        trial, policy = state.trial, self.policy
        status = self.deployer.status(trial.model)
        obstacle = self._obstacle(trial, status)
        if policy is None or obstacle:
            return self.end(state, reason=obstacle or f"The spec asks for no {self.phase} any more.")
        after, action = self._next(policy, state, status, now)
        if action is None and now >= trial.asked_at + BRING_UP:
            return self.end(state, reason=f"It was not up {duration(BRING_UP)} after it was asked for.")
        if not self.objects.put_state(after, instead_of=state):
            return Look(wait=_wait(policy), said="Somebody else has looked at the same time.")
        if action is not None and action.is_final:
            return self.end(after, action)
        return self._act(policy, after.trial, action)

    def _obstacle(self, trial: Trial, status: DeploymentStatus) -> str:
        """Why it cannot go on, whatever the guardrails say; empty: nothing is in the way."""
        champion = self.door.registry.champion_version(trial.model)
        if champion != trial.champion:
            return f"The champion is {named(champion)} by now, not version {trial.champion}."
        if status.rollout_id == trial.rollout_id and status.problem:
            return f"What serves it has a problem: {status.problem}"
        return ""

    def _next(
        self, policy: Rollout, state: RolloutState, status: DeploymentStatus, now: datetime
    ) -> tuple[RolloutState, Action | None]:
        """The next state, and what to do; no action: the challenger is being brought up."""
        state, before = replace(state, looked_at=now), state.canary
        share = status.share if status.ready and status.rollout_id == state.trial.rollout_id else None
        if before is None:
            if share is None:
                return state, None
            canary, action = begin(policy, now)
        else:
            if state.classes is None and policy.guardrails.performance_loss is not None:
                state = replace(state, classes=self._classes(state.trial))
            lapsed = not split_in_force(policy, before, share)
            observation = self._observed(policy, state, before, lapsed=lapsed, now=now)
            canary, action = advance(policy, before, observation, now)
        return replace(state, canary=canary, steps=traced(state.steps, before, canary, action, now)), action

    def _act(self, policy: Rollout, trial: Trial, action: Action | None) -> Look:
        """Carry out what the stored state says."""
        if action is None:
            self.deployer.deploy(_split(trial))
        else:
            self.deployer.shift(_split(trial), action.share)  # which also brings one up that is not there any more
        stored = self.objects.record(trial.rollout_id)
        if stored is not None:  # somebody ended it meanwhile, perhaps before the shift, perhaps promoted it, too
            self._give_back(trial)
            return self.over(stored)
        if action is None:
            return Look(wait=SHORTEST_WAIT, said=f"Version {trial.challenger} is being brought up.")
        return Look(wait=_wait(policy), said=f"{self.phase} at {plain(action.share)} %: {action.reason}")

    def _observed(
        self, policy: Rollout, state: RolloutState, canary: CanaryState, *, lapsed: bool, now: datetime
    ) -> Observation:
        try:
            readings = observe(
                self.spec,
                policy,
                canary,
                store=self.door.store,
                root=self.door.root,
                champion=state.trial.champion,
                challenger=state.trial.challenger,
                classes=state.classes or (),
                now=now,
            )
        except (PerennialError, OSError):
            raise
        except Exception as error:  # whatever lies where the log should
            raise TerminalError(f"the prediction log cannot be read: {type(error).__name__}: {error}") from error
        return Observation(readings=readings, lapsed=lapsed)

    def _classes(self, trial: Trial) -> tuple[Any, ...]:
        import numpy as np

        if self.spec.task == "regression":
            return ()
        estimator = self.door.registry.open_model(trial.challenger_model).estimator
        return tuple(np.asarray(estimator.classes_).tolist())

    def end(self, state: RolloutState, action: Action | None = None, *, reason: str = "") -> Look:
        """Put the end on record and carry it out; without an action, the challenger is taken back for this reason."""
        now, steps = self.door.clock.now(), state.steps
        if steps and steps[-1].ended_at is None:
            steps = (*steps[:-1], replace(steps[-1], ended_at=now))
        record = RolloutRecord(
            trial=state.trial,
            ended_at=now,
            champion_at_end=self.door.registry.champion_version(state.trial.model),
            passed=action is not None and action.move is Move.PROMOTE,
            at_fault=action is not None and action.at_fault,
            reason=reason if action is None else action.reason,
            steps=steps,
        )
        return self.over(self.objects.put_record(record))

    def over(self, stored: StoredRecord) -> Look:
        """Carry the record out, as far as that was not done before."""
        try:
            self.release(stored.record)
        except PerennialError:
            self.publish(stored)  # what the platform cannot do now must not keep a quarantine off the record
            raise
        return Look(ended=self.publish(stored), said=stored.record.summary)

    def release(self, record: RolloutRecord) -> None:
        """End the split; that of a canary that has passed stays in force until promote takes over."""
        if not record.passed or record.trial.phase == "shadow":
            self._give_back(record.trial)

    def _give_back(self, trial: Trial) -> None:
        otherwise = champion_of(trial)
        give_back(trial.model, trial.rollout_id, door=self.door, deployer=self.deployer, otherwise=otherwise)

    def is_published(self, stored: StoredRecord) -> bool:
        """Whether the ledger has it."""
        entry = self._entry(stored)
        return self.door.ledger.find(entry.model, entry.entry_id) is not None

    def _entry(self, stored: StoredRecord) -> LedgerEntry:
        return stored.record.entry(recorded_at=self.door.clock.now(), reference=stored.reference)

    def publish(self, stored: StoredRecord, lease: Lease | None = None) -> RolloutRef:
        """Page, the version's tag, ledger entry."""
        record, ledger, entry = stored.record, self.door.ledger, self._entry(stored)
        if ledger.find(entry.model, entry.entry_id) is None:
            self.objects.put_page(stored, rollout_page(self.spec, record))
            self._tag(record.trial, entry.quarantined)
            _log.info("%s %s %s: %s", entry.model, entry.run_id, record.trial.phase, record.summary)
        return replace(stored.reference, ledger_uri=ledger.append(entry, lease=lease).uri)

    def _tag(self, trial: Trial, quarantined: Mapping[str, str]) -> None:
        """For people who look at the version in MLflow; one that somebody has deleted is passed over."""
        registry = self.door.registry
        if quarantined and trial.challenger in registry.version_tags(trial.model):
            why = quarantined[trial.challenger_model.digest]
            registry.tag_version(trial.model, trial.challenger, {QUARANTINE_TAG: " ".join(why.split())})


def champion_of(trial: Trial) -> RegisteredVersion:
    """The champion that it is tried out against."""
    return RegisteredVersion(name=trial.model, version=trial.champion, model=trial.champion_model)


def _split(trial: Trial) -> Split:
    challenger = RegisteredVersion(name=trial.model, version=trial.challenger, model=trial.challenger_model)
    return Split(
        champion=champion_of(trial), challenger=challenger, role=Role(trial.phase), rollout_id=trial.rollout_id
    )


def _wait(policy: Rollout) -> timedelta:
    return max(SHORTEST_WAIT, min(LONGEST_WAIT, policy.every / LOOKS_A_STEP))
