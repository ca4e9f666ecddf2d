"""The model's lock on the stores that Perennial runs on: none of them needs a conditional put for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.contract.s3_servers import moto_server, rclone_server

from perennial.errors import LockLostError
from perennial.lock import model_lock
from perennial.ports import ObjectStore
from perennial.runtime import SystemClock
from perennial.testing import FixedClock, FolderStore

ROOT = "s3://bucket/store"
COUNTER = f"{ROOT}/counter.txt"
THREADS, TURNS = 5, 6
NOW = datetime(2013, 4, 1, tzinfo=UTC)


@pytest.fixture(params=["folder", "moto", "rclone"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ObjectStore, ObjectStore]]:
    """Two stores on the same bucket, as two processes have them."""
    if request.param == "folder":
        folder = FolderStore(tmp_path)
        folder.add_bucket("bucket")
        yield folder, FolderStore(tmp_path)
        return
    with moto_server() if request.param == "moto" else rclone_server(tmp_path) as server:
        server.add_bucket("bucket")
        yield server.store(), server.store()


def test_threads_that_read_and_write_a_counter_lose_no_turn(stores: tuple[ObjectStore, ObjectStore]) -> None:
    stores[0].write(COUNTER, b"0", content_type="")
    failed: list[BaseException] = []

    def work(number: int) -> None:
        store = stores[number % 2]
        try:
            for turn in range(TURNS):
                with model_lock(store, ROOT, "churn", owner=f"{number}-{turn}", clock=SystemClock()) as lease:
                    count = int(store.read(COUNTER))
                    time.sleep(0.002)
                    lease.require_held()
                    store.write(COUNTER, str(count + 1).encode(), content_type="")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert int(stores[0].read(COUNTER)) == THREADS * TURNS
    assert list(stores[0].list(f"{ROOT}/locks/")) == []


def test_dead_holder_is_passed_over_and_notices(stores: tuple[ObjectStore, ObjectStore]) -> None:
    clock, later = FixedClock(NOW), FixedClock(NOW + timedelta(minutes=1))
    with (
        model_lock(stores[0], ROOT, "churn", owner="held up", clock=clock) as first,
        model_lock(stores[1], ROOT, "churn", owner="next", clock=later) as second,
    ):
        second.require_held()
        with pytest.raises(LockLostError, match="took it for dead"):
            first.require_held()
    assert list(stores[0].list(f"{ROOT}/locks/")) == []
