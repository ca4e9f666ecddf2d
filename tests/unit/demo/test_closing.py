"""The demo's closing tables: runs, answers of people, ways back."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from perennial.domain.ledger_entry import LedgerEntry
from perennial_demo.closing import champions, history_table, moved_by, styled_outcome

RUN = "asset_triggered__2026-01-02T10:20:30.5+00:00_IjKlMnOp"


def an_entry(
    kind: str, run_id: str = RUN, before: str | None = "1", after: str | None = "1", **facts: Any
) -> LedgerEntry:
    request = {"run_id": run_id, "as_of": "2013-07-01T06:00:00Z", "trigger": "new_data"}
    return LedgerEntry(
        kind=kind,
        model="flights_delay",
        recorded_at=datetime(2026, 1, 2, 10, 21, tzinfo=UTC),
        request=facts.pop("request", request),
        evidence_sha256="e" * 64,
        summary=facts.pop("summary", f"why the {kind}"),
        champion_before=before,
        champion_after=after,
        **facts,
    )


def lines_of(entries: list[LedgerEntry]) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(history_table("flights_delay", entries))
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]  # type: ignore[attr-defined]


def test_approved_promotion_is_one_run_with_the_answer_below_it() -> None:
    run = [
        an_entry("decision", verdict="PROMOTE"),
        an_entry("approval", approved=True, actor="grace", summary="grace approved."),
        an_entry("promotion", before="1", after="2", verdict="PROMOTE"),
    ]
    *_, decided, answered = lines_of(run)
    for text in ("2026-01-02T10:20:30", "2013-07-01", "sensor", "PROMOTE", "v1 -> v2", "why the decision"):
        assert text in decided
    assert answered.split() == ["approved", "grace", "approved."]
    assert champions(moved_by(run)) == "v1 -> v2"


def test_declined_promotion_leaves_the_champion() -> None:
    *_, decided, answered = lines_of([an_entry("decision", verdict="PROMOTE"), an_entry("approval", approved=False)])
    assert "->" not in decided
    assert answered.split()[0] == "declined"


def test_rollback_and_a_move_by_hand_are_lines_of_their_own() -> None:
    hand = {"run_id": "outside__2026-01-02T11:00:00Z", "as_of": "2026-01-02T11:00:00Z"}
    entries = [
        an_entry("rollback", "manual__2026-01-02T10:30:00+00:00", "2", "1"),
        an_entry("outside", "outside__x", "1", "3", request=hand),
    ]
    *_, back, moved = lines_of(entries)
    assert "rollback" in back
    assert "v2 -> v1" in back
    assert "outside" in moved
    assert "v1 -> v3" in moved


def test_run_that_changed_nothing_shows_the_champion_that_stays() -> None:
    run = [an_entry("nothing_new")]
    assert champions(moved_by(run)) == "v1"
    assert styled_outcome(run[0]).plain == "nothing new"


def test_text_from_the_ledger_is_no_markup() -> None:
    assert "[red]boo[/red]" in lines_of([an_entry("decision", verdict="REJECT", summary="[red]boo[/red]")])[-1]


@pytest.mark.parametrize(("passed", "told"), [(True, "canary passed"), (False, "canary taken back")])
def test_end_of_a_rollout_is_a_line_of_its_run_without_a_champion(passed: bool, told: str) -> None:
    reference = {"rollout": {"phase": "canary", "version": "2"}}
    run = [an_entry("decision", verdict="PROMOTE"), an_entry("rollout", approved=passed, references=reference)]
    *_, ended = lines_of(run)
    assert ended.strip().startswith(told)
    assert "why the rollout" in ended
    assert "v1" not in ended
