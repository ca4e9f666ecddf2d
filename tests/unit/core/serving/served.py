"""A small world to serve from: a registry and a store in memory, models that behave or do not, requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pandas as pd

from perennial.domain.traffic import Role, TrafficPlan, plan_uri
from perennial.ports import FittedTraining
from perennial.serving.app import build_app
from perennial.serving.cache import ModelCache
from perennial.serving.host import ModelHost, ServedModel
from perennial.serving.metrics import Metrics
from perennial.serving.prediction_log import ScoredRequest
from perennial.serving.settings import ServingSettings
from perennial.serving.watcher import Watcher
from perennial.testing import FixedClock, FolderStore, MemoryRegistry

ROOT = "s3://bucket/store"
MODEL = "toy"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLE = pd.DataFrame({"x": [1.5, -2.0], "n": [3, 4], "carrier": ["AA", "UA"]})
ROW = {"x": 0.5, "n": 2, "carrier": "AA"}


class Adding:
    """Predicts x + n + shift. What a test asks it to do otherwise goes by the carrier of a row."""

    gate: ClassVar[threading.Event] = threading.Event()
    """`hang` waits for it."""

    def __init__(self, shift: float = 0.0, *, broken: str = "") -> None:
        self.shift, self.broken = shift, broken

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        carriers = [self.broken, *frame["carrier"].tolist()]
        if "hang" in carriers:
            self.gate.wait(30)
        if "refuse" in carriers:
            raise ValueError("cannot take that carrier")
        if "crash" in carriers:
            raise RuntimeError("secret of the inside")
        if "exit" in carriers:
            raise SystemExit(3)
        if "few" in carriers:
            return np.zeros(0)
        found = frame["x"].to_numpy() + frame["n"].to_numpy() + self.shift
        return np.where(np.asarray(carriers[1:]) == "nan", np.nan, found)


class LogInMemory:
    """Keeps what was scored."""

    def __init__(self) -> None:
        self.requests: list[ScoredRequest] = []

    def add(self, request: ScoredRequest) -> None:
        self.requests.append(request)


def training(estimator: Any, *, model: str = MODEL, number: int = 0) -> FittedTraining:
    """What is logged of an estimator."""
    return FittedTraining(
        model=model,
        task="regression",
        estimator=estimator,
        params={},
        metrics={},
        tags={},
        input_example=EXAMPLE,
        output_example=None,
        dataset_uri="s3://bucket/manifest.json",
        dataset_sha256="d" * 64,
        dataset_rows=2,
        fingerprint=f"{number:064d}",
        keys_sha256="c" * 64,
        training_start=NOW - timedelta(days=9),
        training_end=NOW,
        trusted_types=(),
        run_name="run",
    )


class ServedWorld:
    """Registry, store, cache and host of one model."""

    def __init__(self, folder: Path, *names: str, **settings: Any) -> None:
        self.registry = MemoryRegistry()
        self.store = FolderStore(folder / "store")
        self.store.add_bucket("bucket")
        self.clock = FixedClock(NOW)
        self.folder = folder / "cache"
        self.metrics = Metrics()
        self.settings = ServingSettings(**{"poll_interval_s": 0.01, "drain_s": 0.0, **settings})
        self.log = LogInMemory()
        self.names = names or (MODEL,)
        self._trained = 0

    def host(self, registry: Any = None, store: Any = None) -> ModelHost:
        """A new one, as after a restart."""
        registry, store = registry or self.registry, store or self.store
        cache = ModelCache(self.folder, registry, keep=self.settings.cached_versions)
        watcher = Watcher(
            registry=registry, store=store, root=ROOT, clock=self.clock, cache=cache, metrics=self.metrics
        )
        self.last_host = ModelHost(self.names, watcher, self.settings, self.clock, self.metrics)
        return self.last_host

    def break_challenger(self, how: str) -> None:
        """As of a model that loads well, and fails later."""
        challenger = self.last_host.models[MODEL].challenger
        assert challenger is not None
        challenger.scorer._predict.__self__.broken = how

    def add_version(self, estimator: Any, *, model: str = MODEL) -> str:
        """Train and register; the version's number."""
        self._trained += 1
        trained = self.registry.log_training(training(estimator, model=model, number=self._trained))
        return self.registry.register(model, trained, {})

    def promote(self, estimator: Any, *, model: str = MODEL) -> str:
        """A version that is the champion at once."""
        version = self.add_version(estimator, model=model)
        self.registry.point_alias(model, "champion", version)
        return version

    def plan(self, challenger: str, role: Role = Role.CANARY, share: float = 100.0) -> None:
        """A traffic plan of ten minutes."""
        plan = TrafficPlan(
            model=MODEL,
            challenger=challenger,
            role=role,
            share=share,
            rollout_id="run",
            issued_at=self.clock.now(),
            expires_at=self.clock.now() + timedelta(minutes=10),
        )
        content = json.dumps(plan.to_dict()).encode()
        self.store.write(plan_uri(ROOT, MODEL), content, content_type="application/json")


async def ready(host: ModelHost, model: str = MODEL) -> ServedModel:
    """The model after one look; the host need not be started."""
    served = host.models[model]
    await host.refresh(served)
    served.looked = True
    return served


def client(world: ServedWorld, host: ModelHost, **more: Any) -> httpx.AsyncClient:
    """Talks to the application without a server."""
    app = build_app(host, log=world.log, **more)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


def split(*rows: dict[str, Any]) -> dict[str, Any]:
    """A body as MLflow's clients send it."""
    names = list(rows[0])
    return {"dataframe_split": {"columns": names, "data": [[row[name] for name in names] for row in rows]}}


async def until(condition: Callable[[], Any], *, seconds: float = 10.0) -> None:
    """Wait for it; a bound on hanging, not a measurement."""
    import asyncio

    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
