"""The stages that look at data: snapshot and validate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.bases.skipmixin import SkipMixin

from perennial.domain.references import SnapshotRef
from perennial.errors import BadDataError
from perennial_airflow.errors import airflow_errors
from perennial_airflow.links import ValidationReportLink, page_url
from perennial_airflow.operators.stage import StageOperator, StageRun


class SnapshotOperator(StageOperator, SkipMixin):
    """Freezes the landed data. Nothing new to judge: this task ends green, every later one is skipped."""

    inherits_from_skipmixin = True

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Take the snapshot.

        Returns:
            `SnapshotRef.to_dict()`.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            reference = cycle.snapshot(run.runtime, run.spec, run.request)
        self.log.info(
            "%d rows in %d files, complete up to %s", reference.rows, reference.files, reference.watermark.isoformat()
        )
        if reference.nothing_new_since is None:
            return reference.to_dict()
        self.log.info(
            "nothing new: exactly this data, code and parameters were judged before (ledger entry %s). "
            "Start a run with force to judge them again",
            reference.nothing_new_since,
        )
        # `skip` leaves by an exception, after which Airflow does not store what `execute` returns.
        context["ti"].xcom_push(key="return_value", value=reference.to_dict())
        self.skip(ti=context["ti"], tasks=context["task"].get_flat_relatives(upstream=False))
        return reference.to_dict()


class ValidateOperator(StageOperator):
    """Checks the data. Bad data fails the run; the report is one click away even then.

    Args:
        snapshot: `SnapshotRef.to_dict()`.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("snapshot",)
    operator_extra_links = (ValidationReportLink(),)

    def __init__(self, *, snapshot: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Validate.

        Returns:
            `ValidationRef.to_dict()`.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            try:
                reference = cycle.validate(run.runtime, run.spec, run.request, self.given(SnapshotRef, self.snapshot))
            except BadDataError as error:
                self._remember_page(context, run, error.page_uri)
                raise
        self._remember_page(context, run, reference.page_uri)
        self.log.info("%d expectations, %d failed", reference.expectations, reference.failed)
        return reference.to_dict()

    def _remember_page(self, context: Mapping[str, Any], run: StageRun, page_uri: str | None) -> None:
        url = page_url(page_uri or "", root=run.runtime.root, model=self.model)
        self.remember(context, ValidationReportLink, url)
