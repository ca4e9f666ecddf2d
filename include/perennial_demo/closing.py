"""What the story ends with: the ledger as tables, and the words that describe one entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perennial.cli.terminal import data_up_to, outcome_of, plain_times
from perennial.domain.ledger_entry import MOVES, OUTCOMES, ROLLOUT
from perennial.ledger import outcomes_by_run
from perennial_demo.errors import DemoError

if TYPE_CHECKING:
    from perennial.domain.ledger_entry import LedgerEntry
    from perennial.runtime import Runtime

_STYLES: Final = {
    "PROMOTE": "green",
    "REJECT": "yellow",
    "INCONCLUSIVE": "yellow",
    "refused": "red",
    "approved": "green",
    "declined": "yellow",
    "rollback": "magenta",
    "outside": "red",
    "canary passed": "green",
    "canary taken back": "yellow",
    "shadow passed": "green",
    "shadow taken back": "yellow",
}
_WITHOUT_CHAMPION: Final = ("approval", ROLLOUT)
"""Kinds of which the column `champion` would say nothing new."""
_TRIGGERS: Final = {"manual": "REST API", "new_data": "sensor", "drift": "drift alert"}
_TO_THE_SECOND: Final = len("2013-07-01T06:00:00")


def history_table(model: str, entries: Sequence[LedgerEntry]) -> Table:
    """Every run of a model that the ledger knows, and what people did, oldest first; readable at 120 columns.

    A promotion has no line of its own: its run's shows it as `v1 -> v2`.
    """
    table = Table(title=model, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run at (UTC)", no_wrap=True, min_width=_TO_THE_SECOND)
    for name in ("data up to", "trigger", "verdict", "champion"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason", ratio=1)
    for run in outcomes_by_run(entries).values():
        shown = [entry for entry in run if entry.kind != "promotion" or len(run) == 1]
        for entry in shown:
            trigger = str(entry.request.get("trigger", ""))
            is_first = entry is shown[0]
            table.add_row(
                short_run(entry.run_id) if is_first else "",
                data_up_to(entry) if is_first else "",
                _TRIGGERS.get(trigger, trigger) if is_first else "",
                styled_outcome(entry),
                ""
                if entry.kind in _WITHOUT_CHAMPION
                else champions(moved_by(run) if entry.kind in OUTCOMES else entry),
                Text(plain_times(entry.summary)),
            )
    return table


def short_run(run_id: str) -> str:
    """A run's id without its type, which the column `trigger` tells, to the second: Airflow's search takes it."""
    kind, _, rest = run_id.partition("__")
    return (rest or kind)[:_TO_THE_SECOND]


def outcome(entry: LedgerEntry) -> str:
    """Verdict, or what else the entry is about."""
    return entry.verdict or outcome_of(entry)


def styled_outcome(entry: LedgerEntry) -> Text:
    """`outcome` in its colour."""
    return Text(outcome(entry), style=_STYLES.get(outcome(entry), "cyan"))


def moved_by(run: Sequence[LedgerEntry]) -> LedgerEntry:
    """Of one run's entries, the one that changed the champion; the first one if none did."""
    return next((entry for entry in run if entry.kind in MOVES), run[0])


def champions(entry: LedgerEntry) -> str:
    """Champion before and after, as in `v1 -> v2`."""
    before, after = (f"v{version}" if version else "none" for version in (entry.champion_before, entry.champion_after))
    return before if before == after else f"{before} -> {after}"


def verify_ledgers(console: Console, runtime: Runtime, models: Sequence[str]) -> None:
    """Check every byte of the ledgers against their chains, and against what MLflow noted of them.

    Raises:
        DemoError: one of them is damaged.
    """
    from perennial.champion_door import anchors

    console.print("\n[bold]Is every entry of the ledgers as it was written?[/]")
    for model in models:
        found = runtime.ledger.verify(model, anchors(runtime.registry, model))
        if not found.sound:
            raise DemoError(f"The ledger of {model} is damaged: {'; '.join(d.detail for d in found.damages)}")
        count = f"{found.entries} {'entry' if found.entries == 1 else 'entries'}"
        console.print(f"  {model}: yes; {count}, each with the hash of the one before", markup=False)
