"""The commands that change production: rollback, an override, and a run that waits for a person."""

from __future__ import annotations

import getpass
import re
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.core.command import AS_OF, Shell, a_world, an_hour_passes, respec, run_twice
from tests.unit.core.world import SPEC, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    return a_world(tmp_path, monkeypatch)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_rollback_goes_back_and_says_what_is_quarantined(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    taken_back = world.registry.champion("toy")
    assert taken_back is not None
    an_hour_passes(world)
    code, told = shell.json("rollback", "toy", "--reason", "complaints")
    assert code == 0
    assert (told["champion_before"], told["champion_after"]) == ("2", "1")
    assert list(told["quarantined"]) == [taken_back.model.digest]
    assert "complaints" in told["quarantined"][taken_back.model.digest]
    assert told["took_s"] >= 0
    entry = world.runtime.ledger.entries("toy")[-1]
    assert (entry.kind, entry.actor, entry.request["trigger"]) == ("rollback", "ada", "command")
    assert world.registry.champion_version("toy") == "1"


def test_rollback_tells_people_where_production_is_now(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    code, out, _ = shell("rollback", "toy", "--to", "1")
    assert code == 0
    assert "v2 -> v1" in out
    said = " ".join(out.split())
    assert "ada went back from version 2 to version 1. Version 2 is in quarantine" in said
    assert "releases it from quarantine: perennial rollback toy --to 2 --reason TEXT" in said


def test_rollback_with_nowhere_to_go_is_exit_code_1_and_changes_nothing(world: World, shell: Shell) -> None:
    world.land(range(28))
    assert shell("run", "toy", "--as-of", AS_OF)[0] == 0
    for arguments, said in (
        ([], "no earlier champion to go back to from version 1"),
        (["--to", "1"], "toy: version 1 is the champion already. Versions there are: 1. Nothing was changed"),
        (["--to", "9"], "toy has no version 9. Versions there are: 1. Nothing was changed"),
    ):
        code, out, err = shell("rollback", "toy", *arguments)
        assert (code, out) == (1, "")
        assert err.startswith("perennial: ")
        assert said in err
    assert world.registry.champion_version("toy") == "1"
    assert [entry.kind for entry in world.runtime.ledger.entries("toy")] == ["decision", "promotion"]


def test_rollback_to_a_quarantined_version_takes_a_reason(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    world.clock.advance(timedelta(hours=1, microseconds=123_456))
    assert shell("rollback", "toy", "--reason", "complaints")[0] == 0
    an_hour_passes(world)
    code, _, err = shell("rollback", "toy", "--to", "2")
    assert code == 1
    for text in ("version 2 is in quarantine", "ada", "complaints", "--to 2 --reason", "Nothing was changed"):
        assert text in err
    assert not re.search(r":\d\d\.\d", err)  # no fractions of seconds
    assert world.registry.champion_version("toy") == "1"
    code, out, _ = shell("rollback", "toy", "--to", "2", "--reason", "it was the data")
    assert code == 0
    assert "Version 2 is released from quarantine" in " ".join(out.split())
    assert shell.json("champion", "toy")[1]["quarantined"].keys() == {"1"}


@pytest.mark.parametrize(("option", "value"), [("--to", "one"), ("--to", "02"), ("--reason", "x" * 501)])
def test_rollback_with_a_value_that_is_not_allowed_is_wrong_usage(
    world: World, shell: Shell, option: str, value: str
) -> None:
    run_twice(world, shell)
    assert shell("rollback", "toy", option, value)[0] == 2
    assert world.registry.champion_version("toy") == "2"


def test_run_that_needs_approval_moves_nothing_and_says_where_it_is_given(world: World, shell: Shell) -> None:
    respec(world, approval={"required": True})
    world.land(range(28))
    code, out, _ = shell("run", "toy", "--as-of", AS_OF)
    assert code == 0
    assert "wait for approval in Airflow" in " ".join(out.split())
    assert "promote" not in [line.split()[1] for line in out.splitlines() if line.startswith("done")]
    assert world.registry.champion_version("toy") is None
    an_hour_passes(world)
    code, told = shell.json("run", "toy", "--as-of", AS_OF)
    assert (code, told["outcome"], told["promoted"], told["waits_for_approval"]) == (0, "PROMOTE", False, True)


def test_run_without_approval_does_not_wait(world: World, shell: Shell) -> None:
    world.land(range(28))
    _, told = shell.json("run", "toy", "--as-of", AS_OF)
    assert (told["promoted"], told["waits_for_approval"]) == (True, False)
    an_hour_passes(world)
    _, told = shell.json("run", "toy", "--as-of", AS_OF)
    assert (told["outcome"], told["promoted"], told["waits_for_approval"]) == ("nothing new", False, False)


def test_glass_is_broken_only_by_those_whom_the_spec_names(world: World, shell: Shell) -> None:
    hopeless = {**SPEC["gate"], "floors": {"roc_auc": 0.9999}}  # type: ignore[dict-item]
    respec(world, gate=hopeless, approval={"required": True, "break_glass": ["grace"]})
    world.land(range(28))
    code, _, err = shell("run", "toy", "--as-of", AS_OF, "--break-glass", "fire")
    assert code == 1
    assert "ada may not break the glass" in err
    assert world.outcomes() == []
    respec(world, gate=hopeless, approval={"required": True, "break_glass": ["ada"]})
    code, told = shell.json("run", "toy", "--as-of", AS_OF, "--break-glass", "fire")
    assert (code, told["verdict"], told["promoted"]) == (0, "PROMOTE", True)
    assert told["request"]["break_glass"] == "fire"
    _, out, _ = shell("history", "toy")
    assert "glass broken" in out
    assert shell.json("champion", "toy")[1]["break_glass"] is True
