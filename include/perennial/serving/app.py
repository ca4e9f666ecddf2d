"""The HTTP face of the scoring service: MLflow's and SageMaker's contract, and what operations needs."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version as installed_version
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from perennial import __version__
from perennial.serving import openapi
from perennial.serving.errors import BadRequestError, DeadlineError, HungUpError, ServingError, UnavailableError
from perennial.serving.host import ModelHost
from perennial.serving.labels import Label, LabelLog, parse_labels
from perennial.serving.metrics import CONTENT_TYPE
from perennial.serving.scoring import Log, ScoringRequest, ScoringService
from perennial.serving.threads import in_daemon

_ID: Final = re.compile(r"[!-~]{1,128}")
_LABEL_WRITERS: Final = 4
"""Threads, at most, that write labels at once."""
_JSON: Final = "application/json"


def build_app(
    host: ModelHost,
    *,
    log: Log | None = None,
    labels: LabelLog | None = None,
    on_close: Callable[[], Awaitable[None]] | None = None,
) -> FastAPI:
    """The application. The host is started and closed with it.

    Args:
        host: the models.
        log: keeps what was scored.
        labels: keeps outcomes; None: there is no route for them.
        on_close: called after the last request was answered, such as to flush the log.
    """
    service = ScoringService(host, log)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await host.start()
        try:
            yield
        finally:
            await service.close()
            await host.close()
            if on_close is not None:
                await on_close()

    app = FastAPI(
        title="Perennial scoring service", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    _add_error_handlers(app, host)
    _add_scoring(app, host, service)
    _add_operations(app, host)
    if labels is not None:
        _add_labels(app, host, labels)
    app.openapi = lambda: _document(app, host)  # type: ignore[method-assign]  # FastAPI's way to change it
    return app


def _add_scoring(app: FastAPI, host: ModelHost, service: ScoringService) -> None:
    # Not a uuid a request: each would be a system call, which lets go of the interpreter while a model computes.
    start, numbers = uuid.uuid4().hex, itertools.count()

    async def answer(request: Request, model: str) -> Response:
        started, at = time.monotonic(), host.clock.now()
        request.state.model = model
        request.state.request_id = request_id = _id_of(request, "x-request-id") or f"{start}-{next(numbers):x}"
        with host.metrics.in_flight.track_inprogress(), host.room.place() as take:
            found = await service.answer(
                ScoringRequest(
                    model=model,
                    body=await _body(request, host, take, started),
                    content_type=request.headers.get("content-type"),
                    request_id=request_id,
                    key=_id_of(request, "x-perennial-key") or request_id,
                    at=at,
                    started=started,
                    hung_up=request.receive,
                )
            )
        host.metrics.requests.labels(model, found.version, found.role, "200").inc()
        headers = {
            "x-request-id": request_id,
            "x-perennial-version": found.version,
            "x-perennial-role": found.role,
            **_connection(host),
        }
        return Response(found.content, media_type=_JSON, headers=headers)

    @app.post("/invocations", summary="Score with the default model", **openapi.scoring())
    async def invocations(request: Request) -> Response:
        return await answer(request, default_model(host))

    @app.post("/models/{name}/invocations", summary="Score with a model", **openapi.scoring())
    async def model_invocations(request: Request, name: str) -> Response:
        return await answer(request, name)


def _add_labels(app: FastAPI, host: ModelHost, labels: LabelLog) -> None:
    writers = asyncio.Semaphore(_LABEL_WRITERS)

    async def keep(request: Request, model: str) -> dict[str, int]:
        if model not in host.models:
            raise BadRequestError(f"there is no model {model[:60]!r}; there are {', '.join(host.models)}", status=404)
        with host.room.place() as take:
            body = await _body(request, host, take, time.monotonic())
            given = await asyncio.to_thread(parse_labels, body)
            try:
                async with asyncio.timeout(host.settings.request_timeout_s):
                    await writers.acquire()
                    await in_daemon(partial(write, model, given, asyncio.get_running_loop()))
            except TimeoutError:
                raise DeadlineError("the store did not take the labels in time; send them again") from None
        return {"labels": len(given)}

    def write(model: str, given: Sequence[Label], loop: asyncio.AbstractEventLoop) -> None:
        try:
            labels.add(model, given)
        finally:  # not when the request is given up: behind a store that hangs threads would pile up
            loop.call_soon_threadsafe(writers.release)

    @app.post("/labels", summary="Tell outcomes of the default model", **openapi.labels())
    async def default_labels(request: Request) -> dict[str, int]:
        return await keep(request, default_model(host))

    @app.post("/models/{name}/labels", summary="Tell outcomes of a model", **openapi.labels())
    async def model_labels(request: Request, name: str) -> dict[str, int]:
        return await keep(request, name)


def _add_operations(app: FastAPI, host: ModelHost) -> None:
    async def ping() -> dict[str, str]:
        if why := host.unhealthy():
            raise UnavailableError(why)
        return {"status": "ok"}

    for path in ("/ping", "/health"):
        app.get(path, summary="200 if this replica can score", responses=openapi.errors(503))(ping)

    @app.get("/version", summary="MLflow's version", response_class=Response)
    async def version() -> Response:
        return Response(installed_version("mlflow"), media_type="text/plain")

    @app.get("/models", summary="What is in service, in which role, since when, and what is wrong")
    async def models() -> dict[str, Any]:
        return {"perennial": __version__, "models": [served.to_dict() for served in host.models.values()]}

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(await asyncio.to_thread(host.metrics.exposition), media_type=CONTENT_TYPE)


def _add_error_handlers(app: FastAPI, host: ModelHost) -> None:
    def respond(request: Request, error: ServingError) -> Response:
        request_id = getattr(request.state, "request_id", "")
        model = getattr(request.state, "model", None)  # of a request for predictions
        if model is not None:
            host.metrics.requests.labels(model if model in host.models else "", "", "", str(error.status)).inc()
        detail = list(getattr(error, "detail", ()))
        content = {"error_code": error.code, "message": str(error), "request_id": request_id, "detail": detail}
        headers = {"x-request-id": request_id, **_connection(host)}
        if error.retry_after_s is not None:
            headers["retry-after"] = str(error.retry_after_s)
        return Response(
            json.dumps({name: value for name, value in content.items() if value}),
            status_code=error.status,
            media_type=_JSON,
            headers={name: value for name, value in headers.items() if value},
        )

    async def refused(request: Request, error: Exception) -> Response:
        return respond(request, error if isinstance(error, ServingError) else ServingError("internal error"))

    async def no_route(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = error.detail if isinstance(error, HTTPException) else "internal error"
        response = respond(
            request, BadRequestError(f"{request.method} {request.url.path[:200]}: {text}", status=status)
        )
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    app.add_exception_handler(ServingError, refused)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(Exception, refused)  # its text and its trace stay in the service's own log


def _document(app: FastAPI, host: ModelHost) -> dict[str, Any]:
    """The OpenAPI document, with the columns of what is in service now."""
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    loaded = {name: served.champion.scorer.columns.all for name, served in host.models.items() if served.champion}
    try:
        default = [loaded[name] for name in (default_model(host),) if name in loaded]
    except BadRequestError:
        default = []
    for path, models in (("/invocations", default), ("/models/{name}/invocations", list(loaded.values()))):
        found["paths"][path]["post"]["requestBody"] = openapi.rows_of(models)
    for path, methods in found["paths"].items():
        if "{name}" in path:
            for parameter in methods["post"]["parameters"]:
                if parameter["name"] == "name":
                    parameter["schema"] = {"enum": list(host.models)}
    return found


def default_model(host: ModelHost) -> str:
    """Whom /invocations asks.

    Raises:
        BadRequestError: there are several, and none of them is the default (404).
    """
    if host.settings.default_model:
        return host.settings.default_model
    if len(host.models) == 1:
        return next(iter(host.models))
    raise BadRequestError(f"there are several models; ask one of {', '.join(host.models)} by name", status=404)


async def _body(request: Request, host: ModelHost, take: Callable[[int], None], started: float) -> bytes:
    limit = host.settings.max_body_bytes
    too_large = BadRequestError(f"the body has more than {limit:,} bytes; send fewer rows at once", status=413)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(max(0.0, started + host.settings.request_timeout_s - time.monotonic())):
            async for part in request.stream():
                if len(body) + len(part) > limit:
                    raise too_large
                take(len(part))
                body += part
    except TimeoutError:
        raise BadRequestError(
            f"the body did not come within {host.settings.request_timeout_s:g} s", status=408
        ) from None
    except ClientDisconnect:
        raise HungUpError("the client hung up") from None
    return bytes(body)


def _id_of(request: Request, header: str) -> str | None:
    value = request.headers.get(header)
    if value is not None and not _ID.fullmatch(value):
        raise BadRequestError(f"the header {header} must be 1 to 128 printable ASCII characters, without spaces")
    return value


def _connection(host: ModelHost) -> dict[str, str]:
    """While the replica is on its way out, clients are to come back through the load balancer."""
    return {"connection": "close"} if host.draining else {}
