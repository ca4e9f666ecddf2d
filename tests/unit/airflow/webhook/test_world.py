"""What the webhook takes from Airflow: its connection, and the place where it is mounted."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from airflow.sdk import Connection
from airflow.sdk.execution_time import supervisor
from fastapi.testclient import TestClient

from perennial.errors import TransientError
from perennial_airflow import runs
from perennial_airflow.hooks.runtime import PerennialHook
from perennial_airflow.plugin import PerennialPlugin
from perennial_airflow.runs import AirflowDatabaseError
from perennial_airflow.webhook import world as webhook_world
from perennial_airflow.webhook.world import (
    BrokenConnectionError,
    BusyError,
    Kept,
    LostConnectionError,
    World,
    build_world,
    load_credentials,
)
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


class Backend:
    """Answers a look-up as often as it is told to; before that it fails, which Airflow calls "not found"."""

    def __init__(self, *answers: bool) -> None:
        self.answers, self.asked = list(answers), 0

    def get_connection(self, conn_id: str) -> Any:
        self.asked += 1
        if not self.answers.pop(0):
            raise RuntimeError("away for a moment")
        return Connection(conn_id=conn_id, conn_type="aws", login="AKIA", password="x", extra=json.dumps(CREDENTIALS))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backend]:
    """The only secrets backend."""

    def use(*answers: bool) -> Backend:
        made = Backend(*answers)
        monkeypatch.setattr(supervisor, "ensure_secrets_backend_loaded", lambda: [made])
        return made

    monkeypatch.setattr(runs, "require_database", lambda: None)
    return use


def test_failed_look_up_is_made_again_before_anybody_is_refused(backend: Callable[..., Backend]) -> None:
    found = backend(False, True)
    assert load_credentials().keys["monitor"] == KEY.secret
    assert found.asked == 2


def test_connection_that_was_there_is_not_gone_because_a_look_up_says_so(backend: Callable[..., Backend]) -> None:
    at = [0.0]
    kept = Kept(load_credentials, 30, lambda: at[0])
    backend(True)
    assert kept().anybody
    at[0] = 30.0
    backend(False, False)
    with pytest.raises(LostConnectionError):
        kept()
    backend(True)
    assert kept().anybody


def test_store_is_that_of_the_connection_after_one_failed_look_up(backend: Callable[..., Backend]) -> None:
    backend(False, True, True)
    assert build_world().connected


def test_world_stays_when_the_stores_connection_cannot_be_looked_up(backend: Callable[..., Backend]) -> None:
    backend(True, True)
    world = build_world()
    backend(False, False)
    assert build_world(world) is world
    backend(True, True)
    anew = build_world(world)
    assert anew is not world
    assert anew.connected


def test_store_without_a_connection_is_the_environments(backend: Callable[..., Backend]) -> None:
    backend(False, False)
    world = build_world()
    assert not world.connected
    backend(False, False)
    assert isinstance(build_world(world), World)


def test_connection_that_is_lost_between_two_look_ups_is_no_other_store(backend: Callable[..., Backend]) -> None:
    backend(True, False)
    with pytest.raises(TransientError, match="perennial_s3"):
        PerennialHook().store()


@pytest.mark.parametrize("extra", ['{"keys": ', "a-secret-of-somebody", "", "{}", '{"requests_per_s": 5}', "[]"])
def test_connection_that_lets_nobody_in_is_broken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, extra: str
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "generic", "extra": extra}))
    with pytest.raises(BrokenConnectionError, match="extra"):
        load_credentials()
    assert "refuses every request (503)" in caplog.text
    assert "a-secret-of-somebody" not in caplog.text


def test_broken_connection_is_told_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, connection({"keys": {"a": "tooshort"}}))
    with pytest.raises(BrokenConnectionError, match=r"keys\.a"):
        load_credentials()
    assert "tooshort" not in caplog.text


def test_kept_thing_is_made_anew_when_it_is_too_old_and_after_an_error() -> None:
    at, made, lasts = [0.0], [1, ValueError("not now"), 2], []

    def make(last: Any) -> Any:
        lasts.append(last)
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
    assert lasts == [None, 1, 1]


def test_who_waits_too_long_for_another_thread_is_told_to_come_again() -> None:
    begun, go_on = Event(), Event()

    def make(_last: Any) -> int:
        begun.set()
        assert go_on.wait(60)
        return 1

    kept = Kept(make, 30, wait_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(kept)
        assert begun.wait(60)
        with pytest.raises(BusyError):
            kept()
        go_on.set()
        assert first.result() == kept() == 1


def test_plugin_mounts_the_webhook_beside_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, connection(CREDENTIALS))
    monkeypatch.setattr(
        webhook_world, "PerennialHook", type("Hook", (), {"store": lambda _self: None, "has_s3_connection": True})
    )
    [application] = PerennialPlugin().fastapi_apps
    client = TestClient(application["app"])
    assert client.get("/v1/openapi.json").json()["info"]["title"] == "Perennial webhook"
    assert client.post("/v1/alerts", content=body_of()).status_code == 401
    assert client.get("/openapi.json").status_code == 404
