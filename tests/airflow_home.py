"""An Airflow of the tests' own. Imported by conftest.py files before anything imports Airflow."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def settings(home: Path) -> dict[str, str]:
    """Environment of an Airflow that shares nothing with another one on this machine."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__API__BASE_URL": "http://airflow.example",
    }


def prepare() -> Path:
    """Point this process at an Airflow home that goes with it; the same one however often it is called.

    Each of pytest's workers has one of its own, its database included.
    """
    variable = f"PERENNIAL_TEST_AIRFLOW_HOME_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    home = os.environ.get(variable)
    if home is None:
        home = tempfile.mkdtemp(prefix="perennial-airflow-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
            del os.environ[name]
        os.environ.update(settings(Path(home)))
        os.environ[variable] = home
    return Path(home)
