"""The demo's real servers: started, used, killed, started again, stopped. Minutes, not seconds."""

from __future__ import annotations

import io
import os
import socket
import sqlite3
import subprocess
import sys
import textwrap

import httpx
import pytest
from rich.console import Console

from perennial.settings import load_settings
from perennial_demo import process
from perennial_demo.environment import read_env_file
from perennial_demo.home import REPOSITORY, Home
from perennial_demo.ports import Ports, free_port
from perennial_demo.stack import Stack

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

DAG = """
    from airflow.sdk import dag, task

    @dag(schedule=None)
    def trivial():
        @task
        def say(params):
            print("hello from the task")
            return len(params)

        @task
        def add(number):
            return number + 1

        add(say())

    trivial()
"""


@pytest.fixture(scope="module")
def dags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dags")
    (folder / "trivial.py").write_text(textwrap.dedent(DAG))
    return folder


@pytest.fixture(scope="module")
def ports():
    return Ports(airflow=free_port(), mlflow=free_port(), s3=free_port(), scoring=free_port())


@pytest.fixture(scope="module")
def make_stack(tmp_path_factory, dags, ports):
    """A new `Stack` object for one and the same home, as a new `make demo` would have."""
    home = Home((tmp_path_factory.mktemp("state") / "a home with spaces").resolve())
    bundle = {
        "name": "test",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(dags)},
    }

    def make():
        return Stack(
            home,
            ports,
            dict(os.environ),
            bundles=[bundle],
            # What is under test here are the services; the reference backend has tests of its own.
            airflow_overrides={"AIRFLOW__CORE__XCOM_BACKEND": "airflow.sdk.execution_time.xcom.BaseXCom"},
            console=Console(file=io.StringIO(), width=200),
        )

    yield make
    process.stop(home.root, grace_s=5)


@pytest.fixture
def stack(make_stack):
    """Up, whatever the test before has left."""
    stack = make_stack()
    stack.up()
    return stack


def run_trivial_dag(stack):
    stack.airflow.wait_for_dag("trivial", timeout_s=60)
    run = stack.airflow.trigger("trivial", conf={"a": 1})
    return stack.airflow.wait_for_run("trivial", run.run_id, timeout_s=120)


def pids(stack):
    return {entry.service.name: entry.pid for entry in stack.status()}


def test_dag_triggered_over_rest_runs_and_its_log_can_be_read(stack):
    run = run_trivial_dag(stack)
    assert run.state == "success"
    assert run.conf == {"a": 1}
    tasks = {task.task_id: task.state for task in stack.airflow.task_instances("trivial", run.run_id)}
    assert tasks == {"say": "success", "add": "success"}
    assert "hello from the task" in stack.airflow.task_log("trivial", run.run_id, "say")
    assert stack.airflow.import_errors() == []
    assert run.run_id in [known.run_id for known in stack.airflow.runs("trivial")]


def test_dag_file_that_changes_shows_up_within_seconds(stack, dags):
    (dags / "second.py").write_text(textwrap.dedent(DAG).replace("trivial", "second"))
    stack.airflow.wait_for_dag("second", timeout_s=30)


def test_objects_of_every_size_can_be_written_and_read(stack, monkeypatch, tmp_path):
    s3 = s3_client(stack, monkeypatch)
    for size_bytes in (0, 10, 1 << 20, 20 << 20):  # the last is uploaded in parts
        path = tmp_path / "object"
        path.write_bytes(os.urandom(size_bytes))
        s3.upload_file(str(path), "perennial", f"store/test/{size_bytes}")
        assert s3.get_object(Bucket="perennial", Key=f"store/test/{size_bytes}")["Body"].read() == path.read_bytes()
    listed = s3.list_objects_v2(Bucket="perennial", Prefix="store/test/")["Contents"]
    assert sorted(item["Size"] for item in listed) == [0, 10, 1 << 20, 20 << 20]


def test_s3_with_a_wrong_key_is_refused(stack, monkeypatch):
    from botocore.exceptions import ClientError

    s3 = s3_client(stack, monkeypatch, AWS_SECRET_ACCESS_KEY="wrong")
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|AccessDenied"):
        s3.list_objects_v2(Bucket="perennial")


