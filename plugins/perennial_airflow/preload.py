"""Imports what tasks need into the process whose forks run them.

LocalExecutor forks its workers from the scheduler: what the scheduler has imported, a task need not import again. Seven
tasks that each import pandas, MLflow and scikit-learn take 38 s; with the modules inherited it is 8 s. How to switch it
on: see `perennial_airflow.plugin`.
"""

from __future__ import annotations

import importlib
import logging
import time
from typing import Final

log = logging.getLogger(__name__)

MODULES: Final = (
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pyarrow.fs",
    "scipy.stats",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "sklearn.compose",
    "sklearn.preprocessing",
    "sklearn.metrics",
    "skops.io",
    "mlflow.sklearn",
    "great_expectations",
    "great_expectations.expectations",
    "boto3.session",
    "jinja2",
    "yaml",
    "airflow.sdk.execution_time.task_runner",
    "airflow.providers.amazon.aws.hooks.base_aws",
    "perennial.cycle",
    "perennial.addresses",
    "perennial.champion_door",
    "perennial.ledger",
    "perennial.lock",
    "perennial.adapters.s3",
    "perennial.adapters.mlflow_registry",
    "perennial.adapters.great_expectations",
    "perennial.stages.snapshot",
    "perennial.stages.validate",
    "perennial.stages.train",
    "perennial.stages.evaluate",
    "perennial.stages.decide",
    "perennial.stages.approve",
    "perennial.stages.promote",
    "perennial.stages.rollback",
    "perennial.stages.rollout",
    "perennial.stages.smoke_test",
    "perennial.stages.landing",
    "perennial.stages.monitor",
    "perennial.alert_delivery",
    "perennial.alert_sender",
    "perennial.reports.decision_page",
    "perennial.reports.model_card",
    "perennial.reports.monitoring_page",
    "perennial.reports.rollout_page",
    "perennial_airflow.bundle",
    "perennial_airflow.dag_factory",
    "perennial_airflow.hooks.runtime",
)
"""Imported only: nothing here starts a thread or opens a connection, which a fork would inherit half-alive."""


def preload() -> list[str]:
    """Import `MODULES`. A module that cannot be imported is told in the log and left to the tasks.

    Returns:
        The modules that could not be imported.
    """
    began = time.monotonic()
    failed = []
    for name in MODULES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a scheduler that does not start is worse than a slow task
            log.warning("not preloaded: %s: %s: %s", name, type(error).__name__, error)
            failed.append(name)
    log.info("preloaded %d modules in %.1f s", len(MODULES) - len(failed), time.monotonic() - began)
    return failed
