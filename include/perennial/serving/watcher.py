"""What should be served, and getting it: the blocking half of `perennial.serving.host`."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

from perennial.domain.traffic import TrafficPlan, plan_uri
from perennial.errors import NotFoundError, PerennialError, StoreUnavailableError
from perennial.ports import Clock, ModelRegistry, ObjectStore, RegisteredVersion
from perennial.serving.cache import ModelCache
from perennial.serving.metrics import Metrics
from perennial.serving.scorer import Scorer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What the registry and the store said at one look."""

    champion: RegisteredVersion | None = None
    challenger: RegisteredVersion | None = None
    plan: TrafficPlan | None = None
    """Live when it was read, and about another version than the champion."""
    problem: str = ""
    """Why there is no champion in it."""


@dataclass(slots=True, kw_only=True)
class Watcher:
    """Looks and loads. All methods block; of one model one at a time may be called."""

    registry: ModelRegistry
    store: ObjectStore
    root: str
    clock: Clock
    cache: ModelCache
    metrics: Metrics
    _told: dict[tuple[str, str], str] = field(default_factory=dict)
    """What was logged last of each trouble, so that it is not logged again at each look."""

    def look(self, model: str, last_plan: TrafficPlan | None) -> Sighting:
        """What the alias and the traffic plan say now.

        Args:
            model: its name.
            last_plan: stands while the store does not answer, until it expires.
        """
        champion, problem = None, ""
        try:
            champion = self.registry.champion(model)
            problem = "" if champion else f"{model} has no champion; `perennial history {model}` tells why"
        except Exception as error:  # whatever a client raises must not keep the service from its local cache
            problem = str(error) or type(error).__name__
            self._failed(model, "champion", error)
        plan = self._plan(model, last_plan)
        if plan is None or (champion is not None and plan.challenger == champion.version):
            return Sighting(champion=champion, problem=problem)
        try:
            challenger = self.registry.version(model, plan.challenger)
        except PerennialError as error:
            self._failed(model, "challenger", error)
            return Sighting(champion=champion, plan=plan, problem=problem)
        return Sighting(champion=champion, challenger=challenger, plan=plan, problem=problem)

    def load(self, version: RegisteredVersion) -> Scorer:
        """The version, its files compared with its digest, warmed up.

        Raises:
            PerennialError: as `ModelCache.obtain`; or SmokeTestError, as `Scorer.warm_up`.
            Exception: whatever the model's own code raises while it is loaded.
        """
        scorer = Scorer(version.version, version.model.digest, self.cache.obtain(version))
        scorer.warm_up()
        return scorer

    def _plan(self, model: str, last: TrafficPlan | None) -> TrafficPlan | None:
        try:
            plan: TrafficPlan | None = TrafficPlan.from_dict(json.loads(self.store.read(plan_uri(self.root, model))))
        except NotFoundError:
            return None
        except StoreUnavailableError as error:
            self._failed(model, "plan", error)
            plan = last
        except (PerennialError, ValueError, RecursionError) as error:
            self._failed(model, "plan", error)
            return None
        if plan is None or not plan.is_live(self.clock.now()):
            return None
        if plan.model != model:
            self._failed(model, "plan", ValueError(f"it is of the model {plan.model}"))
            return None
        return plan

    def _failed(self, model: str, what: str, error: Exception) -> None:
        self.metrics.look_failures.labels(model, what).inc()
        if self._told.get((model, what)) != str(error):
            self._told[(model, what)] = str(error)
            log.warning("%s: could not read its %s: %s", model, what, error)
