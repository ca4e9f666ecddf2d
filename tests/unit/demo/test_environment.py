import json
import stat

import pytest

from perennial.serving.settings import ServingSettings
from perennial.settings import load_settings
from perennial_demo.airflow_settings import airflow_environ, base_environ
from perennial_demo.environment import make_environment, ports_in_use, read_env_file, write_private
from perennial_demo.home import REPOSITORY, Home
from perennial_demo.ports import Ports
from perennial_demo.services import make_plan
from perennial_demo.stack import Stack


@pytest.fixture
def home(tmp_path):
    return Home.from_environ({"PERENNIAL_HOME": str(tmp_path / "a home")})


def test_home_not_set_is_in_the_repository():
    assert Home.from_environ({}).root == REPOSITORY / ".perennial"


def test_relative_home_is_below_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Home.from_environ({"PERENNIAL_HOME": "x"}).root == tmp_path.resolve() / "x"


def test_written_files_are_for_this_user_only(home):
    make_plan(home, Ports(), {}).write()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (home.environment_file, home.airflow_secrets_file)}
    assert modes == {0o600}
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_private_file_that_was_readable_by_all_is_replaced(tmp_path):
    path = tmp_path / "environment"
    path.write_text("OLD=1\n")
    path.chmod(0o644)
    write_private(path, {"NEW": "a=b"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_env_file(path) == {"NEW": "a=b"}


def test_second_plan_keeps_the_keys(home):
    first = make_plan(home, Ports(), {})
    first.write()
    second = make_plan(home, Ports(mlflow=5001), {})
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert second.environment[key] == first.environment[key]
    assert second.airflow_secrets == first.airflow_secrets


def test_two_homes_have_different_keys(home, tmp_path):
    other = Home(tmp_path / "other")
    assert (
        make_environment(home, Ports(), {})["AWS_SECRET_ACCESS_KEY"]
        != (make_environment(other, Ports(), {})["AWS_SECRET_ACCESS_KEY"])
    )


def test_core_reads_the_addresses_from_the_file(home):
    make_plan(home, Ports(airflow=8081, mlflow=5001, s3=9001, scoring=8001), {}).write()
    settings = load_settings({"PERENNIAL_HOME": str(home.root)})
    assert settings.specs == REPOSITORY / "include" / "models"
    assert settings.store == "s3://perennial/store"
    assert settings.s3_endpoint == "http://127.0.0.1:9001"
    assert settings.mlflow_tracking_uri == "http://127.0.0.1:5001"
    assert settings.airflow_url == "http://127.0.0.1:8081"
    assert ServingSettings.from_environment(settings.scoring).port == 8001


def test_ports_in_use_are_those_of_the_file(home):
    ports = Ports(airflow=8081, mlflow=5001, s3=9001, scoring=8001)
    make_plan(home, ports, {}).write()
    assert ports_in_use(home) == ports


def test_ports_in_use_of_a_file_from_before_the_scoring_service_are_the_others_and_its_default(home):
    make_plan(home, Ports(mlflow=5001, scoring=8001), {}).write()
    lines = home.environment_file.read_text().splitlines(keepends=True)
    home.environment_file.write_text("".join(line for line in lines if "SCORING" not in line))
    assert ports_in_use(home) == Ports(mlflow=5001)


def test_ports_in_use_without_a_file_are_the_defaults(home):
    assert ports_in_use(home) == Ports()


def test_relative_specs_folder_is_made_absolute(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_environment(home, Ports(), {"PERENNIAL_SPECS": "mine"})["PERENNIAL_SPECS"] == str(tmp_path / "mine")


def test_connections_are_json_that_airflow_understands(home):
    pytest.importorskip("airflow")
    from airflow.sdk import Connection

    values = make_environment(home, Ports(), {})
    s3 = Connection.from_json(values["AIRFLOW_CONN_PERENNIAL_S3"], conn_id="perennial_s3")
    assert (s3.conn_type, s3.login, s3.password) == (
        "aws",
        values["AWS_ACCESS_KEY_ID"],
        values["AWS_SECRET_ACCESS_KEY"],
    )
    assert s3.extra_dejson["endpoint_url"] == "http://127.0.0.1:9000"
    mlflow = json.loads(values["AIRFLOW_CONN_PERENNIAL_MLFLOW"])
    assert mlflow == {"conn_type": "mlflow", "host": "http://127.0.0.1", "port": 5000}


def test_settings_for_other_servers_are_not_inherited(home):
    foreign = {"AWS_PROFILE": "work", "AIRFLOW__CORE__EXECUTOR": "X", "MLFLOW_TRACKING_URI": "Y", "PYTHONPATH": "Z"}
    environ = base_environ({**foreign, "PATH": "/bin"}, home)
    assert environ["PATH"] == "/bin"
    assert not {"AWS_PROFILE", "AIRFLOW__CORE__EXECUTOR", "MLFLOW_TRACKING_URI"} & set(environ)
    assert "Z" not in environ["PYTHONPATH"].split(":")


def test_no_proxy_keeps_what_the_user_had(home):
    assert base_environ({"NO_PROXY": "corp"}, home)["no_proxy"] == "corp,127.0.0.1,localhost"


def test_environment_of_a_stack_names_its_home_so_that_no_other_demo_is_found(home):
    stack = Stack(home, Ports(), {})
    assert stack.environment["PERENNIAL_HOME"] == str(home.root)


def test_shipped_settings_reach_airflow_and_every_server_is_on_loopback(home):
    environ = airflow_environ(home, Ports(), {"AIRFLOW__API_AUTH__JWT_SECRET": "s"})
    assert environ["AIRFLOW__CORE__XCOM_BACKEND"] == "perennial_airflow.xcom.ReferenceXComBackend"
    assert environ["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environ["AIRFLOW__API_AUTH__JWT_SECRET"] == "s"
    assert json.loads(environ["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])[0]["name"] == "perennial"


def test_no_secret_is_on_a_command_line_or_in_a_representation(home):
    plan = make_plan(home, Ports(), {})
    secrets = [plan.environment["AWS_SECRET_ACCESS_KEY"], *plan.airflow_secrets.values()]
    for service in plan.services:
        text = f"{service.command} {service!r} {plan!r}"
        assert not [secret for secret in secrets if secret in text]


def test_fingerprint_changes_with_settings_but_not_with_the_users_shell(home):
    make_plan(home, Ports(), {}).write()
    before = make_plan(home, Ports(), {})
    shell = make_plan(home, Ports(), {"EDITOR": "vi"})
    moved = make_plan(home, Ports(mlflow=5001), {})
    prints = [[service.fingerprint for service in plan.services] for plan in (before, shell, moved)]
    assert prints[0] == prints[1]
    assert all(a != b for a, b in zip(prints[0], prints[2], strict=True))
