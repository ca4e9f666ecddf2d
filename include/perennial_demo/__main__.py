"""`python -m perennial_demo up|down|demo|status`; what the targets `demo` and `stop` of the Makefile run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from perennial_demo.console import make_console
from perennial_demo.environment import ports_in_use, read_env_file
from perennial_demo.errors import DemoError
from perennial_demo.home import Home
from perennial_demo.stack import Stack, stop_home


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="perennial_demo", description=__doc__)
    parser.add_argument("command", choices=sorted(_COMMANDS))
    command = parser.parse_args(arguments).command
    console = make_console()
    # As Ctrl-C: what was started is stopped again.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _COMMANDS[command](console)
    except DemoError as error:
        console.print(f"{error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 130


def _up(console: Console) -> int:
    stack = Stack.from_environ(console=console)
    stack.up()
    _print_addresses(stack)
    return 0


def _down(console: Console) -> int:
    stop_home(Home.from_environ(os.environ), console)
    return 0


def _demo(console: Console) -> int:
    stack = Stack.from_environ(console=console)
    stack.up()
    _print_addresses(stack)
    from perennial_demo import story

    story.run(stack)
    return 0


def _status(console: Console) -> int:
    home = Home.from_environ(os.environ)
    if not home.root.exists():
        console.print(f"Nothing was ever started in {home.root}")
        return 1
    # Of the specs that were given at the start depends which services there are.
    started_with = {**os.environ, **read_env_file(home.environment_file)}
    entries = Stack(home, ports_in_use(home), started_with, console=console).status()
    for entry in entries:
        pid = f"pid {entry.pid}" if entry.pid else ""
        console.print(f"{entry.service.title:<24} {pid:<12} {entry.problem or 'healthy'}", markup=False)
    return 0 if all(entry.problem is None for entry in entries) else 1


def _print_addresses(stack: Stack) -> None:
    addresses = {"Airflow": stack.airflow_url, "MLflow": stack.mlflow_url, "S3": stack.s3_url}
    addresses |= {} if stack.scoring_url is None else {"Scoring service": stack.scoring_url}
    stack.console.print(" · ".join(f"{name} {address}" for name, address in addresses.items()))
    stack.console.print(f"Logs {stack.home.logs} · keys {stack.home.environment_file} · end all of it with: make stop")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


_COMMANDS = {"demo": _demo, "down": _down, "status": _status, "up": _up}

if __name__ == "__main__":
    sys.exit(main())
