"""Which versions are in service, and how one takes over from another without a request noticing."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

from perennial.domain.times import format_time
from perennial.domain.traffic import Role, TrafficPlan, role_for
from perennial.errors import TransientError
from perennial.ports import Clock, RegisteredVersion
from perennial.serving.batcher import Batcher
from perennial.serving.metrics import Metrics, VersionMetrics
from perennial.serving.room import Room
from perennial.serving.scorer import Scorer
from perennial.serving.settings import ServingSettings
from perennial.serving.threads import StillRunningError, in_daemon
from perennial.serving.watcher import Watcher

log = logging.getLogger(__name__)
_BACK_OFF_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
_LOAD_TIMEOUT_S: Final = 120.0
"""A version that takes longer to load and warm up counts as hanging; it is not tried again by this process."""
_LOAD_PATIENCE_S: Final = 1.0
"""A load that takes longer goes on beside the looks: the next one may say otherwise."""
_TOLD_AFTER_TRIES: Final = 3
"""Loads of a challenger that fail before its requests count as its errors."""
_PATIENCE_S: Final = 3.0
"""At start: what has not answered or come by then is not waited for, if what served last is on the disk."""


_Key = tuple[str, str]
"""A version and its digest."""


@dataclass(slots=True, eq=False)
class Deployed:
    """One version in service."""

    scorer: Scorer
    batcher: Batcher
    since: datetime
    metrics: Mapping[Role, VersionMetrics]

    @property
    def version(self) -> str:
        """In the registry."""
        return self.scorer.version

    def is_of(self, version: RegisteredVersion) -> bool:
        """Whether it is this very version."""
        return self.version == version.version and self.scorer.digest == version.model.digest

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "version": self.version,
            "digest": self.scorer.digest,
            "since": format_time(self.since),
            "hangs": self.batcher.hangs,
        }


@dataclass(slots=True)
class _Failure:
    why: str
    tries: int
    again_at: float
    """Of `time.monotonic`."""
    own: bool
    """Whether the version is at fault, as far as can be told: not, while MLflow, the store or the local disk fails."""


@dataclass(slots=True, eq=False)
class ServedModel:
    """One model's versions in service."""

    name: str
    champion: Deployed | None = None
    challenger: Deployed | None = None
    plan: TrafficPlan | None = None
    problem: str = ""
    """Why what should be served is not; empty if it is."""
    looked: bool = False
    """Whether the first look is over."""
    fall_back_at: float = field(default_factory=lambda: time.monotonic() + _PATIENCE_S)
    """Of `time.monotonic`: without a champion by then, what served last is brought up."""
    split: asyncio.Future[tuple[TrafficPlan | None, RegisteredVersion | None]] | None = None
    """The look at the traffic plan that is going on."""
    loads: dict[_Key, asyncio.Task[Scorer | None]] = field(default_factory=dict)
    """Those going on."""
    failures: dict[_Key, _Failure] = field(default_factory=dict)

    def role(self, key: str, now: datetime) -> Role:
        """What the challenger in service is to a request with this key."""
        if self.challenger is None or self.plan is None or self.challenger.version != self.plan.challenger:
            return Role.CHAMPION
        return role_for(self.plan, key, now)

    def lost(self, key: str, now: datetime) -> tuple[str, Role, str] | None:
        """Version, role and reason, if a challenger that cannot be loaded should have had the request with this key."""
        plan = self.plan
        if plan is None or (self.challenger is not None and self.challenger.version == plan.challenger):
            return None
        role = role_for(plan, key, now)
        if role is Role.CHAMPION:
            return None
        for (version, _), failure in self.failures.items():
            if version == plan.challenger and failure.own and failure.tries >= _TOLD_AFTER_TRIES:
                return version, role, failure.why
        return None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plan = self.plan
        return {
            "model": self.name,
            "champion": None if self.champion is None else self.champion.to_dict(),
            "challenger": None
            if self.challenger is None or plan is None
            else {**self.challenger.to_dict(), "role": plan.role, "share": plan.share, "rollout_id": plan.rollout_id},
            "problem": self.problem or None,
        }


