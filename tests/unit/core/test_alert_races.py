"""Several API servers at once: each order of their steps ends with at most one run an alert, and a true record."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.alert import Alert, Fate
from perennial.errors import TransientError
from tests.unit.core.alerting import Desk, HeedlessStore, alert_of, spec_with
from tests.unit.core.faulty import ProcessDied

CALLS = ("write", "delete", "read", "head", "list", "start", "add_note", "look", "run")
ORDERS = 40
A, B = alert_of("a"), alert_of("b")
NO_LIMITS = {"cooldown": "0s", "max_runs_per_day": 288}


class Turns:
    """Lets several processes go on call by call, in an order that the seed draws; one may die in between.

    A process has one call under way at most, whichever of its threads makes it.
    """

    def __init__(self, processes: int, seed: int, *, death: bool) -> None:
        self._random = random.Random(seed)
        self._dies_at = self._random.randrange(1, 12 * processes) if death else 0
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self._ended: set[int] = set()
        self._dead: set[int] = set()
        self._turn: int | None = None
        self._processes = processes

    def run(self, *acts: Callable[[], Any]) -> list[Any]:
        """What each of the acts, one a process, gave or raised."""
        results: list[Any] = [None] * len(acts)

        def live(number: int) -> None:
            try:
                results[number] = acts[number]()
            except (Exception, ProcessDied) as error:
                results[number] = error
            with self._changed:
                self._ended.add(number)
                self._changed.notify_all()

        threads = [threading.Thread(target=live, args=(number,)) for number in range(len(acts))]
        for thread in threads:
            thread.start()
        calls = 0
        while self._next(calls := calls + 1):
            pass
        for thread in threads:
            thread.join()
        return results

    def call(self, process: int, made: Callable[[], Any]) -> Any:
        """Make the call when it is this process's turn."""
        with self._changed:
            self._waiting.add(process)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn == process or process in self._dead)
            if process in self._dead:
                raise ProcessDied
            try:
                return made()
            finally:
                self._turn = None
                self._waiting.discard(process)

    def _next(self, calls: int) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: self._turn is None and len(self._waiting | self._ended | self._dead) == self._processes
            )
            living = sorted(self._waiting - self._dead)
            if not living:
                return False
            chosen = self._random.choice(living)
            if calls == self._dies_at:
                self._dead.add(chosen)
            else:
                self._turn = chosen
            self._changed.notify_all()
            return True


class Process:
    """One port, as one process sees it."""

    def __init__(self, inner: Any, turns: Turns, number: int) -> None:
        self._inner, self._turns, self._number = inner, turns, number

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in CALLS:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("if_absent") and isinstance(self._inner, HeedlessStore):
                if self.head(args[0]) is not None:
                    return False
                kwargs.pop("if_absent")  # others have their turn between the look and the put

            def made() -> Any:
                answer = method(*args, **kwargs)
                return list(answer) if name == "list" else answer

            return self._turns.call(self._number, made)

        return call


class Servers:
    """Processes that share a desk."""

    def __init__(self, desk: Desk, processes: int, seed: int, *, death: bool = False) -> None:
        self.desk, self.turns = desk, Turns(processes, seed, death=death)
        self.ports = [
            {"store": Process(desk.store, self.turns, n), "starter": Process(desk.starter, self.turns, n)}
            for n in range(processes)
        ]

    def receive(self, process: int, alert: Alert) -> Callable[[], Any]:
        return lambda: self.desk.receive(alert, **self.ports[process])

    def tick(self, process: int) -> Callable[[], Any]:
        return lambda: self.desk.tick(**self.ports[process])

    def nightly(self, process: int, state: str = "success") -> Callable[[], Any]:
        """Airflow's scheduler creates a run, which soon ends."""

        def act() -> None:
            self.turns.call(process, lambda: self.desk.starter.add_run("toy", "nightly"))
            self.turns.call(process, lambda: self.desk.starter.end("toy", "nightly", state))

        return act


def _settle(desk: Desk, *unanswered: Alert) -> None:
    """End what runs, and tick until nothing is open. Over a heedless store, who was not answered has to send again."""
    for alert in unanswered if desk.heedless else ():
        desk.receive(alert)
    for _ in range(4):
        for run in desk.starter.runs("toy"):
            if run.active:
                desk.starter.end("toy", run.run_id)
        desk.later(hours=25)
        desk.tick()
    assert desk.marks() == []


def _assert_true_records(desk: Desk, *alerts: Alert) -> None:
    for alert in alerts:
        runs, record = desk.runs_of(alert), desk.alert_ledger.read("toy", alert.key)
        assert len(runs) <= 1, f"{alert.alert_id} has started {runs}"
        if record is None:
            assert not runs
            continue
        assert record.newest is not None
        assert not record.open
        assert runs == ([record.newest.run_id] if record.newest.fate is Fate.STARTED else [])


def _unanswered(results: list[Any], *alerts: Alert) -> list[Alert]:
    """Alerts whose senders got no answer."""
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, TransientError):
            raise result
    return [alert for alert, result in zip(alerts, results, strict=False) if isinstance(result, BaseException)]


