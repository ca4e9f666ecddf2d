"""First on the path of Airflow's processes in the system tests: lets a process kill itself where it hurts.

At the end of a stage, which has had all its effects by then, and Airflow has not heard of it yet. And right after the
alias was moved: the champion is another one by then, and the ledger has not heard of it yet. And after each step that
an alert takes in the API server.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


def _kill_once(model: str, where: str) -> None:
    order = Path(os.environ["PERENNIAL_TEST_KILLS"]) / f"{model}.{where}"
    try:
        order.rename(order.with_name(f"{order.name}.done"))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _arm_stages(cycle: Any) -> None:
    timed = cycle._timed

    @contextmanager
    def armed(spec: Any, request: Any, stage: str) -> Iterator[None]:
        with timed(spec, request, stage):
            yield
        _kill_once(spec.name, stage)

    cycle._timed = armed


def _arm_alias(adapter: Any) -> None:
    registry = adapter.MlflowRegistry
    point_alias = registry.point_alias

    def armed(self: Any, model: str, alias: str, version: str) -> None:
        point_alias(self, model, alias, version)
        _kill_once(model, "alias")

    registry.point_alias = armed


def _arm_alert_ledger(module: Any) -> None:
    ledger = module.AlertLedger
    for method in ("open", "add", "replace", "close"):
        setattr(ledger, method, _then_killed(getattr(ledger, method), f"alert_{method}"))


def _arm_starter(module: Any) -> None:
    module.AirflowStarter.start = _then_killed(module.AirflowStarter.start, "alert_start")


def _then_killed(step: Callable[..., Any], where: str) -> Callable[..., Any]:
    """The same step, and then the end of the API server's process if it was for a model whose hour has come."""

    def armed(self: Any, of: Any, *arguments: Any, **options: Any) -> Any:
        done = step(self, of, *arguments, **options)
        _kill_once(of if isinstance(of, str) else of.alert.model, where)
        return done

    return armed


TARGETS = {
    "perennial.cycle": _arm_stages,
    "perennial.adapters.mlflow_registry": _arm_alias,
    "perennial.alert_ledger": _arm_alert_ledger,
    "perennial_airflow.runs": _arm_starter,
}


class _Loader(importlib.abc.Loader):
    def __init__(self, real: importlib.abc.Loader, arm: Callable[[Any], None]) -> None:
        self._real = real
        self._arm = arm

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        self._arm(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in TARGETS:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        if found is not None and found.loader is not None:
            found.loader = _Loader(found.loader, TARGETS[name])
        return found


sys.meta_path.insert(0, _Finder())
