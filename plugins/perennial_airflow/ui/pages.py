"""Serves the pages that lie in the store (decisions, validation reports): its objects are private.

A plugin's application has no authentication of its own in Airflow, so every route here asks for it: whoever may read
the DAG that retrains a model may read the model's pages. Quarantined rows are not served.
"""

from __future__ import annotations

import logging
import re
from typing import Annotated, Final

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Response

from perennial.addresses import PAGE_KINDS
from perennial.errors import NotFoundError, PerennialError, TransientError
from perennial.ports import ObjectStore
from perennial.settings import load_settings
from perennial_airflow.hooks.runtime import PerennialHook
from perennial_airflow.links import DAG_ID_PATTERN

log = logging.getLogger(__name__)

MAX_PAGE_BYTES: Final = 20 * 1024 * 1024
_REST: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._+=:~-]*/){1,4}page\.html")
"""One to four folders, none of which starts with a dot, and the page."""

HEADERS: Final = {
    # The pages have no script and load nothing; should one ever carry a user's text unescaped, it stays a text.
    "Content-Security-Policy": (
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}

router = APIRouter(prefix="/ui", dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.TASK_LOGS))])


def page_store() -> ObjectStore:
    """The store, built anew for each page: pages are read by people, and a changed connection counts at once."""
    return PerennialHook().store()


@router.get("/{dag_id}/{kind}/{rest:path}")
def page(
    dag_id: Annotated[str, Path(max_length=250)],
    kind: Annotated[str, Path(max_length=20)],
    rest: Annotated[str, Path(max_length=512)],
    store: Annotated[ObjectStore, Depends(page_store)],
) -> Response:
    """A page of the model that the DAG retrains.

    Raises:
        HTTPException: 404 there is no such page, 502 the store refuses, 503 the store does not answer.
    """
    match = DAG_ID_PATTERN.fullmatch(dag_id)
    if match is None or match[2] != "retrain" or kind not in PAGE_KINDS or not _REST.fullmatch(rest):
        raise HTTPException(404, "no such page")
    uri = f"{load_settings().store}/{kind}/{match[1]}/{rest}"
    try:
        content = store.read(uri, end=MAX_PAGE_BYTES)
    except NotFoundError as error:
        raise HTTPException(404, "no such page") from error
    except TransientError as error:
        log.warning("cannot read %s: %s", uri, error)
        raise HTTPException(503, "the object store does not answer; try again", headers={"Retry-After": "5"}) from error
    except PerennialError as error:
        log.error("cannot read %s: %s", uri, error)
        raise HTTPException(502, "the object store refused; see the API server's log") from error
    return Response(content, media_type="text/html; charset=utf-8", headers=HEADERS)


def create_app() -> FastAPI:
    """The application that the plugin mounts at `/perennial`."""
    app = FastAPI(title="Perennial", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router)
    return app
