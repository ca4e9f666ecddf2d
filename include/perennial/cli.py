"""The command `perennial`: check, run, history, champion. The same stages as the DAG, with no Airflow in the process.

Exit codes: 0 done (for `run`: any recorded verdict), 1 refused or failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perennial import __version__
from perennial.domain.times import format_time, parse_time
from perennial.errors import BadDataError, PerennialError, RequestError, SpecError, SpecProblem, UnknownModelError
from perennial.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console

    from perennial.domain.ledger_entry import LedgerEntry
    from perennial.domain.references import Reference
    from perennial.runtime import Runtime

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
_STYLES: Final = {"PROMOTE": "green", "REJECT": "yellow", "INCONCLUSIVE": "yellow", "refused": "red"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    settings = load_settings()
    try:
        return int(arguments.command(arguments, settings))
    except (UnknownModelError, RequestError) as error:
        return _failed(arguments, error, EXIT_USAGE)
    except PerennialError as error:
        return _failed(arguments, error, EXIT_FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("perennial: interrupted; what was published stays, run again to go on\n")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="perennial", description="Continuous training: run, read, take back.")
    parser.add_argument("--version", action="version", version=f"perennial {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., int], text: str, *, model: bool) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        if model:
            added.add_argument("model", metavar="MODEL", help="name of a spec")
        added.add_argument("--json", action="store_true", help="print JSON for machines")
        return added

    check = add("check", _check, "Check all specs (or one file) and print every problem.", model=False)
    check.add_argument("file", nargs="?", type=Path, help="one spec file instead of the whole folder")
    check.add_argument("--schema", action="store_true", help="print the JSON schema of a spec, for editors")
    run = add("run", _run, "Run one cycle in this process.", model=True)
    run.add_argument("--as-of", type=_moment, help="time to stand at, such as 2013-07-01T02:00:00Z (default: now)")
    run.add_argument("--reason", default="", help="kept in the ledger")
    run.add_argument("--force", action="store_true", help="judge again even if there is nothing new")
    run.add_argument(
        "--param", action="append", default=[], type=_param, metavar="NAME=JSON", help="training parameter"
    )
    history = add("history", _history, "What each run came to, oldest first.", model=True)
    history.add_argument("--limit", type=_positive, help="only the newest N")
    add("champion", _champion, "What serves production now, and why.", model=True)
    return parser


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


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


def _check(arguments: argparse.Namespace, settings: Settings) -> int:
    from perennial.spec import json_schema, spec_paths

    if arguments.schema:
        _print_json(json_schema())
        return EXIT_DONE
    paths = [arguments.file] if arguments.file else spec_paths(settings.specs)
    problems: list[SpecProblem] = []
    good: list[str] = []
    for path in paths:
        try:
            good.append(_checked(path))
        except SpecError as error:
            problems += error.problems
    if not paths:
        problems.append(SpecProblem(str(settings.specs), "(folder)", "empty", "no spec here; set PERENNIAL_SPECS"))
    if arguments.json:
        fields = ("file", "field", "value", "allowed")
        _print_json({"good": good, "problems": [{name: getattr(p, name) for name in fields} for p in problems]})
    else:
        _show_check(good, problems)
    return EXIT_FAILED if problems else EXIT_DONE


def _checked(path: Path) -> str:
    """The name of the model, once spec, suite and the user's function were found to be usable."""
    from perennial.spec import load_spec, load_suite
    from perennial.stages.estimator import build_estimator

    spec = load_spec(path)
    if path.suffix != ".yaml" and path.with_suffix(".yaml").is_file():
        allowed = f"is already declared by {path.with_suffix('.yaml').name}; delete one of the two"
        raise SpecError([SpecProblem(path.name, "name", repr(spec.name), allowed)])
    folder = path.parent.resolve()
    load_suite(folder, spec)
    build_estimator(spec, spec.training.params, (folder, folder.parent))
    return spec.name


def _show_check(good: Sequence[str], problems: Sequence[SpecProblem]) -> None:
    from rich.markup import escape
    from rich.padding import Padding
    from rich.text import Text

    console = _console()
    for name in good:
        console.print(f"[green]good[/]  {escape(name)}")
    for file in dict.fromkeys(problem.file for problem in problems):
        console.print(f"[red]bad[/]   {escape(file)}")
        for problem in (problem for problem in problems if problem.file == file):
            line = Text(f"{problem.field} = {problem.value}: {problem.allowed}")
            line.stylize("bold", 0, len(problem.field))
            console.print(Padding(line, (0, 0, 0, 6), expand=False))


def _run(arguments: argparse.Namespace, settings: Settings) -> int:
    from perennial.cycle import run_cycle
    from perennial.domain.run_request import RunRequest
    from perennial.runtime import build_runtime
    from perennial.spec import load_model

    spec = load_model(settings.specs, arguments.model)
    runtime = build_runtime(settings)
    now = runtime.clock.now()
    request = RunRequest(
        model=spec.name,
        run_id=f"command__{format_time(now)}",
        as_of=arguments.as_of or now,
        trigger="command",
        reason=arguments.reason,
        requested_by=_user(),
        force=arguments.force,
        params=_params(arguments.param),
    )
    tell = _quiet if arguments.json else _progress(_console())
    run_cycle(runtime, spec, request, on_stage=tell)
    entry = next(e for e in reversed(runtime.ledger.entries(spec.name)) if e.run_id == request.run_id)
    _show_entry(entry, as_json=arguments.json)
    return EXIT_DONE