@pytest.mark.parametrize("death", [False, True], ids=["all live", "one dies"])
@pytest.mark.parametrize("heedless", [False, True], ids=["honest store", "heedless store"])
@pytest.mark.parametrize("limits", [{}, NO_LIMITS], ids=["limits", "no limits"])
def test_one_alert_delivered_twice_at_once_starts_one_run_in_every_order(
    tmp_path: Path, death: bool, heedless: bool, limits: dict[str, Any]
) -> None:
    for seed in range(ORDERS):
        desk = Desk(tmp_path / str(seed), spec=spec_with(**limits), heedless=heedless)
        servers = Servers(desk, 2, seed, death=death)
        results = servers.turns.run(servers.receive(0, A), servers.receive(1, A))
        unanswered = _unanswered(results, A, A)
        if not death:
            assert {(r.outcome.fate, r.outcome.run_id) for r in results} == {(Fate.STARTED, desk.runs_of(A)[0])}
        _settle(desk, *unanswered)
        _assert_true_records(desk, A)


@pytest.mark.parametrize("death", [False, True], ids=["all live", "one dies"])
@pytest.mark.parametrize("heedless", [False, True], ids=["honest store", "heedless store"])
def test_three_alerts_at_once_start_one_run_in_every_order(tmp_path: Path, death: bool, heedless: bool) -> None:
    alerts = (A, B, alert_of("c"))
    for seed in range(ORDERS):
        desk = Desk(tmp_path / str(seed), spec=spec_with(**NO_LIMITS), heedless=heedless)
        servers = Servers(desk, 3, seed, death=death)
        results = servers.turns.run(*(servers.receive(n, alert) for n, alert in enumerate(alerts)))
        unanswered = _unanswered(results, *alerts)
        if not death:
            assert sorted(r.outcome.fate for r in results) == [Fate.COALESCED, Fate.COALESCED, Fate.STARTED]
            assert len({r.outcome.run_id for r in results}) == 1
        assert len(desk.starter.runs("toy")) <= 1
        _settle(desk, *unanswered)
        _assert_true_records(desk, *alerts)


@pytest.mark.parametrize("state", ["success", "failed"])
@pytest.mark.parametrize("heedless", [False, True], ids=["honest store", "heedless store"])
def test_run_of_the_schedule_that_comes_and_goes_meanwhile_doubles_nothing(
    tmp_path: Path, state: str, heedless: bool
) -> None:
    for seed in range(ORDERS):
        desk = Desk(tmp_path / str(seed), spec=spec_with(**NO_LIMITS), heedless=heedless)
        servers = Servers(desk, 3, seed)
        results = servers.turns.run(servers.receive(0, A), servers.receive(1, A), servers.nightly(2, state))
        _settle(desk, *_unanswered(results, A, A))
        _assert_true_records(desk, A)


@pytest.mark.parametrize("death", [False, True], ids=["all live", "one dies"])
@pytest.mark.parametrize("heedless", [False, True], ids=["honest store", "heedless store"])
def test_two_ticks_and_a_late_delivery_carry_one_alert_on_together(tmp_path: Path, death: bool, heedless: bool) -> None:
    for seed in range(ORDERS):
        desk = Desk(tmp_path / str(seed), heedless=heedless)
        desk.starter.add_run("toy", "scheduled__1")
        desk.starter.end("toy", "scheduled__1")
        assert desk.receive(A).outcome.fate is Fate.DEFERRED
        desk.later(hours=7)
        servers = Servers(desk, 4, seed, death=death)
        nightly = servers.nightly(3, "failed")
        results = servers.turns.run(servers.receive(0, A), servers.tick(1), servers.tick(2), nightly)
        _settle(desk, *_unanswered(results, A))
        _assert_true_records(desk, A)


@pytest.mark.parametrize("heedless", [False, True], ids=["honest store", "heedless store"])
def test_fifty_alerts_at_the_same_moment_start_one_run_that_names_the_others(tmp_path: Path, heedless: bool) -> None:
    desk = Desk(tmp_path, heedless=heedless)
    alerts = [alert_of(f"storm-{number}") for number in range(50)]
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(desk.receive, alerts))
    (run,) = desk.starter.runs("toy")
    assert Counter(r.outcome.fate for r in results) == {Fate.STARTED: 1, Fate.COALESCED: 49}
    assert {r.outcome.run_id for r in results} == {run.run_id}
    assert [desk.record(r.alert).outcomes for r in results] == [(r.outcome,) for r in results]
    assert desk.marks() == []
    assert "And for storm-" in desk.starter.notes[run.run_id]


@pytest.mark.parametrize("heedless", [False, True], ids=["honest store", "heedless store"])
def test_one_alert_delivered_fifty_times_at_the_same_moment_starts_one_run_and_has_one_answer(
    tmp_path: Path, heedless: bool
) -> None:
    desk = Desk(tmp_path, heedless=heedless)
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda _: desk.receive(A), range(50)))
    assert len(desk.runs_of(A)) == 1
    assert {r.outcome for r in results} == {desk.record(A).outcomes[0]}
    _assert_true_records(desk, A)
