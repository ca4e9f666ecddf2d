"""The webhook as a FastAPI application; the plugin mounts it at `/perennial/v1` of Airflow's API server.

A plugin's application has no authentication of its own in Airflow: every route here asks for a signature or a token,
except the OpenAPI document, which says nothing of any model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from perennial_airflow.webhook.bodies import (
    BODY_TIMEOUT_S,
    MAX_BODY_BYTES,
    BodyTooLargeError,
    BodyTooSlowError,
    read_body,
)
from perennial_airflow.webhook.intake import Answer, Message, Webhook, come_again
from perennial_airflow.webhook.openapi import ALERT, FORWARDED, TICK

MAX_AT_ONCE: Final = 12
"""Messages that are worked on at once. Airflow's own routes, which its tasks need, have 40 threads and 15 database
connections by default; a storm of alerts is not to take them all."""
MAX_WAITING: Final = 100
"""Messages that wait for one of those; more are told to come again."""
VERSION: Final = "1"
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def create_app(webhook: Webhook | None = None) -> FastAPI:
    """The application; without a webhook, one that takes what it needs from Airflow's connections."""
    app = FastAPI(title="Perennial webhook", version=VERSION, docs_url=None, redoc_url=None)
    app.include_router(_router(webhook or Webhook()))
    return app


def _router(webhook: Webhook) -> APIRouter:
    router = APIRouter()
    limiter = anyio.CapacityLimiter(MAX_AT_ONCE)
    read = 0  # messages that are worked on or wait; only the event loop counts them

    async def answered(request: Request, handle: Callable[[Message], Answer]) -> JSONResponse:
        nonlocal read
        try:
            body = await read_body(request)
        except BodyTooLargeError:
            return _response(Answer(status=413, content={"message": f"more than {MAX_BODY_BYTES:,} bytes"}))
        except BodyTooSlowError:
            return _response(Answer(status=408, content={"message": f"not there after {BODY_TIMEOUT_S:.0f} s"}))
        if read >= MAX_AT_ONCE + MAX_WAITING:
            return _response(come_again("too many messages are waiting"))
        message = Message(headers=request.headers.items(), body=body)
        read += 1
        try:
            return _response(await run_sync(partial(handle, message), limiter=limiter))
        finally:
            read -= 1

    @router.post("/alerts", **ALERT)
    async def post_alert(request: Request) -> JSONResponse:
        """One alert in Perennial's own form."""
        return await answered(request, webhook.alert)

    @router.post("/tick", **TICK)
    async def post_tick(request: Request) -> JSONResponse:
        """Let the model's deferred alerts go on, if they are due."""
        return await answered(request, webhook.tick)

    for form, documented in FORWARDED.items():
        router.add_api_route(
            f"/alerts/{form}", _forwarding(form, webhook, answered), methods=["POST"], name=form, **documented
        )
    return router


def _forwarding(form: str, webhook: Webhook, answered: Callable[..., Any]) -> Callable[..., Any]:
    async def post_forwarded(request: Request) -> JSONResponse:
        response: JSONResponse = await answered(request, partial(webhook.forwarded, form))
        return response

    return post_forwarded


def _response(answer: Answer) -> JSONResponse:
    return JSONResponse(dict(answer.content), answer.status, {**HEADERS, **answer.headers})
