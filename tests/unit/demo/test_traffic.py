"""The demo's client, against a scoring service that a test writes the lines for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from flights import source
from perennial_demo import traffic
from perennial_demo.traffic import LABELLED, LABELS_AT_ONCE, LiveFlight, Traffic, flights_of_month

MODEL = "flights_delay"
APRIL, JULY = date(2013, 4, 1), date(2013, 7, 1)
FLIGHTS = [LiveFlight(body=b"one", key="UA1", label=0), LiveFlight(body=b"two", key="UA2", label=1)]


class FakeService:
    """Answers by `respond`, and lets a test wait for a number of requests."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.told: list[dict[str, object]] = []
        self.champion_after = 1
        """Looks at /models until there is one."""
        self.respond: Callable[[httpx.Request], httpx.Response] = lambda _request: answer()
        self._changed = threading.Condition()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/models":
            self.champion_after -= 1
            champion = {"version": "1"} if self.champion_after <= 0 else None
            return httpx.Response(200, json={"models": [{"model": MODEL, "champion": champion}]})
        if request.url.path.endswith("/labels"):
            self.told += json.loads(request.content)["labels"]
            return httpx.Response(200, json={})
        response = self.respond(request)
        with self._changed:
            self.asked.append(request)
            self._changed.notify_all()
        return response

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, timeout=20)


def answer(version: str = "1", role: str = "champion") -> httpx.Response:
    return httpx.Response(200, json={}, headers={"x-perennial-version": version, "x-perennial-role": role})


@contextmanager
def sending(service: FakeService) -> Iterator[Traffic]:
    transport = httpx.MockTransport(service)

    def flights(month: date) -> list[LiveFlight]:
        return FLIGHTS if month == APRIL else [LiveFlight(body=b"hot", key="UA7", label=1)]

    client = Traffic("http://scoring", MODEL, flights, month=APRIL, telling="t", per_second=1000, transport=transport)
    with client:
        yield client


def test_answers_are_counted_by_version_and_role() -> None:
    service = FakeService()
    service.respond = lambda request: answer("2", "canary") if request.content == b"two" else answer()
    with sending(service) as client:
        service.wait_for(10)
    tally = client.tally
    assert tally.failures == {}
    assert tally.requests == len(service.asked) == sum(tally.answers.values())
    assert set(tally.answers) == {("1", "champion"), ("2", "canary")}
    assert tally.answers["1", "champion"] - tally.answers["2", "canary"] in (0, 1)


def test_requests_have_ids_of_their_own_and_the_key_of_their_flight() -> None:
    service = FakeService()
    with sending(service):
        service.wait_for(4)
    assert [request.headers["x-request-id"] for request in service.asked[:3]] == ["t-0", "t-1", "t-2"]
    assert [request.headers["x-perennial-key"] for request in service.asked[:3]] == ["UA1", "UA2", "UA1"]
    assert {request.url.path for request in service.asked} == {f"/models/{MODEL}/invocations"}


def test_outcomes_of_each_fifth_answered_request_are_told_the_last_ones_at_the_end() -> None:
    service = FakeService()
    with sending(service) as client:
        service.wait_for(LABELLED * LABELS_AT_ONCE + 1)
    ids = [f"t-{number}" for number in range(0, len(service.asked), LABELLED)]
    assert [label["request_id"] for label in service.told] == ids
    assert [label["label"] for label in service.told[:2]] == [0, 1]
    assert client.tally.labels == len(ids)


def test_turn_to_another_month_changes_what_is_sent_and_no_id_comes_twice() -> None:
    service = FakeService()
    with sending(service) as client:
        service.wait_for(4)
        client.turn_to(JULY)
        service.wait_for(len(service.asked) + 4)
    bodies = [request.content for request in service.asked]
    assert set(bodies[: bodies.index(b"hot")]) == {b"one", b"two"}
    assert set(bodies[bodies.index(b"hot") :]) == {b"hot"}
    assert len({request.headers["x-request-id"] for request in service.asked}) == len(bodies)


def test_nothing_is_sent_before_there_is_a_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_LOOK_AGAIN_S", 0.01)
    service = FakeService()
    service.champion_after = 3
    with sending(service) as client:
        service.wait_for(1)
    assert service.champion_after == 0
    assert client.tally.failures == {}


def test_service_that_never_serves_is_sent_nothing() -> None:
    service = FakeService()
    service.champion_after = 1_000_000
    with sending(service) as client:
        pass
    assert client.tally.requests == 0


def test_refusal_and_lost_connection_are_failures_by_reason_and_the_rest_goes_on() -> None:
    service = FakeService()
    bad = iter([httpx.Response(503, text="draining"), httpx.ConnectError("gone"), httpx.Response(503, text="draining")])

    def respond(_request: httpx.Request) -> httpx.Response:
        response = next(bad, None) or answer()
        if isinstance(response, Exception):
            raise response
        return response

    service.respond = respond
    with sending(service) as client:
        service.wait_for(5)
    path = f"POST /models/{MODEL}/invocations"
    assert client.tally.failures == {f"{path}: 503 draining": 2, f"{path}: ConnectError": 1}
    assert client.tally.requests == len(service.asked) + 1


def test_mistake_in_the_client_is_not_passed_over() -> None:
    service = FakeService()
    service.respond = lambda _request: httpx.Response(200)  # without the headers that say who answered
    with pytest.raises(KeyError), sending(service):
        service.wait_for(1)


def test_flights_are_those_of_the_month_in_an_order_that_is_not_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [f"2013-{month:02d}-{day:02d}" for month in (8, 9, 10) for day in range(1, 31)]
    table = pa.table(
        {
            "service_date": days,
            "carrier": ["UA"] * len(days),
            "flight_number": range(len(days)),
            "temp": [None, *range(1, len(days))],
            "is_late": [number % 2 for number in range(len(days))],
        }
    )
    monkeypatch.setattr(source, "_prepared_year", lambda _cache: table)
    found = flights_of_month(date(2013, 9, 1), ("temp", "carrier"), "is_late", tmp_path)
    rows = [json.loads(flight.body)["dataframe_split"] for flight in found]
    assert all(row["columns"] == ["temp", "carrier"] for row in rows)
    numbers = [row["data"][0][0] for row in rows]
    assert sorted(numbers) == list(range(30, 60))
    assert numbers != sorted(numbers)
    assert [flight.key for flight in found] == [f"UA{number}" for number in numbers]
    assert [flight.label for flight in found] == [number % 2 for number in numbers]
    assert found == flights_of_month(date(2013, 9, 1), ("temp", "carrier"), "is_late", tmp_path)
