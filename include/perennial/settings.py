"""Where the outside world is: read from the environment, or from the file that `make demo` wrote.

If PERENNIAL_HOME holds a demo's environment file, S3 (AWS_*), MLflow (MLFLOW_TRACKING_*, MLFLOW_REGISTRY_*) and the
store are the demo's, whatever the shell exports: half of each would be a foreign key at the demo's endpoint, or the
demo's models in a company's registry. PERENNIAL_USE_DEMO=0, or a PERENNIAL_HOME elsewhere, leaves the file alone.
PERENNIAL_SPECS is the user's own: the environment's counts, else the file's.

This is the only module of the core that reads environment variables.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

HOME_VARIABLE: Final = "PERENNIAL_HOME"
WEBHOOK_KEY_VARIABLE: Final = "PERENNIAL_WEBHOOK_KEY"
DEMO_SWITCH: Final = "PERENNIAL_USE_DEMO"
"""`0`: the demo's environment file is not read."""
DEMO_ENVIRONMENT_FILE: Final = "environment"
"""File in PERENNIAL_HOME with `KEY=value` lines, so that the command finds a running demo's services."""
LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost")

_SPECS: Final = "PERENNIAL_SPECS"
_SCORING: Final = "PERENNIAL_SCORING_"
_GROUPS: Final = (("AWS_",), ("MLFLOW_TRACKING_", "MLFLOW_REGISTRY_"))
"""Prefixes of variables that come from one place together."""
_PREFIXES: Final = tuple(prefix for group in _GROUPS for prefix in group)
_NEUTRAL: Final = ("AWS_CA_BUNDLE",)
"""Say neither where a server is nor who asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Locations, mostly. Credentials stay with boto3's and MLflow's own look-up (environment, profile, role)."""

    home: Path
    specs: Path
    store: str
    s3_endpoint: str | None
    mlflow_tracking_uri: str
    airflow_url: str
    smoke_test_python: str = sys.executable
    """Interpreter that models are tried out in before any traffic, such as the serving image's."""
    scoring: Mapping[str, str] = field(default_factory=dict)
    """`PERENNIAL_SCORING_*`, for `perennial serve`."""
    webhook_key: str = field(default="", repr=False)
    """`name:secret`, which `perennial alert` signs with; empty: none is set."""

    @property
    def import_roots(self) -> tuple[Path, Path]:
        """Folders in which a spec's `module:function` is looked for, beside the environment's own path."""
        return (self.specs, self.specs.parent)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ`, with the demo's environment file in front if there is one.

    Args:
        environ: None stands for the process's, which is then changed to say the same as the settings: boto3, MLflow
            and requests read their own variables.
    """
    real = {key: value for key, value in (os.environ if environ is None else environ).items() if value != ""}
    home = Path(real.get(HOME_VARIABLE) or ".perennial").expanduser().resolve()
    file = home / DEMO_ENVIRONMENT_FILE
    demo = {} if real.get(DEMO_SWITCH) == "0" else _read_environment_file(file)
    values = _with_demo(real, demo) if demo else real
    if environ is None and demo:
        _change_process(real, values, file)
    return Settings(
        home=home,
        specs=Path(values.get(_SPECS) or "include/models").expanduser().resolve(),
        store=(values.get("PERENNIAL_STORE") or "s3://perennial/store").rstrip("/"),
        s3_endpoint=values.get("AWS_ENDPOINT_URL_S3") or values.get("AWS_ENDPOINT_URL") or None,
        mlflow_tracking_uri=values.get("MLFLOW_TRACKING_URI") or "http://127.0.0.1:5000",
        airflow_url=(values.get("PERENNIAL_AIRFLOW_URL") or "http://127.0.0.1:8080").rstrip("/"),
        smoke_test_python=values.get("PERENNIAL_SMOKE_TEST_PYTHON") or sys.executable,
        scoring={key: value for key, value in values.items() if key.startswith(_SCORING)},
        webhook_key=values.get(WEBHOOK_KEY_VARIABLE) or "",
    )


def no_proxy(environ: Mapping[str, str]) -> str:
    """What NO_PROXY has to be so that the loopback interface is reached without a proxy: the user's, and that."""
    given = ",".join(environ.get(name, "") for name in ("NO_PROXY", "no_proxy")).split(",")
    names = dict.fromkeys([*filter(None, (name.strip() for name in given)), *LOOPBACK_NAMES])
    return "*" if "*" in names else ",".join(names)


def _with_demo(real: Mapping[str, str], demo: Mapping[str, str]) -> dict[str, str]:
    """The environment with the demo's in front. Of a group that the demo has a part in, nothing else is left."""
    groups = [group for group in _GROUPS if any(key.startswith(group) for key in demo)]
    foreign = tuple(prefix for group in groups for prefix in group)
    kept = {key: value for key, value in real.items() if key in _NEUTRAL or not key.startswith(foreign)}
    specs = {_SPECS: real[_SPECS]} if _SPECS in real else {}
    around = no_proxy(real)
    return {**kept, **demo, **specs, "NO_PROXY": around, "no_proxy": around}


def _change_process(real: Mapping[str, str], values: Mapping[str, str], file: Path) -> None:
    theirs = sorted(key for key in real if key.startswith((*_PREFIXES, "PERENNIAL_")) and values.get(key) != real[key])
    if theirs:
        log.warning("using the demo of %s, not this shell's %s (%s=0 does)", file, ", ".join(theirs), DEMO_SWITCH)
    for key in [key for key in os.environ if key not in values and key.startswith(_PREFIXES)]:
        del os.environ[key]
    os.environ.update(values)


def _read_environment_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}
