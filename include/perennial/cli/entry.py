"""Arguments in, exit code out."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from perennial import __version__
from perennial.addresses import page_address, without_credentials
from perennial.cli.alert import handle_alert
from perennial.cli.champion import show_champion
from perennial.cli.check import check_specs
from perennial.cli.history import show_history
from perennial.cli.monitor import monitor_model
from perennial.cli.rollback import roll_back
from perennial.cli.run import run_once
from perennial.cli.serve import serve_models
from perennial.cli.terminal import EXIT_FAILED, print_json
from perennial.domain.times import parse_time
from perennial.errors import (
    BadDataError,
    PerennialError,
    RegistryUnavailableError,
    RequestError,
    StoreUnavailableError,
    UnknownModelError,
    WebhookUnavailableError,
)
from perennial.settings import Settings, load_settings

EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
_FRACTION: Final = re.compile(r"(?<=T\d\d:\d\d:\d\d)\.\d+(?=Z)")
"""Of a second: nobody reads it."""
EPILOG: Final = """\
exit codes:
  0    done (run: whatever the verdict)
  1    refused or failed
  2    wrong usage: an unknown model, an option's value that is not allowed
  130  interrupted

example: perennial champion flights_delay    (each command's --help has its own)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    settings = load_settings()
    try:
        return int(arguments.command(arguments, settings))
    except (UnknownModelError, RequestError) as error:
        return _failed(arguments, settings, error, EXIT_USAGE)
    except PerennialError as error:
        return _failed(arguments, settings, error, EXIT_FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("perennial: interrupted; what was published stays, run again to go on\n")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perennial",
        description="Continuous training: run, read, take back.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"perennial {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[..., int], text: str, *, example: str, model: bool = True
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=f"example: perennial {name} {example}")
        added.set_defaults(command=command)
        if model:
            added.add_argument("model", metavar="MODEL", help="name of a spec")
        added.add_argument("--json", action="store_true", help="print JSON for machines")
        return added

    check = add(
        "check",
        check_specs,
        "Check all specs (or one file) and print every problem.",
        example="include/models/flights_delay.yaml",
        model=False,
    )
    check.add_argument("file", nargs="?", type=Path, help="one spec file instead of the whole folder")
    check.add_argument("--schema", action="store_true", help="print the JSON schema of a spec, for editors")
    _add_run(add("run", run_once, "Run one cycle in this process.", example='flights_delay --reason "a first look"'))
    history = add(
        "history",
        show_history,
        "What each run came to and what was done, oldest first.",
        example="flights_delay --limit 5",
    )
    history.add_argument("--limit", type=_positive, metavar="N", help="only the newest N runs")
    history.add_argument("--verify", action="store_true", help="look for changed, missing and forged entries instead")
    champion = add(
        "champion",
        show_champion,
        "What serves production, since when, and why.",
        example="flights_delay --at 2013-07-04",
    )
    champion.add_argument(
        "--at", type=_moment, metavar="TIME", help="at another time, such as 2013-07-04, from the ledger alone"
    )
    rollback = add(
        "rollback",
        roll_back,
        "Put an earlier champion back, at once. The version that it replaces is quarantined: it is not promoted again "
        "until somebody goes back to it.",
        example='flights_delay --to 2 --reason "too many false alarms"',
    )
    which = rollback.add_mutually_exclusive_group()
    which.add_argument("--to", metavar="VERSION", help="version to go back to (default: the champion before)")
    which.add_argument(
        "--challenger",
        action="store_true",
        help="leave the champion, and take the challenger off live traffic: its shadow or canary is over",
    )
    rollback.add_argument(
        "--reason", default="", help="kept in the ledger; going back to a quarantined version needs one"
    )
    monitor = add(
        "monitor",
        monitor_model,
        "Look at the windows of the prediction log that have ended. Alerts wait in the outbox for the monitor's DAG.",
        example="flights_delay --json",
    )
    monitor.add_argument("--as-of", type=_moment, metavar="TIME", help="time to stand at (default: now)")
    _add_alert(
        add(
            "alert",
            handle_alert,
            "Send a signed alert to the webhook, which may start a retraining; or read what became of earlier ones.",
            example='flights_delay --reason "the new terminal opened"',
        )
    )
    _add_serve(
        add(
            "serve",
            serve_models,
            "Serve champions over HTTP, as MLflow's scoring server does.",
            example="flights_delay --port 8000",
            model=False,
        )
    )
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--as-of", type=_moment, metavar="TIME", help="time to stand at, such as 2013-07-01T02:00:00Z (default: now)"
    )
    run.add_argument("--reason", default="", help="kept in the ledger")
    run.add_argument("--force", action="store_true", help="judge again even if there is nothing new")
    run.add_argument(
        "--param", action="append", default=[], type=_param, metavar="NAME=JSON", help="training parameter"
    )
    run.add_argument(
        "--break-glass", default="", metavar="REASON", help="promote against the gate, on record, if the spec lets you"
    )


def _add_alert(alert: argparse.ArgumentParser) -> None:
    alert.add_argument("--list", action="store_true", help="the newest alerts of the model instead, from the store")
    alert.add_argument("--reason", default="", help="what was seen, in a sentence (default: that this is a test)")
    alert.add_argument("--id", default="", help="the same id twice is the same alert (default: a new one each time)")
    alert.add_argument(
        "--url", default="", help="base address of Airflow's web server (default: PERENNIAL_AIRFLOW_URL)"
    )


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("models", nargs="*", metavar="MODEL", help="default: all that are deployed to the service")
    serve.add_argument("--host", help="address to listen at (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, help="default: PERENNIAL_SCORING_PORT, else 8000; 0: any free one")
    serve.add_argument(
        "--version", metavar="N", help="serve this version of the one MODEL, whatever the alias and traffic plan say"
    )
    serve.add_argument("--default", metavar="MODEL", help="whom POST /invocations asks, if there are several")


def _moment(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 2013-07-01 or 2013-07-01T02:00:00Z") from error


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _param(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=JSON, such as max_iter=100")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _where_it_is_looked_for(settings: Settings, error: PerennialError) -> str:
    """The next step where a server does not answer."""
    if isinstance(error, RegistryUnavailableError):
        place = f"MLflow is looked for at {settings.mlflow_tracking_uri} (MLFLOW_TRACKING_URI)"
    elif isinstance(error, StoreUnavailableError):
        place = f"S3 is looked for at {settings.s3_endpoint or 'AWS'} (AWS_ENDPOINT_URL_S3)"
    elif isinstance(error, WebhookUnavailableError):
        place = f"Airflow is looked for at {settings.airflow_url} (PERENNIAL_AIRFLOW_URL, or --url)"
    else:
        return ""
    return without_credentials(f"{place}. Is it running?")


def _failed(arguments: argparse.Namespace, settings: Settings, error: PerennialError, code: int) -> int:
    page = (error.page_uri or "") if isinstance(error, BadDataError) else ""
    address = page and page_address(page, root=settings.store, model=arguments.model, airflow_url=settings.airflow_url)
    if getattr(arguments, "json", False):
        pages = {"page_uri": page, "page_url": address} if page else {}
        print_json({"error": type(error).__name__, "message": str(error), **pages})
    else:
        lines = [
            f"perennial: {_FRACTION.sub('', str(error))}",
            _where_it_is_looked_for(settings, error),
            f"page: {address}" if address else "",
        ]
        sys.stderr.write("".join(f"{line}\n" for line in lines if line))
    return code
