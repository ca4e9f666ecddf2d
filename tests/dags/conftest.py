"""DAG tests: an Airflow home of their own, and where whole runs are made, a database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.airflow_home import REPOSITORY, prepare

prepare()


@pytest.fixture(scope="module")
def airflow_database() -> Iterator[Path]:
    """An Airflow with a database, whose DAG file makes the DAGs of PERENNIAL_SPECS."""
    from airflow.utils.db import initdb

    home = prepare()
    initdb()
    (home / "dags").mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "dags" / "perennial_models.py", home / "dags")
    yield home
    shutil.rmtree(home / "dags")
