"""Promotions, rollbacks, hands in MLflow and deaths in any order: whoever looks at the end finds one truth."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.errors import FenceError, TerminalError, TransientError
from tests.unit.core.faulty import Fault, ProcessDied, crashing, unavailable
from tests.unit.core.production import MODEL, Production

SEQUENCES, ACTS = 40, 10
MOST_CALLS = 26
"""Of an act until its alias is moved and recorded: so most faults strike."""
OVER = timedelta(minutes=10)
Act = Callable[[Production], Any]


def _promotion(production: Production, run_id: str) -> Act:
    """Judged against whoever is champion now."""
    production.settle()
    request, model = production.request(run_id), production.trained(run_id)
    decision = production.decided(model, request, judged=production.champion)
    return lambda struck: struck.carry_out(request, model, decision)


def _rollback(run_id: str) -> Act:
    return lambda struck: struck.roll_back(run_id)


def _by_hand(production: Production, chance: random.Random) -> None:
    """Moves the alias, takes it off, or deletes the newest version."""
    versions: list[str | None] = list(production.registry.version_tags(MODEL))
    if versions and chance.random() < 0.2:
        production.deleted_by_hand(str(versions[-1]))
    else:
        production.moved_by_hand(chance.choice([None, *versions]))


def _struck(production: Production, chance: random.Random) -> Production:
    """The process dies, or a server does not answer, at some call."""
    fatal = chance.random() < 0.7
    fault = Fault(at=chance.randint(1, MOST_CALLS), after=chance.random() < 0.5, fatal=fatal)
    store, registry = (crashing if fatal else unavailable)(production.store, production.registry, fault)
    return Production(production.folder, production.spec, registry, store, production.clock)


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_any_order_of_moves_and_faults_ends_in_one_truth(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, production = random.Random(seed), Production(tmp_path)
    # Nobody else holds the lock: what a dead one has left is waited for until its lease has ended.
    monkeypatch.setattr("perennial.lock.time.sleep", lambda _s: production.clock.advance(timedelta(seconds=8)))
    unfinished: list[Act] = []
    for number in range(ACTS):
        production.pass_time(OVER)
        kind = chance.choice(["promotion", "promotion", "rollback", "by hand", "retry"])
        if kind == "by hand":
            _by_hand(production, chance)
            continue
        if kind == "promotion":
            act = _promotion(production, f"run-{number}")
        elif kind == "retry" and unfinished:
            act = unfinished.pop()
        else:
            act = _rollback(f"back-{number}")
        try:
            # Refused: the champion is another one by now, or there is none to go back to.
            with suppress(FenceError, TerminalError):
                act(_struck(production, chance))
        except (ProcessDied, TransientError):
            unfinished.append(act)
    for act in [lambda looked: looked.settle(), *unfinished]:
        production.pass_time(OVER)
        with suppress(FenceError, TerminalError):
            act(production)
        production.settle()
        production.assert_in_step()
    done = [(entry.run_id, entry.kind) for entry in production.ledger.entries(MODEL)]
    assert len(set(done)) == len(done)
