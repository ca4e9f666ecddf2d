"""First on the path of Airflow's processes in the system tests: lets a process kill itself where it hurts.

At the end of a stage, which has had all its effects by then, and Airflow has not heard of it yet. And right after the
alias was moved: the champion is another one by then, and the ledger has not heard of it yet.
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


TARGETS = {"perennial.cycle": _arm_stages, "perennial.adapters.mlflow_registry": _arm_alias}


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
