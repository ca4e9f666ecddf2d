"""Fixtures of more than one contract suite."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator

import pytest
from tests.contract.kserve_schema import NotFetchedError, Problems, validator
from tests.contract.registries import Memory, Mlflow, Place, Registry, mlflow_server
from tests.contract.s3_servers import Server, moto_server, rclone_server

from perennial.testing.registry import MemoryRegistry


@pytest.fixture(scope="session")
def mlflow_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as place:
        yield place


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    return "t" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]


@pytest.fixture(scope="session")
def moto_running() -> Iterator[Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(params=["memory", "mlflow"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return Memory(MemoryRegistry())
    mlflow_place: Mlflow = request.getfixturevalue("mlflow_place")
    return mlflow_place


@pytest.fixture
def registry(place: Place) -> Registry:
    return place.registry


@pytest.fixture
def model() -> str:
    return f"model_{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def kserve_schema(tmp_path_factory: pytest.TempPathFactory) -> Problems | NotFetchedError:
    """What finds the mistakes in an InferenceService; the error, if the schema cannot be had."""
    try:
        return validator(tmp_path_factory.getbasetemp().parent / "perennial-kserve-schema")
    except NotFetchedError as error:
        return error
