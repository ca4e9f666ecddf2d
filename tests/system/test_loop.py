"""The whole loop, told once on real servers by the demo's own story, and looked at from every side."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient

from perennial_demo import story
from tests.system.conftest import World

pytestmark = [pytest.mark.system, pytest.mark.timeout(420)]
DAG_ID = story.dag_id(story.FLIGHTS)
MAX_XCOM_BYTES = 2048


def tell(world: World) -> None:
    before = dict(os.environ)
    try:
        story.run(world.stack)
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def told(world: World) -> World:
    tell(world)
    return world


@pytest.fixture(scope="module")
def history(told: World) -> list[dict[str, Any]]:
    """The ledger as the command prints it."""
    entries: list[dict[str, Any]] = told.command.json("history", story.FLIGHTS)
    return entries


def of(history: list[dict[str, Any]], outcome: str) -> list[dict[str, Any]]:
    return [entry for entry in history if entry["outcome"] == outcome]


def test_history_tells_a_first_champion_a_replaced_one_and_a_kept_one(history: list[dict[str, Any]]) -> None:
    champions = [(entry["champion_before"], entry["champion_after"]) for entry in of(history, "PROMOTE")]
    assert champions[0] == (None, "1")
    assert any(before is not None and after != before for before, after in champions)
    kept = of(history, "REJECT") + of(history, "INCONCLUSIVE")
    assert kept
    assert all(entry["champion_before"] == entry["champion_after"] for entry in kept)
    assert all(entry["reasons"] for entry in of(history, "PROMOTE") + kept)


def test_each_entry_begins_with_the_champion_that_the_one_before_left(history: list[dict[str, Any]]) -> None:
    left = [None, *(entry["champion_after"] for entry in history)]
    assert [entry["champion_before"] for entry in history] == left[:-1]


def test_refused_day_is_a_failed_run_with_its_evidence_published(told: World, history: list[dict[str, Any]]) -> None:
    (entry,) = of(history, "refused")
    assert told.stack.airflow.run(DAG_ID, entry["request"]["run_id"]).state == "failed"
    assert told.runtime.store.read(entry["page_uri"]).startswith(b"<!doctype html>")
    quarantine = entry["references"]["validation"]["quarantine_uri"]
    assert told.runtime.store.head(quarantine) is not None
    tasks = told.stack.airflow.task_instances(DAG_ID, entry["request"]["run_id"])
    states = {task.task_id: (task.state, task.try_number) for task in tasks}
    assert states["validate_data"] == ("failed", 1)
    assert states["train_challenger"][0] == "upstream_failed"


def test_night_with_nothing_new_is_green_and_says_so(told: World, history: list[dict[str, Any]]) -> None:
    entry = of(history, "nothing new")[0]
    run_id = entry["request"]["run_id"]
    assert told.stack.airflow.run(DAG_ID, run_id).state == "success"
    states = {task.task_id: task.state for task in told.stack.airflow.task_instances(DAG_ID, run_id)}
    assert states.pop("snapshot_data") == "success"
    assert set(states.values()) == {"skipped"}


def test_every_verdict_is_a_green_run(told: World, history: list[dict[str, Any]]) -> None:
    for entry in history:
        if entry["kind"] == "decision":
            assert told.stack.airflow.run(DAG_ID, entry["request"]["run_id"]).state == "success"


def test_champion_is_the_same_for_the_command_mlflow_and_the_ledger(told: World, history: list[dict[str, Any]]) -> None:
    champion = told.command.json("champion", story.FLIGHTS)
    client = MlflowClient(tracking_uri=told.stack.mlflow_url, registry_uri=told.stack.mlflow_url)
    alias = client.get_model_version_by_alias(story.FLIGHTS, "champion")
    assert champion["version"] == alias.version == history[-1]["champion_after"]
    assert champion["digest"] == alias.tags["perennial.digest"]
    promotion = next(e for e in reversed(history) if e["promoted"])
    assert (champion["since"], champion["why"]) == (promotion["recorded_at"], promotion["summary"])


def test_runs_were_started_by_rest_and_by_the_landing_sensor(told: World, history: list[dict[str, Any]]) -> None:
    types = {run.run_type for run in told.stack.airflow.runs(DAG_ID)}
    assert {"manual", "asset_triggered"} <= types
    assert {"manual", "new_data"} <= {entry["request"]["trigger"] for entry in history}


def test_second_model_has_its_own_champion_of_another_task(told: World) -> None:
    champion = told.command.json("champion", story.DIABETES)
    assert champion["version"] == "1"
    (entry,) = told.command.json("history", story.DIABETES)
    assert (entry["outcome"], entry["champion_after"]) == ("PROMOTE", "1")


def test_no_xcom_is_larger_than_a_reference(told: World) -> None:
    sizes = {}
    for model in story.MODELS:
        dag_id = story.dag_id(model)
        for run in told.stack.airflow.runs(dag_id):
            listed = told.api(f"/dags/{dag_id}/dagRuns/{run.run_id}/taskInstances/~/xcomEntries?limit=100")
            assert listed["total_entries"] <= 100
            for entry in listed["xcom_entries"]:
                where = f"{run.run_id}/taskInstances/{entry['task_id']}/xcomEntries/{entry['key']}"
                value = told.api(f"/dags/{dag_id}/dagRuns/{where}?deserialize=false")["value"]
                sizes[where] = len(json.dumps(value).encode())
    assert len(sizes) > 40
    assert max(sizes.values()) <= MAX_XCOM_BYTES, max(sizes.items(), key=lambda item: item[1])


@pytest.mark.parametrize(("task_id", "name"), [("validate_data", "Validation report"), ("decide", "Decision")])
def test_button_of_a_task_opens_its_page_for_those_who_may_read_the_dag(
    told: World, history: list[dict[str, Any]], task_id: str, name: str
) -> None:
    run_id = of(history, "PROMOTE")[-1]["request"]["run_id"]
    page = opened(told, run_id, task_id, name)
    assert page.status_code == 200, page.text
    assert page.headers["content-type"].startswith("text/html")
    assert "<!doctype html>" in page.text
    assert story.FLIGHTS in page.text


def test_button_is_there_on_the_task_that_refused_the_data(told: World, history: list[dict[str, Any]]) -> None:
    page = opened(told, of(history, "refused")[0]["request"]["run_id"], "validate_data", "Validation report")
    assert page.status_code == 200
    assert re.search(r"refused|failed", page.text, re.IGNORECASE)


def test_pages_ask_for_a_login_exactly_if_airflow_does(told: World, history: list[dict[str, Any]]) -> None:
    run_id = of(history, "PROMOTE")[-1]["request"]["run_id"]
    url = link(told, run_id, "decide", "Decision")
    airflow = told.get(f"/api/v2/dags/{DAG_ID}", authorized=False)
    assert told.get(url, authorized=False).status_code == airflow.status_code


def link(world: World, run_id: str, task_id: str, name: str) -> str:
    url = world.api(f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{task_id}/links")["extra_links"][name]
    assert url.startswith(world.stack.airflow_url)
    return str(url)


def opened(world: World, run_id: str, task_id: str, name: str) -> httpx.Response:
    return world.get(link(world, run_id, task_id, name))


def test_airflow_lists_no_import_error(told: World) -> None:
    assert told.stack.airflow.import_errors() == []


def test_no_secret_is_in_a_task_log_the_ledger_or_an_artifact(told: World) -> None:
    secret = told.stack.environment["AWS_SECRET_ACCESS_KEY"].encode()
    files = [path for folder in (told.stack.home.airflow / "logs", told.stack.home.s3) for path in folder.rglob("*")]
    files += list(told.stack.home.logs.iterdir())
    assert [path for path in files if path.is_file() and secret in path.read_bytes()] == []


def test_story_told_again_promotes_nothing_and_keeps_the_ledger(told: World) -> None:
    def state() -> dict[str, Any]:
        return {
            model: (told.versions(model), told.command.json("champion", model), told.command.json("history", model))
            for model in story.MODELS
        }

    before = state()
    tell(told)
    for model, (versions, champion, entries) in state().items():
        versions_before, champion_before, entries_before = before[model]
        assert versions == versions_before
        assert champion == champion_before
        assert entries[: len(entries_before)] == entries_before
        assert not [entry for entry in entries[len(entries_before) :] if entry["promoted"]]
