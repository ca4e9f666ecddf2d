"""Watching a model while it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from perennial.addresses import retrain_dag_id, run_address
from perennial.errors import PerennialError, TerminalError
from perennial.settings import load_settings
from perennial_airflow.errors import airflow_errors
from perennial_airflow.hooks.webhook import WEBHOOK_CONN_ID, WebhookHook
from perennial_airflow.links import MonitoringReportLink, RetrainRunLink, airflow_url, page_url
from perennial_airflow.operators.stage import StageOperator, short
from perennial_airflow.request import look_as_of

if TYPE_CHECKING:
    from perennial.alert_delivery import Delivery
    from perennial.spec import ModelSpec


class ObserveOperator(StageOperator):
    """Looks at each window of the prediction log that has ended since the last look."""

    operator_extra_links = (MonitoringReportLink(),)

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Look.

        Returns:
            `MonitoringRef.to_dict()`.
        """
        from perennial.stages.monitor import observe

        with airflow_errors():
            runtime, spec = self.world()
            reference = observe(
                spec,
                as_of=look_as_of(context),
                store=runtime.store,
                root=runtime.root,
                registry=runtime.registry,
                ledger=runtime.ledger,
                clock=runtime.clock,
                airflow_url=airflow_url(),
            )
        url = page_url(reference.page_uri or "", root=runtime.root, model=self.model)
        self.remember(context, MonitoringReportLink, url)
        self.log.info("%d windows; %d alerts open: %s", reference.windows, reference.open_alerts, reference.summary)
        return replace(reference, summary=short(reference.summary)).to_dict()


class SendAlertsOperator(StageOperator):
    """Delivers what the outbox holds, and lets the webhook look at deferred alerts.

    Args:
        observed: `MonitoringRef.to_dict()`, or None if the look failed; leave it out without monitoring.
        webhook_conn_id: Airflow connection of the webhook.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("observed",)
    operator_extra_links = (RetrainRunLink(),)

    def __init__(self, *, observed: Any = "", webhook_conn_id: str = WEBHOOK_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observed = observed
        self.webhook_conn_id = webhook_conn_id

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Deliver.

        Returns:
            How many alerts left the outbox, and the run that deals with the newest, if any.
        """
        from perennial.spec import load_model

        with airflow_errors():
            spec = load_model(load_settings().specs, self.model)
            webhook = WebhookHook(webhook_conn_id=self.webhook_conn_id)
            # The tick goes first: a mail server that hangs may use up the task's time.
            started, problem = self._tick(spec, webhook)
            delivery = self._deliver(spec, webhook, context)
            run_id = started or delivery.run_id
            if run_id:
                url = run_address(retrain_dag_id(self.model), run_id, airflow_url=airflow_url())
                self.remember(context, RetrainRunLink, url)
            delivery.require_all()
            if problem is not None:
                raise problem
            if self.observed is None:
                raise TerminalError(
                    f"{self.model}: the look at the windows failed, see the task before; alerts are sent"
                )
        return {"delivered": delivery.delivered, "run_id": run_id}

    def _deliver(self, spec: ModelSpec, webhook: WebhookHook, context: Mapping[str, Any]) -> Delivery:
        from perennial.alert_delivery import deliver
        from perennial.monitoring_objects import MonitoringObjects
        from perennial_airflow.notifiers import tell

        objects = MonitoringObjects(store=self.hook().store(), root=load_settings().store, model=self.model)
        return deliver(
            spec, objects=objects, post=webhook.send, tell=partial(tell, context=context), airflow_url=airflow_url()
        )

    def _tick(self, spec: ModelSpec, webhook: WebhookHook) -> tuple[str | None, PerennialError | None]:
        """The run that a deferred alert came to, if one did; or why nobody looked."""
        if spec.triggers.on_drift is None:
            return None, None
        run_id = None
        try:
            for outcome in webhook.tick(self.model):
                self.log.info("a deferred alert: %s (%s)", outcome.fate, outcome.reason)
                run_id = outcome.run_id or run_id
        except PerennialError as error:
            self.log.warning("deferred alerts were not looked at, or not all: %s", error)
            return None, error
        return run_id, None
