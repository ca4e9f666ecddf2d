"""Both model registries, each with a way to reach behind its back: at the files that it stores."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from sklearn.ensemble import HistGradientBoostingClassifier

from perennial.adapters.mlflow_registry import MlflowRegistry
from perennial.ports import FittedTraining
from perennial.testing.registry import MODEL_FILE, MemoryRegistry

Registry = Any


class Place(Protocol):
    """A registry, and what lies behind it."""

    registry: Registry
    estimator_file: str
    """The file with the fitted estimator."""

    def files(self, model_uri: str) -> dict[str, bytes]:
        """Content of each file of a model by its path."""
        ...

    def write(self, model_uri: str, path: str, content: bytes | None) -> None:
        """Change a file, add it, or (None) delete it."""
        ...

    def text(self, run_id: str, path: str) -> str:
        """What `log_text` kept."""
        ...

    def description(self, model: str, version: str) -> str:
        """What a person reads of a version."""
        ...

    def register_by_hand(self, model: str) -> str:
        """A version that is none of Perennial's."""
        ...

    def monitored(self, model: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """By monitoring run's name and metric the points, (step, value), as a person finds them."""
        ...


@dataclass
class Memory:
    registry: MemoryRegistry
    estimator_file: str = MODEL_FILE

    def files(self, model_uri: str) -> dict[str, bytes]:
        return dict(self.registry.files[model_uri])

    def write(self, model_uri: str, path: str, content: bytes | None) -> None:
        if content is None:
            del self.registry.files[model_uri][path]
        else:
            self.registry.files[model_uri][path] = content

    def text(self, run_id: str, path: str) -> str:
        return self.registry.texts[run_id][path]

    def description(self, model: str, version: str) -> str:
        return self.registry.description(model, version)

    def register_by_hand(self, model: str) -> str:
        return self.registry.register_by_hand(model)

    def monitored(self, model: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
        found: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for run, steps in self.registry.monitoring.items():
            for step, metrics in sorted(steps.items()) if model in run.split() else ():
                for name, value in metrics.items():
                    found.setdefault(run, {}).setdefault(name, []).append((step, value))
        return found


@dataclass
class Mlflow:
    registry: MlflowRegistry
    url: str
    artifacts: Path
    estimator_file: str = "model.skops"
    process_group: int = 0

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def folder(self, model_uri: str) -> Path:
        model_id = model_uri.removeprefix("models:/")
        (folder,) = [path.parent for path in self.artifacts.rglob("MLmodel") if model_id in path.parts]
        return folder

    def files(self, model_uri: str) -> dict[str, bytes]:
        folder = self.folder(model_uri)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    def write(self, model_uri: str, path: str, content: bytes | None) -> None:
        target = self.folder(model_uri) / path
        if content is None:
            target.unlink()
        else:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)

    def text(self, run_id: str, path: str) -> str:
        (found,) = [p for p in self.artifacts.rglob(Path(path).name) if run_id in p.parts]
        return found.read_text(encoding="utf-8")

    def description(self, model: str, version: str) -> str:
        return self.client.get_model_version(model, version).description or ""

    def register_by_hand(self, model: str) -> str:
        if not self.client.search_registered_models(f"name = '{model}'"):
            self.client.create_registered_model(model)
        return str(self.client.create_model_version(model, source="s3://elsewhere/model").version)

    def monitored(self, model: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
        experiment = self.client.get_experiment_by_name(f"perennial/{model}")
        assert experiment is not None
        return {
            str(run.info.run_name): {
                name: [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
            for run in self.client.search_runs([experiment.experiment_id])
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int = 0) -> Iterator[Mlflow]:
    """MLflow with SQLite and artifacts in the folder, in a process group of its own; port 0: any free one."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--serve-artifacts"]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri()]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_healthy(url, process)
        yield Mlflow(MlflowRegistry(url), url, folder / "artifacts", process_group=process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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


def training(
    model: str, fingerprint: str = "f" * 64, seed: int = 0, trusted_types: tuple[str, ...] = ()
) -> FittedTraining:
    """A small fitted classifier with everything that is logged of it."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": rng.normal(size=200), "b": rng.integers(0, 9, size=200)})
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
        keys_sha256="c" * 64,
        training_start=datetime(2013, 1, 1, tzinfo=UTC),
        training_end=datetime(2013, 3, 1, tzinfo=UTC),
        trusted_types=trusted_types,
        run_name="run",
    )
