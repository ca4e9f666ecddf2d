"""One request's way: who answers it, what becomes of it if that fails, and who else gets a copy.

A canary that fails costs no request: the champion answers in its place, and then the failure counts against the canary.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Protocol

from perennial.domain.traffic import Role
from perennial.serving.columns import Batch
from perennial.serving.errors import (
    BadRequestError,
    DeadlineError,
    HungUpError,
    QueueFullError,
    ServingError,
    UnavailableError,
)
from perennial.serving.host import Deployed, ModelHost, ServedModel
from perennial.serving.payload import parse
from perennial.serving.prediction_log import ScoredRequest
from perennial.serving.scorer import encode_predictions

_LARGE_BYTES: Final = 64 * 1024
"""A larger body is parsed in another thread, so that others need not wait."""
_LARGE_ROWS: Final = 5_000
"""An answer with more is encoded in another thread."""
_WATCH_AFTER_S: Final = 0.05
"""Only of a request that takes longer is looked whether its client is still there."""


class Log(Protocol):
    """Keeps what was scored; `PredictionLog` is one."""

    def add(self, request: ScoredRequest) -> None:
        """Neither wait nor fail."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """What a client sent."""

    model: str
    body: bytes
    content_type: str | None
    request_id: str
    key: str
    """Requests with the same key go to the same version as long as a plan's share does not shrink."""
    at: datetime
    started: float
    """Of `time.monotonic`."""
    hung_up: Callable[[], Awaitable[Any]]
    """Returns when the client is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What it gets back."""

    content: bytes
    """JSON."""
    version: str
    role: Role


