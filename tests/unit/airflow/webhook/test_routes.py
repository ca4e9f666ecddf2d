"""The routes, from the bytes of a request to what is on record and the run that it leads to."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import httpx
import pytest

from perennial.domain.alert import Fate
from perennial.errors import StoreUnavailableError, TerminalError, TransientError
from perennial_airflow.webhook import app as webhook_app
from perennial_airflow.webhook import intake
from perennial_airflow.webhook.authentication import Credentials
from perennial_airflow.webhook.bodies import MAX_BODY_BYTES
from perennial_airflow.webhook.intake import READERS
from tests.unit.airflow.webhook.gate import BEARER, CREDENTIALS, KEY, NEXT_KEY, NOW, Gate, body_of, signed

pytestmark = pytest.mark.airflow


def test_signed_alert_starts_a_run_and_says_so(gate: Gate) -> None:
    body = body_of(evidence={"column": "temp"}, source="monitor")
    answer = gate.client.post("/alerts", content=body, headers=signed(body))
    assert answer.status_code == 202
    [record] = gate.records()
    told = answer.json()
    assert told == {
        "model": "toy",
        "id": "a-1",
        "key": record.alert.key,
        "outcome": record.outcomes[0].to_dict(),
        "duplicate": False,
    }
    assert told["outcome"]["fate"] == "started"
    assert gate.run_ids() == [told["outcome"]["run_id"]]
    assert (record.alert.sender, record.alert.source) == ("monitor", "monitor")
    assert dict(record.alert.evidence) == {"column": "temp"}
    assert answer.headers["cache-control"] == "no-store"


def test_same_alert_again_gets_the_same_answer_and_starts_nothing(gate: Gate) -> None:
    body = body_of()
    first = gate.client.post("/alerts", content=body, headers=signed(body))
    later = NOW + timedelta(minutes=4)
    again = gate.client.post("/alerts", content=body, headers=signed(body, now=later, key=NEXT_KEY))
    assert again.status_code == first.status_code
    assert again.json() == {**first.json(), "duplicate": True}
    assert len(gate.run_ids()) == len(gate.records()) == 1


def test_alert_beside_an_active_run_is_coalesced_with_200(gate: Gate) -> None:
    gate.starter.add_run("toy", "scheduled__1", state="queued")
    body = body_of()
    answer = gate.client.post("/alerts", content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["outcome"]["fate"]) == (200, "coalesced")
    assert answer.json()["outcome"]["run_id"] == "scheduled__1"


def test_alert_for_a_model_that_takes_none_is_refused_with_409(gate: Gate) -> None:
    body = body_of(model="other")
    answer = gate.client.post("/alerts", content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["outcome"]["fate"]) == (409, "refused")
    assert [record.outcomes[0].fate for record in gate.records("other")] == [Fate.REFUSED]


def test_id_used_for_other_content_is_a_conflict_without_an_outcome(gate: Gate) -> None:
    first, other = body_of(), body_of(summary="something else")
    gate.client.post("/alerts", content=first, headers=signed(first))
    answer = gate.client.post("/alerts", content=other, headers=signed(other))
    assert answer.status_code == 409
    assert set(answer.json()) == {"message"}
    assert [record.alert.summary for record in gate.records()] == ["temp is higher"]


def test_fifty_senders_of_one_alert_get_one_run(gate: Gate) -> None:
    body = body_of()
    # Entered: else each request has an event loop of its own, and a limit that loops share may wake nobody.
    with gate.client as client, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.post("/alerts", content=body, headers=signed(body)), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({json.dumps(answer.json()["outcome"]) for answer in answers}) == 1
    assert len(gate.run_ids()) == 1


def test_alert_without_an_id_takes_the_messages(gate: Gate) -> None:
    body = body_of(id=None)
    assert gate.client.post("/alerts", content=body, headers=signed(body)).json()["id"] == "m-1"
    bearer = gate.client.post("/alerts", content=body, headers={**BEARER, "webhook-id": "b-1"})
    assert bearer.json()["id"] == "b-1"
    assert gate.client.post("/alerts", content=body, headers=BEARER).status_code == 400


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"summary": None}, "summary"),
        ({"summary": "x" * 501}, "summary"),
        ({"summary": "two\nlines"}, "summary"),
        ({"model": None}, "model"),
        ({"id": "i" * 201}, "id"),
        ({"id": 7}, "id"),
        ({"raised_at": "yesterday"}, "raised_at"),
        ({"raised_at": 1}, "raised_at"),
        ({"raised_at": "0001-01-01T00:00:00+14:00"}, "raised_at"),
        ({"evidence": [1]}, "evidence"),
        ({"evidence": {"x": "y" * 9000}}, "evidence"),
        ({"modle": "toy"}, "modle"),
    ],
)
def test_field_that_is_wrong_is_named_and_nothing_is_recorded(gate: Gate, changes: dict[str, Any], field: str) -> None:
    body = body_of(**changes)
    answer = gate.client.post("/alerts", content=body, headers=signed(body))
    assert answer.status_code == 400
    assert field in answer.json()["message"]
    assert gate.records() == []


@pytest.mark.parametrize("model", ["nothing", "../models/toy", "toy.yaml", "TOY", "toy\n", "to\u0079\u0301"])
def test_unknown_model_is_not_there_and_others_are_not_told(gate: Gate, model: str) -> None:
    body = body_of(model=model)
    answer = gate.client.post("/alerts", content=body, headers=signed(body))
    assert answer.status_code == 404
    assert answer.json() == {"message": "no such model"}


def test_model_whose_spec_is_broken_is_asked_for_again(gate: Gate) -> None:
    body = body_of(model="broken")
    answer = gate.client.post("/alerts", content=body, headers=signed(body))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"


def test_spec_that_was_changed_counts_at_once(gate: Gate) -> None:
    first, second = body_of(model="other", id="1"), body_of(model="other", id="2")
    assert gate.client.post("/alerts", content=first, headers=signed(first)).status_code == 409
    path = gate.world.specs / "other.yaml"
    path.write_text(path.read_text().replace("triggers: {}", "triggers: {on_drift: {}}"))
    assert gate.client.post("/alerts", content=second, headers=signed(second)).status_code == 202


@pytest.mark.parametrize("error", [StoreUnavailableError("s3://secret/"), TransientError("x"), TerminalError("AKIA")])
def test_store_in_trouble_is_503_and_the_same_alert_is_taken_later(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    body = body_of()
    with monkeypatch.context() as patched:
        for name in ("read", "write", "head", "list"):
            patched.setattr(gate.store, name, fail)
        answer = gate.client.post("/alerts", content=body, headers=signed(body))
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "AKIA" not in answer.text
        assert "secret" not in answer.text
    assert gate.client.post("/alerts", content=body, headers=signed(body)).status_code == 202


class TestUnauthenticated:
    """Whoever is not known changes nothing and learns nothing."""

    ROUTES = ("/alerts", "/tick", *(f"/alerts/{form}" for form in (*READERS, "sns")))

    @pytest.fixture(autouse=True)
    def _nothing_changed(self, gate: Gate) -> Iterator[None]:
        yield
        assert gate.records() == gate.records("other") == gate.run_ids() == gate.visited == []

    @pytest.mark.parametrize("route", ROUTES)
    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic YTpi"}])
    def test_every_route_gives_the_same_401_whatever_is_asked(
        self, gate: Gate, route: str, headers: dict[str, str]
    ) -> None:
        bodies = [body_of(), body_of(model="nothing"), body_of(model="broken"), b"", b"[", b"\xff", b"[" * 200_000]
        answers = [gate.client.post(route, content=body, headers=headers) for body in bodies]
        assert {answer.status_code for answer in answers} == {401}
        assert {answer.text for answer in answers} == {'{"message":"not authenticated"}'}
        assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}

    @pytest.mark.parametrize(
        ("route", "headers", "reason"),
        [
            ("/alerts", BEARER | {"Authorization": "Bearer x"}, "token"),
            ("/alerts/sns", {}, "arn:aws:sns:us-east-1:123456789012:other"),
            ("/tick", {}, "neither a signature nor a bearer token"),
        ],
    )
    def test_reason_is_in_the_log(
        self, gate: Gate, caplog: pytest.LogCaptureFixture, route: str, headers: dict[str, str], reason: str
    ) -> None:
        body = json.dumps({"TopicArn": "arn:aws:sns:us-east-1:123456789012:other"})
        with caplog.at_level(logging.INFO, "perennial_airflow"):
            assert gate.client.post(route, content=body, headers=headers).status_code == 401
        [line] = [record.getMessage() for record in caplog.records if "was refused (401)" in record.getMessage()]
        assert reason in line

    def test_nobody_is_known_without_the_connection(self, gate: Gate) -> None:
        gate.credentials = {}
        body = body_of()
        assert gate.client.post("/alerts", content=body, headers=signed(body)).status_code == 401
        assert gate.client.post("/alerts", content=body, headers=BEARER).status_code == 401

    @pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
    def test_nothing_but_post_is_taken(self, gate: Gate, method: str) -> None:
        assert getattr(gate.client, method)("/alerts").status_code == 405


def test_body_over_the_limit_is_413_before_anything_else(gate: Gate) -> None:
    answer = gate.client.post("/alerts", content=b"x" * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413

    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    assert gate.client.post("/alerts", content=parts()).status_code == 413


def test_message_behind_too_many_others_is_told_to_come_again(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_app, "MAX_AT_ONCE", 1)
    monkeypatch.setattr(webhook_app, "MAX_WAITING", 2)
    go_on, body = Event(), body_of()
    credentials = gate.webhook._credentials

    def slowly() -> Credentials:
        assert go_on.wait(60)
        return credentials()

    gate.webhook._credentials = slowly

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(gate.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            asked = [asyncio.create_task(client.post("/alerts", content=body, headers=signed(body))) for _ in range(9)]
            early, _ = await asyncio.wait(asked, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result().headers["retry-after"] for task in early} == {"5"}
            go_on.set()
            return sorted([(await task).status_code for task in asked])

    assert asyncio.run(ask()) == [202] * 3 + [503] * 6


def test_sender_over_its_limit_waits_and_others_do_not(gate: Gate) -> None:
    gate.credentials = {**CREDENTIALS, "requests_per_s": 0.01}
    body = body_of()
    statuses = [gate.client.post("/alerts", content=body, headers=signed(body)).status_code for _ in range(21)]
    assert statuses == [202] * 20 + [429]
    late = gate.client.post("/alerts", content=body, headers=signed(body))
    assert 1 <= int(late.headers["retry-after"]) <= 100
    assert gate.client.post("/alerts", content=body, headers=signed(body, key=NEXT_KEY)).status_code == 202


def test_tick_starts_what_is_due(gate: Gate) -> None:
    gate.starter.add_run("toy", "scheduled__1")
    gate.starter.end("toy", "scheduled__1")
    body = body_of()
    deferred = gate.client.post("/alerts", content=body, headers=signed(body))
    assert (deferred.status_code, deferred.json()["outcome"]["fate"]) == (202, "deferred")
    gate.clock.advance(timedelta(hours=6))
    tick = b'{"model": "toy"}'
    answer = gate.client.post("/tick", content=tick, headers=signed(tick, now=gate.clock.now()))
    assert answer.status_code == 200
    assert [outcome["fate"] for outcome in answer.json()["outcomes"]] == ["started"]
    assert len(gate.run_ids()) == 2
    again = gate.client.post("/tick", content=tick, headers=signed(tick, now=gate.clock.now()))
    assert again.json() == {"outcomes": []}


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"model": "nothing"}', 404), (b"{}", 400), (b"[]", 400), (b'{"model": 1}', 400)]
)
def test_tick_for_no_model_is_refused(gate: Gate, body: bytes, status: int) -> None:
    assert gate.client.post("/tick", content=body, headers=signed(body)).status_code == status


def test_what_an_error_was_is_told_by_its_kind(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise TransientError("it is on record")

    monkeypatch.setattr(intake, "receive", fail)
    body = body_of()
    answer = gate.client.post("/alerts", content=body, headers=signed(body))
    assert answer.status_code == 503
    assert "not done, or not altogether (TransientError)" in answer.json()["message"]


def test_document_asks_for_no_id_as_the_header_may_have_it(gate: Gate) -> None:
    paths = gate.client.get("/openapi.json").json()["paths"]
    schema = paths["/alerts"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["model", "summary"]


def test_openapi_document_tells_of_these_routes_and_of_no_model(gate: Gate) -> None:
    answer = gate.client.get("/openapi.json")
    assert set(answer.json()["paths"]) == set(TestUnauthenticated.ROUTES)
    assert "toy" not in answer.text
    assert gate.client.get("/docs").status_code == 404


def test_secret_is_in_no_answer_and_no_record(gate: Gate) -> None:
    body = body_of()
    answer = gate.client.post("/alerts", content=body, headers=signed(body))
    kept = "".join(path.read_text() for path in (gate.folder / "s3").rglob("*.json"))
    assert KEY.secret not in answer.text + kept
