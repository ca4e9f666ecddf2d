"""The model's lock: one holder at a time among threads and processes, and nobody waits for the dead for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import threading
import time
import traceback
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import canonical_json
from perennial.domain.times import format_time
from perennial.errors import LockLostError, LockTimeoutError, StoreUnavailableError
from perennial.lock import CLOCK_TOLERANCE, LEASE, Lease, model_lock
from perennial.ports import ObjectStore
from perennial.runtime import SystemClock
from perennial.testing import FixedClock, FolderStore
from tests.unit.core.faulty import STORE_EFFECTS, Fault, Faulty, ProcessDied

ROOT = "s3://bucket/store"
LOCKS = f"{ROOT}/locks/churn/"
COUNTER = f"{ROOT}/counter.txt"
NOW = datetime(2013, 4, 1, 2, tzinfo=UTC)
AT_ONCE = timedelta(milliseconds=200)
PROCESSES, THREADS, TURNS = 3, 2, 34


class Jittery:
    """Hands every call on a little later, so that processes meet between any two calls."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        time.sleep(random.random() * 0.001)
        return getattr(self._inner, name)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    made = FolderStore(tmp_path)
    made.add_bucket("bucket")
    return made


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


def hold(store: Any, clock: FixedClock, owner: str = "run-1", **how: Any) -> AbstractContextManager[Lease]:
    return model_lock(store, ROOT, "churn", owner=owner, clock=clock, **how)


def _facts(lease_ends: datetime) -> bytes:
    """What another one's mark or ticket says."""
    times = {"taken_at": format_time(NOW), "lease_ends": format_time(lease_ends)}
    return canonical_json({"owner": "other", **times})


def left(store: FolderStore) -> list[str]:
    return [info.uri.removeprefix(LOCKS) for info in store.list(LOCKS)]


# One at a time.


def _count(folder: Path, process: int) -> None:
    """Reads and writes a number, in two steps: who is not alone loses a count."""
    store: Any = Jittery(FolderStore(folder))
    failed: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for turn in range(TURNS):
                owner = f"{process}-{thread}-{turn}"
                with model_lock(store, ROOT, "churn", owner=owner, clock=SystemClock(), patience=timedelta(minutes=4)):
                    count = int(store.read(COUNTER))
                    store.write(COUNTER, str(count + 1).encode(), content_type="")
        except BaseException as error:
            traceback.print_exc()
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(len(failed))


def test_threads_of_several_processes_lose_no_count(store: FolderStore, tmp_path: Path) -> None:
    store.write(COUNTER, b"0", content_type="")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path, number)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert int(store.read(COUNTER)) == PROCESSES * THREADS * TURNS
    assert left(store) == []


def test_held_lock_keeps_others_out_and_another_model_does_not(store: FolderStore, clock: FixedClock) -> None:
    with hold(store, clock):
        with pytest.raises(LockTimeoutError), hold(store, clock, "run-2", patience=AT_ONCE):
            pass
        with model_lock(store, ROOT, "churn_eu", owner="run-3", clock=clock, patience=AT_ONCE) as lease:
            lease.require_held()
    assert left(store) == []


def test_first_come_is_first_served(store: FolderStore, clock: FixedClock) -> None:
    served: list[int] = []

    def queue(number: int) -> None:
        with hold(store, clock, f"run-{number}"):
            served.append(number)

    threads = [threading.Thread(target=queue, args=(number,)) for number in range(5)]
    with hold(store, clock):
        for number, thread in enumerate(threads):
            thread.start()
            while len([name for name in left(store) if name.startswith("ticket")]) < number + 2:
                time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert served == [0, 1, 2, 3, 4]


def test_one_who_takes_its_number_while_it_is_looked_at_is_waited_for(store: FolderStore, clock: FixedClock) -> None:
    mark, ticket = f"{LOCKS}choosing-00.json", f"{LOCKS}ticket-00000001-00-000.json"

    class Meanwhile(FolderStore):
        """Between the listing of the tickets and the look at its mark, the other one has taken its number."""

        def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
            if uri == mark:
                store.write(ticket, facts, content_type="")
                store.delete(mark)
            return super().read(uri, start=start, end=end)

    facts = _facts(NOW + LEASE)
    store.write(mark, facts, content_type="")
    with pytest.raises(LockTimeoutError, match="other"), hold(Meanwhile(store._root), clock, patience=AT_ONCE):
        pass
    assert left(store) == ["ticket-00000001-00-000.json"]


