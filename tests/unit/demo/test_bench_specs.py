"""Benchmarks change the shipped specs for their purposes; what they make of them still has to be valid."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perennial.spec.loader import load_spec, spec_paths
from perennial_demo.home import REPOSITORY

BENCHMARKS: dict[str, Callable[[Any, Path], Any]] = {
    "cycle": lambda module, folder: module.write_specs(folder),
    "parse": lambda module, folder: module.write_specs(folder, 2),
    "webhook": lambda module, folder: module.write_specs(folder / "models", ["one"]),
    "scoring.services": lambda module, folder: module.write_specs(folder / "models", log=False),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_specs_of_a_benchmark_are_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "bench")
    BENCHMARKS[name](importlib.import_module(name), tmp_path)
    paths = spec_paths(tmp_path / "models")
    assert paths
    for path in paths:
        load_spec(path)
