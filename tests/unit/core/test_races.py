"""Promotions, rollbacks and people at the same moment. The registry has no compare-and-set; the lock has to do."""

from __future__ import annotations

import copy
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.references import PromotionRef, Reference
from perennial.errors import FenceError
from tests.unit.core.production import MODEL, Production

ROUNDS = 200
SLOW = {"champion_version": 0.003, "point_alias": 0.003, "register": 0.002}
"""Calls of the registry that take up to so many seconds, before and after they have their effect."""


class SlowRegistry:
    """Lets the threads get between a read and the write that rests on it."""

    def __init__(self, inner: Any, seed: int) -> None:
        self._inner, self._random = inner, random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in SLOW:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            time.sleep(self._random.uniform(0, SLOW[name]))
            answer = method(*args, **kwargs)
            time.sleep(self._random.uniform(0, SLOW[name]))
            return answer

        return call


@pytest.fixture
def origin(tmp_path: Path) -> Production:
    """Versions 1 and 2 were promoted, 3 is registered."""
    production = Production(tmp_path / "origin")
    production.promoted("first")
    production.promoted("second")
    production.registry.register(MODEL, production.trained("third"), {})
    return production


def _copy(origin: Production, folder: Path, seed: int) -> Production:
    shutil.copytree(origin.folder, folder)
    registry = SlowRegistry(copy.deepcopy(origin.registry), seed)
    return Production(folder, spec=origin.spec, registry=registry, clock=origin.clock)


def _race(*acts: Callable[[], Any]) -> list[Any]:
    """Start all at one moment; what each returned, or the FenceError that stopped it."""
    barrier = threading.Barrier(len(acts))
    results: list[Any] = [None] * len(acts)

    def run(position: int) -> None:
        barrier.wait()
        try:
            results[position] = acts[position]()
        except Exception as error:  # handed on to the test
            results[position] = error

    threads = [threading.Thread(target=run, args=(position,)) for position in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, FenceError):
            raise result
    return results


def _promotion(production: Production, name: str) -> Callable[[], PromotionRef]:
    """A promotion that only waits to be carried out."""
    request, model = production.request(f"run-{name}"), production.trained(name)
    decision = production.decided(model, request, judged=production.champion)
    return lambda: production.carry_out(request, model, decision)


def test_two_promotions_raced_leave_one_winner_and_a_sound_ledger(origin: Production, tmp_path: Path) -> None:
    winners = set()
    for number in range(ROUNDS):
        production = _copy(origin, tmp_path / str(number), seed=number)
        results = _race(_promotion(production, "a"), _promotion(production, "b"))
        won = [position for position, result in enumerate(results) if isinstance(result, PromotionRef)]
        assert len(won) == 1, results
        assert results[won[0]].champion_after == production.champion
        assert production.moves()[2:] == [("promotion", "2", production.champion)]
        production.assert_in_step()
        winners.add(won[0])
    assert winners == {0, 1}


def test_promotion_raced_with_a_hand_made_move_leaves_a_ledger_that_ends_where_the_alias_is(
    origin: Production, tmp_path: Path
) -> None:
    ends = set()
    for number in range(60):
        production = _copy(origin, tmp_path / str(number), seed=number)
        delay_s = random.Random(number).uniform(0, 0.05)

        def by_hand(production: Production = production, delay_s: float = delay_s) -> None:
            time.sleep(delay_s)
            production.moved_by_hand("3")

        promoted, _ = _race(_promotion(production, "a"), by_hand)
        production.settle()
        production.assert_in_step()
        moves = production.moves()[2:]
        # Overwritten between our last look and our write, the person's move leaves no trace: MLflow keeps none.
        assert moves in (
            [("promotion", "2", "4")],
            [("promotion", "2", "4"), ("outside", "4", "3")],
            [("outside", "2", "3")],
        )
        assert isinstance(promoted, PromotionRef) or moves[-1][0] == "outside"
        ends.add(tuple(kind for kind, _, _ in moves))
    assert len(ends) > 1


def test_promotion_raced_with_a_rollback_leaves_one_chain(origin: Production, tmp_path: Path) -> None:
    for number in range(60):
        production = _copy(origin, tmp_path / str(number), seed=number)
        promote = _promotion(production, "a")

        def roll_back(production: Production = production) -> Reference:
            return production.roll_back("back")

        promoted, back = _race(promote, roll_back)
        production.assert_in_step()
        moves = production.moves()[2:]
        if isinstance(promoted, FenceError):
            assert moves == [("rollback", "2", "1")]
        elif isinstance(back, FenceError):
            assert moves == [("promotion", "2", "4")]
        else:
            assert moves == [("promotion", "2", "4"), ("rollback", "4", "2")]