@pytest.mark.parametrize("name", ["choosing-00.json", "ticket-00000001-00-000.json"])
def test_one_who_lives_though_it_was_passed_over_is_waited_for_if_it_has_written_more(
    store: FolderStore, clock: FixedClock, name: str
) -> None:
    class Meanwhile(FolderStore):
        """What is passed over belongs to one that lives, and that has just written its next ticket."""

        def delete(self, uri: str) -> None:
            if uri == LOCKS + name:
                store.write(f"{LOCKS}ticket-00000001-00-001.json", _facts(NOW + LEASE), content_type="")
            super().delete(uri)

    store.write(LOCKS + name, _facts(NOW - CLOCK_TOLERANCE * 2), content_type="")
    with pytest.raises(LockTimeoutError, match="other"), hold(Meanwhile(store._root), clock, patience=AT_ONCE):
        pass
    assert left(store) == ["ticket-00000001-00-001.json"]


@pytest.mark.parametrize(
    ("written", "removed"),
    [("ticket-00000002-{}-000", "choosing-{}"), ("ticket-00000002-{}-001", "ticket-00000002-{}-000")],
)
def test_one_that_was_passed_over_while_it_wrote_its_next_object_queues_again(
    store: FolderStore, clock: FixedClock, caplog: pytest.LogCaptureFixture, written: str, removed: str
) -> None:
    class Meanwhile(FolderStore):
        """Another machine's clock is ahead: it removes what was written last. Time goes on, so that this one renews."""

        def list(self, prefix_uri: str) -> Any:
            clock.advance(LEASE / 8)
            return super().list(prefix_uri)

        def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
            done = super().write(uri, content, content_type=content_type, if_absent=if_absent)
            own = re.search("[0-9a-f]{16}", uri)
            if own and uri == f"{LOCKS}{written.format(own[0])}.json":
                super().delete(f"{LOCKS}{removed.format(own[0])}.json")
            return done

    store.write(f"{LOCKS}ticket-00000001-00-000.json", _facts(NOW + timedelta(hours=1)), content_type="")
    with pytest.raises(LockTimeoutError), hold(Meanwhile(store._root), clock, patience=AT_ONCE):
        pass
    assert "queues again" in caplog.text
    assert left(store) == ["ticket-00000001-00-000.json"]


@pytest.mark.parametrize(("off_s", "told"), [(-60, r"6[01] s behind the store's"), (60, r"(59|60) s ahead of the st")])
def test_clock_that_differs_from_the_stores_is_told(
    store: FolderStore, caplog: pytest.LogCaptureFixture, off_s: int, told: str
) -> None:
    with hold(store, FixedClock(datetime.now(UTC) + timedelta(seconds=off_s))):
        pass
    assert re.search(told, caplog.text)
    caplog.clear()
    with hold(store, FixedClock(datetime.now(UTC))):
        pass
    assert "clock" not in caplog.text


def test_timeout_tells_who_holds_it_since_when_and_what_to_do(store: FolderStore, clock: FixedClock) -> None:
    with hold(store, clock, "scheduled__2013-04-01"):
        clock.advance(timedelta(seconds=5))
        with pytest.raises(LockTimeoutError) as caught, hold(store, clock, "run-2", patience=AT_ONCE):
            pass
        assert len(left(store)) == 1
    for told in ("scheduled__2013-04-01", "2013-04-01T02:00:00Z", "2013-04-01T02:00:30Z", "run-2", "Try again"):
        assert told in str(caught.value)


# Those who die.


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("effect", [1, 2, 3, 4])
def test_process_that_dies_anywhere_blocks_no_longer_than_its_lease(
    store: FolderStore, clock: FixedClock, effect: int, after: bool
) -> None:
    fault = Fault(at=effect, after=after, fatal=True)
    with pytest.raises(ProcessDied), hold(Faulty(store, STORE_EFFECTS, fault, ProcessDied), clock, "dead"):
        pass
    assert fault.calls == ["write", "write", "delete", "delete"][:effect]
    clock.advance(LEASE + CLOCK_TOLERANCE)
    if left(store):
        with pytest.raises(LockTimeoutError, match="dead"), hold(store, clock, "run-2", patience=AT_ONCE):
            pass
    clock.advance(timedelta(seconds=1))
    with hold(store, clock, "run-3", patience=AT_ONCE) as lease:
        lease.require_held()
    assert left(store) == []


def test_waiting_process_that_dies_is_passed_over(store: FolderStore, clock: FixedClock) -> None:
    fault = Fault(at=3, after=True, fatal=True)
    with hold(store, clock):
        with pytest.raises(ProcessDied), hold(Faulty(store, STORE_EFFECTS, fault, ProcessDied), clock, "dead"):
            pass
        with pytest.raises(LockTimeoutError), hold(store, clock, "run-2", patience=AT_ONCE):
            pass
    clock.advance(timedelta(minutes=1))
    with hold(store, clock, "run-3", patience=AT_ONCE):
        assert len(left(store)) == 1


