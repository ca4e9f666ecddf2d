"""`perennial check`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perennial.cli.terminal import EXIT_DONE, EXIT_FAILED, make_console, print_json
from perennial.errors import SpecError, SpecProblem
from perennial.settings import Settings

if TYPE_CHECKING:
    from perennial.spec.model import ModelSpec
    from perennial.spec.monitoring import Monitoring

_FIELDS: Final = ("file", "field", "value", "allowed")
_MONDAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
_A_WEEK: Final = timedelta(days=8)
"""And a day: the gap around a weekend is in it."""
_OFTEN: Final = timedelta(hours=1)
"""A monitor that looks so often keeps no alert waiting for long."""


def check_specs(arguments: argparse.Namespace, settings: Settings) -> int:
    """Every problem of every spec; warnings of what is allowed and seldom meant."""
    from perennial.spec import json_schema, no_specs, spec_paths

    if arguments.schema:
        print_json(json_schema())
        return EXIT_DONE
    paths = [arguments.file] if arguments.file else spec_paths(settings.specs)
    problems: list[SpecProblem] = []
    warnings: list[SpecProblem] = []
    good: list[str] = []
    for path in paths:
        try:
            spec = _checked(path)
        except SpecError as error:
            problems += error.problems
        else:
            good.append(spec.name)
            warnings += [*_unbounded_errors(path, spec), *_unheard_alerts(path, spec), *_skipped_windows(path, spec)]
    if not paths:
        problems.append(SpecProblem(str(settings.specs), "(folder)", "(no spec)", no_specs(settings.specs)))
    if arguments.json:
        told = {"problems": problems, "warnings": warnings}
        lists = {key: [{name: getattr(p, name) for name in _FIELDS} for p in found] for key, found in told.items()}
        print_json({"good": good, **lists})
    else:
        _show(good, problems, warnings)
    return EXIT_FAILED if problems else EXIT_DONE


def _checked(path: Path) -> ModelSpec:
    """The spec, once it, its suite and the user's function were found to be usable."""
    from perennial.spec import load_spec, load_suite
    from perennial.stages.estimator import build_estimator

    spec = load_spec(path)
    if path.suffix != ".yaml" and path.with_suffix(".yaml").is_file():
        allowed = f"is already declared by {path.with_suffix('.yaml').name}; delete one of the two"
        raise SpecError([SpecProblem(path.name, "name", repr(spec.name), allowed)])
    folder = path.parent.resolve()
    load_suite(folder, spec)
    build_estimator(spec, spec.training.params, (folder, folder.parent))
    return spec


def _unbounded_errors(path: Path, spec: ModelSpec) -> list[SpecProblem]:
    starts = {"triggers.schedule": spec.triggers.schedule, "triggers.on_new_data": spec.triggers.new_data}
    named = [name for name, value in starts.items() if value is not None]
    if not named or spec.gate.false_promotions is not None:
        return []
    again = "starts runs" if len(named) == 1 else "start runs"
    text = (
        f"{' and '.join(named)} {again} again and again. Each run's test may err, and nothing bounds how many false "
        f"promotions a year of them makes. Add to gate: false_promotions: {{budget: 0.05, period_days: 90}}"
    )
    return [SpecProblem(path.name, "gate.false_promotions", "(missing)", text)]


def _unheard_alerts(path: Path, spec: ModelSpec) -> list[SpecProblem]:
    from perennial.spec.fields import format_duration

    watching, policy = spec.monitoring, spec.triggers.on_drift
    if watching is None:
        return []
    if policy is None and not watching.notify:
        text = (
            "alerts reach nobody, and start nothing: they are only in the reports. Add monitoring.notify, "
            "triggers.on_drift, or both"
        )
        return [SpecProblem(path.name, "monitoring.notify", "(missing)", text)]
    if policy is not None and watching.schedule is None:
        text = "an alert that has to wait is come back to by the monitor's next run only, and no clock starts one"
        return [SpecProblem(path.name, "monitoring.schedule", "null", text)]
    if policy is None or watching.schedule is None or _is_replay(watching):
        return []
    if _rests(watching.schedule, limit := max(policy.cooldown, _OFTEN)):
        text = (
            f"an alert that has to wait is come back to by the monitor's next run only, and more than "
            f"{format_duration(limit)} pass between two of them: a wait of minutes may become so long. Look at least "
            f"once an hour, such as 10 * * * *"
        )
        return [SpecProblem(path.name, "monitoring.schedule", watching.schedule, text)]
    return []


def _skipped_windows(path: Path, spec: ModelSpec) -> list[SpecProblem]:
    """More windows between two looks than one look takes."""
    from perennial.spec.fields import format_duration
    from perennial.stages.monitor import MOST_WINDOWS

    watching = spec.monitoring
    if watching is None or watching.schedule is None or _is_replay(watching):
        return []
    if not _rests(watching.schedule, limit := MOST_WINDOWS * watching.window):
        return []
    text = (
        f"more than {format_duration(limit)} pass between two looks, in which more than {MOST_WINDOWS} windows of "
        f"{format_duration(watching.window)} end; a look takes the newest {MOST_WINDOWS}, and nobody looks at the "
        f"others. Look more often, or take longer windows"
    )
    return [SpecProblem(path.name, "monitoring.schedule", watching.schedule, text)]


def _is_replay(watching: Monitoring) -> bool:
    """Its windows are not as long as the data's time in them: whoever replays also looks, whatever the schedule."""
    return watching.reference_window is not None


def _rests(cron: str, limit: timedelta) -> bool:
    """Whether more than `limit` passes between two of its times, at some time of a week. Unknown without Airflow."""
    try:
        from croniter import CroniterError, croniter  # type: ignore[import-untyped]  # has no stubs
    except ModuleNotFoundError:  # Airflow's; without it no schedule starts anything here
        return False
    try:
        at = first = croniter(cron, _MONDAY).get_next(datetime)
        while at < first + _A_WEEK:
            last = croniter(cron, at + limit + timedelta(seconds=1)).get_prev(datetime)  # within the limit
            if last <= at:
                return True
            at = last
    except (CroniterError, ValueError):  # the DAG's import error says what is wrong with it
        return False
    return False


def _show(good: Sequence[str], problems: Sequence[SpecProblem], warnings: Sequence[SpecProblem]) -> None:
    from rich.markup import escape
    from rich.padding import Padding
    from rich.text import Text

    console = make_console()
    for name in good:
        console.print(f"[green]good[/]  {escape(name)}")
    for word, style, found in (("warn", "yellow", warnings), ("bad", "red", problems)):
        for file in dict.fromkeys(problem.file for problem in found):
            console.print(f"[{style}]{word:<4}[/]  {escape(file)}")
            for problem in (problem for problem in found if problem.file == file):
                line = Text(f"{problem.field} = {problem.value}: {problem.allowed}")
                line.stylize("bold", 0, len(problem.field))
                console.print(Padding(line, (0, 0, 0, 6), expand=False))
