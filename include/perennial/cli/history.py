"""`perennial history`: the ledger as a story, and whether it can be believed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from perennial.addresses import retrain_dag_id, run_address
from perennial.cli.terminal import (
    EXIT_DONE,
    EXIT_FAILED,
    address_of,
    champions,
    data_up_to,
    known_runtime,
    make_console,
    outcome_of,
    print_json,
    print_line,
    print_text,
    style_of,
)
from perennial.domain.ledger_entry import MOVES, OUTCOMES, ROLLOUT, LedgerEntry
from perennial.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from perennial.ledger import Anchor, Verification
    from perennial.runtime import Runtime
    from perennial.spec import ModelSpec

WAYS_OUT: Final = {
    "changed": "Put the original bytes back from the bucket's versions or a backup.",
    "missing": "Put it back from the bucket's versions or a backup.",
    "forged": "Something other than Perennial wrote it: find out what, and move it away.",
    "unreadable": "Look at its bytes; put the original back from the bucket's versions or a backup.",
    "cut_off": "Entries at the end were removed: put them back from the bucket's versions or a backup.",
}
VERIFIED: Final = (
    "Every entry was read, and its bytes have the hash that the next entry holds of them. MLflow holds such hashes "
    "too (anchors): of the entry that made each version champion last. So a ledger that was written anew as a whole, "
    "or cut off before the newest move, would have been found."
)


def show_history(arguments: argparse.Namespace, settings: Settings) -> int:
    """What each run came to and what was done, or with `--verify` whether that is what was written."""
    from perennial.ledger import outcomes_by_run

    runtime = known_runtime(arguments.model, settings)
    if arguments.verify:
        return _verify(arguments, runtime)
    runs = list(outcomes_by_run(runtime.ledger.entries(arguments.model)).values())
    runs = runs[-arguments.limit :] if arguments.limit else runs
    if arguments.json:
        entries = sorted((entry for run in runs for entry in run), key=lambda entry: entry.sequence)
        print_json([_json_entry(entry, runtime) for entry in entries])
    elif not runs:
        text = f"No run of {arguments.model} has come to an end yet; start one: perennial run {arguments.model}"
        print_text(make_console(), text)
    else:
        _show(runs, runtime)
    return EXIT_DONE


def _json_entry(entry: LedgerEntry, runtime: Runtime) -> dict[str, Any]:
    page_url = address_of(entry.page_uri, model=entry.model, runtime=runtime)
    return {**entry.to_dict(), "outcome": outcome_of(entry), "page_url": page_url}


def _show(runs: Sequence[Sequence[LedgerEntry]], runtime: Runtime) -> None:
    """Two lines a run or more: a table's last column would be narrow, and the reason is what people look for."""
    from rich.text import Text

    console = make_console()
    spec = _spec(runs[0][0].model, runtime)
    console.print("data up to  outcome       champion     trigger    recorded (UTC)", style="dim")
    for run in runs:
        first = next((entry for entry in run if entry.kind in OUTCOMES), run[0])
        move = next((entry for entry in reversed(run) if entry.kind in MOVES), first)
        line = Text(f"{data_up_to(first):<10}  ")
        line.append(f"{outcome_of(first):<12}  ", style=style_of(first))
        trigger = str(first.request.get("trigger", ""))
        moved = champions(move.champion_before, move.champion_after)
        line.append(f"{moved:<12} {trigger:<10} {first.recorded_at:%Y-%m-%d %H:%M}")
        if any(entry.break_glass for entry in run):
            line.append("  glass broken", style="bold red")
        console.print(line)
        print_text(console, first.summary, indent=12)
        for entry in run:
            if entry is not first and entry.kind != "promotion":
                print_text(console, entry.summary, indent=12, style="" if entry.approved else "yellow")
            if entry.kind == ROLLOUT and not entry.approved:
                page = address_of(entry.page_uri, model=entry.model, runtime=runtime) or entry.page_uri
                print_line(console, f"            page: {page}")
        if _was_to_be_promoted(run, first):
            _show_unfinished(console, run, first, spec, runtime)


def _was_to_be_promoted(run: Sequence[LedgerEntry], first: LedgerEntry) -> bool:
    """Whether the gate said PROMOTE, neither a person nor live traffic said No in the end, and nothing was promoted."""
    answers = [entry.approved for entry in run if entry.kind in ("approval", ROLLOUT)]
    done = any(entry.kind == "promotion" for entry in run) or answers[-1:] == [False]
    return first.kind == "decision" and first.verdict == "PROMOTE" and not done


