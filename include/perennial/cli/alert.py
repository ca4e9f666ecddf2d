"""`perennial alert`: send one to the webhook, or read what became of those before."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from perennial.addresses import retrain_dag_id, run_address, without_credentials
from perennial.cli.terminal import (
    EXIT_DONE,
    EXIT_FAILED,
    known_runtime,
    make_console,
    new_run_id,
    print_json,
    print_line,
    print_text,
)
from perennial.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from perennial.alert_ledger import AlertRecord
    from perennial.domain.alert import Alert, Outcome

REASON: Final = "A test alert, sent by hand"
SHOWN: Final = 20
"""Alerts that `--list` shows, the newest."""
STYLES: Final = {"started": "green", "coalesced": "cyan", "deferred": "yellow", "refused": "red"}


def handle_alert(arguments: argparse.Namespace, settings: Settings) -> int:
    """Send a signed alert and say what became of it; or list those on record."""
    return _list(arguments, settings) if arguments.list else _send(arguments, settings)


def _send(arguments: argparse.Namespace, settings: Settings) -> int:
    from perennial.alert_sender import SigningKey, send_alert
    from perennial.domain.alert import Alert, Fate
    from perennial.runtime import SystemClock

    key = SigningKey.parse(settings.webhook_key)
    now = SystemClock().now()
    alert = Alert(
        model=arguments.model,
        alert_id=arguments.id or new_run_id(now),
        source="command",
        summary=arguments.reason or REASON,
        raised_at=now,
        received_at=now,
    )
    airflow_url = arguments.url or settings.airflow_url
    outcome = send_alert(alert, airflow_url=airflow_url, key=key, now=now)
    if arguments.json:
        print_json({"model": alert.model, "id": alert.alert_id, "key": alert.key, "outcome": outcome.to_dict()})
    else:
        _show_outcome(make_console(), alert, outcome, airflow_url)
    return EXIT_FAILED if outcome.fate is Fate.REFUSED else EXIT_DONE


def _show_outcome(console: Console, alert: Alert, outcome: Outcome, airflow_url: str) -> None:
    print_line(console, _headline(outcome), style=STYLES[outcome.fate])
    print_text(console, outcome.reason, indent=4)
    if outcome.run_id:
        dag_id = retrain_dag_id(alert.model)
        print_line(console, f"run: {run_address(dag_id, outcome.run_id, airflow_url=without_credentials(airflow_url))}")
    print_line(console, f"on record as {alert.alert_id}: perennial alert {alert.model} --list", style="dim")


def _headline(outcome: Outcome) -> str:
    if outcome.run_id:
        return f"{outcome.fate} {outcome.run_id}"
    return f"{outcome.fate} until {outcome.until:%Y-%m-%d %H:%M} UTC" if outcome.until else str(outcome.fate)


def _list(arguments: argparse.Namespace, settings: Settings) -> int:
    from perennial.alert_ledger import AlertLedger

    runtime = known_runtime(arguments.model, settings)
    records = AlertLedger(runtime.store, runtime.root).list(arguments.model, SHOWN)
    if arguments.json:
        print_json([record.to_dict() for record in records])
    else:
        _show(make_console(), records, arguments.model, settings.airflow_url)
    return EXIT_DONE


def _show(console: Console, records: Sequence[AlertRecord], model: str, airflow_url: str) -> None:
    """A few lines an alert, as `perennial history` has them: a table's last column would be narrow."""
    from rich.text import Text

    if not records:
        print_line(console, f"{model} has had no alerts")
        return
    console.print("received (UTC)    became     source        by", style="dim")
    for record in records:
        alert, newest = record.alert, record.newest
        fate = str(newest.fate) if newest is not None else str(record.state)
        line = Text(f"{alert.received_at:%Y-%m-%d %H:%M}  ")
        line.append(f"{fate:<9}  ", style=STYLES.get(fate, "dim"))
        line.append(f"{alert.source:<12}  {alert.sender}")
        console.print(line)
        print_text(console, alert.summary, indent=4)
        print_line(console, f"    id {alert.alert_id}", style="dim")
        if newest is None:
            print_text(
                console, "Its run is being started; if that was interrupted, the monitor's next run does it.", indent=4
            )
            continue
        until = f"until {newest.until:%Y-%m-%d %H:%M} UTC: " if newest.until and record.open else ""
        print_text(console, f"{until}{newest.reason}", indent=4)
        if newest.run_id:
            address = run_address(retrain_dag_id(model), newest.run_id, airflow_url=airflow_url)
            print_line(console, f"    {address or newest.run_id}")
