"""`perennial run`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perennial.cli.terminal import (
    EXIT_DONE,
    address_of,
    champions,
    make_console,
    new_run_id,
    outcome_of,
    plain_times,
    print_json,
    print_line,
    print_text,
    style_of,
    user,
)
from perennial.domain.ledger_entry import MOVES, OUTCOMES, ROLLOUT, LedgerEntry
from perennial.domain.references import (
    DecisionRef,
    EvaluationRef,
    PromotionRef,
    RolloutRef,
    SmokeTestRef,
    SnapshotRef,
    ValidationRef,
)
from perennial.domain.times import format_time
from perennial.errors import RequestError
from perennial.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from perennial.domain.references import Reference
    from perennial.runtime import Runtime
    from perennial.stages.rollout import Look


def run_once(arguments: argparse.Namespace, settings: Settings) -> int:
    """One cycle, and what it left in the ledger."""
    from perennial.domain.run_request import RunRequest
    from perennial.runtime import build_runtime
    from perennial.spec import load_model
    from perennial.whole_cycle import run_cycle

    spec = load_model(settings.specs, arguments.model)
    runtime = build_runtime(settings)
    now = runtime.clock.now()
    request = RunRequest(
        model=spec.name,
        run_id=new_run_id(now),
        as_of=arguments.as_of or now,
        trigger="command",
        reason=arguments.reason,
        requested_by=user(),
        force=arguments.force,
        params=_params(arguments.param),
        break_glass=arguments.break_glass,
    )
    progress = _Progress(None if arguments.json else make_console())
    result = run_cycle(runtime, spec, request, on_stage=progress.stage, on_look=progress.look)
    entries = [entry for entry in runtime.ledger.entries(spec.name) if entry.run_id == request.run_id]
    told = _told(entries, waits=result.waits_for_approval, runtime=runtime)
    if arguments.json:
        print_json(told)
    else:
        _show(_outcome(entries), told)
    return EXIT_DONE


def _outcome(entries: Sequence[LedgerEntry]) -> LedgerEntry:
    return next(entry for entry in entries if entry.kind in OUTCOMES)


def _told(entries: Sequence[LedgerEntry], *, waits: bool, runtime: Runtime) -> dict[str, Any]:
    """The outcome's entry, with what became of the champion."""
    outcome = _outcome(entries)
    move = next((entry for entry in entries if entry.kind in MOVES), None)
    rollouts = [entry for entry in entries if entry.kind == ROLLOUT]
    return {
        **outcome.to_dict(),
        "outcome": outcome_of(outcome),
        "promoted": move is not None,
        "champion_after": outcome.champion_after if move is None else move.champion_after,
        "waits_for_approval": waits,
        "page_url": address_of(outcome.page_uri, model=outcome.model, runtime=runtime),
        "rollouts": [
            {
                "phase": entry.phase,
                "passed": entry.approved,
                "summary": entry.summary,
                "page_uri": entry.page_uri,
                "page_url": address_of(entry.page_uri, model=entry.model, runtime=runtime),
            }
            for entry in rollouts
        ],
    }


def _show(outcome: LedgerEntry, told: dict[str, Any]) -> None:
    from rich.text import Text

    console = make_console()
    console.print()
    moved = champions(told["champion_before"], told["champion_after"])
    console.print(Text(told["outcome"], style=f"bold {style_of(outcome)}"), Text(f" champion {moved}"))
    for reason in outcome.reasons or [outcome.summary]:  # the summary is the first of the reasons
        print_text(console, reason, indent=4)
    if told["waits_for_approval"]:
        print_text(
            console,
            "Nothing was moved: this model's promotions wait for approval in Airflow, and a run of this command cannot "
            "be approved there. Trigger the model's DAG.",
        )
    if outcome.page_uri:
        print_line(console, f"page: {told['page_url'] or outcome.page_uri}")
    for rollout in told["rollouts"]:
        print_text(console, rollout["summary"], indent=4, style="" if rollout["passed"] else "yellow")
        print_line(console, f"page: {rollout['page_url'] or rollout['page_uri']}")


def _params(given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    params = dict(given)
    if len(params) < len(given):
        names = [name for name, _ in given]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RequestError(f"--param {', '.join(twice)}: given twice; which value counts?")
    return params


class _Progress:
    """A line for each stage that is done, and for each look at a rollout that says something new; None: quiet."""

    def __init__(self, console: Console | None) -> None:
        self._console, self._said = console, ""

    def stage(self, name: str, reference: Reference | None) -> None:
        """Hear of a stage."""
        if reference is not None and self._console is not None:
            print_line(self._console, f"done  {name:<10}{_came_to(reference)}")

    def look(self, phase: str, seen: Look) -> None:
        """Hear of a look."""
        if self._console is not None and seen.ended is None and seen.said != self._said:
            self._said = seen.said
            print_line(self._console, f"      {phase:<10}{seen.said}")


def _came_to(reference: Reference) -> str:
    """A few words on what a stage came to; most need none."""
    said = ""
    match reference:
        case SnapshotRef():
            new = "; nothing new to judge" if reference.nothing_new_since is not None else ""
            said = plain_times(f"{reference.rows:,} rows, data up to {format_time(reference.watermark)}{new}")
        case ValidationRef():
            said = f"{reference.expectations} expectations, {reference.failed} failed"
        case EvaluationRef():
            champion = f"version {reference.champion_version}" if reference.champion_version else "no champion yet"
            said = f"{reference.rows:,} rows, against {champion}"
        case DecisionRef():
            said = reference.verdict
        case SmokeTestRef():
            said = f"{reference.rows:,} rows of the holdout scored as before" if reference.passed else "FAILED"
        case RolloutRef():
            said = "passed" if reference.passed else "taken back"
        case PromotionRef():
            said = f"champion is version {reference.champion_after}" if reference.promoted else "nothing to promote"
    return said
