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

from perennial import runtime
from perennial.cli import terminal
from perennial.errors import RegistryUnavailableError, StoreUnavailableError
from perennial.testing.registry import MemoryRegistry
from tests.unit.core.command import AS_OF, Shell, a_world, an_hour_passes, respec
from tests.unit.core.world import SPEC, START, World, day_frame


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return a_world(tmp_path, monkeypatch)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def _land_nulls(world: World) -> None:
    bad = day_frame(28)
    bad.loc[3:5, "x"] = np.nan
    bad.to_parquet(world.folder / "bucket/landing/toy/day=028.parquet", index=False)


def test_check_of_good_specs_names_them(world: World, shell: Shell) -> None:
    assert shell.json("check") == (0, {"good": ["toy"], "problems": [], "warnings": []})
    code, out, _ = shell("check")
    assert code == 0
    assert "toy" in out


def test_check_tells_every_problem_of_every_spec(world: World, shell: Shell) -> None:
    respec(world, owner="", evaluation={"primary": "rsme"})
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
    respec(world, s3={"password": "hunter2hunter2"}, owner="postgres://joe:hunter2hunter2@db/x")
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
    recorded, moved = world.runtime.ledger.entries("toy")
    assert entry["entry_id"] == recorded.entry_id
    assert (moved.kind, moved.champion_after) == ("promotion", "1")


def test_run_tells_people_the_stages_the_verdict_and_its_reasons(world: World, shell: Shell) -> None:
    world.land(range(28))
    code, out, _ = shell("run", "toy", "--as-of", AS_OF)
    assert code == 0
    for text in ("snapshot", "validate", "train", "evaluate", "decide", "promote", "PROMOTE", "none -> v1", "page"):
        assert text in out
    assert [line.split(None, 2)[2] for line in out.splitlines() if line.startswith("done  promote")] == [
        "champion is version 1"
    ]


def test_run_that_promotes_nothing_says_so(world: World, shell: Shell) -> None:
    world.land(range(28))
    shell("run", "toy", "--as-of", AS_OF)
    an_hour_passes(world)
    _, out, _ = shell("run", "toy", "--as-of", AS_OF)
    assert [line for line in out.splitlines() if line.startswith("done")][-1].endswith("; nothing new to judge")
    _, out, _ = shell("run", "toy", "--as-of", AS_OF, "--force")
    assert "done  promote   nothing to promote\n" in out


def test_run_with_nothing_new_is_done_and_says_so(world: World, shell: Shell) -> None:
    world.land(range(28))
    shell("run", "toy", "--as-of", AS_OF)
    an_hour_passes(world)
    code, entry = shell.json("run", "toy", "--as-of", AS_OF)
    assert (code, entry["outcome"]) == (0, "nothing new")
    an_hour_passes(world)
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
    an_hour_passes(world)
    code, told = shell.json("run", "toy", "--as-of", "2013-01-30")
    assert (code, told["error"]) == (1, "BadDataError")
    assert told["page_uri"].endswith("page.html")
    assert [entry["outcome"] for entry in shell.json("history", "toy")[1]] == ["refused", "refused"]


