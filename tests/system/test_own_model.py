"""A model that is not in the repository: other data, another task, another estimator. Three files make it."""

from __future__ import annotations

import io
import json
import textwrap
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import numpy as np
import pytest
from sklearn.datasets import load_wine

from tests.system.conftest import World

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
DAG_ID = "perennial__wine__retrain"
FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)

SPEC = """
    name: wine
    description: From which of three growers does a wine come?
    owner: cellar
    task: multiclass_classification
    data:
      landing: s3://perennial/landing/wine/
      time_column: tasted_at
      label_column: grower
      key_columns: [bottle]
      feature_columns: [alcohol, malic_acid, ash, flavanoids, hue, proline]
      windows: {training: 20d, holdout: 8d}
    validation: {suite: wine.json}
    training:
      estimator: wine.training:build_estimator
      params: {strength: 1.0}
      seed: 3
    evaluation:
      primary: log_loss
      metrics: [accuracy]
    gate:
      rule: {kind: superiority, min_effect: 0.01}
      floors: {accuracy: 0.7}
      min_rows: 30
      cluster_by: tasting
      replicates: 500
"""
SUITE = {
    "expectations": [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "alcohol"}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "ash", "min_value": 0, "max_value": 10}},
    ]
}
TRAINING = '''
    """What somebody writes for a model of her own."""

    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler


    def build_estimator(*, strength: float, random_state: int):
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, random_state=random_state))
'''


@pytest.fixture(scope="module")
def wine(world: World) -> World:
    """The three files beside the other models, and 28 days of tastings landed."""
    write(world, "models/wine.yaml", SPEC)
    write(world, "expectations/wine.json", json.dumps(SUITE))
    write(world, "wine/training.py", TRAINING)
    frame = load_wine(as_frame=True).frame.rename(columns={"target": "grower"})
    frame = frame.iloc[np.random.default_rng(3).permutation(len(frame))].reset_index(drop=True)
    frame["bottle"] = [f"bottle-{number:03d}" for number in range(len(frame))]
    frame["tasted_at"] = [FIRST_DAY + timedelta(hours=28 * 24 * n / len(frame)) for n in range(len(frame))]
    frame["tasting"] = frame["tasted_at"].dt.date.astype(str)
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False)
    s3(world).put_object(Bucket="perennial", Key="landing/wine/tastings.parquet", Body=sink.getvalue())
    return world


def s3(world: World) -> Any:
    """A client of the stack's S3."""
    values = world.stack.environment
    return boto3.client(
        "s3",
        endpoint_url=values["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        region_name=values["AWS_DEFAULT_REGION"],
    )


def write(world: World, name: str, text: str) -> None:
    path = world.mine / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())


def test_three_files_give_a_model_that_is_checked_run_and_triggered_in_airflow(wine: World) -> None:
    specs = {"PERENNIAL_SPECS": str(wine.mine / "models")}
    checked = wine.command.json("check", **specs)
    assert checked["problems"] == []
    assert "wine" in checked["good"]
    entry = wine.command.json("run", "wine", "--as-of", "2020-02-01", "--reason", "first try", **specs)
    assert (entry["outcome"], entry["champion_after"]) == ("PROMOTE", "1"), entry["reasons"]
    assert entry["request"]["reason"] == "first try"
    assert entry["promoted"]
    assert set(entry["references"]) == {"snapshot", "model", "evaluation", "decision"}
    wine.stack.airflow.wait_for_dag(DAG_ID, timeout_s=60)
    # The same code and data by another way: Airflow finds that the command has judged them.
    run = wine.run(DAG_ID, as_of="2020-02-01T00:00:00Z")
    assert run.state == "success", wine.log_of(DAG_ID, run.run_id)
    forced = wine.run(DAG_ID, as_of="2020-02-01T00:00:00Z", force=True, params={"strength": 0.001})
    assert forced.state == "success", wine.log_of(DAG_ID, forced.run_id)
    history = wine.command.json("history", "wine", **specs)
    assert [entry["outcome"] for entry in history][:3] == ["PROMOTE", "promotion", "nothing new"]
    judged = history[3]
    assert judged["outcome"] in {"REJECT", "INCONCLUSIVE"}
    assert judged["request"]["params"] == {"strength": 0.001}
    assert len(history) == 4
    first, *later = history
    assert (first["champion_before"], first["champion_after"]) == (None, None)
    assert {entry["champion_after"] for entry in later} == {"1"}
    assert wine.versions("wine") == ["1"]


def test_entry_that_is_changed_removed_or_put_there_is_found_and_named(wine: World) -> None:
    specs = {"PERENNIAL_SPECS": str(wine.mine / "models")}
    client = s3(wine)
    listed = client.list_objects_v2(Bucket="perennial", Prefix="store/ledger/wine/")["Contents"]
    keys = sorted(item["Key"] for item in listed)
    whole = {key: client.get_object(Bucket="perennial", Key=key)["Body"].read() for key in keys}
    changed = whole[keys[1]].replace(b'"champion_after":"1"', b'"champion_after":"7"', 1)
    assert changed != whole[keys[1]]
    forged = keys[1].replace("00000002-", "00000005-")
    newest = keys[-1]

    def verified(*, code: int) -> dict[str, Any]:
        found: dict[str, Any] = wine.command.json("history", "wine", "--verify", code=code, **specs)
        return found

    for key, content, kind, sequence in (
        (keys[1], changed, "changed", 2),
        (keys[1], None, "missing", 2),
        (newest, None, "cut_off", len(keys)),
        (forged, whole[keys[1]], "forged", 5),
    ):
        try:
            put(client, key, content)
            (damage,) = verified(code=1)["damages"]
            assert (damage["kind"], damage["sequence"]) == (kind, sequence)
            named = f"s3://perennial/{key}" if content is not None else "s3://perennial/store/ledger/wine/"
            assert damage["uri"] == named
            told = wine.command("history", "wine", "--verify", **specs)
            assert told.returncode == 1
            assert f"entry {sequence}: {kind.replace('_', ' ')}: {named}" in told.stdout
        finally:
            put(client, key, whole.get(key))
        assert verified(code=0)["entries"] == len(keys)


def put(client: Any, key: str, content: bytes | None) -> None:
    """Put the bytes there, or take the object away."""
    if content is None:
        client.delete_object(Bucket="perennial", Key=key)
    else:
        client.put_object(Bucket="perennial", Key=key, Body=content)
