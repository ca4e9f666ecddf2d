"""decide, tried again: a retry changes nothing, and what others recorded meanwhile is judged with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import DecisionRef, EvaluationRef
from perennial.errors import LockTimeoutError
from perennial.stages import decide as stage
from tests.unit.core.deciding import Judging
from tests.unit.core.judging import ROOT, Column


@pytest.fixture
def bench(tmp_path: Path) -> Judging:
    return Judging(tmp_path)


def test_retry_gives_the_same_reference_and_leaves_the_page(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    first = bench.decide(evaluation, run_url="https://mlflow/runs/1")
    page = bench.store.read(first.page_uri)
    assert bench.decide(evaluation, run_url="https://moved/runs/1") == first
    assert bench.store.read(first.page_uri) == page


def test_another_run_on_the_same_evaluation_has_a_decision_of_its_own(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    first = bench.decide(evaluation)
    bench.request = replace(bench.request, run_id="manual__2")
    second = bench.decide(evaluation)
    assert second.uri != first.uri
    assert second.verdict == first.verdict


def test_retry_records_once_whatever_happened_meanwhile(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    first = bench.decide(evaluation)
    mine = bench.request
    bench.request = replace(mine, run_id="manual__2")
    bench.decide(evaluation)
    bench.request = mine
    bench.clock.advance(timedelta(hours=1))
    assert bench.decide(evaluation) == first
    assert [entry.run_id for entry in bench.entries()] == ["manual__1", "manual__2"]


@pytest.mark.parametrize("broken", ["page.html", "decision.json", "/ledger/"])
def test_crash_before_any_write_is_completed_by_the_retry(bench: Judging, broken: str) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    whole = bench.store.write

    def failing(uri: str, *args: Any, **how: Any) -> bool:
        if broken in uri:
            raise KeyboardInterrupt
        return whole(uri, *args, **how)

    bench.store.write = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.decide(evaluation)
    assert bench.entries() == []
    bench.store.write = whole  # type: ignore[method-assign]
    decision = bench.decide(evaluation)
    (entry,) = bench.entries()
    assert entry.evidence_sha256 == sha256_of(bench.store.read(decision.uri))
    assert bench.store.read(decision.page_uri).startswith(b"<!doctype html>")


class _Others:
    """Does something each time the page is rendered: what happens while a decision is being made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
        self.renderings = 0
        render = stage.decision_page

        def rendering(*args: Any, **how: Any) -> bytes:
            self.renderings += 1
            rendered = self.renderings
            page = render(*args, **how)
            act(rendered)
            return page

        monkeypatch.setattr(stage, "decision_page", rendering)


def _budgeted(bench: Judging) -> tuple[EvaluationRef, Callable[[], DecisionRef]]:
    """An evaluation, and how another run decides on one of its own, of the same days."""
    bench.respec(gate={"false_promotions": {"budget": 0.05, "period_days": 90}})
    others = bench.evaluate(Column("good"), Column("poor"), rows_a_day=50), bench.judged
    evaluation = bench.evaluate(Column("good"))

    def other() -> DecisionRef:
        mine = bench.request, bench.judged
        bench.request, bench.judged = replace(bench.request, run_id="manual__2"), others[1]
        try:
            return bench.decide(others[0])
        finally:
            bench.request, bench.judged = mine

    return evaluation, other


def _recorded_by_other(bench: Judging, number: int) -> None:
    """A move of the champion, as another run records it."""
    request = {**bench.request.to_dict(), "run_id": f"other__{number}"}
    entry = LedgerEntry(
        kind="rollback",
        model=bench.spec.name,
        recorded_at=bench.clock.now(),
        request=request,
        evidence_sha256=f"{number}",
        summary="",
        champion_before="1",
        champion_after="1",
        quarantined={f"digest {number}": "Taken back."},
    )
    bench.ledger.append(entry)