def test_server_that_does_not_answer_is_exit_code_1_with_where_it_is_looked_for(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down(MemoryRegistry):
        def find_training(self, model: str, fingerprint: str) -> None:
            raise RegistryUnavailableError("could not find the training: MLflow did not answer")

    world.land(range(28))
    world.registry = Down()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:hunter2@mlflow.example")
    code, _, err = shell("run", "toy", "--as-of", AS_OF)
    assert (code, err) == (
        1,
        "perennial: could not find the training: MLflow did not answer\n"
        "MLflow is looked for at http://mlflow.example (MLFLOW_TRACKING_URI). Is it running?\n",
    )


@pytest.mark.parametrize("command", ["history", "champion", "rollback", "run"])
def test_store_that_does_not_answer_is_exit_code_1_with_where_it_is_looked_for(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def down(*_args: object, **_more: object) -> None:
        raise StoreUnavailableError("cannot list s3://bucket/store: no answer")

    for name in ("list", "head", "read"):
        monkeypatch.setattr(world.store, name, down)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example")
    code, _, err = shell(command, "toy")
    assert code == 1
    assert err == (
        "perennial: cannot list s3://bucket/store: no answer\n"
        "S3 is looked for at http://s3.example (AWS_ENDPOINT_URL_S3). Is it running?\n"
    )


@pytest.mark.parametrize(("exists", "said"), [(False, "does not exist"), (True, "holds no spec")])
@pytest.mark.parametrize("command", ["run", "history", "champion", "rollback"])
def test_missing_specs_are_told_with_what_to_set(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, command: str, exists: bool, said: str
) -> None:
    folder = world.folder / "elsewhere"
    if exists:
        folder.mkdir()
    monkeypatch.setenv("PERENNIAL_SPECS", str(folder))
    code, _, err = shell(command, "toy")
    assert code == 2
    assert f"{folder} {said}" in err
    assert "set PERENNIAL_SPECS" in err


def test_spec_file_that_is_not_there_is_told_with_its_place(world: World, shell: Shell) -> None:
    code, told = shell.json("check", "nosuch.yaml")
    assert code == 1
    assert [(p["value"], p["allowed"]) for p in told["problems"]] == [
        (str(Path("nosuch.yaml").absolute()), "there is no such file")
    ]


@pytest.mark.parametrize("command", ["check", "run", "history", "champion", "rollback"])
def test_help_of_each_command_has_an_example(shell: Shell, command: str) -> None:
    code, out, _ = shell(command, "--help")
    assert code == 0
    assert f"example: perennial {command} " in out


def test_help_tells_the_exit_codes(shell: Shell) -> None:
    code, out, _ = shell("--help")
    assert code == 0
    assert re.search(r"exit codes:\s+0 +done.*\s+1 +refused.*\s+2 +wrong usage", out)


def test_shipped_specs_raise_no_warning(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_SPECS", str(Path(__file__).parents[3] / "include" / "models"))
    code, told = shell.json("check")
    assert (code, told["problems"], told["warnings"]) == (0, [], [])
    assert "diabetes_progression" in told["good"]


@pytest.mark.parametrize(
    ("schedule", "cooldown", "warned"),
    [
        ("15 6 * * *", "6h", True),
        ("15 6 * * *", "1d", False),
        ("10 * * * *", "1s", False),
        ("*/5 9-17 * * 1-5", "1d", True),
        ("0 0 1 * *", "7d", True),
        (None, "30d", True),
    ],
)
def test_check_warns_of_a_monitor_that_looks_too_seldom_for_alerts_that_wait(
    world: World, shell: Shell, schedule: str | None, cooldown: str, warned: bool
) -> None:
    pytest.importorskip("croniter", reason="croniter comes with Airflow")
    respec(
        world,
        deployment={"kind": "scoring_service"},
        monitoring={"schedule": schedule},
        triggers={"on_drift": {"cooldown": cooldown}},
    )
    code, told = shell.json("check")
    assert (code, told["problems"]) == (0, [])
    assert [warning["field"] for warning in told["warnings"]] == ["monitoring.schedule"] * warned


@pytest.mark.parametrize("command", ["run", "history", "champion", "rollback"])
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


def test_two_commands_of_one_moment_are_two_runs(world: World, shell: Shell) -> None:
    world.land(range(28))
    ids = [shell.json("run", "toy", "--as-of", AS_OF)[1]["request"]["run_id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(run_id.startswith("command__2026-01-02T00:00:00Z_") for run_id in ids)


@pytest.mark.parametrize("triggers", [{"schedule": "0 2 * * *"}, {"on_new_data": True}])
def test_check_warns_of_a_gate_that_is_asked_again_and_again_without_a_budget(
    world: World, shell: Shell, triggers: dict[str, Any]
) -> None:
    respec(world, triggers=triggers)
    code, told = shell.json("check")
    assert (code, told["good"], told["problems"]) == (0, ["toy"], [])
    assert [warning["field"] for warning in told["warnings"]] == ["gate.false_promotions"]
    assert told["warnings"][0]["allowed"].startswith(f"triggers.{next(iter(triggers))} starts runs again and again. ")
    code, out, _ = shell("check")
    assert code == 0
    assert "warn" in out
    budget = {"false_promotions": {"budget": 0.05, "period_days": 90}}
    respec(world, triggers=triggers, gate={**SPEC["gate"], **budget})  # type: ignore[dict-item]
    assert shell.json("check")[1]["warnings"] == []


def test_check_finds_nothing_wrong_with_a_shadow_and_a_canary(world: World, shell: Shell) -> None:
    trials: dict[str, Any] = {"smoke_test": {"rows": 10}, "shadow": {}, "canary": {"steps": [5, 100]}}
    respec(world, deployment={"kind": "scoring_service", **trials})
    code, told = shell.json("check")
    assert (code, told["good"], told["problems"], told["warnings"]) == (0, ["toy"], [], [])


def test_text_from_outside_is_no_markup_on_the_terminal(world: World, shell: Shell) -> None:
    world.land(range(28))
    respec(world, description="[bold]hello[/bold]", evaluation={"primary": "[red]rsme[/red]"})
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
    assert re.fullmatch(r"uid \d+", terminal.user())
