"""Names and addresses in Airflow and MLflow that the core tells people. Airflow itself is not imported here."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

PAGES_PREFIX: Final = "/perennial"
"""Where the plugin's web application is mounted in Airflow's web server."""
WEBHOOK_PREFIX: Final = f"{PAGES_PREFIX}/v1"
"""Where its webhook takes alerts."""
PAGE_KINDS: Final = ("validations", "decisions", "rollouts", "monitoring")
"""Folders of the store whose pages are served."""


def retrain_dag_id(model: str) -> str:
    """The DAG that retrains the model; who may read that DAG may read the model's pages."""
    return f"perennial__{model}__retrain"


def rollback_dag_id(model: str) -> str:
    """The DAG that takes the model's champion back."""
    return f"perennial__{model}__rollback"


def monitor_dag_id(model: str) -> str:
    """The DAG that watches the model while it serves."""
    return f"perennial__{model}__monitor"


def run_address(dag_id: str, run_id: str, *, airflow_url: str) -> str:
    """Address of a run in Airflow's web server; empty if the server's is not known."""
    base = airflow_url.rstrip("/")
    return f"{base}/dags/{dag_id}/runs/{quote(run_id, safe=':+~')}" if base.startswith(("http://", "https://")) else ""


def version_address(model: str, version: str, *, mlflow_url: str) -> str:
    """Address of a registered version in MLflow's web server; empty if it is not reached by HTTP."""
    base = without_credentials(mlflow_url).rstrip("/")
    return f"{base}/#/models/{model}/versions/{version}" if base.startswith(("http://", "https://")) else ""


def without_credentials(url: str) -> str:
    """The address without user and password (invariant 12)."""
    return re.sub(r"://[^/@\s]+@", "://", url)


def page_address(page_uri: str, *, root: str, model: str, airflow_url: str) -> str:
    """Address in Airflow's web server of a page that lies in the store; empty if it has none.

    `{root}/decisions/<model>/<...>/page.html` becomes
    `{airflow_url}/perennial/ui/perennial__<model>__retrain/decisions/<...>/page.html`.

    Args:
        page_uri: the page's `s3://` uri, or an empty text.
        root: `s3://bucket/prefix` of Perennial's store.
        model: whose page it has to be; another model's has no address here.
        airflow_url: base address of Airflow's web server; empty if it is not known.
    """
    base = airflow_url.rstrip("/")
    if not base.startswith(("http://", "https://")):
        return ""
    for kind in PAGE_KINDS:
        prefix = f"{root}/{kind}/{model}/"
        if page_uri.startswith(prefix):
            return f"{base}{PAGES_PREFIX}/ui/{retrain_dag_id(model)}/{kind}/{quote(page_uri.removeprefix(prefix))}"
    return ""
