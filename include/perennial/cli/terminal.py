"""What the commands share: exit codes, ways to write, the words for a ledger entry."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from perennial.addresses import page_address
from perennial.domain.times import format_time
from perennial.errors import UnknownModelError
from perennial.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from perennial.domain.ledger_entry import LedgerEntry
    from perennial.runtime import Runtime

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
STYLES: Final = {
    "PROMOTE": "green",
    "REJECT": "yellow",
    "INCONCLUSIVE": "yellow",
    "refused": "red",
    "rollback": "magenta",
    "outside": "red",
}


def known_runtime(model: str, settings: Settings) -> Runtime:
    """The runtime, once a spec of this name was seen: a misspelt name must not look like an empty history.

    Raises:
        UnknownModelError: there is no such spec.
    """
    from perennial.runtime import build_runtime
    from perennial.spec import spec_paths

    known = [path.stem for path in spec_paths(settings.specs)]
    if model not in known:
        raise UnknownModelError(
            f"no spec for model {model!r} in {settings.specs}; known models: {', '.join(known) or 'none'}"
        )
    return build_runtime(settings)


def user() -> str:
    """Who types."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def new_run_id(now: datetime) -> str:
    """Unique, also for two commands of one moment."""
    return f"command__{format_time(now)}_{secrets.token_hex(4)}"


def address_of(page_uri: str | None, *, model: str, runtime: Runtime) -> str:
    """Http address of a page in the store; empty if it has none."""
    return page_address(page_uri or "", root=runtime.root, model=model, airflow_url=runtime.airflow_url)


def outcome_of(entry: LedgerEntry) -> str:
    """The verdict, or what the entry is about instead."""
    return entry.verdict if entry.verdict and entry.kind == "decision" else entry.kind.replace("_", " ")


def style_of(entry: LedgerEntry) -> str:
    """Colour of `outcome_of`."""
    return STYLES.get(outcome_of(entry), "cyan")


def champions(before: str | None, after: str | None) -> str:
    """As in `v1 -> v2`; one of them if nothing changed."""
    old, new = (f"v{version}" if version else "none" for version in (before, after))
    return old if old == new else f"{old} -> {new}"


def make_console() -> Console:
    """Where people read."""
    from rich.console import Console

    return Console(highlight=False)


def print_text(console: Console, text: str, *, indent: int = 0) -> None:
    """A paragraph, wrapped; nothing in it is markup."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(text), (0, 0, 0, indent), expand=False))


def print_line(console: Console, text: str) -> None:
    """A line that is never wrapped: an address, a digest."""
    console.print(text, markup=False, soft_wrap=True)


def print_facts(console: Console, title: str, facts: Sequence[tuple[str, str]]) -> None:
    """A table of two columns; `title` is a model's name."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", show_edge=False, pad_edge=False)
    table.add_column(title, overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    console.print(table)


def print_json(value: Any) -> None:
    """For machines."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
