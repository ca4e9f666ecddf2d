"""The process: wires the service together, and ends it without dropping a request."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from perennial.ports import Clock, ModelRegistry, ObjectStore
from perennial.serving.app import build_app
from perennial.serving.cache import ModelCache
from perennial.serving.connection import Connection
from perennial.serving.host import ModelHost
from perennial.serving.labels import LabelLog
from perennial.serving.metrics import Metrics
from perennial.serving.prediction_log import PredictionLog
from perennial.serving.settings import ServingSettings
from perennial.serving.watcher import Watcher
from perennial.spec.deployment import Log

_KEEP_ALIVE_S: Final = 75
"""That an idle connection is kept: longer than load balancers keep theirs (mostly 60 s), or now and then one of them
sends a request into a connection that is just being closed."""
_GRACE_S: Final = 0.5
"""Between a connection and its request."""


def serve(
    names: Sequence[str],
    *,
    registry: ModelRegistry,
    store: ObjectStore,
    root: str,
    clock: Clock,
    home: Path,
    settings: ServingSettings,
    policies: Mapping[str, Log | None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        names: of the models.
        registry: their versions.
        store: holds traffic plans, takes predictions and labels.
        root: `s3://bucket/prefix`.
        clock: the time.
        home: folder on the local disk for the cache and for what is on its way to the store.
        settings: limits and times.
        policies: what is logged of each model; None: nothing.

    Raises:
        NotFoundError, ChampionUnusableError: `settings.version` does not exist, or is not Perennial's.
    """
    metrics = Metrics()
    # A folder of its own: what served last there is this very version, and replicas that follow the alias never see it.
    folder = f"serving-cache-of-version-{settings.version}" if settings.version else "serving-cache"
    cache = ModelCache(home / folder, registry, keep=settings.cached_versions)
    watcher = Watcher(
        registry=registry,
        store=store,
        root=root,
        clock=clock,
        cache=cache,
        metrics=metrics,
        version=settings.version,
    )
    for name in names:
        watcher.require_version(name)
    host = ModelHost(names, watcher, settings, clock, metrics)
    replica = f"{socket.gethostname()}-{os.getpid()}"
    kept = {name: policy for name, policy in policies.items() if policy is not None}
    predictions = PredictionLog(store, root, kept, home / "prediction-log", replica=replica) if kept else None
    if predictions is not None:
        metrics.watch_log(predictions.stats)
        predictions.start()

    async def flush() -> None:
        if predictions is not None:
            await asyncio.to_thread(predictions.close)

    app = build_app(host, log=predictions, labels=LabelLog(store, root, clock), on_close=flush)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=Connection,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.request_timeout_s) + 1,
    )
    _Server(config, host).run()


class _Server(uvicorn.Server):
    """Tells load balancers first, and closes then. A second signal closes at once."""

    def __init__(self, config: uvicorn.Config, host: ModelHost) -> None:
        super().__init__(config)
        self._host = host
        self._closes_at = math.inf
        self._frozen = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not uvicorn's own, which ends the process by the signal once all is done, instead of with 0."""
        del sig, frame
        if self._host.draining or not self.started:
            self.should_exit = True
        self._host.draining = True
        self._closes_at = time.monotonic() + self._host.settings.drain_s

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to close."""
        if not self._frozen and not self._host.unhealthy():
            self._frozen = True
            # What the libraries made stays for good; without this each full collection walks all of it, which takes
            # as long as scoring a hundred requests.
            gc.collect()
            gc.freeze()
        return time.monotonic() >= self._closes_at or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, let those just taken send their request, then finish and close all."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(_GRACE_S)
        await super().shutdown(sockets)
