"""The pages behind the buttons: who gets them, and what nobody gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from perennial.errors import StoreUnavailableError, TerminalError
from perennial_airflow.ui import pages
from tests.unit.core.world import ROOT, World

pytestmark = pytest.mark.airflow
DAG = "perennial__toy__retrain"
GUARD = pages.router.dependencies[0].dependency


@pytest.fixture
def app(world: World) -> Any:
    for kind in ("decisions", "validations", "rollouts", "quarantine"):
        world.store.write(f"{ROOT}/{kind}/toy/abc/page.html", b"<!doctype html>" + kind.encode(), content_type="x")
    world.store.write(f"{ROOT}/decisions/toy/abc/decision.json", b"{}", content_type="x")
    world.store.write(f"{ROOT}/decisions/other/abc/page.html", b"secret", content_type="x")
    app = pages.create_app()
    app.dependency_overrides[pages.page_store] = lambda: world.store
    return app


@pytest.fixture
def client(app: Any) -> Iterator[TestClient]:
    """Somebody who may read the DAG."""
    app.dependency_overrides[GUARD] = lambda: None
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("kind", ["decisions", "validations", "rollouts"])
def test_page_is_served_to_whoever_may_read_the_dag(client: TestClient, kind: str) -> None:
    answer = client.get(f"/ui/{DAG}/{kind}/abc/page.html")
    assert answer.status_code == 200
    assert answer.text == f"<!doctype html>{kind}"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "path",
    [
        f"/ui/{DAG}/decisions/nothing/page.html",
        f"/ui/{DAG}/decisions/abc/decision.json",
        f"/ui/{DAG}/decisions/page.html",
        f"/ui/{DAG}/decisions/../../decisions/other/abc/page.html",
        f"/ui/{DAG}/decisions/%2e%2e/other/abc/page.html",
        f"/ui/{DAG}/decisions/..%2fother/abc/page.html",
        f"/ui/{DAG}/decisions/abc/.hidden/page.html",
        f"/ui/{DAG}/decisions/abc//page.html",
        f"/ui/{DAG}/decisions/abc/page.html%00",
        f"/ui/{DAG}/decisions/abc%0a/page.html",
        f"/ui/{DAG}/decisions/a/b/c/d/e/page.html",
        "/ui/perennial__toy__rollback/decisions/abc/page.html",
        "/ui/some_other_dag/decisions/abc/page.html",
        "/ui/perennial__../decisions__retrain/decisions/abc/page.html",
        "/docs",
        "/openapi.json",
    ],
)
def test_anything_but_a_page_of_the_model_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_quarantined_rows_are_not_served(client: TestClient) -> None:
    assert client.get(f"/ui/{DAG}/quarantine/abc/page.html").status_code == 404


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_pages_can_only_be_read(client: TestClient, method: str) -> None:
    assert getattr(client, method)(f"/ui/{DAG}/decisions/abc/page.html").status_code == 405


@pytest.mark.parametrize(("error", "status"), [(StoreUnavailableError("x"), 503), (TerminalError("AKIA…"), 502)])
def test_store_in_trouble_is_told_without_its_details(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def read(*_args: Any, **_kwargs: Any) -> bytes:
        raise error

    monkeypatch.setattr(world.store, "read", read)
    answer = client.get(f"/ui/{DAG}/decisions/abc/page.html")
    assert answer.status_code == status
    assert "AKIA" not in answer.text


def test_visitor_without_a_login_gets_nothing(app: Any) -> None:
    with TestClient(app) as client:
        answer = client.get(f"/ui/{DAG}/decisions/abc/page.html")
    assert answer.status_code == 401
    assert "doctype" not in answer.text


def test_every_route_asks_who_is_there(app: Any) -> None:
    def refuse() -> None:
        raise HTTPException(403, "not yours")

    app.dependency_overrides[GUARD] = refuse
    with TestClient(app) as client:
        for route in app.routes:
            path = route.path.replace("{dag_id}", DAG).replace("{kind}", "decisions")
            assert client.get(path.replace("{rest:path}", "abc/page.html")).status_code == 403, route.path


def test_user_is_asked_for_the_dag_of_the_model(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's own dependency, with only the user and the auth manager made up."""
    from airflow.api_fastapi.core_api import security

    asked = []

    class AuthManager:
        def is_authorized_dag(self, *, method: str, access_entity: Any, details: Any, user: Any) -> bool:
            asked.append((method, access_entity.value, details.id, user))
            return False

    monkeypatch.setattr(security, "get_auth_manager", AuthManager)
    monkeypatch.setattr(security.DagModel, "get_team_name", lambda _dag_id: None)
    app.dependency_overrides[security.get_user] = lambda: "bob"
    with TestClient(app) as client:
        assert client.get(f"/ui/{DAG}/decisions/abc/page.html?dag_id=mine").status_code == 403
    assert asked == [("GET", "TASK_LOGS", DAG, "bob")]
