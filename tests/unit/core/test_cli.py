"""The command: exit codes, what it prints for machines and for people, and what it never prints."""

from __future__ import annotations

import json
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from perennial import cli, runtime
from perennial.cli import main
from perennial.errors import RegistryUnavailableError
from perennial.testing.registry import MemoryRegistry
from tests.unit.core.world import SPEC, START, TOY, World, day_frame

AS_OF = "2013-01-29"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that the command finds where it looks for the real one."""
    world = World(tmp_path / "world")
    (world.specs / "toy.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    shutil.copy(TOY / "toy_churn.py", world.specs)
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
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


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def _an_hour_passes(world: World) -> None:
    world.clock.advance(timedelta(hours=1))


def _run_twice(world: World, shell: Shell) -> None:
    world.land(range(28))
    assert shell("run", "toy", "--as-of", AS_OF)[0] == 0
    world.land(range(28, 56), sign=-1.0)
    _an_hour_passes(world)
    assert shell("run", "toy", "--as-of", "2013-02-26")[0] == 0


def _land_nulls(world: World) -> None:
    bad = day_frame(28)
    bad.loc[3:5, "x"] = np.nan
    bad.to_parquet(world.folder / "bucket/landing/toy/day=028.parquet", index=False)


def _spoil(world: World, **changes: Any) -> None:
    (world.specs / "toy.yaml").write_text(yaml.safe_dump({**SPEC, **changes}), encoding="utf-8")


def test_check_of_good_specs_names_them(world: World, shell: Shell) -> None:
    assert shell.json("check") == (0, {"good": ["toy"], "problems": []})
    code, out, _ = shell("check")
    assert code == 0
    assert "toy" in out


def test_check_tells_every_problem_of_every_spec(world: World, shell: Shell) -> None:
    _spoil(world, owner="", evaluation={"primary": "rsme"})
    second = {**SPEC, "name": "second", "training": {**SPEC["training"], "estimator": "toy_churn:gone"}}  # type: ignore[dict-item]
    (world.specs / "second.yaml").write_text(yaml.safe_dump(second), encoding="utf-8")
    (world.specs / "third.yaml").write_text("name: [unclosed", encoding="utf-8")
    (world.specs / "toy_good.yaml").write_text(yaml.safe_dump({**SPEC, "name": "toy_good"}), encoding="utf-8")
    code, told = shell.json("check")
    assert code == 1
    assert told["good"] == ["toy_good"]
    assert {(problem["file"], problem["field"]) for problem in told["problems"]} == {
        ("toy.yaml", "owner"),
        ("toy.yaml", "evaluation.primary"),
        ("second.yaml", "training.estimator"),
        ("third.yaml", "(file)"),
    }
    code, out, _ = shell("check")
    assert code == 1
    for text in ("owner", "evaluation.primary", "'rsme'", "roc_auc", "toy_churn:gone", "third.yaml", "toy_good"):
        assert text in out


def test_check_of_one_file_looks_at_no_other(world: World, shell: Shell) -> None:
    (world.specs / "broken.yaml").write_text("name: broken\n", encoding="utf-8")
    assert shell("check", str(world.specs / "toy.yaml"))[0] == 0
    assert shell("check", str(world.specs / "broken.yaml"))[0] == 1
    code, told = shell.json("check", str(world.specs / "nowhere.yaml"))
    assert (code, told["problems"][0]["file"]) == (1, "nowhere.yaml")


def test_check_of_an_empty_folder_fails_and_says_what_to_set(world: World, shell: Shell) -> None:
    (world.specs / "toy.yaml").unlink()
    code, out, _ = shell("check")
    assert code == 1
    assert "PERENNIAL_SPECS" in out


def test_two_files_of_one_model_are_told(world: World, shell: Shell) -> None:
    shutil.copy(world.specs / "toy.yaml", world.specs / "toy.yml")
    code, told = shell.json("check")
    assert code == 1
    assert [(problem["file"], problem["field"]) for problem in told["problems"]] == [("toy.yml", "name")]


def test_missing_suite_is_a_problem_of_the_spec(world: World, shell: Shell) -> None:
    (world.specs / "toy.json").unlink()
    code, told = shell.json("check")
    assert code == 1
    assert told["problems"][0]["field"] == "validation.suite"


def test_schema_is_a_json_schema_that_the_shipped_kind_of_spec_passes(world: World, shell: Shell) -> None:
    code, out, _ = shell("check", "--schema")
    schema = json.loads(out)
    assert code == 0
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(SPEC)) == []
    assert [error.path[0] for error in validator.iter_errors({**SPEC, "owner": 3})] == ["owner"]


def test_secret_in_a_spec_is_never_printed(world: World, shell: Shell) -> None:
    _spoil(world, s3={"password": "hunter2hunter2"}, owner="postgres://joe:hunter2hunter2@db/x")
    for arguments in (["check"], ["check", "--json"], ["run", "toy"], ["run", "toy", "--json"]):
        code, out, err = shell(*arguments)
        assert code == 1
        assert "(hidden)" in out + err
        assert "hunter2" not in out + err


def test_run_prints_the_entry_that_it_left_in_the_ledger(world: World, shell: Shell) -> None:
    world.land(range(28))
    code, entry = shell.json("run", "toy", "--as-of", AS_OF, "--reason", "to see", "--param", "depth=2")
    assert code == 0
    assert (entry["outcome"], entry["promoted"], entry["champion_after"]) == ("PROMOTE", True, "1")
    assert entry["request"]["trigger"] == "command"
    assert entry["request"]["reason"] == "to see"
    assert entry["request"]["params"] == {"depth": 2}
    assert entry["request"]["as_of"] == "2013-01-29T00:00:00Z"
    (recorded,) = world.runtime.ledger.entries("toy")
    assert entry["entry_id"] == recorded.entry_id


def test_run_tells_people_the_stages_the_verdict_and_its_reasons(world: World, shell: Shell) -> None:
    world.land(range(28))
    code, out, _ = shell("run", "toy", "--as-of", AS_OF)
    assert code == 0
    for text in ("snapshot", "validate", "train", "evaluate", "decide", "promote", "PROMOTE", "none -> v1", "page"):
        assert text in out


def test_run_with_nothing_new_is_done_and_says_so(world: World, shell: Shell) -> None:
    world.land(range(28))
    shell("run", "toy", "--as-of", AS_OF)
    _an_hour_passes(world)
    code, entry = shell.json("run", "toy", "--as-of", AS_OF)
    assert (code, entry["outcome"]) == (0, "nothing new")
    _an_hour_passes(world)
    code, entry = shell.json("run", "toy", "--as-of", AS_OF, "--force")
    assert code == 0
    assert entry["verdict"] in {"REJECT", "INCONCLUSIVE"}


def test_refused_data_is_exit_code_1_with_the_reason_and_the_page(world: World, shell: Shell) -> None:
    world.land(range(28))
    _land_nulls(world)
    code, out, err = shell("run", "toy", "--as-of", "2013-01-30")
    assert code == 1
    assert "snapshot" in out
    assert "expect_column_values_to_not_be_null" in err
    assert "page.html" in err
    _an_hour_passes(world)
    code, told = shell.json("run", "toy", "--as-of", "2013-01-30")
    assert (code, told["error"]) == (1, "BadDataError")
    assert told["page_uri"].endswith("page.html")
    assert [entry["outcome"] for entry in shell.json("history", "toy")[1]] == ["refused", "refused"]


def test_server_that_does_not_answer_is_exit_code_1_in_one_line(world: World, shell: Shell) -> None:
    class Down(MemoryRegistry):
        def find_training(self, model: str, fingerprint: str) -> None:
            raise RegistryUnavailableError("could not find the training: MLflow did not answer")

    world.land(range(28))
    world.registry = Down()
    code, _, err = shell("run", "toy", "--as-of", AS_OF)
    assert (code, err) == (1, "perennial: could not find the training: MLflow did not answer\n")


@pytest.mark.parametrize("command", ["run", "history", "champion"])
def test_unknown_model_is_wrong_usage_and_the_known_ones_are_named(world: World, shell: Shell, command: str) -> None:
    code, _, err = shell(command, "tyo")
    assert code == 2
    assert "known models: toy" in err
    code, told = shell.json(command, "tyo")
    assert (code, told["error"]) == (2, "UnknownModelError")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--as-of", "yesterday"], "'yesterday' is not a time"),
        (["--param", "depth"], "NAME=JSON"),
        (["--param", "=3"], "NAME=JSON"),
        (["--param", "dept=2"], "declared: depth"),
        (["--param", 'depth="deep"'], "expected int"),
        (["--param", "depth=1", "--param", "depth=2"], "--param depth: given twice"),
        (["--reason", "x" * 501], "at most 500"),
        (["--as-of", "2999-01-01"], "future"),
    ],
)
def test_value_that_is_not_allowed_is_wrong_usage_and_nothing_is_recorded(
    world: World, shell: Shell, arguments: list[str], message: str
) -> None:
    world.land(range(28))
    code, _, err = shell("run", "toy", *arguments)
    assert code == 2
    assert message in err
    assert world.outcomes() == []


@pytest.mark.parametrize("arguments", [[], ["retrain"], ["history"], ["history", "toy", "--limit", "0"]])
def test_wrong_usage_is_exit_code_2(world: World, shell: Shell, arguments: list[str]) -> None:
    code, _, err = shell(*arguments)
    assert code == 2
    assert "usage: perennial" in err


def test_history_is_the_ledger_oldest_first_and_can_be_cut(world: World, shell: Shell) -> None:
    assert shell.json("history", "toy") == (0, [])
    _run_twice(world, shell)
    code, entries = shell.json("history", "toy")
    assert code == 0
    assert [(entry["outcome"], entry["champion_after"]) for entry in entries] == [("PROMOTE", "1"), ("PROMOTE", "2")]
    assert shell.json("history", "toy", "--limit", "1") == (0, entries[-1:])
    code, out, _ = shell("history", "toy")
    assert code == 0
    assert "2013-02-25" in out  # the newest row's day
    assert "v1 -> v2" in out
    assert max(map(len, out.splitlines())) <= 100


def test_empty_history_says_so(world: World, shell: Shell) -> None:
    code, out, _ = shell("history", "toy")
    assert code == 0
    assert "perennial run toy" in out


def test_champion_tells_version_since_when_and_why(world: World, shell: Shell) -> None:
    _run_twice(world, shell)
    code, champion = shell.json("champion", "toy")
    (_, promotion) = shell.json("history", "toy")[1]
    assert code == 0
    assert (champion["model"], champion["version"]) == ("toy", "2")
    assert (champion["since"], champion["why"]) == (promotion["recorded_at"], promotion["summary"])
    assert champion["digest"] == promotion["references"]["model"]["digest"]
    assert champion["training_end"] < champion["as_of"]
    code, out, _ = shell("champion", "toy")
    assert code == 0
    assert champion["digest"] in out.replace("\n", "")
    assert max(map(len, out.splitlines())) <= 100


def test_no_champion_yet_is_exit_code_1(world: World, shell: Shell) -> None:
    assert shell.json("champion", "toy") == (1, {"model": "toy", "version": None})
    code, out, _ = shell("champion", "toy")
    assert code == 1
    assert "no champion yet" in out


def test_champion_moved_by_hand_is_told_as_such(world: World, shell: Shell) -> None:
    _run_twice(world, shell)
    (first, _) = shell.json("history", "toy")[1]
    world.registry.point_alias("toy", "champion", "1")
    code, champion = shell.json("champion", "toy")
    assert code == 0
    assert champion["version"] == "1"
    assert "outside Perennial" in champion["why"]
    assert first["summary"] not in champion["why"]


def test_text_from_outside_is_no_markup_on_the_terminal(world: World, shell: Shell) -> None:
    world.land(range(28))
    _spoil(world, description="[bold]hello[/bold]", evaluation={"primary": "[red]rsme[/red]"})
    _, out, _ = shell("check")
    assert "[red]rsme[/red]" in out


def test_version_is_told(shell: Shell) -> None:
    code, out, _ = shell("--version")
    assert code == 0
    assert out.startswith("perennial 0.")


def test_interrupted_command_ends_with_130(world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "build_runtime", interrupt)
    code, _, err = shell("history", "toy")
    assert (code, err) == (130, "perennial: interrupted; what was published stays, run again to go on\n")


def test_start_of_the_world_is_where_the_tests_think_it_is() -> None:
    assert f"{START + timedelta(days=28):%Y-%m-%d}" == AS_OF


def test_user_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert re.fullmatch(r"uid \d+", cli._user())
