"""The same seven steps as one plain script, written the usual way, with MLflow's defaults: the baseline of cycle.py.

Reads its task from argv[1] (JSON) and prints the seconds by step as JSON in its last line.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import io
import json
import resource
import sys
from pathlib import Path

import boto3
import great_expectations as gx
import mlflow
import mlflow.sklearn
import pandas as pd
from mlflow.tracking import MlflowClient
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    sys.path.append(task["include"])
    from flights.training import build_estimator

    clock = Steps()
    # 1 ingest: read every landed file
    s3 = boto3.client("s3")
    frames = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=task["bucket"], Prefix=task["prefix"]):
        for item in page.get("Contents", []):
            body = s3.get_object(Bucket=task["bucket"], Key=item["Key"])["Body"].read()
            frames.append(pd.read_parquet(io.BytesIO(body)))
    data = pd.concat(frames, ignore_index=True)
    start, cut, hold, end = (pd.Timestamp(task[name]) for name in ("start", "cut", "holdout", "end"))
    when = data["scheduled_departure"]
    data = data[(when >= start) & (when < end)]
    clock.done("ingest")
    # 2 validate
    context = gx.get_context(mode="ephemeral")
    suite = json.loads(Path(task["suite"]).read_text())
    expectations = gx.ExpectationSuite(name="suite", expectations=suite["expectations"])
    batch = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    definition = gx.ValidationDefinition(name="v", data=batch, suite=expectations)
    context.suites.add(expectations)
    definition = context.validation_definitions.add(definition)
    parameters = {"as_of": end, "watermark": end, "window_start": start, "window_end": end, "window_days": task["days"]}
    result = definition.run(batch_parameters={"dataframe": data}, expectation_parameters=parameters)
    if not result.success:
        raise SystemExit("the data failed its checks")
    clock.done("validate")
    # 3 train
    when = data["scheduled_departure"]
    train, test = data[(when >= start) & (when < cut)], data[when >= hold]
    features = task["features"]
    model = build_estimator(random_state=task["seed"], **task["params"]).fit(train[features], train["is_late"])
    clock.done("train")
    # 4 log
    mlflow.set_experiment("plain script")
    with mlflow.start_run() as run:
        mlflow.log_params(task["params"])
        mlflow.sklearn.log_model(
            model, name="model", input_example=train[features].head(5), skops_trusted_types=task["trusted"]
        )
        clock.done("log model")
        # 5 evaluate: challenger and champion on the holdout
        client = MlflowClient()
        name = task["name"]
        score = model.predict_proba(test[features])[:, 1]
        truth = test["is_late"]
        metrics = {
            "roc_auc": roc_auc_score(truth, score),
            "average_precision": average_precision_score(truth, score),
            "log_loss": log_loss(truth, score),
            "brier": brier_score_loss(truth, score),
        }
        mlflow.log_metrics({key: float(value) for key, value in metrics.items()})
    try:
        champion = mlflow.sklearn.load_model(f"models:/{name}@champion")
        champion_auc = roc_auc_score(truth, champion.predict_proba(test[features])[:, 1])
    except mlflow.exceptions.MlflowException:
        champion_auc = 0.0
    clock.done("evaluate")
    # 6 decide
    promote = metrics["roc_auc"] >= champion_auc - task["margin"]
    clock.done("decide")
    # 7 promote
    if promote:
        version = mlflow.register_model(f"runs:/{run.info.run_id}/model", name)
        client.set_registered_model_alias(name, "champion", version.version)
    clock.done("promote")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": clock.seconds, "promoted": bool(promote), "rows": len(data), "peak_mb": peak_mb}))


class Steps:
    """Seconds by step; the first counts from the script's first line, so it holds the imports' share apart."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.seconds = {"imports": self.last - BEGAN}

    def done(self, name: str) -> None:
        """End of a step."""
        now = time.perf_counter()
        self.seconds[name] = now - self.last
        self.last = now


if __name__ == "__main__":
    main()