class ScoringService:
    """Answers requests with the models of a host."""

    def __init__(self, host: ModelHost, log: Log | None = None) -> None:
        self._host = host
        self._log = log
        self._copies: set[asyncio.Task[None]] = set()

    async def answer(self, request: ScoringRequest) -> Answer:
        """Predictions for the request's rows.

        Raises:
            BadRequestError: there is no such model (404), or the body is none of its (400, 415).
            ServingError: as `Batcher.submit`; DeadlineError, HungUpError.
        """
        served = self._host.models.get(request.model)
        if served is None:
            known = ", ".join(self._host.models)
            raise BadRequestError(f"there is no model {request.model[:60]!r}; there are {known}", status=404)
        role, challenger = served.role(request.key, request.at), served.challenger
        failure: tuple[ServingError, float] | None = None
        if challenger is not None and role is Role.CANARY:
            try:
                return await self._scored(request, lambda: challenger, Role.CANARY, share_of_time=0.5)
            except HungUpError:
                raise
            except ServingError as error:
                if served.challenger is challenger:  # not, if it was taken out of service meanwhile
                    failure = error, time.monotonic() - request.started
        answer = await self._by_champion(request, served)
        if challenger is not None and failure is not None:  # what the champion cannot do either is the request's fault
            self._failed(request, challenger, Role.CANARY, *failure)
        if (lost := served.lost(request.key, request.at)) is not None:
            self._lost(request, *lost)
        if challenger is not None and role is Role.SHADOW:
            copy = asyncio.create_task(self._copy(request, challenger))
            self._copies.add(copy)
            copy.add_done_callback(self._copies.discard)
        return answer

    async def close(self) -> None:
        """Let the copies for shadows be scored."""
        await asyncio.gather(*self._copies, return_exceptions=True)

    async def _by_champion(self, request: ScoringRequest, served: ServedModel) -> Answer:
        asked: Deployed | None = None  # when it has failed, another one may serve already

        def champion() -> Deployed:
            nonlocal asked
            if served.champion is None:
                raise UnavailableError(
                    f"no version of {served.name} can be served: {served.problem or 'it is loading'}"
                )
            asked = served.champion
            return asked

        try:
            return await self._scored(request, champion, Role.CHAMPION)
        except ServingError as error:
            if asked is not None:
                self._failed(request, asked, Role.CHAMPION, error)
            raise

    async def _copy(self, request: ScoringRequest, challenger: Deployed) -> None:
        copy = replace(request, started=time.monotonic(), hung_up=_never)
        try:
            with self._host.room.place() as take:
                take(len(copy.body))
                await self._scored(copy, lambda: challenger, Role.SHADOW)
        except QueueFullError:  # a copy is the first to go; that is no error of the model's
            self._host.metrics.shadows_dropped.labels(request.model).inc()
        except ServingError as error:
            self._failed(request, challenger, Role.SHADOW, error)

    async def _scored(
        self, request: ScoringRequest, current: Callable[[], Deployed], role: Role, *, share_of_time: float = 1.0
    ) -> Answer:
        """Predictions by one version.

        Args:
            request: whose rows.
            current: the version; asked again after each wait, as it may be replaced meanwhile.
            role: what it is to the request.
            share_of_time: of the time limit that it may take.
        """
        deadline = request.started + share_of_time * self._host.settings.request_timeout_s
        deployed = current()
        batch = await self._parsed(request, deployed)
        while deployed is not (newest := current()):
            deployed = newest
            batch = await self._parsed(request, deployed)
        predictions = await _in_time(deployed.batcher.submit(batch, deadline), deadline, request.hung_up)
        content = await _encoded(predictions)  # here, where a canary that gives what JSON lacks still costs nothing
        took_s = time.monotonic() - request.started
        deployed.metrics[role].latency.observe(took_s)
        self._keep(
            request, deployed.version, role, took_s, rows=batch.rows, features=batch.values, predictions=predictions
        )
        return Answer(content=content, version=deployed.version, role=role)

    async def _parsed(self, request: ScoringRequest, deployed: Deployed) -> Batch:
        if len(request.body) <= _LARGE_BYTES:
            return parse(request.body, request.content_type, deployed.scorer.columns)
        return await asyncio.to_thread(parse, request.body, request.content_type, deployed.scorer.columns)

    def _failed(
        self,
        request: ScoringRequest,
        deployed: Deployed,
        role: Role,
        error: ServingError,
        took_s: float | None = None,
    ) -> None:
        """Count it; and keep it in the log, unless it is the client's doing."""
        deployed.metrics[role].failed(error.kind)
        if isinstance(error, HungUpError) or (role is Role.CHAMPION and isinstance(error, BadRequestError)):
            return
        took_s = time.monotonic() - request.started if took_s is None else took_s
        deployed.metrics[role].latency.observe(took_s)
        self._keep(request, deployed.version, role, took_s, error=f"{error.kind}: {error}")

    def _lost(self, request: ScoringRequest, version: str, role: Role, why: str) -> None:
        """Count and log it as the challenger's error: who walks the rollout would wait for samples that never come."""
        self._host.metrics.errors.labels(request.model, version, role, "not_loaded").inc()
        self._keep(request, version, role, time.monotonic() - request.started, error=f"not_loaded: {why}")

    def _keep(
        self,
        request: ScoringRequest,
        version: str,
        role: Role,
        took_s: float,
        *,
        rows: int = 1,
        features: Mapping[str, Sequence[Any]] = MappingProxyType({}),
        predictions: Sequence[Any] | None = None,
        error: str = "",
    ) -> None:
        if self._log is None:
            return
        self._log.add(
            ScoredRequest(
                model=request.model,
                version=version,
                role=role,
                request_id=request.request_id,
                at=request.at,
                rows=rows,
                features=features,
                predictions=predictions,
                latency_ms=took_s * 1000,
                error=error,
            )
        )


async def _encoded(predictions: Sequence[Any]) -> bytes:
    if len(predictions) <= _LARGE_ROWS:
        return encode_predictions(predictions)
    return await asyncio.to_thread(encode_predictions, predictions)


async def _in_time(
    answer: asyncio.Future[list[Any]], deadline: float, hung_up: Callable[[], Awaitable[Any]]
) -> list[Any]:
    """What the future resolves to, unless the time is over or the client gone; then it is cancelled."""
    try:
        await asyncio.wait((answer,), timeout=min(_WATCH_AFTER_S, max(0.0, deadline - time.monotonic())))
        if answer.done():
            return answer.result()
        client = asyncio.ensure_future(hung_up())
        try:
            left_s = max(0.0, deadline - time.monotonic())
            await asyncio.wait((answer, client), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if client.done():
                raise HungUpError("the client hung up")
            raise DeadlineError("no prediction within the time limit")
        finally:
            client.cancel()
    finally:
        answer.cancel()


async def _never() -> None:
    await asyncio.Event().wait()
