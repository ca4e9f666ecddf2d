"""What the story ends with: the ledger as tables, and the words that describe one entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from perennial.domain.ledger_entry import LedgerEntry

_STYLES: Final = {"PROMOTE": "green", "REJECT": "yellow", "INCONCLUSIVE": "yellow", "refused": "red"}
_TRIGGERS: Final = {"manual": "REST API", "new_data": "sensor"}
_TO_THE_SECOND: Final = len("2013-07-01T06:00:00")


def history_table(model: str, entries: Sequence[LedgerEntry]) -> Table:
    """Every run of a model that the ledger knows, oldest first; readable at 120 columns."""
    table = Table(title=model, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", no_wrap=True, min_width=_TO_THE_SECOND)
    for name in ("data up to", "trigger", "verdict", "champion"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason", ratio=1)
    for entry in entries:
        trigger = str(entry.request["trigger"])
        table.add_row(
            short_run(entry.run_id),
            data_up_to(entry),
            _TRIGGERS.get(trigger, trigger),
            styled_outcome(entry),
            champions(entry),
            Text(entry.summary),
        )
    return table


def short_run(run_id: str) -> str:
    """A run's id without its type, which the column `trigger` tells, to the second: Airflow's search takes it."""
    kind, _, rest = run_id.partition("__")
    return (rest or kind)[:_TO_THE_SECOND]


def styled_outcome(entry: LedgerEntry) -> Text:
    """Verdict, or what ended the run before one, in its colour."""
    outcome = entry.verdict or entry.kind.replace("_", " ")
    return Text(outcome, style=_STYLES.get(outcome, "cyan"))


def champions(entry: LedgerEntry) -> str:
    """Champion before and after, as in `v1 -> v2`."""
    before, after = (f"v{version}" if version else "none" for version in (entry.champion_before, entry.champion_after))
    return before if before == after else f"{before} -> {after}"


def data_up_to(entry: LedgerEntry) -> str:
    """Day of the newest data that the run looked at."""
    snapshot: dict[str, Any] = entry.references.get("snapshot", {})
    return str(snapshot.get("watermark", entry.request["as_of"]))[:10]