class ModelHost:
    """Keeps each model's champion in service, and its challenger while a live traffic plan names one.

    Each poll interval it looks at the alias and the plan. A new version is loaded and warmed up beside the old one,
    then takes its place between two requests; the old one scores what it was given, and is dropped. One that cannot be
    loaded changes nothing: the last good one stays, `problem` says why, and it is tried again after 1, 2, 4 ... 60 s.
    """

    def __init__(
        self, names: Sequence[str], watcher: Watcher, settings: ServingSettings, clock: Clock, metrics: Metrics
    ) -> None:
        self.models = {name: ServedModel(name) for name in names}
        self.draining = False
        """Whether the replica is on its way out."""
        self.clock = clock
        self.settings = settings
        self.metrics = metrics
        self.room = Room(settings.max_bytes_in_flight)
        self._watcher = watcher
        self._tasks: list[asyncio.Task[None]] = []
        for served in self.models.values():
            metrics.watch_queue(served.name, partial(_waiting_rows, served))

    async def start(self) -> None:
        """Begin to look; returns at once."""
        for served in self.models.values():
            self._tasks.append(asyncio.create_task(self._watch(served), name=f"watch-{served.name}"))

    async def close(self) -> None:
        """Look no more, and let what was submitted be scored."""
        tasks = [*self._tasks, *(load for served in self.models.values() for load in served.loads.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for served in self.models.values():
            for deployed in (served.champion, served.challenger):
                if deployed is not None:
                    deployed.batcher.close()

    def unhealthy(self) -> str:
        """Why this replica should get no requests; empty if it should.

        One of many models that cannot be loaded is no reason: each replica would have the same trouble.
        """
        if self.draining:
            return "the replica is shutting down"
        models = self.models.values()
        hanging = [model.name for model in models if model.champion is not None and model.champion.batcher.hangs]
        if hanging:
            return f"the champion of {', '.join(hanging)} hangs; restart the replica"
        if not all(model.looked or model.champion for model in models):
            return "models are being loaded"
        if not any(model.champion for model in models):
            return "; ".join(f"{model.name}: {model.problem}" for model in models)
        return ""

    async def _watch(self, served: ServedModel) -> None:
        while True:
            try:
                await self.refresh(served)
            except Exception:  # whatever it is, the next look must come
                log.exception("%s: looking for its champion failed", served.name)
            served.looked = served.looked or not served.loads
            await asyncio.sleep(self.settings.poll_interval_s)

    async def refresh(self, served: ServedModel) -> None:
        """Look once, and bring about what is seen."""
        look = asyncio.ensure_future(in_daemon(lambda: self._watcher.champion(served.name)))
        if served.champion is None:
            await asyncio.wait((look,), timeout=_PATIENCE_S)
            while not look.done() and await self._fall_back(served):
                pass
        champion, problem = await look
        if champion is not None:
            await self._install_champion(served, champion)
        loading = champion is not None and _key(champion) in served.loads
        if served.champion is None and (not loading or time.monotonic() > served.fall_back_at):
            await self._fall_back(served)
        plan, challenger = await self._split(served, champion)
        await self._install_challenger(served, plan, challenger)
        seen = [_key(version) for version in (champion, challenger) if version is not None]
        if served.champion is not None:  # loads that nobody wants any more
            served.loads = {key: load for key, load in served.loads.items() if key in seen or not load.done()}
        served.problem = next((served.failures[key].why for key in seen if key in served.failures), problem)

    async def _split(
        self, served: ServedModel, champion: RegisteredVersion | None
    ) -> tuple[TrafficPlan | None, RegisteredVersion | None]:
        """As `Watcher.split`. While a store hangs the last plan stands, and the next champion is not kept waiting."""
        if served.split is None:
            served.split = asyncio.ensure_future(
                in_daemon(lambda: self._watcher.split(served.name, champion, served.plan))
            )
        await asyncio.wait((served.split,), timeout=_PATIENCE_S)
        if not served.split.done():
            return served.plan, None
        found, served.split = served.split, None
        return found.result()

    async def _install_champion(self, served: ServedModel, version: RegisteredVersion) -> None:
        if served.champion is not None and served.champion.is_of(version):
            return
        if served.challenger is not None and served.challenger.is_of(version):
            new: Deployed | None = served.challenger
        else:
            new = await self._deploy(served, version)
        if new is None:
            return
        old, served.champion = served.champion, new
        if served.challenger is new:
            served.challenger, served.plan = None, None
        new.since = self.clock.now()
        log.info("%s: version %s serves, after %s", served.name, new.version, old.version if old else "none")
        if old is not None:
            self.metrics.swaps.labels(served.name).inc()
            old.batcher.close()
        self._tell_info(served)
        await in_daemon(lambda: self._remember(served, version))

    async def _fall_back(self, served: ServedModel) -> bool:
        """At start, with the registry or what should serve out of reach: what served last, from the disk.

        Returns whether it is still being loaded.
        """
        last = await in_daemon(lambda: self._watcher.cache.champion(served.name))
        found = None if last is None else await self._deploy(served, last)
        if found is not None:
            log.warning("%s: version %s serves, which served last, from the local cache", served.name, found.version)
            served.champion = found
            self._tell_info(served)
        return found is None and last is not None and _key(last) in served.loads

    async def _install_challenger(
        self, served: ServedModel, plan: TrafficPlan | None, wanted: RegisteredVersion | None
    ) -> None:
        current = served.challenger
        if current is not None and (plan is None or current.version != plan.challenger):
            served.challenger = None
            current.batcher.close()
        if wanted is not None and served.challenger is None:
            served.challenger = await self._deploy(served, wanted)
        served.plan = plan
        self._tell_info(served)

    async def _deploy(self, served: ServedModel, version: RegisteredVersion) -> Deployed | None:
        """The version, loaded and warmed up; None if that goes on, has failed, or failed too shortly before."""
        key = _key(version)
        failure = served.failures.get(key)
        if failure is not None and time.monotonic() < failure.again_at:
            return None
        if key not in served.loads:
            served.loads[key] = asyncio.create_task(self._load(served, version), name=f"load-{served.name}")
        load = served.loads[key]
        await asyncio.wait((load,), timeout=_LOAD_PATIENCE_S)
        if not load.done():
            return None
        del served.loads[key]
        scorer = load.result()
        if scorer is None:
            return None
        served.failures.pop(key, None)
        name = served.name
        rows = self.metrics.batch_rows.labels(name)
        return Deployed(
            scorer=scorer,
            batcher=Batcher(scorer.score, self.settings, name=f"{name}-{version.version}", on_batch=rows.observe),
            since=self.clock.now(),
            metrics={role: self.metrics.of(name, version.version, role) for role in Role},
        )

    async def _load(self, served: ServedModel, version: RegisteredVersion) -> Scorer | None:
        """None if it failed."""
        try:
            return await in_daemon(lambda: self._watcher.load(version), timeout_s=_LOAD_TIMEOUT_S)
        except StillRunningError as error:
            self._load_failed(served, version, error, for_good=True)
        except Exception as error:  # loading and warming up run the model's own code
            self._load_failed(served, version, error)
        return None

    def _load_failed(
        self, served: ServedModel, version: RegisteredVersion, error: Exception, *, for_good: bool = False
    ) -> None:
        key = _key(version)
        tries = served.failures[key].tries + 1 if key in served.failures else 1
        back_off_s = math.inf if for_good else _BACK_OFF_S[min(tries, len(_BACK_OFF_S)) - 1]
        why = f"version {version.version} could not be loaded: {str(error) or type(error).__name__}"
        own = not for_good and not isinstance(error, TransientError | OSError)
        served.failures[key] = _Failure(why, tries, time.monotonic() + back_off_s, own)
        self.metrics.load_failures.labels(served.name, version.version).inc()
        log.error("%s: %s", served.name, why)

    def _remember(self, served: ServedModel, version: RegisteredVersion) -> None:
        in_use = {deployed.scorer.digest for deployed in (served.champion, served.challenger) if deployed is not None}
        try:
            self._watcher.cache.remember_champion(version)
            self._watcher.cache.trim(served.name, in_use)
        except OSError as error:
            log.warning("%s: the local cache cannot be written: %s", served.name, error)

    def _tell_info(self, served: ServedModel) -> None:
        loaded = []
        if served.champion is not None:
            loaded.append((served.champion.version, Role.CHAMPION, served.champion.scorer.digest))
        if served.challenger is not None and served.plan is not None:
            loaded.append((served.challenger.version, served.plan.role, served.challenger.scorer.digest))
        self.metrics.tell_info(served.name, loaded)


def _key(version: RegisteredVersion) -> _Key:
    return version.version, version.model.digest


def _waiting_rows(served: ServedModel) -> int:
    return 0 if served.champion is None else served.champion.batcher.waiting_rows
