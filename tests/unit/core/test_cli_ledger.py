"""The commands that read the ledger: history, its verification, and champion."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial import runtime
from perennial.errors import RegistryUnavailableError
from perennial.testing.registry import MemoryRegistry
from tests.unit.core.command import AS_OF, Shell, a_world, an_hour_passes, respec, run_twice
from tests.unit.core.world import ROOT, World

AIRFLOW = "https://airflow.example"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return a_world(tmp_path, monkeypatch)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_history_is_the_ledger_oldest_first_and_can_be_cut(world: World, shell: Shell) -> None:
    assert shell.json("history", "toy") == (0, [])
    run_twice(world, shell)
    code, entries = shell.json("history", "toy")
    assert code == 0
    assert [(entry["outcome"], entry["champion_after"]) for entry in entries] == [
        ("PROMOTE", None),
        ("promotion", "1"),
        ("PROMOTE", "1"),
        ("promotion", "2"),
    ]
    assert [entry["sequence"] for entry in entries] == [1, 2, 3, 4]
    assert shell.json("history", "toy", "--limit", "1") == (0, entries[-2:])  # one run, two entries


def test_history_for_people_has_a_line_for_each_run_and_what_was_done(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    an_hour_passes(world)
    assert shell("rollback", "toy", "--reason", "[bold]smoke[/]")[0] == 0
    code, out, _ = shell("history", "toy")
    lines = out.splitlines()
    assert code == 0
    heads = [line.split()[:2] for line in lines[1:] if not line.startswith(" ")]
    assert [outcome for _, outcome in heads] == ["PROMOTE", "PROMOTE", "rollback"]
    assert heads[-1][0] == "-"  # it looks at no data
    assert "2013-02-25" in out  # the newest row's day
    assert "none -> v1" in out
    assert "v1 -> v2" in out
    assert "v2 -> v1" in out
    assert "[bold]smoke[/]" in " ".join(out.split())
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("trigger", "later", "said"),
    [
        ("command", timedelta(0), "a run of this command cannot be approved"),
        ("schedule", timedelta(0), "Waiting for approval in Airflow, until 2026-01-03 00:00 UTC; no answer"),
        ("schedule", timedelta(hours=25), "Not promoted so far"),
    ],
)
def test_promotion_that_did_not_come_is_told(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch, trigger: str, later: timedelta, said: str
) -> None:
    monkeypatch.setattr(runtime, "build_runtime", lambda _settings: replace(world.runtime, airflow_url=AIRFLOW))
    respec(world, approval={"required": True})
    world.land(range(28))
    assert shell("run", "toy", "--as-of", AS_OF)[0] == 0
    judged = world.runtime.ledger.entries("toy")[0]
    run = {**judged.request, "run_id": f"{trigger}__2", "trigger": trigger}
    world.runtime.ledger.append(replace(judged, request=run))
    world.clock.advance(later)
    told = " ".join(shell("history", "toy", "--limit", "1")[1].split())
    assert said in told
    assert (f"/dags/perennial__toy__retrain/runs/{trigger}__2" in told) == (trigger == "schedule")


@pytest.mark.parametrize(
    "summary", ["Declined by grace on 2026-01-02T00:10:11.123456Z.", "No answer within 24h: a No."]
)
def test_answer_of_no_is_told_once_and_without_fractions_of_seconds(world: World, shell: Shell, summary: str) -> None:
    respec(world, approval={"required": True})
    world.land(range(28))
    assert shell("run", "toy", "--as-of", AS_OF)[0] == 0
    judged = world.runtime.ledger.entries("toy")[0]
    world.runtime.ledger.append(replace(judged, kind="approval", approved=False, verdict=None, summary=summary))
    code, out, _ = shell("history", "toy")
    assert code == 0
    assert summary.replace("T00:10:11.123456Z", " 00:10:11 UTC") in " ".join(out.split())
    assert "Not promoted" not in out
    assert [entry["outcome"] for entry in shell.json("history", "toy")[1]] == ["PROMOTE", "declined"]


def test_history_of_a_model_whose_spec_is_broken_is_told_all_the_same(world: World, shell: Shell) -> None:
    respec(world, approval={"required": True})
    world.land(range(28))
    assert shell("run", "toy", "--as-of", AS_OF)[0] == 0
    respec(world, owner="")
    code, out, _ = shell("history", "toy")
    assert code == 0
    assert "Not promoted so far" in " ".join(out.split())


def test_empty_history_says_so(world: World, shell: Shell) -> None:
    code, out, _ = shell("history", "toy")
    assert code == 0
    assert "perennial run toy" in out


def _verify(shell: Shell) -> tuple[int, Any]:
    return shell.json("history", "toy", "--verify")


def _entries_in_store(world: World) -> list[Path]:
    folder = world.folder / ROOT.removeprefix("s3://") / "ledger" / "toy"
    return sorted(folder.glob("0*.json"))


def test_whole_ledger_is_sound_and_its_anchors_are_counted(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    code, told = _verify(shell)
    assert (code, told["sound"], told["entries"], told["anchors"], told["damages"]) == (0, True, 4, 2, [])
    code, out, _ = shell("history", "toy", "--verify")
    assert code == 0
    assert out.startswith("sound: 4 entries, 2 anchors in MLflow\n")
    assert "hash that the next entry holds" in " ".join(out.split())
    assert f"newest entry's sha256: {told['head_sha256']}\n" in out


def test_changed_entry_is_named_with_what_to_do(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    path = _entries_in_store(world)[1]
    path.write_bytes(path.read_bytes().replace(b'"champion_after":"1"', b'"champion_after":"9"'))
    code, told = _verify(shell)
    assert (code, told["sound"]) == (1, False)
    assert [(damage["kind"], damage["sequence"]) for damage in told["damages"]] == [("changed", 2)]
    assert told["damages"][0]["uri"].endswith(path.name)
    assert "backup" in told["damages"][0]["way_out"]
    code, out, _ = shell("history", "toy", "--verify")
    assert code == 1
    for text in ("DAMAGED", "entry 2: changed", path.name, "Put the original bytes back"):
        assert text in out


def test_missing_entry_is_exit_code_1(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    _entries_in_store(world)[0].unlink()
    code, told = _verify(shell)
    assert code == 1
    assert ("missing", 1) in [(damage["kind"], damage["sequence"]) for damage in told["damages"]]


def test_verification_without_mlflow_goes_on_and_says_so(world: World, shell: Shell) -> None:
    class Down(MemoryRegistry):
        def version_tags(self, model: str) -> dict[str, dict[str, str]]:
            raise RegistryUnavailableError("no answer from MLflow")

    run_twice(world, shell)
    world.registry = Down()
    code, told = _verify(shell)
    assert (code, told["anchors"]) == (0, 0)
    assert any("no answer from MLflow" in note for note in told["notes"])
    assert "no answer from MLflow" in " ".join(shell("history", "toy", "--verify")[1].split())


def test_champion_tells_version_since_when_and_why(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    code, champion = shell.json("champion", "toy")
    promotion = shell.json("history", "toy")[1][-1]
    assert code == 0
    assert (champion["model"], champion["version"]) == ("toy", "2")
    assert (champion["since"], champion["why"]) == (promotion["recorded_at"], promotion["summary"])
    assert champion["digest"] == promotion["references"]["model"]["digest"]
    assert champion["training_end"] < champion["as_of"]
    assert (champion["verdict"], champion["approver"]) == ("PROMOTE", None)
    code, out, _ = shell("champion", "toy")
    assert code == 0
    names = ("version", "champion since", "why", "verdict", "trained on", "page: ")
    places = [out.index(name) for name in names]
    assert places == sorted(places)
    lines = out.splitlines()
    for whole in (champion["digest"], champion["run_id"], champion["snapshot_uri"]):
        assert any(line.endswith(whole) for line in lines)  # what is cut in two cannot be copied
    value = {line: line.split("  ")[-1].strip() for line in lines}
    assert [line for line in lines if len(line) > 100 and " " in value[line] and not line.startswith("page: ")] == []


def test_no_champion_yet_is_exit_code_1_and_says_what_to_do(world: World, shell: Shell) -> None:
    code, told = shell.json("champion", "toy")
    assert (code, told["version"], told["quarantined"]) == (1, None, {})
    assert told["why"] == "toy has no champion yet: no run has promoted one; perennial run toy runs it."
    code, out, _ = shell("champion", "toy")
    assert (code, " ".join(out.split())) == (1, told["why"])


def test_champion_whose_alias_was_taken_away_is_told_with_the_way_out(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    an_hour_passes(world)
    assert shell("rollback", "toy", "--reason", "complaints")[0] == 0
    assert isinstance(world.registry, MemoryRegistry)
    world.registry._aliases.clear()  # in MLflow's UI
    for found in ("found just now", "found and recorded at"):
        code, out, _ = shell("champion", "toy")
        said = " ".join(out.split())
        assert code == 1
        assert found in said
        assert "It named version 1, since 2026-01-02 02:00:00 UTC." in said
        assert "perennial rollback toy --to 1" in said
        assert "In quarantine: Version 2 was taken back" in said
        world.runtime.door.settle("toy", owner="a look")
    code, told = shell.json("champion", "toy")
    assert (code, told["version"]) == (1, None)
    assert told["quarantined"].keys() == {"2"}
    assert shell("rollback", "toy", "--to", "1")[0] == 0
    assert shell("champion", "toy")[0] == 0


def test_champion_moved_by_hand_is_told_as_such(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    first = shell.json("history", "toy")[1][1]
    world.registry.point_alias("toy", "champion", "1")
    code, champion = shell.json("champion", "toy")
    assert code == 0
    assert champion["version"] == "1"
    assert "outside Perennial" in champion["why"]
    assert champion["since"] is None
    assert first["summary"] not in champion["why"]


def test_champion_at_a_time_comes_from_the_ledger_alone(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_twice(world, shell)
    first, _, second, _ = world.runtime.ledger.entries("toy")
    before = f"{second.recorded_at - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    asked = world.runtime
    monkeypatch.setattr(runtime, "build_runtime", lambda _settings: replace(asked, registry=None))  # type: ignore[arg-type]
    code, told = shell.json("champion", "toy", "--at", before)
    assert (code, told["by"], told["version"]) == (0, "recorded_at", "1")
    assert told["snapshot_sha256"] == first.references["model"]["snapshot_sha256"]
    assert told["snapshot_uri"] == first.references["snapshot"]["uri"]
    assert told["page_uri"] == first.page_uri
    code, told = shell.json("champion", "toy", "--at", "2013-02-20")  # the runs' own time
    watermark = first.references["snapshot"]["watermark"]
    assert watermark.startswith("2013-01-28")
    assert (code, told["by"], told["version"], told["since"]) == (0, "data", "1", watermark)
    code, out, _ = shell("champion", "toy", "--at", "2013-02-20")
    assert code == 0
    assert "version 1, judged on data up to 2013-01-28" in " ".join(out.split())
    assert "before the ledger's first entry" in " ".join(out.split())
    assert "recorded at  " in out  # by today's clock: not since when it was champion in the replayed past
    assert "champion since" not in out
    code, out, _ = shell("champion", "toy", "--at", "2012-01-01")
    assert code == 1
    assert "knows no champion of toy at 2012-01-01 00:00:00 UTC" in " ".join(out.split())
    code, told = shell.json("champion", "toy", "--at", "2012-01-01")
    assert (code, told["version"]) == (1, None)
    assert shell("champion", "toy", "--at", "2030-01-01")[0] == 2


def test_pages_are_told_by_their_address_in_airflow_if_it_is_known(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "build_runtime", lambda _settings: replace(world.runtime, airflow_url=AIRFLOW))
    world.land(range(28))
    _, out, _ = shell("run", "toy", "--as-of", AS_OF)
    start = f"{AIRFLOW}/perennial/ui/perennial__toy__retrain/decisions/"
    assert f"page: {start}" in out
    assert shell.json("history", "toy")[1][0]["page_url"].startswith(start)
    assert shell.json("champion", "toy")[1]["page_url"].startswith(start)
    assert f"page: {start}" in shell("champion", "toy")[1]