def _show_unfinished(
    console: Console, run: Sequence[LedgerEntry], first: LedgerEntry, spec: ModelSpec | None, runtime: Runtime
) -> None:
    """Why a PROMOTE has not come to a promotion, as far as the ledger and the spec can tell, and where to look."""
    by_command = first.request.get("trigger") == "command"
    asks = spec is not None and spec.approval.required and not any(entry.approved for entry in run)
    until = first.recorded_at + spec.approval.timeout if spec is not None else first.recorded_at
    if asks and by_command:
        text = "Not promoted: that takes an approval in Airflow, where a run of this command cannot be approved."
    elif asks and runtime.clock.now() < until:
        text = f"Waiting for approval in Airflow, until {until:%Y-%m-%d %H:%M} UTC; no answer by then is a No."
    elif phase := _open_phase(run, first, spec):
        text = (
            f"Not promoted so far: its {phase} is not over, or the run was interrupted or refused. What is on live "
            f"traffic: perennial champion {first.model}"
        )
    else:
        text = "Not promoted so far: the run goes on, was interrupted, or was refused at its last step."
    print_text(console, text, indent=12, style="yellow")
    address = run_address(retrain_dag_id(first.model), first.run_id, airflow_url=runtime.airflow_url)
    if address and not by_command:
        print_line(console, f"            {address}")


def _open_phase(run: Sequence[LedgerEntry], first: LedgerEntry, spec: ModelSpec | None) -> str | None:
    """The first rollout that the spec asks for and the run has no record of; None: there is nothing to wait for."""
    if spec is None or spec.deployment is None or first.champion_before is None or first.break_glass:
        return None
    over = {entry.phase for entry in run if entry.kind == ROLLOUT}
    return next((phase for phase in spec.deployment.rollouts if phase not in over), None)


def _spec(model: str, runtime: Runtime) -> ModelSpec | None:
    """The model's as it is now; None if it cannot be read, which is no reason to hide the ledger."""
    from perennial.errors import SpecError
    from perennial.spec import load_model

    try:
        return load_model(runtime.specs, model)
    except SpecError:
        return None


def _verify(arguments: argparse.Namespace, runtime: Runtime) -> int:
    anchors, note = _anchors(arguments.model, runtime)
    found = runtime.ledger.verify(arguments.model, anchors)
    notes = [*found.notes, *([note] if note else [])]
    if arguments.json:
        damages = [{**asdict(damage), "way_out": WAYS_OUT.get(damage.kind, "")} for damage in found.damages]
        facts = {"model": found.model, "sound": found.sound, "entries": found.entries}
        rest = {"head_sha256": found.head_sha256, "anchors": len(anchors), "damages": damages, "notes": notes}
        print_json({**facts, **rest})
    else:
        _show_verification(make_console(), found, len(anchors), notes)
    return EXIT_DONE if found.sound else EXIT_FAILED


def _anchors(model: str, runtime: Runtime) -> tuple[list[Anchor], str]:
    """MLflow's anchors; if it does not answer none, and a sentence that says so."""
    from perennial.champion_door import anchors
    from perennial.errors import RegistryUnavailableError

    try:
        return anchors(runtime.registry, model), ""
    except RegistryUnavailableError as error:
        return [], f"MLflow was not asked, so a ledger that was replaced as a whole would not be noticed: {error}"


def _show_verification(console: Console, found: Verification, anchors: int, notes: Sequence[str]) -> None:
    entries = f"{found.entries:,} {'entry' if found.entries == 1 else 'entries'}"
    if found.sound:
        print_line(console, f"sound: {entries}, {anchors} {'anchor' if anchors == 1 else 'anchors'} in MLflow")
        print_text(console, VERIFIED, indent=4)
        if found.head_sha256:
            print_line(console, f"    newest entry's sha256: {found.head_sha256}")
    else:
        count = len(found.damages)
        print_line(console, f"DAMAGED: {count} {'finding' if count == 1 else 'findings'} in {entries}")
    for damage in found.damages:
        print_line(console, f"\nentry {damage.sequence}: {damage.kind.replace('_', ' ')}: {damage.uri}")
        print_text(console, damage.detail, indent=4)
        print_text(console, WAYS_OUT.get(damage.kind, ""), indent=4)
    for note in notes:
        print_text(console, f"note: {note}")
