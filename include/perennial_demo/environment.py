"""The file `PERENNIAL_HOME/environment`: what the command `perennial` and every service need to know.

Keys are made at random at the first start and kept; they never appear on a command line or in a log.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from perennial_demo.home import REPOSITORY, Home
from perennial_demo.ports import LOOPBACK, Ports, variable

BUCKET: Final = "perennial"
REGION: Final = "us-east-1"
SCORING_PORT: Final = variable("scoring")
"""Also how `perennial serve` is told its port."""
WEBHOOK_KEY: Final = "PERENNIAL_WEBHOOK_KEY"
"""`name:secret`."""


def make_environment(home: Home, ports: Ports, environ: Mapping[str, str]) -> dict[str, str]:
    """What belongs into the environment file for these ports; with the keys that it holds already, if it does."""
    specs = environ.get("PERENNIAL_SPECS")
    earlier = read_env_file(home.environment_file)
    # rclone knows no access key of two characters, and allows a comma in neither.
    key_id = earlier.get("AWS_ACCESS_KEY_ID") or f"PERENNIAL{secrets.token_hex(6).upper()}"
    secret = earlier.get("AWS_SECRET_ACCESS_KEY") or secrets.token_hex(20)
    webhook_key = earlier.get(WEBHOOK_KEY) or f"monitor:{secrets.token_hex(32)}"
    return {
        "PERENNIAL_SPECS": str(Path(specs).expanduser().resolve() if specs else REPOSITORY / "include" / "models"),
        **_values(ports, key_id, secret),
        **_webhook(webhook_key),
    }


def make_airflow_secrets(home: Home) -> dict[str, str]:
    """Airflow's own keys: those of an earlier start, else new ones."""
    return read_env_file(home.airflow_secrets_file) or {
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
    }


def ports_in_use(home: Home) -> Ports:
    """The ports that the environment file was written for, else the defaults."""
    values = read_env_file(home.environment_file)
    urls = {
        "airflow": values.get("PERENNIAL_AIRFLOW_URL"),
        "mlflow": values.get("MLFLOW_TRACKING_URI"),
        "s3": values.get("AWS_ENDPOINT_URL_S3"),
    }
    found = {name: port for name, url in urls.items() if url and (port := urlsplit(url).port)}
    scoring = values.get(SCORING_PORT)
    return Ports(**found, **({"scoring": int(scoring)} if scoring else {}))


def read_env_file(path: Path) -> dict[str, str]:
    """`KEY=value` lines of a file, literally; nothing if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def write_private(path: Path, values: Mapping[str, str]) -> None:
    """Replace a file in one step by these `KEY=value` lines, readable by this user only."""
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.writelines(f"{key}={value}\n" for key, value in values.items())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _webhook(key: str) -> dict[str, str]:
    """How alerts are signed: for who sends them, and for Airflow's API server, which checks."""
    name, _, secret = key.partition(":")
    connection = {"conn_type": "generic", "extra": {"keys": {name: secret}}}
    return {WEBHOOK_KEY: key, "AIRFLOW_CONN_PERENNIAL_WEBHOOK": json.dumps(connection)}


def _values(ports: Ports, key_id: str, secret: str) -> dict[str, str]:
    endpoint = f"http://{LOOPBACK}:{ports.s3}"
    s3_connection = {
        "conn_type": "aws",
        "login": key_id,
        "password": secret,
        "extra": {"endpoint_url": endpoint, "region_name": REGION},
    }
    mlflow_connection = {"conn_type": "mlflow", "host": f"http://{LOOPBACK}", "port": ports.mlflow}
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION,
        "MLFLOW_TRACKING_URI": f"http://{LOOPBACK}:{ports.mlflow}",
        "PERENNIAL_STORE": f"s3://{BUCKET}/store",
        "PERENNIAL_AIRFLOW_URL": f"http://{LOOPBACK}:{ports.airflow}",
        SCORING_PORT: str(ports.scoring),
        "AIRFLOW_CONN_PERENNIAL_S3": json.dumps(s3_connection),
        "AIRFLOW_CONN_PERENNIAL_MLFLOW": json.dumps(mlflow_connection),
    }
