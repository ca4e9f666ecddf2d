"""First on the path of Airflow's processes in the system tests: lets a process kill itself at the end of a stage.

The stage has had all its effects by then, and Airflow has not heard of it yet.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

TARGET = "perennial.cycle"


def _kill_once(model: str, stage: str) -> None:
    order = Path(os.environ["PERENNIAL_TEST_KILLS"]) / f"{model}.{stage}"
    try:
        order.rename(order.with_name(f"{order.name}.done"))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(cycle: Any) -> None:
    timed = cycle._timed

    @contextmanager
    def armed(spec: Any, request: Any, stage: str) -> Iterator[None]:
        with timed(spec, request, stage):
            yield
        _kill_once(spec.name, stage)

    cycle._timed = armed


class _Loader(importlib.abc.Loader):
    def __init__(self, real: importlib.abc.Loader) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        _arm(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != TARGET:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        if found is not None and found.loader is not None:
            found.loader = _Loader(found.loader)
        return found


sys.meta_path.insert(0, _Finder())
