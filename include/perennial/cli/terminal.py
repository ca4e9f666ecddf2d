"""What the commands share: exit codes, ways to write, the words for a ledger entry."""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from perennial.addresses import page_address
from perennial.domain.ledger_entry import OUTCOMES, ROLLOUT
from perennial.domain.times import format_time
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
    "canary taken back": "yellow",
    "shadow taken back": "yellow",
}
_TIME: Final = re.compile(r"\b(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?Z")


def known_runtime(model: str, settings: Settings) -> Runtime:
    """The runtime, once a spec of this name was seen: a misspelt name must not look like an empty history.

    Raises:
        UnknownModelError: there is no such spec.
    """
    from perennial.runtime import build_runtime
    from perennial.spec import require_known

    require_known(settings.specs, model)
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
    if entry.kind == "approval":
        return "approved" if entry.approved else "declined"
    if entry.kind == ROLLOUT:
        return f"{entry.phase} {'passed' if entry.approved else 'taken back'}"
    return entry.verdict if entry.verdict and entry.kind == "decision" else entry.kind.replace("_", " ")


def style_of(entry: LedgerEntry) -> str:
    """Colour of `outcome_of`."""
    return STYLES.get(outcome_of(entry), "cyan")


def champions(before: str | None, after: str | None) -> str:
    """As in `v1 -> v2`; one of them if nothing changed."""
    old, new = (f"v{version}" if version else "none" for version in (before, after))
    return old if old == new else f"{old} -> {new}"


def data_up_to(entry: LedgerEntry) -> str:
    """Day of the newest data that the run saw; of a run that refused to look the day on which it stood."""
    snapshot: dict[str, Any] = entry.references.get("snapshot", {})
    if not snapshot and entry.kind not in OUTCOMES:
        return "-"  # a rollback looks at no data
    return str(snapshot.get("watermark", entry.request["as_of"]))[:10]


def make_console() -> Console:
    """Where people read."""
    from rich.console import Console

    return Console(highlight=False)


def plain_times(text: str) -> str:
    """With times as people write them: to the second."""
    return _TIME.sub(lambda found: f"{found[1].replace('T', ' ')} UTC", text)


def print_text(console: Console, text: str, *, indent: int = 0, style: str = "") -> None:
    """A paragraph. Wrapped at words only, so that an address or a digest stays whole; its times are `plain_times`."""
    for line in _wrapped(text, console.width - indent):
        print_line(console, " " * indent + line, style=style)


def print_line(console: Console, text: str, *, style: str = "") -> None:
    """A line that is never wrapped: an address, a digest. Nothing in it is markup."""
    console.print(text, markup=False, soft_wrap=True, style=style or None)


def print_facts(console: Console, facts: Sequence[tuple[str, str]]) -> None:
    """Names and values below each other, wrapped as `print_text` does."""
    indent = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        for number, line in enumerate(_wrapped(value, console.width - indent)):
            print_line(console, f"{'' if number else name:<{indent}}{line}")


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(plain_times(text), max(width, 40), break_long_words=False, break_on_hyphens=False)


def print_json(value: Any) -> None:
    """For machines."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
