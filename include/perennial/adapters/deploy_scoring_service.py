"""Perennial's scoring service as a deployer: by itself it follows the alias `champion` and the traffic plan.

So nothing is called here: a split is a plan in the store, short-lived and renewed at each look. If whoever walks the
rollout dies, the plan expires and every request goes to the champion again.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta
from typing import Final

from perennial.domain.fingerprint import canonical_json
from perennial.domain.times import format_time
from perennial.domain.traffic import TrafficPlan, plan_uri
from perennial.errors import DeployerUnavailableError, NotFoundError, StoreUnavailableError
from perennial.json_objects import JSON_TYPE
from perennial.ports import Clock, DeploymentStatus, ObjectStore, RegisteredVersion, Split

_log = logging.getLogger(__name__)

LIFETIME: Final = timedelta(minutes=3)
"""Of a plan: how long a split outlives whoever walks it."""
RENEW_AFTER: Final = timedelta(seconds=30)
"""A plan that is younger and says the same is left alone."""


class ScoringServiceDeployer:
    """A `Deployer` whose platform is every replica of `perennial serve` that reads this store."""

    def __init__(self, store: ObjectStore, root: str, clock: Clock) -> None:
        self._store = store
        self._root = root
        self._clock = clock

    def deploy(self, split: Split) -> None:
        """Let the replicas load and warm the challenger up, without a share. A split of its own stays as it is."""
        live = self._live(split.challenger.name)
        share = live.share if live is not None and live.rollout_id == split.rollout_id else 0.0
        self.shift(split, share)

    def shift(self, split: Split, share: float) -> None:
        """Issue the plan, or a new one in place of one that says something else or is older than `RENEW_AFTER`."""
        now = self._clock.now()
        live = self._live(split.challenger.name)
        if live is not None and live.rollout_id != split.rollout_id:
            raise DeployerUnavailableError(
                f"{split.challenger.name}: version {live.challenger} is being tried out by rollout "
                f"{live.rollout_id}, until {format_time(live.expires_at)} unless it is "
                f"renewed; wait for its end, or stop it"
            )
        plan = _plan(split, share, now)
        if live is not None and _says(live) == _says(plan) and now - live.issued_at < RENEW_AFTER:
            return
        content = canonical_json(plan.to_dict())
        try:
            self._store.write(plan_uri(self._root, plan.model), content, content_type=JSON_TYPE)
        except StoreUnavailableError as error:
            raise DeployerUnavailableError(f"{plan.model}: the traffic plan was not written: {error}") from error

    def status(self, model: str) -> DeploymentStatus:
        """The live plan's split, or none. Each replica comes up by itself; what it does is in its own /models."""
        plan = self._live(model)
        if plan is None:
            return DeploymentStatus(champion=None)
        return DeploymentStatus(
            champion=None, challenger=plan.challenger, role=plan.role, share=plan.share, rollout_id=plan.rollout_id
        )

    def promote(self, champion: RegisteredVersion) -> None:
        """End the split; the alias does the rest."""
        self._end(champion.name)

    def roll_back(self, champion: RegisteredVersion) -> None:
        """End the split. Replicas see it at their next look; a store that is down, when the plan expires."""
        self._end(champion.name)

    def _end(self, model: str) -> None:
        try:
            self._store.delete(plan_uri(self._root, model))
        except StoreUnavailableError as error:
            raise DeployerUnavailableError(f"{model}: the traffic plan was not taken away: {error}") from error

    def _live(self, model: str) -> TrafficPlan | None:
        """The plan that the replicas go by. What they cannot read does not count for them, nor here."""
        uri = plan_uri(self._root, model)
        try:
            plan = TrafficPlan.from_dict(json.loads(self._store.read(uri)))
        except NotFoundError:
            return None
        except StoreUnavailableError as error:
            raise DeployerUnavailableError(f"{model}: the traffic plan was not read: {error}") from error
        except ValueError as error:
            _log.warning("%s is no traffic plan and is passed over: %s", uri, error)
            return None
        return plan if plan.model == model and plan.is_live(self._clock.now()) else None


def _plan(split: Split, share: float, now: datetime) -> TrafficPlan:
    return TrafficPlan(
        model=split.challenger.name,
        challenger=split.challenger.version,
        role=split.role,
        share=share,
        rollout_id=split.rollout_id,
        issued_at=now,
        expires_at=now + LIFETIME,
    )


def _says(plan: TrafficPlan) -> tuple[object, ...]:
    return plan.model, plan.challenger, plan.role, plan.share, plan.rollout_id