def test_decision_stored_and_not_recorded_is_made_anew_if_others_decided_meanwhile(tmp_path: Path) -> None:
    bench, orderly = Judging(tmp_path / "crashed"), Judging(tmp_path / "orderly")
    evaluation, other = _budgeted(bench)
    whole = bench.store.write

    def failing(uri: str, *args: Any, **how: Any) -> bool:
        if "/ledger/" in uri:
            raise KeyboardInterrupt
        return whole(uri, *args, **how)

    bench.store.write = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.decide(evaluation)
    bench.store.write = whole  # type: ignore[method-assign]
    (stale,) = [info.uri for info in bench.store.list(f"{ROOT}/decisions/") if info.uri.endswith("decision.json")]
    other()
    decision = bench.decide(evaluation)
    assert decision.uri != stale
    assert [entry.run_id for entry in bench.entries()] == ["manual__2", "manual__1"]
    assert bench.decide(evaluation) == decision
    assert len(bench.entries()) == 2

    same, other = _budgeted(orderly)
    other()
    assert bench.content(decision) == orderly.content(orderly.decide(same))
    assert bench.content(decision)["evidence"] != json.loads(bench.store.read(stale))["evidence"]


def test_decision_stored_and_not_recorded_counts_if_nothing_happened_meanwhile(
    bench: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, _ = _budgeted(bench)
    others = _Others(monkeypatch, lambda _: None)

    def dying(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as crash:
        crash.setattr(bench.ledger, "lock", dying)
        with pytest.raises(KeyboardInterrupt):
            bench.decide(evaluation)
    stored = [info.uri for info in bench.store.list(f"{ROOT}/decisions/")]
    assert bench.decide(evaluation).uri in stored
    assert [info.uri for info in bench.store.list(f"{ROOT}/decisions/")] == stored
    assert others.renderings == 1


def test_what_others_record_while_it_is_judged_is_taken_into_account(
    bench: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    others = _Others(monkeypatch, lambda time: _recorded_by_other(bench, time) if time <= 2 else None)
    decision = bench.decide(evaluation)
    assert others.renderings == 3
    assert [entry.kind for entry in bench.entries()] == ["rollback", "rollback", "decision"]
    assert list(bench.content(decision)["history"]["quarantined"]) == ["digest 1", "digest 2"]
    assert bench.decide(evaluation) == decision


def test_model_is_not_locked_while_it_is_judged(bench: Judging, monkeypatch: pytest.MonkeyPatch) -> None:
    locks: list[list[str]] = []
    _Others(monkeypatch, lambda _: locks.append([info.uri for info in bench.store.list(f"{ROOT}/locks/")]))
    bench.decide(bench.evaluate(Column("good"), Column("poor")))
    assert locks == [[]]


def test_same_run_twice_at_a_time_has_one_decision(bench: Judging, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    other: list[DecisionRef] = []

    def overtake(time: int) -> None:
        if time == 1:
            _recorded_by_other(bench, time)
            other.append(bench.decide(evaluation))

    _Others(monkeypatch, overtake)
    assert [bench.decide(evaluation)] == other
    assert [entry.kind for entry in bench.entries()] == ["rollback", "decision"]


def test_decision_that_others_overtake_all_the_time_gives_up_to_be_tried_again(
    bench: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    others = _Others(monkeypatch, lambda time: _recorded_by_other(bench, time))
    with pytest.raises(LockTimeoutError, match=r"5 times in turn, while manual__1 was judged.*try again"):
        bench.decide(evaluation)
    assert others.renderings == 5
    assert {entry.kind for entry in bench.entries()} == {"rollback"}


def test_entries_that_no_decision_rests_on_are_no_reason_to_judge_again(
    bench: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    entry = replace(_as_entry(bench), kind="nothing_new")
    others = _Others(monkeypatch, lambda _: bench.ledger.append(entry) and None)
    bench.decide(evaluation)
    assert others.renderings == 1


def _as_entry(bench: Judging) -> LedgerEntry:
    _recorded_by_other(bench, 0)
    return replace(bench.entries()[-1], evidence_sha256="another")