def test_mlflow_keeps_a_model_with_its_artifacts_on_s3(stack, monkeypatch):
    import mlflow

    for key, value in stack.environment.items():
        monkeypatch.setenv(key, value)
    client = mlflow.MlflowClient(tracking_uri=stack.mlflow_url, registry_uri=stack.mlflow_url)
    experiment = client.create_experiment(f"test-{os.urandom(4).hex()}")
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "hello", "note.txt")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    keys = [
        item["Key"]
        for item in s3_client(stack, monkeypatch).list_objects_v2(Bucket="perennial", Prefix="mlflow/")["Contents"]
    ]
    assert [key for key in keys if key.endswith(f"{run.info.run_id}/artifacts/note.txt")]


def test_command_finds_the_services_through_the_environment_file(stack):
    settings = load_settings({"PERENNIAL_HOME": str(stack.home.root)})
    assert settings.mlflow_tracking_uri == stack.mlflow_url
    assert settings.airflow_url == stack.airflow_url
    assert settings.s3_endpoint == stack.s3_url


def test_scoring_service_is_up_and_says_that_it_cannot_score_before_there_is_a_champion(stack):
    (served,) = httpx.get(f"{stack.scoring_url}/models", trust_env=False).json()["models"]
    assert (served["model"], served["champion"]) == ("flights_delay", None)
    assert httpx.get(f"{stack.scoring_url}/ping", trust_env=False).status_code == 503


def test_databases_are_in_write_ahead_mode(stack):
    for database in (stack.home.airflow / "airflow.db", stack.home.mlflow / "mlflow.db"):
        with sqlite3.connect(database) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_every_port_is_on_the_loopback_interface(stack, ports):
    listening = set()
    for member in process.marked(stack.home.root):
        listening |= {
            (c.laddr.ip, c.laddr.port) for c in member.net_connections(kind="inet") if c.status in ("LISTEN", "NONE")
        }
    assert listening == {("127.0.0.1", port) for port in (ports.airflow, ports.mlflow, ports.s3, ports.scoring)}


def test_no_secret_is_in_a_log_or_on_a_command_line(stack):
    secrets = [stack.environment["AWS_SECRET_ACCESS_KEY"], *read_env_file(stack.home.airflow_secrets_file).values()]
    texts = [" ".join(member.cmdline()) for member in process.marked(stack.home.root)]
    texts += [log.read_text(errors="replace") for log in stack.home.logs.iterdir()]
    assert not [text[:200] for text in texts for secret in secrets if secret in text]


def test_up_while_it_runs_leaves_every_service_alone(stack, make_stack):
    before = pids(stack)
    again = make_stack()
    again.up()
    assert pids(again) == before


def test_up_after_the_power_was_lost_keeps_the_state_and_spares_strangers(stack, make_stack):
    run_id = run_trivial_dag(stack).run_id
    s3_pid = pids(stack)["s3"]
    for member in process.marked(stack.home.root):
        member.kill()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    try:
        # The pid of a service belongs to somebody else when the machine is back.
        record = stack.home.pids / "s3.json"
        record.write_text(record.read_text().replace(f'"pid": {s3_pid}', f'"pid": {stranger.pid}'))
        again = make_stack()
        again.up()
        assert {entry.problem for entry in again.status()} == {None}
        assert stranger.poll() is None
        assert run_id in [run.run_id for run in again.airflow.runs("trivial")]
        assert run_trivial_dag(again).state == "success"
    finally:
        stranger.kill()
        stranger.wait()


def test_one_dead_service_is_started_again(stack, make_stack):
    for member in process.marked(stack.home.root, {"airflow-scheduler"}):
        member.kill()
    again = make_stack()
    again.up()
    assert run_trivial_dag(again).state == "success"


def test_stop_leaves_no_process_and_no_port(stack, ports):
    run = stack.airflow.trigger("trivial")  # in the middle of work
    assert run.state == "queued"
    environ = {**os.environ, "PERENNIAL_HOME": str(stack.home.root), "PERENNIAL_AIRFLOW_PORT": "not a port"}
    environ["PYTHONPATH"] = str(REPOSITORY / "include")
    for expected in ("All services are stopped", "Nothing runs"):  # a second stop is fine
        done = subprocess.run(
            [sys.executable, "-m", "perennial_demo", "down"], env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    assert process.marked(stack.home.root) == []
    assert list(stack.home.pids.iterdir()) == []
    for port in (ports.airflow, ports.mlflow, ports.s3, ports.scoring):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def s3_client(stack, monkeypatch, **changes):
    import boto3

    for key, value in {**stack.environment, **changes}.items():
        monkeypatch.setenv(key, value)
    return boto3.session.Session().client("s3")
