"""docker-compose.yaml: valid against the Compose specification, and asking for nothing that is not there."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from perennial.serving.prediction_log import PredictionLog
from perennial.serving.settings import ServingSettings

LOG_CLOSES_S = inspect.signature(PredictionLog.close).parameters["timeout_s"].default
REPOSITORY = Path(__file__).parents[3]
COMPOSE = REPOSITORY / "docker-compose.yaml"
EXAMPLE = REPOSITORY / "docker" / "env.example"


@pytest.fixture
def filled_in(tmp_path: Path) -> Path:
    path = tmp_path / "env"
    path.write_text(re.sub(r"=$", "=abc123", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_file_is_valid_against_the_compose_specification(filled_in: Path) -> None:
    command = ["docker-compose", "--file", str(COMPOSE), "--env-file", str(filled_in), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_missing_secret_is_refused_by_name(filled_in: Path) -> None:
    text = filled_in.read_text(encoding="utf-8").replace("POSTGRES_PASSWORD=abc123\nM", "POSTGRES_PASSWORD=\nM")
    filled_in.write_text(text, encoding="utf-8")
    command = ["docker-compose", "--file", str(COMPOSE), "--env-file", str(filled_in), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "POSTGRES_PASSWORD" in done.stderr


def test_every_variable_it_asks_for_is_in_the_example() -> None:
    known = set(re.findall(r"^([A-Z][A-Z0-9_]*)=", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z][A-Z0-9_]*)", COMPOSE.read_text(encoding="utf-8")))
    with_defaults = {"PERENNIAL_AIRFLOW_PORT", "PERENNIAL_MLFLOW_PORT", "PERENNIAL_SCORING_PORT"}
    assert asked - with_defaults == known


def test_no_secret_has_a_default(document: dict[str, Any]) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    defaults = re.findall(r"\$\{([A-Z_]*(?:PASSWORD|SECRET|KEY)[A-Z_]*):?-", text)
    assert defaults == []
    assert document["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")


def test_only_loopback_ports_are_published(document: dict[str, Any]) -> None:
    ports = [port for service in document["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_scoring_service_keeps_its_cache_is_healthy_without_a_champion_and_may_drain(document: dict[str, Any]) -> None:
    service = document["services"]["scoring"]
    assert service["environment"]["PERENNIAL_HOME"] in {volume.split(":")[1] for volume in service["volumes"]}
    # Another service's data must not be its cache.
    assert [v.split(":")[0] for v in document["services"]["s3"]["volumes"]] != [service["volumes"][0].split(":")[0]]
    assert service["healthcheck"]["test"][-1].endswith(f":{ServingSettings().port}/models")
    assert service["ports"] == [f"127.0.0.1:${{PERENNIAL_SCORING_PORT:-8000}}:{ServingSettings().port}"]
    drains_s = ServingSettings().drain_s + ServingSettings().request_timeout_s + LOG_CLOSES_S
    assert int(service["stop_grace_period"].removesuffix("s")) > drains_s


def test_image_has_a_folder_of_its_user_for_every_volume(document: dict[str, Any]) -> None:
    text = (REPOSITORY / "docker/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    [folders] = re.findall(r"install --directory --owner=airflow --group=root((?: +/\S+)+)", text)
    volumes = [v for service in document["services"].values() if "build" in service for v in service.get("volumes", ())]
    mounted = {volume.split(":")[1] for volume in volumes if not volume.startswith("./")}
    assert mounted == {"/opt/airflow/logs", "/data"}
    assert mounted <= set(folders.split())
    # Airflow writes to these without a volume.
    bundles = document["x-airflow-environment"]["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH"]
    assert {"/opt/airflow", bundles} <= set(folders.split())


def test_mounted_and_named_files_exist(document: dict[str, Any]) -> None:
    for service in document["services"].values():
        for path in service.get("env_file", ()):
            assert (REPOSITORY / path).is_file(), path
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (REPOSITORY / volume.split(":")[0]).is_file(), volume
        if "build" in service:
            assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
    copied = re.findall(
        r"^COPY (?:--chown=\S+ )?(.+) \S+$", (REPOSITORY / "docker/Dockerfile").read_text(), re.MULTILINE
    )
    for name in " ".join(copied).split():
        assert (REPOSITORY / name).exists(), name
