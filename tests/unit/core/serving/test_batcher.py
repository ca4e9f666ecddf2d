"""Batches form by themselves, a bad row fails alone, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from perennial.serving.batcher import Batcher
from perennial.serving.columns import Batch
from perennial.serving.errors import (
    DeadlineError,
    QueueFullError,
    ServingError,
    UnavailableError,
    UnscorableRowsError,
)
from perennial.serving.settings import ServingSettings
from tests.unit.core.serving.served import until

pytestmark = pytest.mark.asyncio


class Model:
    """Doubles; waits at the gate, if it is shut; refuses -1; breaks at -2."""

    def __init__(self) -> None:
        self.gate, self.inside = threading.Event(), threading.Event()
        self.gate.set()
        self.calls: list[list[int]] = []

    def score(self, batches: Sequence[Batch]) -> list[list[Any]]:
        values = [value for batch in batches for value in batch.values["x"]]
        self.calls.append(values)
        self.inside.set()
        assert self.gate.wait(10)
        if -1 in values:
            raise UnscorableRowsError("no negatives")
        if -2 in values:
            raise ZeroDivisionError("a mistake of ours")
        return [[2 * value for value in batch.values["x"]] for batch in batches]


def _batch(*values: int) -> Batch:
    return Batch({"x": list(values)}, len(values))


def _soon() -> float:
    return time.monotonic() + 10


def _batcher(model: Model, **settings: Any) -> Batcher:
    return Batcher(model.score, ServingSettings(**settings), name="toy-1")


async def _shut(model: Model, batcher: Batcher) -> asyncio.Future[list[Any]]:
    """The model is in a prediction that does not end before the gate is opened."""
    model.gate.clear()
    model.inside.clear()
    first = batcher.submit(_batch(0), _soon())
    await until(model.inside.is_set)
    return first


async def test_lone_request_is_scored_at_once_by_itself() -> None:
    model = Model()
    assert await _batcher(model).submit(_batch(1, 2), _soon()) == [2, 4]
    assert model.calls == [[1, 2]]


async def test_what_arrives_meanwhile_is_the_next_batch_and_each_gets_its_own_rows() -> None:
    model = Model()
    batcher = _batcher(model)
    first = await _shut(model, batcher)
    others = [batcher.submit(_batch(n, 10 * n), _soon()) for n in range(1, 6)]
    assert batcher.waiting_rows == 10
    model.gate.set()
    assert await asyncio.gather(*others) == [[2 * n, 20 * n] for n in range(1, 6)]
    assert await first == [0]
    assert model.calls[1:] == [[1, 10, 2, 20, 3, 30, 4, 40, 5, 50]]
    assert batcher.waiting_rows == 0


async def test_batches_stay_within_the_limit_and_a_larger_request_goes_alone() -> None:
    model = Model()
    batcher = _batcher(model, max_batch_rows=3)
    await _shut(model, batcher)
    others = [batcher.submit(_batch(*values), _soon()) for values in ((1, 2), (3, 4), (5,), (1, 2, 3, 4, 5), (6,))]
    model.gate.set()
    await asyncio.gather(*others)
    assert model.calls[1:] == [[1, 2], [3, 4, 5], [1, 2, 3, 4, 5], [6]]


async def test_request_whose_rows_make_the_model_raise_fails_alone() -> None:
    model = Model()
    batcher = _batcher(model)
    await _shut(model, batcher)
    others = [batcher.submit(_batch(n), _soon()) for n in (1, 2, -1, 4, 5, 6, 7)]
    model.gate.set()
    found = await asyncio.gather(*others, return_exceptions=True)
    assert isinstance(found.pop(2), UnscorableRowsError)
    assert found == [[2], [4], [8], [10], [12], [14]]
    assert len(model.calls) <= 2 + 2 * 3  # halving, not one by one


async def test_mistake_of_ours_fails_its_request_and_not_the_thread() -> None:
    batcher = _batcher(Model())
    with pytest.raises(ServingError, match="log says why"):
        await batcher.submit(_batch(-2), _soon())
    assert await batcher.submit(_batch(3), _soon()) == [6]


async def test_full_queue_refuses_and_says_when_to_come_again() -> None:
    model = Model()
    batcher = _batcher(model, max_queue_rows=4)
    await _shut(model, batcher)
    waiting = batcher.submit(_batch(1, 2, 3), _soon())
    with pytest.raises(QueueFullError, match="limit of 4") as caught:
        batcher.submit(_batch(4, 5), _soon())
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    model.gate.set()
    assert await waiting == [2, 4, 6]
    assert await batcher.submit(_batch(4, 5), _soon()) == [8, 10]


async def test_request_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    assert await _batcher(Model(), max_queue_rows=2).submit(_batch(1, 2, 3), _soon()) == [2, 4, 6]


async def test_request_that_nobody_waits_for_any_more_is_not_scored() -> None:
    model = Model()
    batcher = _batcher(model)
    await _shut(model, batcher)
    gone, stays = batcher.submit(_batch(1), _soon()), batcher.submit(_batch(2), _soon())
    gone.cancel()
    model.gate.set()
    assert await stays == [4]
    assert model.calls[1:] == [[2]]


async def test_request_whose_time_is_over_is_not_scored() -> None:
    model = Model()
    batcher = _batcher(model)
    await _shut(model, batcher)
    late, stays = batcher.submit(_batch(1), time.monotonic()), batcher.submit(_batch(2), _soon())
    model.gate.set()
    with pytest.raises(DeadlineError):
        await late
    assert await stays == [4]
    assert model.calls[1:] == [[2]]


async def test_model_that_hangs_holds_one_thread_and_gets_no_more_requests() -> None:
    model = Model()
    batcher = _batcher(model, hang_after_s=0.05)
    first = await _shut(model, batcher)
    assert not batcher.hangs or model.calls
    await until(lambda: batcher.hangs)
    threads = threading.active_count()
    for _ in range(5):
        with pytest.raises(UnavailableError, match="restarted"):
            batcher.submit(_batch(1), _soon())
    assert threading.active_count() == threads
    model.gate.set()
    assert await first == [0]
    assert await batcher.submit(_batch(1), _soon()) == [2]


async def test_closed_batcher_scores_what_it_was_given_and_its_thread_ends() -> None:
    model = Model()
    batcher = Batcher(model.score, ServingSettings(), name="closed")
    first = await _shut(model, batcher)
    others = [batcher.submit(_batch(n), _soon()) for n in (1, 2)]
    batcher.close()
    batcher.close()
    with pytest.raises(UnavailableError, match="out of service"):
        batcher.submit(_batch(3), _soon())
    model.gate.set()
    assert await asyncio.gather(first, *others) == [[0], [2], [4]]
    await until(lambda: "closed" not in [thread.name for thread in threading.enumerate()])


async def test_rows_that_nobody_waits_for_take_no_memory_behind_a_model_that_hangs() -> None:
    model = Model()
    batcher = _batcher(model)
    await _shut(model, batcher)
    values = _Values([1])
    kept = weakref.ref(values)
    gone = batcher.submit(Batch({"x": values}, 1), _soon())
    del values
    gone.cancel()
    await until(lambda: kept() is None)
    assert batcher.waiting_rows == 1
    model.gate.set()
    await until(lambda: batcher.waiting_rows == 0)


class _Values(list[int]):
    """That a weak reference can be had of."""