def test_holder_that_was_passed_over_notices_though_its_own_clocks_do_not_tell(
    store: FolderStore, clock: FixedClock
) -> None:
    ahead = FixedClock(NOW + timedelta(minutes=1))
    with hold(store, clock, "slow") as first:
        first.require_held()
        with hold(store, ahead, "next") as second:
            second.require_held()
            with pytest.raises(LockLostError, match="do the machines' clocks agree"):
                first.require_held()


@pytest.mark.parametrize("content", [b"", b'{"owner": "x", "lease', b"[]", b'{"lease_ends": 3}'])
@pytest.mark.parametrize("name", ["choosing-00.json", "ticket-00000001-00-000.json"])
def test_ticket_that_nobody_can_read_is_held_for_a_lease(
    store: FolderStore, tmp_path: Path, name: str, content: bytes
) -> None:
    store.write(LOCKS + name, content, content_type="")
    written = NOW.timestamp()
    os.utime(tmp_path / LOCKS.removeprefix("s3://") / name, (written, written))
    clock = FixedClock(NOW + LEASE + CLOCK_TOLERANCE)
    with (
        pytest.raises(LockTimeoutError, match="somebody since 2013-04-01T02:00:00Z"),
        hold(store, clock, patience=AT_ONCE),
    ):
        pass
    clock.advance(timedelta(seconds=1))
    with hold(store, clock, patience=AT_ONCE):
        assert name not in left(store)


def test_foreign_object_among_the_tickets_is_no_ticket(store: FolderStore, clock: FixedClock) -> None:
    for name in ("README.md", "ticket-notes.txt", "ticket-x-y-z.json"):
        store.write(LOCKS + name, b"x", content_type="")
    with hold(store, clock, patience=AT_ONCE) as lease:
        lease.require_held()
    assert len(left(store)) == 3


# The lease.


def test_lease_is_over_by_the_monotonic_clock_before_the_others_take_it(store: FolderStore, clock: FixedClock) -> None:
    with hold(store, clock, lease=timedelta(milliseconds=300)) as lease:
        lease.require_held()
        time.sleep(0.3)
        with pytest.raises(LockLostError, match=r"its lease of 0\.3 s is over. Nothing more was moved"):
            lease.require_held()


def test_lease_is_over_by_the_wall_clock_if_the_machine_slept(store: FolderStore, clock: FixedClock) -> None:
    with hold(store, clock) as lease:
        clock.advance(LEASE)
        with pytest.raises(LockLostError):
            lease.require_held()


def test_one_who_waited_starts_with_most_of_a_lease(store: FolderStore, clock: FixedClock) -> None:
    entered = threading.Event()
    remaining: list[timedelta] = []

    def queue() -> None:
        with hold(store, clock, "waiting") as lease:
            facts = json.loads(store.read(lease.ticket_uri))
            assert facts["lease_ends"] == format_time(lease.ends)
            remaining.append(lease.ends - clock.now())
            entered.set()

    thread = threading.Thread(target=queue)
    with hold(store, clock, lease=timedelta(minutes=10)):
        thread.start()
        while len(left(store)) < 2:
            time.sleep(0.005)
        clock.advance(LEASE / 2)
        while not [name for name in left(store) if name.endswith("-001.json")]:
            time.sleep(0.005)
        clock.advance(LEASE * 0.75)
        while not [name for name in left(store) if name.endswith("-002.json")]:
            time.sleep(0.005)
    thread.join()
    assert entered.is_set()
    assert remaining[0] >= LEASE * 0.6
    assert left(store) == []


# Leaving.


def test_lock_is_free_after_an_error(store: FolderStore, clock: FixedClock) -> None:
    with pytest.raises(KeyError), hold(store, clock):
        raise KeyError("x")
    assert left(store) == []


def test_ticket_that_cannot_be_removed_is_logged_and_ends_with_its_lease(
    store: FolderStore, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(FolderStore):
        def delete(self, uri: str) -> None:
            if "ticket" in uri:
                raise StoreUnavailableError("503 SlowDown")
            super().delete(uri)

    with hold(Stubborn(store._root), clock):
        pass
    assert "cannot remove" in caplog.text
    clock.advance(timedelta(minutes=1))
    with hold(store, clock, "run-2", patience=AT_ONCE):
        assert len(left(store)) == 1


def test_store_that_does_not_answer_leaves_nothing_behind(store: FolderStore, clock: FixedClock) -> None:
    fault = Fault(at=2, after=True, fatal=False)
    failing = Faulty(store, ("write", "list", "delete", "head"), fault, lambda: StoreUnavailableError("503"))
    with pytest.raises(StoreUnavailableError), hold(failing, clock):
        pass
    assert left(store) == []
