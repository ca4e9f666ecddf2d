"""`perennial run`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
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
from perennial.domain.ledger_entry import MOVES, OUTCOMES, LedgerEntry
from perennial.domain.references import DecisionRef, EvaluationRef, PromotionRef, SnapshotRef, ValidationRef
from perennial.domain.times import format_time
from perennial.errors import RequestError
from perennial.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from perennial.domain.references import Reference
    from perennial.runtime import Runtime


def run_once(arguments: argparse.Namespace, settings: Settings) -> int:
    """One cycle, and what it left in the ledger."""
    from perennial.cycle import run_cycle
    from perennial.domain.run_request import RunRequest
    from perennial.runtime import build_runtime
    from perennial.spec import load_model

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
    tell = _quiet if arguments.json else _progress(make_console())
    result = run_cycle(runtime, spec, request, on_stage=tell)
    waits = result.decision is not None and result.promotion is None
    entries = [entry for entry in runtime.ledger.entries(spec.name) if entry.run_id == request.run_id]
    told = _told(entries, waits=waits, runtime=runtime)
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
    return {
        **outcome.to_dict(),
        "outcome": outcome_of(outcome),
        "promoted": move is not None,
        "champion_after": outcome.champion_after if move is None else move.champion_after,
        "waits_for_approval": waits,
        "page_url": address_of(outcome.page_uri, model=outcome.model, runtime=runtime),
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


def _params(given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    params = dict(given)
    if len(params) < len(given):
        names = [name for name, _ in given]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RequestError(f"--param {', '.join(twice)}: given twice; which value counts?")
    return params


def _quiet(_name: str, _reference: Reference | None) -> None:
    return


def _progress(console: Console) -> Callable[[str, Reference | None], None]:
    def tell(name: str, reference: Reference | None) -> None:
        if reference is not None:
            print_line(console, f"done  {name:<10}{_came_to(reference)}")

    return tell


def _came_to(reference: Reference) -> str:
    """A few words on what a stage came to; most need none."""
    match reference:
        case SnapshotRef():
            new = "; nothing new to judge" if reference.nothing_new_since is not None else ""
            return plain_times(f"{reference.rows:,} rows, data up to {format_time(reference.watermark)}{new}")
        case ValidationRef():
            return f"{reference.expectations} expectations, {reference.failed} failed"
        case EvaluationRef():
            champion = f"version {reference.champion_version}" if reference.champion_version else "no champion yet"
            return f"{reference.rows:,} rows, against {champion}"
        case DecisionRef():
            return reference.verdict
        case PromotionRef():
            return f"champion is version {reference.champion_after}" if reference.promoted else "nothing to promote"
    return ""
