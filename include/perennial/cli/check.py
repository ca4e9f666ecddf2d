"""`perennial check`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perennial.cli.terminal import EXIT_DONE, EXIT_FAILED, make_console, print_json
from perennial.errors import SpecError, SpecProblem
from perennial.settings import Settings

if TYPE_CHECKING:
    from perennial.spec.model import ModelSpec

_FIELDS: Final = ("file", "field", "value", "allowed")


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
            warnings += [*_unbounded_errors(path, spec), *_unheard_alerts(path, spec)]
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
    return []


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
