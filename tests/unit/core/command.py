"""The command as a shell runs it, in a world that it finds where it looks for the real one."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from perennial import runtime
from perennial.cli import main
from tests.unit.core.world import SPEC, TOY, World

AS_OF = "2013-01-29"


def a_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that the command finds."""
    world = World(folder / "world")
    (world.specs / "toy.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    shutil.copy(TOY / "toy_churn.py", world.specs)
    monkeypatch.setenv("PERENNIAL_HOME", str(folder / "home"))
    monkeypatch.setenv("PERENNIAL_SPECS", str(world.specs))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(runtime, "build_runtime", lambda _settings: world.runtime)
    return world


class Shell:
    """Runs the command as a shell does."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self.captured = captured

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        out, err = self.captured.readouterr()
        return code, out, err

    def json(self, *arguments: str) -> tuple[int, Any]:
        code, out, err = self(*arguments, "--json")
        assert err == ""
        return code, json.loads(out)


def respec(world: World, **changes: Any) -> None:
    """Write another spec."""
    (world.specs / "toy.yaml").write_text(yaml.safe_dump({**SPEC, **changes}), encoding="utf-8")


def an_hour_passes(world: World) -> None:
    world.clock.advance(timedelta(hours=1))


def run_twice(world: World, shell: Shell) -> None:
    """Two runs, each of which promotes."""
    world.land(range(28))
    assert shell("run", "toy", "--as-of", AS_OF)[0] == 0
    world.land(range(28, 56), sign=-1.0)
    an_hour_passes(world)
    assert shell("run", "toy", "--as-of", "2013-02-26")[0] == 0
