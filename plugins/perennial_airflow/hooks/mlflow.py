"""The connection type `mlflow`."""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import urlsplit

from airflow.sdk.bases.hook import BaseHook

USERNAME_VARIABLE: Final = "MLFLOW_TRACKING_USERNAME"
PASSWORD_VARIABLE: Final = "MLFLOW_TRACKING_PASSWORD"  # noqa: S105 - a variable's name
TOKEN_VARIABLE: Final = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - a variable's name
TEST_TIMEOUT_S: Final = 5.0


class MlflowRegistryHook(BaseHook):
    """An Airflow connection as MLflow's tracking server.

    Host (with or without `http://`), port and schema (`http`, `https`) make the address. Login and password are handed
    to MLflow through its own variables, never as part of an address; a password without a login is taken as a token.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "perennial_mlflow"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """The connection form's fields."""
        return {
            "hidden_fields": ["extra"],
            "relabeling": {"schema": "Scheme", "login": "User", "password": "Password or token"},
            "placeholders": {"host": "mlflow.example.com", "port": "5000", "schema": "https"},
        }

    @property
    def tracking_uri(self) -> str:
        """Address of the tracking server, without credentials.

        Raises:
            ValueError: the connection has no host.
        """
        connection = self.get_connection(self.mlflow_conn_id)
        host = (connection.host or "").strip()
        if not host:
            raise ValueError(
                f"connection {self.mlflow_conn_id!r} has no host; set it to MLflow's server, such as mlflow.example.com"
            )
        return server_address(connection)

    def credentials(self) -> dict[str, str]:
        """MLflow's own variables for the connection's login and password; empty if it has neither."""
        connection = self.get_connection(self.mlflow_conn_id)
        if connection.login:
            return {USERNAME_VARIABLE: connection.login, PASSWORD_VARIABLE: connection.password or ""}
        return {TOKEN_VARIABLE: connection.password} if connection.password else {}

    def get_conn(self) -> Any:
        """MLflow's client (`mlflow.MlflowClient`). Sets MLflow's credential variables in this process."""
        from mlflow import MlflowClient

        os.environ.update(self.credentials())
        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def test_connection(self) -> tuple[bool, str]:
        """What the button "Test" shows: whether the server answers, and takes the credentials."""
        import requests

        try:
            uri = self.tracking_uri
            given = self.credentials()
            token = given.get(TOKEN_VARIABLE)
            answer = requests.get(
                f"{uri}/api/2.0/mlflow/experiments/search",
                params={"max_results": "1"},
                auth=(given[USERNAME_VARIABLE], given[PASSWORD_VARIABLE]) if USERNAME_VARIABLE in given else None,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=TEST_TIMEOUT_S,
            )
        except (requests.RequestException, ValueError) as error:
            return False, f"MLflow does not answer: {type(error).__name__}: {error}"
        if answer.status_code in (401, 403):
            return False, f"{uri} refused the credentials (HTTP {answer.status_code})"
        if not answer.ok:
            return False, f"{uri} answered HTTP {answer.status_code}; is this an MLflow server?"
        return True, f"MLflow answers at {uri}"


def server_address(connection: Any) -> str:
    """Address of the server that a connection names, without credentials; a host that is no HTTP address as it is."""
    host = str(connection.host).strip()
    parts = urlsplit(host if "://" in host else f"{connection.schema or 'http'}://{host}")
    if parts.scheme not in ("http", "https"):
        return host  # a database or a folder, as MLflow also takes them
    port = parts.port or connection.port
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
