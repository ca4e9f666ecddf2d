"""What the webhook takes from Airflow: its connection, and the place where it is mounted."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from perennial_airflow import runs
from perennial_airflow.plugin import PerennialPlugin
from perennial_airflow.runs import AirflowDatabaseError
from perennial_airflow.webhook import world as webhook_world
from perennial_airflow.webhook.world import BrokenConnectionError, Kept, load_credentials
from tests.unit.airflow.webhook.gate import CREDENTIALS, KEY, body_of

pytestmark = pytest.mark.airflow
VARIABLE = "AIRFLOW_CONN_PERENNIAL_WEBHOOK"


def connection(extra: Any) -> str:
    return json.dumps({"conn_type": "generic", "extra": extra})


def test_credentials_are_the_connections_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, connection(CREDENTIALS))
    assert load_credentials().keys["monitor"] == KEY.secret


def test_missing_connection_knows_nobody_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(runs, "require_database", lambda: None)
    kept = Kept(load_credentials, 30)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert not kept().keys
            assert not kept().tokens
    assert caplog.text.count("there is no Airflow connection perennial_webhook") == 1


def test_connection_that_cannot_be_looked_up_is_not_taken_for_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow says "not found" of both."""

    def away() -> None:
        raise AirflowDatabaseError("away")

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(runs, "require_database", away)
    with pytest.raises(AirflowDatabaseError):
        load_credentials()


def test_broken_connection_is_told_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, connection({"keys": {"a": "tooshort"}}))
    with pytest.raises(BrokenConnectionError, match=r"keys\.a"):
        load_credentials()
    assert "tooshort" not in caplog.text


def test_kept_thing_is_made_anew_when_it_is_too_old_and_after_an_error() -> None:
    at, made = [0.0], [1, ValueError("not now"), 2]

    def make() -> Any:
        found = made.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    kept = Kept(make, 30, lambda: at[0])
    assert (kept(), kept()) == (1, 1)
    at[0] = 30.0
    with pytest.raises(ValueError, match="not now"):
        kept()
    assert kept() == 2


def test_plugin_mounts_the_webhook_beside_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, connection({}))
    monkeypatch.setattr(webhook_world, "PerennialHook", type("Hook", (), {"store": lambda _self: None}))
    [application] = PerennialPlugin().fastapi_apps
    client = TestClient(application["app"])
    assert client.get("/v1/openapi.json").json()["info"]["title"] == "Perennial webhook"
    assert client.post("/v1/alerts", content=body_of()).status_code == 401
    assert client.get("/openapi.json").status_code == 404
