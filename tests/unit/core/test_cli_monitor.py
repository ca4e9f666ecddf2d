"""`perennial monitor`: one look, told to people and to machines."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from perennial import runtime
from tests.unit.core.command import Shell
from tests.unit.core.monitored import DAY, FIRST, ROOT, Monitored, monitored_spec
from tests.unit.core.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Monitored:
    """Three days, the last two with drift, where the command finds them."""
    world = Monitored(tmp_path / "world", monitored_spec())
    world.train()
    for day, shift in enumerate((0.0, 1.0, 1.0)):
        world.serve(day, shift=shift)
    around = World(tmp_path / "world", registry=world.registry, clock=world.clock)
    _write_spec(around.specs, world.spec.model_dump(mode="json", exclude_none=True))
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PERENNIAL_SPECS", str(around.specs))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(runtime, "build_runtime", lambda _settings: around.runtime)
    return world


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def _write_spec(folder: Path, document: dict[str, Any]) -> None:
    (folder / "toy.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def test_look_tells_each_signal_the_alert_and_the_page(world: Monitored, shell: Shell) -> None:
    code, out, err = shell("monitor", "toy")
    assert (code, err) == (0, "")
    assert "data drift: beyond" in out
    assert "performance: quiet" in out
    assert "1 of 3 columns has drifted, x most: higher by" in out
    assert "alert since 2026-03-05 00:00:00 UTC" in out
    assert f"page: {ROOT}/monitoring/toy/20260305T000000Z/page.html" in out
    assert len(world.outbox) == 2


def test_machines_get_the_reference_and_the_report(world: Monitored, shell: Shell) -> None:
    code, told = shell.json("monitor", "toy")
    assert code == 0
    assert (told["kind"], told["windows"], told["open_alerts"]) == ("monitoring", 3, 2)
    assert told["report"] == world.report(2)


def test_time_to_stand_at_is_kept(world: Monitored, shell: Shell) -> None:
    code, told = shell.json("monitor", "toy", "--as-of", (FIRST + 2 * DAY + timedelta(hours=1)).isoformat())
    assert code == 0
    assert told["window_end"] == "2026-03-04T00:00:00Z"


def test_second_look_says_that_nothing_has_ended_since(world: Monitored, shell: Shell) -> None:
    assert shell("monitor", "toy")[0] == 0
    code, out, _ = shell("monitor", "toy")
    assert code == 0
    assert out.startswith("No window has ended since the last look.")


def test_model_that_is_not_monitored_is_wrong_usage(world: Monitored, shell: Shell, tmp_path: Path) -> None:
    document = world.spec.model_dump(mode="json", exclude_none=True, exclude={"monitoring"})
    _write_spec(tmp_path / "world" / "models", document)
    code, _, err = shell("monitor", "toy")
    assert code == 2
    assert "toy is not monitored; add `monitoring` to its spec" in err
