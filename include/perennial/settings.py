"""Where the outside world is: read from the environment, else from the file that `make demo` wrote.

This is the only module of the core that reads environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOME_VARIABLE: Final = "PERENNIAL_HOME"
DEMO_ENVIRONMENT_FILE: Final = "environment"
"""File in PERENNIAL_HOME with `KEY=value` lines, so that the command finds a running demo's services."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Locations only. Credentials stay with boto3's and MLflow's own look-up (environment, profile, role)."""

    home: Path
    specs: Path
    store: str
    s3_endpoint: str | None
    mlflow_tracking_uri: str
    airflow_url: str

    @property
    def import_roots(self) -> tuple[Path, Path]:
        """Folders in which a spec's `module:function` is looked for, beside the environment's own path."""
        return (self.specs, self.specs.parent)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ` (default: the process's), completed from the demo's environment file.

    A real environment variable always wins over the file.
    """
    real = dict(os.environ if environ is None else environ)
    home = Path(real.get(HOME_VARIABLE) or ".perennial").expanduser().resolve()
    values = {**_read_environment_file(home / DEMO_ENVIRONMENT_FILE), **{k: v for k, v in real.items() if v != ""}}
    if environ is None:
        # boto3 and MLflow read their own variables; the demo's reach them the same way.
        for key, value in values.items():
            os.environ.setdefault(key, value)
    return Settings(
        home=home,
        specs=Path(values.get("PERENNIAL_SPECS") or "include/models").expanduser().resolve(),
        store=(values.get("PERENNIAL_STORE") or "s3://perennial/store").rstrip("/"),
        s3_endpoint=values.get("AWS_ENDPOINT_URL_S3") or values.get("AWS_ENDPOINT_URL") or None,
        mlflow_tracking_uri=values.get("MLFLOW_TRACKING_URI") or "http://127.0.0.1:5000",
        airflow_url=(values.get("PERENNIAL_AIRFLOW_URL") or "http://127.0.0.1:8080").rstrip("/"),
    )


def _read_environment_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}
