"""The way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perennial.addresses import version_address
from perennial_airflow.errors import airflow_errors
from perennial_airflow.links import MlflowVersionLink
from perennial_airflow.operators.stage import StageOperator
from perennial_airflow.request import rollback_request


class RollbackOperator(StageOperator):
    """Makes an earlier version champion again, after a smoke test, and quarantines what it removed."""

    operator_extra_links = (MlflowVersionLink(),)

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Roll back.

        Returns:
            `RollbackRef.to_dict()`.
        """
        from perennial import cycle

        with airflow_errors():
            runtime, spec = self.world()
            request = rollback_request(self.model, context)
            self.log.info("%s, run %s: back to %s", self.model, request.run_id, request.to or "the champion before")
            reference = cycle.rollback(runtime, spec, request)
            mlflow_url = self.hook().settings.mlflow_tracking_uri
        address = version_address(self.model, reference.champion_after, mlflow_url=mlflow_url)
        self.remember(context, MlflowVersionLink, address)
        self.log.info(
            "champion is version %s (before: %s)%s; recorded at %s",
            reference.champion_after,
            reference.champion_before or "none",
            f"; version {reference.champion_before} is in quarantine" if reference.quarantined else "",
            reference.ledger_uri,
        )
        return reference.to_dict()
