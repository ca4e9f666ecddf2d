"""What should be served, and getting it: the blocking half of `perennial.serving.host`."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass, field

from perennial.domain.traffic import TrafficPlan, plan_uri
from perennial.errors import NotFoundError, RegistryUnavailableError, StoreUnavailableError
from perennial.ports import Clock, ModelRegistry, ObjectStore, RegisteredVersion
from perennial.serving.cache import ModelCache
from perennial.serving.metrics import Metrics
from perennial.serving.scorer import Scorer

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Watcher:
    """Looks and loads. All methods block; of one model, one call of each at a time; loads also at once."""

    registry: ModelRegistry
    store: ObjectStore
    root: str
    clock: Clock
    cache: ModelCache
    metrics: Metrics
    version: str = ""
    """The one that serves whatever the alias and the traffic plan say; empty: they say which."""
    _found: RegisteredVersion | None = None
    """That one."""
    _told: dict[tuple[str, str], str] = field(default_factory=dict)
    """What was logged last of each trouble, so that it is not logged again at each look."""

    def require_version(self, model: str) -> None:
        """Make sure that `version` can be served, as far as can be told without a registry that is down.

        Raises:
            NotFoundError: the registry has no such version.
            ChampionUnusableError: Perennial did not register it.
        """
        if self.version and self.cache.champion(model) is None:
            with suppress(RegistryUnavailableError):  # the next look asks again
                self._look_up_version(model)

    def champion(self, model: str) -> tuple[RegisteredVersion | None, str]:
        """What the alias says now, and why there is none."""
        try:
            champion = self._look_up_version(model) if self.version else self.registry.champion(model)
        except Exception as error:  # whatever a client raises must not keep the service from its local cache
            self._failed(model, "champion", error)
            return None, str(error) or type(error).__name__
        return champion, "" if champion else f"{model} has no champion; `perennial history {model}` tells why"

    def split(
        self, model: str, champion: RegisteredVersion | None, last_plan: TrafficPlan | None
    ) -> tuple[TrafficPlan | None, RegisteredVersion | None]:
        """The traffic plan, if it is live and about another version than the champion; and that version.

        Args:
            model: its name.
            champion: as it was seen last.
            last_plan: stands while the store does not answer, until it expires.
        """
        plan = None if self.version else self._plan(model, last_plan)
        if plan is None or (champion is not None and plan.challenger == champion.version):
            return None, None
        try:
            return plan, self.registry.version(model, plan.challenger)
        except Exception as error:  # as above
            self._failed(model, "challenger", error)
            return plan, None

    def load(self, version: RegisteredVersion) -> Scorer:
        """The version, its files compared with its digest, warmed up.

        Raises:
            PerennialError: as `ModelCache.obtain`; or SmokeTestError, as `Scorer.warm_up`.
            Exception: whatever the model's own code raises while it is loaded.
        """
        scorer = Scorer(version.version, version.model.digest, self.cache.obtain(version))
        scorer.warm_up()
        return scorer

    def _look_up_version(self, model: str) -> RegisteredVersion:
        if self._found is None:  # what a version is never changes
            self._found = self.registry.version(model, self.version)
        return self._found

    def _plan(self, model: str, last: TrafficPlan | None) -> TrafficPlan | None:
        try:
            plan: TrafficPlan | None = TrafficPlan.from_dict(json.loads(self.store.read(plan_uri(self.root, model))))
        except NotFoundError:
            return None
        except StoreUnavailableError as error:
            self._failed(model, "plan", error)
            plan = last
        except Exception as error:  # whatever lies there
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
