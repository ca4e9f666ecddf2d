"""Real servers for the tests of the whole: started once, on free ports, in a home of their own, always stopped."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import httpx
import pytest
import yaml
from mlflow import MlflowClient
from rich.console import Console

from diabetes.publisher import publish
from perennial.addresses import retrain_dag_id
from perennial.champion_door import anchors
from perennial.runtime import Runtime, build_runtime
from perennial.settings import load_settings
from perennial_demo import process
from perennial_demo.airflow_api import AirflowApi, DagRun, Question
from perennial_demo.airflow_settings import base_environ
from perennial_demo.home import REPOSITORY, Home
from perennial_demo.ports import Ports, free_port
from perennial_demo.stack import Stack

COMMAND = Path(sys.executable).parent / "perennial"


@dataclass(frozen=True)
class Command:
    """The installed command `perennial`, as somebody in a shell has it: PERENNIAL_HOME is all it is told."""

    home: Path

    def __call__(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(COMMAND), *arguments],
            env={"PERENNIAL_HOME": str(self.home), "PATH": os.environ["PATH"], **environ},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def json(self, *arguments: str, code: int = 0, **environ: str) -> Any:
        """What it prints with `--json`."""
        done = self(*arguments, "--json", **environ)
        assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared stack come last, so that no other test has its servers running beside it."""
    items.sort(key=lambda item: "world" in getattr(item, "fixturenames", ()))


def free_ports() -> Ports:
    return Ports(airflow=free_port(), mlflow=free_port(), s3=free_port(), scoring=free_port())


@pytest.fixture(scope="session")
def make_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Stack]]:
    """Stacks with homes of their own; whatever they started is ended with the session."""
    stacks: list[Stack] = []

    def make(name: str, *, environ: dict[str, str] | None = None, **more: Any) -> Stack:
        home = Home(tmp_path_factory.mktemp(name).resolve())
        given = {**os.environ, **(environ or {})}
        stacks.append(Stack(home, free_ports(), given, console=Console(file=io.StringIO(), width=200), **more))
        return stacks[-1]

    try:
        yield make
    finally:
        for stack in stacks:
            process.stop(stack.home.root, grace_s=5)


LENIENT = {
    "rule": {"kind": "non_inferiority", "margin": 1000.0},
    "floors": {"r2": -1000.0},
    "min_rows": 80,
    "cluster_by": "visit_date",
}
"""A gate for the diabetes example's twins that promotes nearly everything."""


class UnhurriedApi(AirflowApi):
    """Shows a question only once the scheduler knows that the process which asked has ended, as people see it.

    Airflow 3.3 takes an answer that comes sooner for a mistake of the task's, and runs it again: it asks once more.
    """

    def __init__(self, base_url: str, scheduler_log: Path) -> None:
        super().__init__(base_url)
        self._scheduler_log = scheduler_log
        self._first_seen_s: dict[str, float] = {}

    def pending_approvals(self, dag_id: str, run_id: str) -> list[Question]:
        told = self._scheduler_log.read_text(errors="replace")
        tries = {task.task_id: task.try_number for task in self.task_instances(dag_id, run_id)}
        ready = []
        for question in super().pending_approvals(dag_id, run_id):
            key = f"dag_id='{dag_id}', task_id='{question.task_id}', run_id='{run_id}', try_number="
            key += str(tries[question.task_id])
            # Should Airflow word it otherwise one day: nobody reads a page in less time than this.
            waited_s = time.monotonic() - self._first_seen_s.setdefault(key, time.monotonic())
            if f"executor event with state success for task instance TaskInstanceKey({key}," in told or waited_s > 15:
                ready.append(question)
        return ready


