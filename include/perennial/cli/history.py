"""`perennial history`: the ledger as a story, and whether it can be believed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from perennial.cli.terminal import (
    EXIT_DONE,
    EXIT_FAILED,
    address_of,
    champions,
    known_runtime,
    make_console,
    outcome_of,
    print_json,
    print_line,
    print_text,
    style_of,
)
from perennial.domain.ledger_entry import MOVES, OUTCOMES, LedgerEntry
from perennial.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from perennial.ledger import Anchor, Verification
    from perennial.runtime import Runtime

WAYS_OUT: Final = {
    "changed": "Put the original bytes back from the bucket's versions or a backup.",
    "missing": "Put it back from the bucket's versions or a backup.",
    "forged": "Something other than Perennial wrote it: find out what, and move it away.",
    "unreadable": "Look at its bytes; put the original back from the bucket's versions or a backup.",
    "cut_off": "Entries at the end were removed: put them back from the bucket's versions or a backup.",
}


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
        make_console().print(text, markup=False)
    else:
        _show(runs)
    return EXIT_DONE


def _json_entry(entry: LedgerEntry, runtime: Runtime) -> dict[str, Any]:
    page_url = address_of(entry.page_uri, model=entry.model, runtime=runtime)
    return {**entry.to_dict(), "outcome": outcome_of(entry), "page_url": page_url}


def _show(runs: Sequence[Sequence[LedgerEntry]]) -> None:
    """Two lines a run or more: a table's last column would be narrow, and the reason is what people look for."""
    from rich.text import Text

    console = make_console()
    console.print("data up to  outcome       champion     trigger    recorded (UTC)", style="dim")
    for run in runs:
        first = next((entry for entry in run if entry.kind in OUTCOMES), run[0])
        move = next((entry for entry in reversed(run) if entry.kind in MOVES), first)
        line = Text(f"{_data_up_to(first)}  ")
        line.append(f"{outcome_of(first):<12}  ", style=style_of(first))
        trigger = str(first.request.get("trigger", ""))
        moved = champions(move.champion_before, move.champion_after)
        line.append(f"{moved:<12} {trigger:<10} {first.recorded_at:%Y-%m-%d %H:%M}")
        if any(entry.break_glass for entry in run):
            line.append("  glass broken", style="bold red")
        console.print(line)
        for text in _story(run, first):
            print_text(console, text, indent=12)


def _story(run: Sequence[LedgerEntry], first: LedgerEntry) -> Iterator[str]:
    """The outcome's reason, what people did, and a promotion that did not come."""
    yield first.summary
    for entry in run:
        if entry is not first and entry.kind != "promotion":
            yield f"{entry.recorded_at:%Y-%m-%d %H:%M}  {entry.summary}"
    promoted = any(entry.kind == "promotion" for entry in run)
    declined = any(entry.approved is False for entry in run)
    if first.kind == "decision" and first.verdict == "PROMOTE" and not promoted and not declined:
        yield "Not carried out: it waits for approval, or was refused or interrupted; Airflow's run tells."


def _data_up_to(entry: LedgerEntry) -> str:
    """Day of the newest data that the run saw; of a run that saw none, the day on which it stood."""
    snapshot: dict[str, Any] = entry.references.get("snapshot", {})
    return str(snapshot.get("watermark", entry.request["as_of"]))[:10]


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
        head = f", head {found.head_sha256}" if found.head_sha256 else ""
        print_line(console, f"sound: {entries}{head}, {anchors} {'anchor' if anchors == 1 else 'anchors'} in MLflow")
    else:
        count = len(found.damages)
        print_line(console, f"DAMAGED: {count} {'finding' if count == 1 else 'findings'} in {entries}")
    for damage in found.damages:
        print_line(console, f"\nentry {damage.sequence}: {damage.kind.replace('_', ' ')}: {damage.uri}")
        print_text(console, damage.detail, indent=4)
        print_text(console, WAYS_OUT.get(damage.kind, ""), indent=4)
    for note in notes:
        print_text(console, f"note: {note}")