def _params(given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    params = dict(given)
    if len(params) < len(given):
        names = [name for name, _ in given]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RequestError(f"--param {', '.join(twice)}: given twice; which value counts?")
    return params


def _quiet(_name: str, _reference: Reference | None) -> None:
    return


def _progress(console: Console) -> Callable[[str, Reference | None], None]:
    def tell(name: str, reference: Reference | None) -> None:
        if reference is not None:
            console.print(f"[green]done[/]  {name}")

    return tell


def _history(arguments: argparse.Namespace, settings: Settings) -> int:
    entries = _known_runtime(arguments, settings).ledger.entries(arguments.model)
    if arguments.limit:
        entries = entries[-arguments.limit :]
    if arguments.json:
        _print_json([{**entry.to_dict(), "outcome": _outcome(entry)} for entry in entries])
        return EXIT_DONE
    if not entries:
        _console().print(
            f"No run of {arguments.model} has come to an end yet; start one: perennial run {arguments.model}"
        )
        return EXIT_DONE
    _show_history(entries)
    return EXIT_DONE


def _show_history(entries: Sequence[LedgerEntry]) -> None:
    """Two lines a run or more: a table's last column would be narrow, and the reason is what people look for."""
    from rich.padding import Padding
    from rich.text import Text

    console = _console()
    console.print("data up to  outcome       champion     trigger    recorded (UTC)", style="dim")
    for entry in entries:
        line = Text(f"{_data_up_to(entry)}  ")
        line.append(f"{_outcome(entry):<12}  ", style=_style(entry))
        line.append(f"{_champions(entry):<12} {entry.request['trigger']:<10} {entry.recorded_at:%Y-%m-%d %H:%M}")
        console.print(line)
        console.print(Padding(Text(entry.summary), (0, 0, 0, 12), expand=False))


def _champion(arguments: argparse.Namespace, settings: Settings) -> int:
    runtime = _known_runtime(arguments, settings)
    champion = runtime.registry.champion(arguments.model)
    if champion is None:
        if arguments.json:
            _print_json({"model": arguments.model, "version": None})
        else:
            _console().print(f"{arguments.model} has no champion yet; `perennial history {arguments.model}` tells why")
        return EXIT_FAILED
    promotion = next((e for e in reversed(runtime.ledger.entries(arguments.model)) if e.promoted), None)
    facts = {
        "model": champion.name,
        "version": champion.version,
        **_promotion_facts(champion.version, promotion),
        **champion.model.to_dict(),
    }
    facts.pop("kind")
    if arguments.json:
        _print_json(facts)
    else:
        _console().print(_table(["", champion.name], [(name, str(value)) for name, value in facts.items()]))
    return EXIT_DONE


def _promotion_facts(version: str, newest: LedgerEntry | None) -> dict[str, Any]:
    """Since when and why this version serves, by the newest promotion on record."""
    if newest is not None and newest.champion_after == version:
        return {"since": format_time(newest.recorded_at), "as_of": newest.request["as_of"], "why": newest.summary}
    found = (
        f"the newest promotion on record is to version {newest.champion_after}, {format_time(newest.recorded_at)}"
        if newest is not None
        else "the ledger has no promotion"
    )
    return {"since": None, "as_of": None, "why": f"the alias was moved outside Perennial: {found}"}


def _known_runtime(arguments: argparse.Namespace, settings: Settings) -> Runtime:
    """The runtime, once a spec of this name was seen: a misspelt name must not look like an empty history."""
    from perennial.runtime import build_runtime
    from perennial.spec import spec_paths

    known = [path.stem for path in spec_paths(settings.specs)]
    if arguments.model not in known:
        raise UnknownModelError(
            f"no spec for model {arguments.model!r} in {settings.specs}; known models: {', '.join(known) or 'none'}"
        )
    return build_runtime(settings)


def _data_up_to(entry: LedgerEntry) -> str:
    """Day of the newest data that the run saw; of a run that saw none, the day on which it stood."""
    snapshot: dict[str, Any] = entry.references.get("snapshot", {})
    return str(snapshot.get("watermark", entry.request["as_of"]))[:10]


def _outcome(entry: LedgerEntry) -> str:
    return entry.verdict or entry.kind.replace("_", " ")


def _style(entry: LedgerEntry) -> str:
    return _STYLES.get(_outcome(entry), "cyan")


def _champions(entry: LedgerEntry) -> str:
    before, after = (f"v{v}" if v else "none" for v in (entry.champion_before, entry.champion_after))
    return before if before == after else f"{before} -> {after}"


def _show_entry(entry: LedgerEntry, *, as_json: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    if as_json:
        _print_json({**entry.to_dict(), "outcome": _outcome(entry)})
        return
    console = _console()
    console.print()
    console.print(Text(_outcome(entry), style=f"bold {_style(entry)}"), Text(f" champion {_champions(entry)}"))
    for reason in entry.reasons or [entry.summary]:  # the summary is the first of the reasons
        console.print(Padding(Text(reason), (0, 0, 0, 4), expand=False))
    if entry.page_uri:
        console.print(f"page: {entry.page_uri}", markup=False, soft_wrap=True)


def _failed(arguments: argparse.Namespace, error: PerennialError, code: int) -> int:
    if getattr(arguments, "json", False):
        page = {"page_uri": error.page_uri} if isinstance(error, BadDataError) else {}
        _print_json({"error": type(error).__name__, "message": str(error), **page})
    else:
        sys.stderr.write(f"perennial: {error}\n")
    return code


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
