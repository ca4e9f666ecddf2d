"""What a ledger's entries say together: which models are in quarantine."""

from __future__ import annotations

from typing import Any

import pytest

from perennial.domain.ledger_entry import LedgerEntry, quarantined
from tests.unit.core.ledgers import entry_of


def a_rollout(run_id: str = "run-1", *, phase: str = "canary", passed: bool = False, **changes: Any) -> LedgerEntry:
    """The end of version 4's rollout."""
    reference = {"kind": "rollout", "phase": phase, "version": "4"}
    end = {"kind": "rollout", "approved": passed, "references": {"rollout": reference}, "verdict": None}
    return entry_of(run_id, **{**end, "evidence_sha256": "r" * 64, **changes})


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


def test_challenger_that_live_traffic_took_back_is_in_quarantine_until_it_is_champion_on_purpose() -> None:
    taken_back = a_rollout(quarantined={"c": "too many errors"})
    assert quarantined([taken_back]) == {"c": "too many errors"}
    assert quarantined([taken_back, entry_of(kind="promotion", digest="b")]) == {"c": "too many errors"}
    assert quarantined([taken_back, entry_of(kind="rollback", digest="c")]) == {}
    assert quarantined([taken_back, entry_of(kind="rollback", digest="c"), taken_back]) == {"c": "too many errors"}


def test_rollout_that_passed_releases_nothing() -> None:
    assert list(quarantined([_rollback("c", "b"), a_rollout(passed=True, digest="c")])) == ["c"]


@pytest.mark.parametrize(
    ("entry", "version"),
    [(_rollback("c", "b"), "1"), (a_rollout(), "4"), (entry_of(kind="rollout", references={}), None)],
)
def test_version_that_was_taken_back_is_the_champion_of_a_rollback_and_the_challenger_of_a_rollout(
    entry: LedgerEntry, version: str | None
) -> None:
    assert entry.taken_back == version
