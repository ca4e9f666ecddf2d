"""What a ledger's entries say together: which models are in quarantine."""

from __future__ import annotations

import pytest

from perennial.domain.ledger_entry import LedgerEntry, quarantined
from tests.unit.core.ledgers import entry_of


def _rollback(removed: str, target: str) -> LedgerEntry:
    return entry_of(kind="rollback", quarantined={removed: f"{removed} was taken back."}, digest=target)


def test_model_that_was_taken_back_is_in_quarantine() -> None:
    assert quarantined([]) == {}
    assert quarantined([entry_of(kind="promotion", digest="b"), _rollback("b", "a")]) == {"b": "b was taken back."}


@pytest.mark.parametrize("kind", ["promotion", "outside", "rollback"])
def test_move_back_to_a_quarantined_model_releases_it_alone(kind: str) -> None:
    moves = [_rollback("c", "b"), _rollback("b", "a"), entry_of(kind=kind, digest="c")]
    assert list(quarantined(moves)) == ["b"]


def test_model_that_is_taken_back_again_is_in_quarantine_again() -> None:
    assert list(quarantined([_rollback("b", "a"), entry_of(kind="outside", digest="b"), _rollback("b", "a")])) == ["b"]


def test_move_to_an_unknown_model_releases_nothing() -> None:
    assert list(quarantined([_rollback("b", "a"), entry_of(kind="outside", digest=None)])) == ["b"]
