"""The whole loop, told once on real servers by the demo's own story, and looked at from every side."""

from __future__ import annotations

import io
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from mlflow import MlflowClient

from perennial.addresses import monitor_dag_id, page_address, rollback_dag_id
from perennial.domain.ledger_entry import MOVES, OUTCOMES
from perennial.domain.references import MonitoringRef
from perennial_demo import story
from tests.system.conftest import World

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
DAG_ID = story.dag_id(story.FLIGHTS)
MAX_XCOM_BYTES = 2048
SOMEBODY = "Anonymous"
"""Whom SimpleAuthManager takes everybody for who comes without a login, where all are administrators."""


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


@pytest.fixture(scope="module")
def diabetes(told: World) -> list[dict[str, Any]]:
    """The other model's."""
    entries: list[dict[str, Any]] = told.command.json("history", story.DIABETES)
    return entries


def of(history: list[dict[str, Any]], outcome: str) -> list[dict[str, Any]]:
    return [entry for entry in history if entry["outcome"] == outcome]


def moves(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every change of the champion."""
    return [entry for entry in history if entry["kind"] in MOVES]


def run_of(entry: dict[str, Any]) -> str:
    return str(entry["request"]["run_id"])


def mlflow(world: World) -> MlflowClient:
    return MlflowClient(tracking_uri=world.stack.mlflow_url, registry_uri=world.stack.mlflow_url)


def test_history_tells_a_first_champion_a_replaced_one_and_a_kept_one(history: list[dict[str, Any]]) -> None:
    champions = [(entry["champion_before"], entry["champion_after"]) for entry in of(history, "promotion")]
    assert champions[0] == (None, "1")
    assert any(before is not None and after != before for before, after in champions)
    kept = of(history, "REJECT") + of(history, "INCONCLUSIVE")
    assert kept
    assert all(entry["reasons"] for entry in of(history, "PROMOTE") + kept)


def test_each_run_has_one_outcome_and_each_promotion_the_decision_that_it_carries_out(
    history: list[dict[str, Any]],
) -> None:
    outcomes = [run_of(entry) for entry in history if entry["kind"] in OUTCOMES]
    assert len(outcomes) == len(set(outcomes))
    assert {run_of(entry) for entry in history} - set(outcomes) == {run_of(entry) for entry in of(history, "rollback")}
    taken_back = {run_of(entry) for entry in of(history, "canary taken back")}
    decided = [
        (run_of(entry), entry["evidence_sha256"]) for entry in of(history, "PROMOTE") if run_of(entry) not in taken_back
    ]
    assert [(run_of(entry), entry["evidence_sha256"]) for entry in of(history, "promotion")] == decided
    assert all(entry["champion_before"] == entry["champion_after"] for entry in history if entry["kind"] not in MOVES)
    assert all(entry["champion_before"] != entry["champion_after"] for entry in moves(history))


def test_each_entry_begins_with_the_champion_that_the_one_before_left(history: list[dict[str, Any]]) -> None:
    assert [entry["sequence"] for entry in history] == list(range(1, len(history) + 1))
    for entries in (history, moves(history)):
        left = [None, *(entry["champion_after"] for entry in entries)]
        assert [entry["champion_before"] for entry in entries] == left[:-1]


def test_canary_takes_back_what_answers_otherwise_than_the_champion_and_the_next_one_wins(
    told: World, history: list[dict[str, Any]]
) -> None:
    (lost,), (won,) = of(history, "canary taken back"), of(history, "canary passed")
    assert lost["request"]["params"] == {"learning_rate": 0.002}
    assert "distance between the two models' predictions" in lost["summary"]
    assert list(lost["quarantined"]) == [lost["references"]["model"]["digest"]]
    assert (won["quarantined"], won["request"]["params"]) == ({}, {})
    promoted = of(history, "promotion")
    assert run_of(won) in {run_of(entry) for entry in promoted}
    assert lost["references"]["model"]["digest"] not in {entry["digest"] for entry in promoted}
    states = {task.task_id: task.state for task in told.stack.airflow.task_instances(DAG_ID, run_of(lost))}
    assert (states["canary"], states["promote_if_better"]) == ("success", "skipped")
    assert told.stack.airflow.run(DAG_ID, run_of(lost)).state == "success"
    for entry in (lost, won):
        page = opened(told, run_of(entry), "canary", "Rollout")
        assert page.status_code == 200
        assert f"<title>{entry['outcome']}: {story.FLIGHTS}</title>" in page.text


def test_drift_of_the_requests_was_alerted_once_and_its_run_won(told: World, history: list[dict[str, Any]]) -> None:
    (run,) = [run for run in told.stack.airflow.runs(DAG_ID) if run.run_id.startswith("drift__")]
    # Several signals may speak of the same summer: one starts the run, the others are coalesced with it.
    ends = [(record["alert"], record["outcomes"][-1]) for record in told.command.json("alert", story.FLIGHTS, "--list")]
    assert {alert["source"] for alert, _ in ends} == {"monitor"}
    assert {end["run_id"] for _, end in ends} == {run.run_id}
    (alert,) = [alert for alert, end in ends if end["fate"] == "started"]
    assert run.conf["alert"]["alert_id"] == alert["alert_id"]
    assert alert["summary"] in (run.note or "")
    (promoted,) = [entry for entry in of(history, "promotion") if run_of(entry) == run.run_id]
    assert promoted["request"]["trigger"] == "drift"
    assert promoted["request"]["reason"]


def test_look_of_the_monitor_has_its_page_for_those_who_may_read_the_dag(told: World) -> None:
    dag = monitor_dag_id(story.FLIGHTS)
    looks = [run for run in told.stack.airflow.runs(dag) if run.state == "success"]
    seen = MonitoringRef.from_dict(told.stack.airflow.xcom(dag, looks[0].run_id, "observe"))
    path = page_address(
        seen.page_uri or "", root=told.runtime.root, model=story.FLIGHTS, airflow_url=told.stack.airflow_url
    ).removeprefix(told.stack.airflow_url)
    page = told.get(path)
    assert page.status_code == 200
    assert "temp" in page.text


def test_champion_of_the_story_answers_requests(told: World, history: list[dict[str, Any]]) -> None:
    url = told.stack.scoring_url
    assert url is not None
    (served,) = httpx.get(f"{url}/models", trust_env=False).raise_for_status().json()["models"]
    champion = told.command.json("champion", story.FLIGHTS)
    assert served["champion"]["version"] == champion["version"]
    assert served["champion"]["digest"] == champion["digest"]
    assert (served["challenger"], served["problem"]) == (None, None)
    assert httpx.get(f"{url}/ping", trust_env=False).status_code == 200


def test_requests_of_the_story_are_in_the_prediction_log_with_who_answered_and_some_outcomes(told: World) -> None:
    store, root = told.runtime.store, told.runtime.root
    logged = [info.uri for info in store.list(f"{root}/predictions/{story.FLIGHTS}/")]
    frames = [pd.read_parquet(io.BytesIO(store.read(uri))) for uri in logged]
    rows = pd.concat(frames)
    assert set(rows["role"]) == {"champion", "canary"}
    assert rows["error"].isna().all()
    assert rows["request_id"].is_unique
    told_later = [info.uri for info in store.list(f"{root}/labels/{story.FLIGHTS}/")]
    labels = pd.concat([pd.read_parquet(io.BytesIO(store.read(uri))) for uri in told_later])
    assert len(set(labels["request_id"]) & set(rows["request_id"])) > 100


def test_rollback_is_on_record_with_who_why_and_what_it_keeps_out(told: World, history: list[dict[str, Any]]) -> None:
    (entry,) = of(history, "rollback")
    before, replaced = moves(history)[-2], moves(history)[-3]
    assert entry == moves(history)[-1]
    assert (entry["champion_before"], entry["champion_after"]) == (before["champion_after"], before["champion_before"])
    assert list(entry["quarantined"]) == [before["digest"]]
    assert entry["digest"] == replaced["digest"] != before["digest"]
    assert entry["actor"] == entry["request"]["requested_by"] == SOMEBODY
    assert entry["reasons"] == ["complaints about too many false alarms"]
    assert told.stack.airflow.run(rollback_dag_id(story.FLIGHTS), run_of(entry)).state == "success"


def test_approval_is_on_record_with_who_gave_it_and_for_which_decision(
    told: World, diabetes: list[dict[str, Any]]
) -> None:
    decision, approval, promotion = diabetes
    assert [entry["kind"] for entry in diabetes] == ["decision", "approval", "promotion"]
    assert len({run_of(entry) for entry in diabetes}) == 1
    assert (approval["approved"], approval["actor"], promotion["actor"]) == (True, SOMEBODY, SOMEBODY)
    judged = {entry["references"]["decision"]["sha256"] for entry in (approval, promotion)}
    assert judged == {decision["evidence_sha256"]}
    answered_at = promotion["references"]["approval"]["at"]
    moments = [decision["recorded_at"], answered_at, approval["recorded_at"], promotion["recorded_at"]]
    assert moments == sorted(moments, key=datetime.fromisoformat)
    assert told.command.json("champion", story.DIABETES)["approver"] == SOMEBODY


@pytest.mark.parametrize("model", story.MODELS)
def test_ledger_of_the_story_is_sound_and_mlflow_vouches_for_it(told: World, model: str) -> None:
    done = told.command("history", model, "--verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("sound: ")
    found = told.command.json("history", model, "--verify")
    assert (found["sound"], found["damages"], found["notes"]) == (True, [], [])
    assert found["entries"] == len(told.command.json("history", model))
    # A version that never was champion has nothing to vouch for.
    promoted = of(told.command.json("history", model), "promotion")
    assert found["anchors"] == len({entry["champion_after"] for entry in promoted})


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
    alias = mlflow(told).get_model_version_by_alias(story.FLIGHTS, "champion")
    assert champion["version"] == alias.version == history[-1]["champion_after"]
    assert champion["digest"] == alias.tags["perennial.digest"]
    move = moves(history)[-1]
    assert champion["digest"] == move["digest"]
    assert (champion["how"], champion["since"], champion["why"]) == ("rollback", move["recorded_at"], move["summary"])


def test_champion_of_a_moment_is_what_the_ledger_says_of_it(told: World, history: list[dict[str, Any]]) -> None:
    for move in moves(history):
        answer = told.command.json("champion", story.FLIGHTS, "--at", move["recorded_at"])
        assert (answer["version"], answer["how"]) == (move["champion_after"], move["kind"])
        assert (answer["by"], answer["since"]) == ("recorded_at", move["recorded_at"])
        assert answer["digest"] == move["digest"]
        assert answer["snapshot_sha256"] == move["references"]["model"]["snapshot_sha256"]
        assert json.loads(told.runtime.store.read(answer["snapshot_uri"]))
    first, second = of(history, "promotion")[:2]
    june, july = (entry["references"]["snapshot"]["watermark"] for entry in (first, second))
    for moment, version in ((june, first["champion_after"]), (july, second["champion_after"])):
        answer = told.command.json("champion", story.FLIGHTS, "--at", moment)
        assert (answer["by"], answer["version"], answer["since"]) == ("data", version, moment)
    nobody = told.command.json("champion", story.FLIGHTS, "--at", "2012-12-31", code=1)
    assert (nobody["version"], nobody["digest"]) == (None, None)


def test_runs_were_started_by_rest_and_by_the_landing_sensor(told: World, history: list[dict[str, Any]]) -> None:
    types = {run.run_type for run in told.stack.airflow.runs(DAG_ID)}
    assert {"manual", "asset_triggered"} <= types
    assert {"manual", "new_data", "drift"} <= {entry["request"]["trigger"] for entry in history}


def test_second_model_has_its_own_champion_of_another_task(told: World, diabetes: list[dict[str, Any]]) -> None:
    champion = told.command.json("champion", story.DIABETES)
    assert champion["version"] == "1"
    (decision,) = (entry for entry in diabetes if entry["kind"] in OUTCOMES)
    (move,) = moves(diabetes)
    assert (decision["outcome"], move["outcome"], move["champion_after"]) == ("PROMOTE", "promotion", "1")
    assert move["digest"] == champion["digest"]


def test_no_xcom_is_larger_than_a_reference(told: World) -> None:
    sizes = {}
    for dag_id in (*(story.dag_id(model) for model in story.MODELS), rollback_dag_id(story.FLIGHTS)):
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


def test_page_of_a_decision_draws_roc_and_calibration_of_both_models(
    told: World, history: list[dict[str, Any]]
) -> None:
    text = opened(told, run_of(of(history, "promotion")[-1]), "decide", "Decision").text
    for title in ("ROC", "Calibration"):
        (drawing,) = re.findall(rf'<svg class="curve"[^>]* aria-label="{title};.*?</svg>', text, re.DOTALL)
        for who in ("champion", "challenger"):
            (points,) = re.findall(rf'<g class="{who}"><polyline points="([^"]*)"', drawing)
            assert len(points.split()) >= 3
    assert not re.findall(r"<(?:script|link|img|iframe)\b|@import|url\(", text)


def test_version_in_mlflow_has_its_model_card_and_leads_to_the_decision(
    told: World, history: list[dict[str, Any]], diabetes: list[dict[str, Any]], tmp_path: Path
) -> None:
    for entry in of(history, "promotion") + of(diabetes, "promotion"):
        version = mlflow(told).get_model_version(entry["model"], entry["champion_after"])
        title, _, _ = version.description.partition("\n")
        assert title == f"# Model card: {entry['model']}".replace("_", "\\_")
        for fact in ("## Intended use", entry["digest"], entry["references"]["snapshot"]["sha256"]):
            assert fact in version.description
        folder = tmp_path / f"{entry['model']}-{version.version}"
        folder.mkdir()
        logged = mlflow(told).download_artifacts(version.run_id, "model_card.md", str(folder))
        assert Path(logged).read_text(encoding="utf-8") == version.description
        assert version.tags["perennial.decision_url"] == entry["page_url"]
        page = told.get(version.tags["perennial.decision_url"])
        assert page.status_code == 200
        assert entry["model"] in page.text
        assert entry["verdict"] in page.text


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
    values = told.stack.environment
    secrets = [values["AWS_SECRET_ACCESS_KEY"].encode(), values["PERENNIAL_WEBHOOK_KEY"].partition(":")[2].encode()]
    files = [path for folder in (told.stack.home.airflow / "logs", told.stack.home.s3) for path in folder.rglob("*")]
    files += list(told.stack.home.logs.iterdir())
    contents = ((path, path.read_bytes()) for path in files if path.is_file())
    assert [path for path, content in contents if any(secret in content for secret in secrets)] == []


def test_story_told_again_moves_nothing_and_keeps_the_ledger(told: World) -> None:
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
        added = entries[len(entries_before) :]
        assert added
        assert {entry["kind"] for entry in added} == {"nothing_new"}
