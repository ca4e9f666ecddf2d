"""Live requests for the demo: flights of the weeks to come, sent to the scoring service one after the other.

When they are sent they have not landed, so no model has seen them. They come in random order, so that the hour of the
day makes no difference between the versions that a canary compares. Of some the outcome is told afterwards, as it would
be once they have landed.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

PER_SECOND: Final = 30.0
LABELLED: Final = 5
"""The outcome of each fifth request is told."""
LABELS_AT_ONCE: Final = 30
TIMEOUT_S: Final = 15.0
"""Longer than the service takes to give up on a request itself."""
_LOOK_AGAIN_S: Final = 0.5
_MANY: Final = 10_000
"""Flights that are prepared; then they begin anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFlight:
    """A request, and its outcome."""

    body: bytes
    """JSON, one row."""
    key: str
    """Airline and flight number: passengers of one flight get the same version's answers day after day."""
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What was sent, and what came back."""

    answers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By version and role."""
    labels: int = 0
    """Outcomes that the service took."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """By reason: status and text of an answer other than 200, or what became of the connection."""

    @property
    def requests(self) -> int:
        """For predictions, and those that failed."""
        return sum(self.answers.values()) + sum(self.failures.values())


class Traffic:
    """Sends flights from the moment that the model serves until the `with` block ends.

    Args:
        url: of the scoring service.
        model: whom to ask.
        flights: gives what to send in a month, by its first day; called when the model serves, and at each turn.
        month: the one to begin with.
        telling: makes request ids unique.
        per_second: at most so many requests.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        model: str,
        flights: Callable[[date], Sequence[LiveFlight]],
        *,
        month: date,
        telling: str,
        per_second: float = PER_SECOND,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False, transport=transport)
        self._model, self._flights, self._month, self._telling = model, flights, month, telling
        self._interval_s = 1 / per_second
        self._answers: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[str] = Counter()
        self._labels = 0
        self._pending: list[dict[str, object]] = []
        self._stopping = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="traffic")
        self._sending: Future[None] | None = None

    def __enter__(self) -> Self:
        self._sending = self._thread.submit(self._send_all)
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Wait for the request under way. Raises what ended the sending before its time."""
        self._stopping.set()
        self._thread.shutdown()
        self._http.close()
        if kind is None and self._sending is not None:
            self._sending.result()

    def turn_to(self, month: date) -> None:
        """From the next request on, send this month's flights."""
        self._month = month

    @property
    def tally(self) -> Tally:
        """So far; final once the block has ended."""
        return Tally(answers=dict(self._answers), labels=self._labels, failures=dict(self._failures))

    def _send_all(self) -> None:
        while not self._serves():
            if self._stopping.wait(_LOOK_AGAIN_S):
                return
        month = self._month
        flights = itertools.cycle(self._flights(month))
        due = time.monotonic()
        for number in itertools.count():
            if month != self._month:
                month = self._month
                flights = itertools.cycle(self._flights(month))
            flight = next(flights)
            # One that is late is not made up for: nobody asks faster because the answers came slowly.
            due = max(due + self._interval_s, time.monotonic())
            if self._stopping.wait(due - time.monotonic()):
                break
            request_id = f"{self._telling}-{number}"
            if self._ask(flight, request_id) and number % LABELLED == 0:
                self._pending.append({"request_id": request_id, "label": flight.label})
            if len(self._pending) >= LABELS_AT_ONCE:
                self._tell_outcomes()
        self._tell_outcomes()

    def _serves(self) -> bool:
        try:
            served = self._http.get("/models").raise_for_status().json()["models"]
        except httpx.HTTPError:
            return False
        return any(model["model"] == self._model and model["champion"] is not None for model in served)

    def _ask(self, flight: LiveFlight, request_id: str) -> bool:
        headers = {"X-Request-Id": request_id, "X-Perennial-Key": flight.key}
        answer = self._post("invocations", flight.body, headers)
        if answer is None:
            return False
        self._answers[answer.headers["x-perennial-version"], answer.headers["x-perennial-role"]] += 1
        return True

    def _tell_outcomes(self) -> None:
        labels, self._pending = self._pending, []
        if labels and self._post("labels", json.dumps({"labels": labels}).encode(), {}) is not None:
            self._labels += len(labels)

    def _post(self, route: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response | None:
        """The answer if it is 200; all else is counted."""
        path = f"/models/{self._model}/{route}"
        try:
            answer = self._http.post(path, content=body, headers={"Content-Type": "application/json", **headers})
        except httpx.HTTPError as error:
            self._failures[f"POST {path}: {type(error).__name__}"] += 1
            return None
        if answer.status_code != 200:
            self._failures[f"POST {path}: {answer.status_code} {answer.text[:200]}"] += 1
            return None
        return answer


def flights_of_month(month: date, columns: Sequence[str], label: str, cache: Path) -> list[LiveFlight]:
    """A month's flights in an order that is random and the same each time.

    Args:
        month: its first day.
        columns: what the model takes.
        label: column with the outcome, 0 or 1.
        cache: folder that keeps the prepared year.
    """
    import numpy as np

    from flights.source import read_flights

    after = (month.replace(day=28) + timedelta(days=4)).replace(day=1)
    table = read_flights(month, after, cache=cache)
    chosen = table.take(np.random.default_rng(2013).permutation(table.num_rows)[:_MANY])
    keys = zip(chosen["carrier"].to_pylist(), chosen["flight_number"].to_pylist(), strict=True)
    rows = zip(*(chosen[name].to_pylist() for name in columns), strict=True)
    return [
        LiveFlight(
            body=json.dumps({"dataframe_split": {"columns": list(columns), "data": [row]}}).encode(),
            key=f"{carrier}{number}",
            label=outcome,
        )
        for row, (carrier, number), outcome in zip(rows, keys, chosen[label].to_pylist(), strict=True)
    ]
