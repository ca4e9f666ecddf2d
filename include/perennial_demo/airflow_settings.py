"""Airflow's settings for this machine: what is added to `config/airflow.env`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from perennial.settings import no_proxy
from perennial_demo.environment import read_env_file
from perennial_demo.home import HOME_VARIABLE, REPOSITORY, Home
from perennial_demo.ports import LOOPBACK, Ports

SHIPPED_SETTINGS: Final = REPOSITORY / "config" / "airflow.env"

DAG_BUNDLES: Final[tuple[Mapping[str, Any], ...]] = (
    {"name": "perennial", "classpath": "perennial_airflow.bundle.SpecBundle", "kwargs": {}},
)
"""Where the DAGs come from: the bundle reads the specs in PERENNIAL_SPECS."""

SQLITE_TIMEOUT_S: Final = 30
"""How long a writer waits for another one. SQLite's own default of 5 s is short on a busy machine with two cores."""

_FOREIGN_PREFIXES: Final = ("AIRFLOW_", "AIRFLOW__", "MLFLOW_", "AWS_", "PERENNIAL_", "RCLONE_", "PYTHON", "GX_")


def base_environ(environ: Mapping[str, str], home: Home) -> dict[str, str]:
    """What every service inherits: the user's environment without settings meant for other Airflows, MLflows or S3s."""
    kept = {key: value for key, value in environ.items() if not key.startswith(_FOREIGN_PREFIXES)}
    around = no_proxy(environ)
    return {
        **kept,
        HOME_VARIABLE: str(home.root),
        "NO_PROXY": around,
        "no_proxy": around,
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",  # a log is read while it grows
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / folder) for folder in ("config", "include", "plugins")),
    }


def airflow_environ(
    home: Home, ports: Ports, secret: Mapping[str, str], bundles: Sequence[Mapping[str, Any]] = DAG_BUNDLES
) -> dict[str, str]:
    """Every AIRFLOW variable that the components share: as shipped, then what depends on this machine."""
    url = f"http://{LOOPBACK}:{ports.airflow}"
    machine = {
        "AIRFLOW_HOME": str(home.airflow),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _sqlite_url(home.airflow / "airflow.db"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        # Not the default, which is one folder in /tmp for all Airflows of the machine.
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home.airflow / "bundles"),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(list(bundles)),
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(ports.airflow),
        "AIRFLOW__API__BASE_URL": url,
        # A skipped task ends for Airflow when its supervisor sees its process end, which it may overlook until its next
        # heartbeat: with the default of 5 s a run of three skipped tasks took up to 15 s more.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # For a demo on the loopback interface only: whoever can reach the port is an administrator, without a login.
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    }
    return {**read_env_file(SHIPPED_SETTINGS), **machine, **secret}


def mlflow_database_url(home: Home) -> str:
    """MLflow sets a time-out of its own on every connection."""
    return f"sqlite:///{home.mlflow / 'mlflow.db'}"


def _sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}?timeout={SQLITE_TIMEOUT_S}"
