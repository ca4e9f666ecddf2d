"""`perennial monitor`: one look at the windows that have ended, without Airflow; sends nothing."""

from __future__ import annotations

import argparse
from typing import Any

from perennial.cli.terminal import (
    EXIT_DONE,
    address_of,
    known_runtime,
    make_console,
    print_facts,
    print_json,
    print_line,
    print_text,
)
from perennial.errors import RequestError
from perennial.settings import Settings

_STYLES = {"beyond": "red", "quiet": "green", "not judged": "yellow"}


def monitor_model(arguments: argparse.Namespace, settings: Settings) -> int:
    """Look, and tell of the newest window."""
    from perennial.monitoring_objects import MonitoringObjects
    from perennial.spec import load_model
    from perennial.stages.monitor import observe

    runtime = known_runtime(arguments.model, settings)
    spec = load_model(runtime.specs, arguments.model)
    if spec.monitoring is None:
        raise RequestError(f"{spec.name} is not monitored; add `monitoring` to its spec (docs/monitoring.md)")
    seen = observe(
        spec,
        as_of=arguments.as_of or runtime.clock.now(),
        store=runtime.store,
        root=runtime.root,
        registry=runtime.registry,
        ledger=runtime.ledger,
        clock=runtime.clock,
        airflow_url=runtime.airflow_url,
    )
    objects = MonitoringObjects(store=runtime.store, root=runtime.root, model=spec.name)
    report = None if seen.window_end is None else objects.report(seen.window_end)
    page = address_of(seen.page_uri, model=spec.name, runtime=runtime)
    if arguments.json:
        found = None if report is None else report.content
        print_json({**seen.to_dict(), "page_url": page, "report": found})
    else:
        _show(seen.summary, {} if report is None else dict(report.content), page or seen.page_uri or "")
    return EXIT_DONE


def _show(summary: str, report: dict[str, Any], page: str) -> None:
    console = make_console()
    print_text(console, summary)
    if not report:
        return
    print_facts(
        console, [("model", report["model"]), ("window", f"{report['window_start']} to {report['window_end']}")]
    )
    for signal in report["signals"]:
        state = "not judged" if not signal["judged"] else "beyond" if signal["beyond"] else "quiet"
        print_line(console, f"{signal['signal'].replace('_', ' ')}: {state}", style=_STYLES[state])
        print_text(console, signal["says"], indent=2)
    for alert in report["alerts"]:
        print_text(console, f"alert since {alert['since']}: {alert['summary']}", style="red")
    if any(alert["opened_now"] for alert in report["alerts"]):
        print_text(console, "The alert is in the outbox: the monitor's DAG sends it.")
    print_line(console, f"page: {page}")
