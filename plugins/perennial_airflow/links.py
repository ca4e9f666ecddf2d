"""Buttons on a task: the page to read next.

A stage pushes the address to XCom as soon as it knows it, before it may fail; when the task ends, in whatever state,
Airflow asks the link for the address and keeps it (`_link_…`). So a button is there after a failure and a retry too.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

import attrs
from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from perennial.addresses import page_address
from perennial.settings import load_settings

DAG_ID_PATTERN: Final = re.compile(r"perennial__([a-z][a-z0-9_]{0,62})__(retrain|rollback|monitor)")
"""The model, and what the DAG does with it."""


@attrs.define()
class StageLink(BaseOperatorLink):
    """Base: reads the address that the operator pushed under `key`."""

    key: ClassVar[str]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """The address, or an empty text if the stage did not get that far."""
        from airflow.sdk.execution_time.xcom import XCom

        return str(XCom.get_value(ti_key=ti_key, key=self.key) or "")


@attrs.define()
class ValidationReportLink(StageLink):
    """The page of the data checks."""

    name: str = "Validation report"
    key: ClassVar[str] = "validation_report_url"


@attrs.define()
class DecisionLink(StageLink):
    """The page of the decision."""

    name: str = "Decision"
    key: ClassVar[str] = "decision_url"


@attrs.define()
class RolloutLink(StageLink):
    """The page of a shadow's or canary's end."""

    name: str = "Rollout"
    key: ClassVar[str] = "rollout_url"


@attrs.define()
class MlflowRunLink(StageLink):
    """The training's run in MLflow."""

    name: str = "MLflow run"
    key: ClassVar[str] = "mlflow_run_url"


@attrs.define()
class MlflowVersionLink(StageLink):
    """The version that is champion now, in MLflow."""

    name: str = "Version in MLflow"
    key: ClassVar[str] = "mlflow_version_url"


@attrs.define()
class MonitoringReportLink(StageLink):
    """The page of the newest window that the monitor has looked at."""

    name: str = "Monitoring report"
    key: ClassVar[str] = "monitoring_report_url"


@attrs.define()
class RetrainRunLink(StageLink):
    """The retraining that an alert started, or found under way."""

    name: str = "Retraining"
    key: ClassVar[str] = "retrain_run_url"


def airflow_url() -> str:
    """Base address of this Airflow's web server, for people."""
    return conf.get("api", "base_url", fallback="") or load_settings().airflow_url


def page_url(page_uri: str, *, root: str, model: str) -> str:
    """Address, in this Airflow's web server, of a page that lies in the store; empty if it is none that is served."""
    return page_address(page_uri, root=root, model=model, airflow_url=airflow_url())
