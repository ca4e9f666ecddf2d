"""One suite for the registry's fake and for MLflow behind a real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from perennial.adapters.mlflow_registry import MlflowRegistry
from perennial.domain.references import ModelRef
from perennial.errors import ChampionUnusableError, IntegrityError, RegistryUnavailableError, TerminalError
from perennial.ports import FittedTraining, ModelRegistry
from perennial.testing.registry import MemoryRegistry

Registry = Any


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            pytest.fail(f"mlflow server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("mlflow server did not become healthy in 60 s")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--serve-artifacts"]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri()]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_healthy(url, process)
        yield url, folder / "artifacts"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(params=["memory", "mlflow"])
def registry(request: pytest.FixtureRequest) -> ModelRegistry:
    if request.param == "memory":
        return MemoryRegistry()
    url, _ = request.getfixturevalue("mlflow_server")
    return MlflowRegistry(url)


@pytest.fixture
def model() -> str:
    return f"model_{uuid.uuid4().hex[:8]}"


def _training(model: str, fingerprint: str = "f" * 64, seed: int = 0) -> FittedTraining:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": rng.normal(size=200), "b": rng.normal(size=200)})
    label = (frame["a"] + rng.normal(size=200) > 0).astype(int)
    estimator = HistGradientBoostingClassifier(max_iter=5, random_state=seed).fit(frame, label)
    return FittedTraining(
        model=model,
        task="binary_classification",
        estimator=estimator,
        params={"max_iter": 5, "seed": seed},
        metrics={"training_rows": 200.0},
        tags={"perennial.owner": "ops"},
        input_example=frame.head(5),
        output_example=estimator.predict_proba(frame.head(5)),
        dataset_uri="s3://bucket/manifest.json",
        dataset_sha256="d" * 64,
        dataset_rows=200,
        fingerprint=fingerprint,
        training_start=datetime(2013, 1, 1, tzinfo=UTC),
        training_end=datetime(2013, 3, 1, tzinfo=UTC),
        trusted_types=(),
        run_name="run",
    )


def test_training_of_a_fingerprint_is_found_again_with_every_field(registry: Registry, model: str) -> None:
    assert registry.find_training(model, "f" * 64) is None
    logged = registry.log_training(_training(model))
    assert registry.find_training(model, "f" * 64) == logged
    assert registry.find_training(model, "0" * 64) is None
    assert logged.training_end == datetime(2013, 3, 1, tzinfo=UTC)


def test_loaded_model_predicts_exactly_as_the_fitted_one(registry: Registry, model: str) -> None:
    training = _training(model)
    loaded = registry.load(registry.log_training(training))
    np.testing.assert_array_equal(loaded.predict_proba(training.input_example), training.output_example)


def test_load_with_another_digest_is_refused(registry: Registry, model: str) -> None:
    logged = registry.log_training(_training(model))
    with pytest.raises(IntegrityError, match="digest"):
        registry.load(replace(logged, digest="0" * 64))


def test_registering_one_digest_twice_gives_one_version(registry: Registry, model: str) -> None:
    first = registry.log_training(_training(model))
    second = registry.log_training(_training(model, fingerprint="e" * 64, seed=1))
    assert registry.register(model, first, {}) == "1"
    assert registry.register(model, second, {}) == "2"
    assert registry.register(model, first, {}) == "1"


def test_champion_is_none_until_the_alias_points_somewhere(registry: Registry, model: str) -> None:
    assert registry.champion(model) is None
    logged: ModelRef = registry.log_training(_training(model))
    version = registry.register(model, logged, {"perennial.decision_uri": "s3://bucket/decision.json"})
    assert registry.champion(model) is None
    registry.point_alias(model, "champion", version)
    champion = registry.champion(model)
    assert champion is not None
    assert (champion.version, champion.model) == (version, logged)


def test_run_url_and_annotations_are_accepted_for_a_finished_run(registry: Registry, model: str) -> None:
    logged = registry.log_training(_training(model))
    registry.annotate(logged.run_id, metrics={"holdout_roc_auc": 0.7}, tags={"perennial.verdict": "PROMOTE"})
    registry.annotate(logged.run_id, metrics={"holdout_roc_auc": 0.7}, tags={"perennial.verdict": "PROMOTE"})
    assert logged.run_id in registry.run_url(logged.run_id)


def test_changed_byte_on_the_artifact_store_is_refused(mlflow_server: tuple[str, Path], model: str) -> None:
    url, artifacts = mlflow_server
    registry = MlflowRegistry(url)
    logged = registry.log_training(_training(model))
    model_id = logged.model_uri.removeprefix("models:/")
    (path,) = [p for p in artifacts.rglob("model.skops") if model_id in str(p)]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=model_id):
        registry.load(logged)


def test_champion_registered_by_hand_is_told_as_unusable(mlflow_server: tuple[str, Path], model: str) -> None:
    from mlflow.tracking import MlflowClient

    url, _ = mlflow_server
    registry = MlflowRegistry(url)
    logged = registry.log_training(_training(model))
    client = MlflowClient(tracking_uri=url, registry_uri=url)
    client.create_registered_model(model)
    version = client.create_model_version(
        model, source=logged.model_uri, model_id=logged.model_uri.removeprefix("models:/")
    )
    client.set_registered_model_alias(model, "champion", version.version)
    with pytest.raises(ChampionUnusableError, match="Perennial did not register it"):
        registry.champion(model)


def test_type_that_nobody_vouched_for_is_refused_by_name(mlflow_server: tuple[str, Path], model: str) -> None:
    training = _training(model)
    training.estimator.note = _Stranger()
    with pytest.raises(TerminalError, match=r"_Stranger.*trusted_types"):
        MlflowRegistry(mlflow_server[0]).log_training(training)


def test_server_that_is_down_is_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailableError, match=r"did not answer|could not"):
        MlflowRegistry(f"http://127.0.0.1:{_free_port()}").champion("anything")


class _Stranger:
    """A type outside the libraries that skops has never heard of."""


def test_champion_version_is_told_whoever_registered_it(mlflow_server: tuple[str, Path], model: str) -> None:
    from mlflow.tracking import MlflowClient

    url, _ = mlflow_server
    client = MlflowClient(tracking_uri=url, registry_uri=url)
    assert MlflowRegistry(url).champion_version(model) is None
    client.create_registered_model(model)
    version = client.create_model_version(model, source="s3://elsewhere/model")
    client.set_registered_model_alias(model, "champion", version.version)
    assert MlflowRegistry(url).champion_version(model) == "1"


def test_training_that_cannot_be_logged_leaves_a_failed_run(mlflow_server: tuple[str, Path], model: str) -> None:
    from mlflow.tracking import MlflowClient

    training = _training(model)
    training.estimator.note = _Stranger()
    with pytest.raises(TerminalError):
        MlflowRegistry(mlflow_server[0]).log_training(training)
    client = MlflowClient(tracking_uri=mlflow_server[0])
    experiment = client.get_experiment_by_name(f"perennial/{model}")
    assert experiment is not None
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]


def test_credentials_in_the_servers_address_reach_neither_links_nor_errors(
    mlflow_server: tuple[str, Path], model: str
) -> None:
    url, _ = mlflow_server
    registry = MlflowRegistry(url.replace("://", "://joe:hunter2@"))
    logged = registry.log_training(_training(model))
    assert "hunter2" not in registry.run_url(logged.run_id)
    with pytest.raises(Exception, match="could not") as caught:
        registry.run_url("0" * 32)
    assert "hunter2" not in str(caught.value)