@dataclass(frozen=True)
class World:
    """The one stack that the tests share, and the folder in which its user keeps her models."""

    stack: Stack
    mine: Path
    kills: Path
    """A file `<model>.<stage>` here makes the process that ends this stage kill itself, once (`killer.py`)."""

    @property
    def command(self) -> Command:
        return Command(self.stack.home.root)

    @property
    def runtime(self) -> Runtime:
        """Of this process; its environment is left as it is."""
        values = self.stack.environment
        session = boto3.Session(
            aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
            region_name=values["AWS_DEFAULT_REGION"],
        )
        settings = load_settings({**values, "PERENNIAL_HOME": str(self.stack.home.root)})
        return build_runtime(settings, session=session)

    def get(self, path: str, *, authorized: bool = True) -> httpx.Response:
        """An address of Airflow, as a browser would ask for it."""
        base = self.stack.airflow_url
        with httpx.Client(base_url=base, timeout=30, trust_env=False) as client:
            token = client.get("/auth/token").raise_for_status().json()["access_token"] if authorized else None
            return client.get(path, headers={"Authorization": f"Bearer {token}"} if token else {})

    def api(self, path: str) -> dict[str, Any]:
        """What Airflow's REST API answers."""
        answer: dict[str, Any] = self.get(f"/api/v2{path}").raise_for_status().json()
        return answer

    def add_twin(self, name: str, **changes: Any) -> str:
        """A model like the diabetes example, by another name, that asks nobody; its DAG's id once Airflow has it."""
        spec = yaml.safe_load((self.mine / "models" / "diabetes_progression.yaml").read_text())
        spec.update({"name": name, "triggers": {}, "approval": {}, **changes})
        path = self.mine / "models" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec))
        dag_id = retrain_dag_id(name)
        try:
            self.stack.airflow.wait_for_dag(dag_id, timeout_s=60)
        except BaseException:
            path.unlink()  # a spec that breaks would fail the tests after this one too
            raise
        return dag_id

    def run(self, dag_id: str, *, timeout_s: float = 180, **conf: Any) -> DagRun:
        """Trigger a run and wait for its end."""
        started = self.stack.airflow.trigger(dag_id, conf=conf)
        return self.stack.airflow.wait_for_run(dag_id, started.run_id, timeout_s=timeout_s)

    def versions(self, model: str) -> list[str]:
        """The registered versions, as MLflow has them."""
        client = MlflowClient(tracking_uri=self.stack.mlflow_url, registry_uri=self.stack.mlflow_url)
        return sorted(version.version for version in client.search_model_versions(f"name = '{model}'"))

    def verify_ledgers(self) -> None:
        """All models' ledgers, against what MLflow noted of them."""
        runtime = self.runtime
        folder = f"{runtime.root}/ledger/"
        for model in sorted({info.uri.removeprefix(folder).split("/")[0] for info in runtime.store.list(folder)}):
            found = runtime.ledger.verify(model, anchors(runtime.registry, model))
            assert found.sound, "\n".join(damage.detail for damage in found.damages)

    def log_of(self, dag_id: str, run_id: str) -> str:
        """What all tasks of a run have logged, for the message of a test that fails."""
        told = []
        for task in self.stack.airflow.task_instances(dag_id, run_id):
            for number in range(1, task.try_number + 1):
                path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task.task_id}/logs/{number}"
                told.append(f"== {task.task_id} {task.state} try {number}")
                for line in self.api(f"{path}?full_content=true")["content"]:
                    told.append(str(line.get("event", "")) if isinstance(line, dict) else str(line))
                    errors = line.get("error_detail", []) if isinstance(line, dict) else []
                    told += [f"{error['exc_type']}: {error['exc_value']}" for error in errors]
        return "\n".join(told)


@pytest.fixture(scope="session")
def world(make_stack: Callable[..., Stack], tmp_path_factory: pytest.TempPathFactory) -> World:
    """Up and healthy, with the two examples' specs in a folder that tests may add to."""
    mine, kills = tmp_path_factory.mktemp("my"), tmp_path_factory.mktemp("kills")
    for folder in ("models", "expectations"):
        shutil.copytree(REPOSITORY / "include" / folder, mine / folder)
    overrides = {
        "PERENNIAL_TEST_KILLS": str(kills),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "killer"), _shipped_path()]),
        # What the tests break is back within seconds, and nobody wants to wait for more.
        "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "10",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
        "AIRFLOW__CORE__MAX_TASK_RETRY_DELAY": "4",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    stack = make_stack("world", environ={"PERENNIAL_SPECS": str(mine / "models")}, airflow_overrides=overrides)
    stack.airflow = UnhurriedApi(stack.airflow_url, stack.home.logs / "airflow-scheduler.log")
    stack.up()
    return World(stack, mine, kills)


@pytest.fixture(scope="module")
def landed(world: World) -> None:
    """The diabetes example's first six weeks, in the landing zone that its twins share."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in world.stack.environment.items():
            patch.setenv(key, value)
        publish(range(1, 7))


@pytest.fixture(autouse=True)
def every_ledger_is_sound(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did to the shared stack, kills included: its ledgers verify afterwards, each of them."""
    yield
    if "world" in request.fixturenames:
        request.getfixturevalue("world").verify_ledgers()


@pytest.fixture
def services(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same, with this process's environment pointing at it, as the examples' publishers need it."""
    for key, value in world.stack.environment.items():
        monkeypatch.setenv(key, value)
    return world


def _shipped_path() -> str:
    return base_environ({}, Home(REPOSITORY))["PYTHONPATH"]
