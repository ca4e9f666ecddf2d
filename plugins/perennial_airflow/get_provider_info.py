"""What Airflow's provider manager is told of this package (entry point `apache_airflow_provider`).

The plugin, and how to switch preloading on: see `perennial_airflow.plugin`.
"""

from __future__ import annotations

from typing import Any

from perennial import __version__


def get_provider_info() -> dict[str, Any]:
    """See `airflow/provider.yaml.schema.json`. The plugin is no part of it: it has an entry point of its own."""
    return {
        "package-name": "perennial",
        "name": "Perennial",
        "description": "Continuous training: retrain, judge against the champion, promote on evidence, keep a ledger.",
        "versions": [__version__],
        "integrations": [{"integration-name": "Perennial", "tags": ["ml"]}],
        "operators": [
            {
                "integration-name": "Perennial",
                "python-modules": [
                    f"perennial_airflow.operators.{name}"
                    for name in ("data", "training", "promotion", "approval", "rollout", "rollback", "monitor")
                ],
            }
        ],
        "sensors": [{"integration-name": "Perennial", "python-modules": ["perennial_airflow.sensors.landing"]}],
        "hooks": [
            {
                "integration-name": "Perennial",
                "python-modules": [f"perennial_airflow.hooks.{name}" for name in ("mlflow", "runtime", "webhook")],
            }
        ],
        "triggers": [
            {
                "integration-name": "Perennial",
                "python-modules": [f"perennial_airflow.triggers.{name}" for name in ("landing", "rollout")],
            }
        ],
        "bundles": [{"integration-name": "Perennial", "python-modules": ["perennial_airflow.bundle"]}],
        "connection-types": [
            {
                "connection-type": "mlflow",
                "hook-class-name": "perennial_airflow.hooks.mlflow.MlflowRegistryHook",
                "hook-name": "MLflow",
            }
        ],
        "extra-links": [
            f"perennial_airflow.links.{name}"
            for name in (
                "ValidationReportLink",
                "DecisionLink",
                "RolloutLink",
                "MlflowRunLink",
                "MlflowVersionLink",
                "MonitoringReportLink",
                "RetrainRunLink",
            )
        ],
    }
