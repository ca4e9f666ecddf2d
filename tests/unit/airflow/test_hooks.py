from __future__ import annotations

import json
import logging
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from perennial_airflow.hooks.mlflow import MlflowRegistryHook
from perennial_airflow.hooks.runtime import PerennialHook

pytestmark = pytest.mark.airflow


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, **connection: object) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))


@pytest.mark.parametrize(
    ("connection", "uri"),
    [
        ({"host": "mlflow.example"}, "http://mlflow.example"),
        ({"host": "mlflow.example", "port": 5000, "schema": "https"}, "https://mlflow.example:5000"),
        ({"host": "http://127.0.0.1", "port": 5001}, "http://127.0.0.1:5001"),
        ({"host": "https://mlflow.example/base/"}, "https://mlflow.example/base"),
        ({"host": "http://[::1]", "port": 5000}, "http://[::1]:5000"),
        ({"host": "http://user:pw@mlflow.example"}, "http://mlflow.example"),
    ],
)
def test_connection_gives_the_address_without_credentials(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, object], uri: str
) -> None:
    connect(monkeypatch, "perennial_mlflow", conn_type="mlflow", **connection)
    assert MlflowRegistryHook().tracking_uri == uri


def test_connection_without_a_host_is_refused_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "perennial_mlflow", conn_type="mlflow", port=5000)
    with pytest.raises(ValueError, match="has no host"):
        _ = MlflowRegistryHook().tracking_uri


def test_login_and_password_become_mlflows_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "perennial_mlflow", conn_type="mlflow", host="h", login="ada", password="hush")
    assert MlflowRegistryHook().credentials() == {
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": "hush",
    }
    connect(monkeypatch, "perennial_mlflow", conn_type="mlflow", host="h", password="token")
    assert MlflowRegistryHook().credentials() == {"MLFLOW_TRACKING_TOKEN": "token"}


class FakeMlflow(BaseHTTPRequestHandler):
    """Answers 200 to whoever is ada, else 401."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers.get("Authorization", "").startswith("Basic YWRh") else 401)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


def test_button_tells_whether_the_server_takes_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), FakeMlflow)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        here = {"conn_type": "mlflow", "host": "127.0.0.1", "port": server.server_port}
        connect(monkeypatch, "perennial_mlflow", **here, login="ada", password="hush")
        good, message = MlflowRegistryHook().test_connection()
        assert good
        assert "hush" not in message
        connect(monkeypatch, "perennial_mlflow", **here)
        assert MlflowRegistryHook().test_connection() == (
            False,
            f"http://127.0.0.1:{server.server_port} refused the credentials (HTTP 401)",
        )
    finally:
        server.shutdown()
        server.server_close()
    good, message = MlflowRegistryHook().test_connection()
    assert not good
    assert "does not answer" in message


def test_settings_take_the_connections_addresses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    monkeypatch.setenv("PERENNIAL_STORE", "s3://mine/store/")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "before")  # so that it is put back
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "before")
    connect(monkeypatch, "perennial_mlflow", conn_type="mlflow", host="h", login="ada", password="hush-mlflow")
    connect(
        monkeypatch,
        "perennial_s3",
        conn_type="aws",
        login="AKIDEXAMPLE",
        password="hush-s3",
        extra={"endpoint_url": "http://all", "service_config": {"s3": {"endpoint_url": "http://s3.example"}}},
    )
    with caplog.at_level(logging.DEBUG):
        hook = PerennialHook()
        assert hook.settings.mlflow_tracking_uri == "http://h"
        assert hook.settings.s3_endpoint == "http://s3.example"
        assert hook.settings.store == "s3://mine/store"
    assert "hush-" not in caplog.text


def test_without_connections_the_environment_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3-from-environment")
    hook = PerennialHook(s3_conn_id="nowhere", mlflow_conn_id="nowhere")
    assert hook.settings.mlflow_tracking_uri == "http://from-environment"
    assert hook.settings.s3_endpoint == "http://s3-from-environment"


def test_sagemaker_is_called_with_its_own_connection_and_not_the_stores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment")
    connect(monkeypatch, "perennial_s3", conn_type="aws", login="AKIDSTORE", password="hush-s3")
    extra = {"region_name": "eu-central-1"}
    connect(monkeypatch, "perennial_sagemaker", conn_type="aws", login="AKIDSAGEMAKER", password="hush-sm", extra=extra)
    wanted = PerennialHook().runtime().sagemaker_session
    assert wanted is not None
    session = wanted()
    assert session is not None
    assert session.get_credentials().access_key == "AKIDSAGEMAKER"
    assert session.region_name == "eu-central-1"


def test_sagemaker_without_a_connection_is_left_to_boto3s_own_look_up() -> None:
    assert PerennialHook()._sagemaker_session() is None
