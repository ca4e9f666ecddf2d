"""Waits until data has landed that no run of the model has looked at; for DAGs of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.configuration import conf

from perennial_airflow.errors import airflow_errors
from perennial_airflow.hooks.runtime import S3_CONN_ID, PerennialHook
from perennial_airflow.triggers.landing import LandingTrigger, LandingWatch


class LandingSensor(BaseSensorOperator):
    """Succeeds when the landing zone holds something unseen and is quiet. Blocking or deferrable, with one decision.

    A zone that is never quiet counts as quiet after an hour of waiting. `mode="reschedule"` begins each look anew and
    would wait for ever there: use `deferrable`, which needs no worker's slot either.

    Args:
        model: whose runs count.
        landing: `s3://bucket/prefix/`.
        quiet_s: the newest object must be at least this old.
        deferrable: wait in the triggerer, without a worker's slot.
        s3_conn_id: Airflow connection (`aws`) of the store.
        **kwargs: BaseSensorOperator's, such as `timeout` and `poke_interval`.
    """

    template_fields: Sequence[str] = ("landing",)

    def __init__(
        self,
        *,
        model: str,
        landing: str,
        quiet_s: float = 30.0,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        s3_conn_id: str = S3_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.landing = landing
        self.quiet_s = quiet_s
        self.deferrable = deferrable
        self.s3_conn_id = s3_conn_id
        self._watch: LandingWatch | None = None

    def poke(self, context: Mapping[str, Any]) -> bool:  # noqa: ARG002 - Airflow's signature
        """Look once."""
        from perennial.settings import load_settings
        from perennial.stages.landing import landing_state, seen_digest

        with airflow_errors():
            store = PerennialHook(s3_conn_id=self.s3_conn_id).store()
            state = landing_state(store, self.landing)
            seen = seen_digest(store, load_settings().store, self.model)
        self._watch = self._watch or LandingWatch(self.quiet_s)
        verdict = self._watch.judge(state, seen, datetime.now(UTC))
        self.log.info("%s: %s", self.landing, verdict.why)
        return verdict.ready

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Wait here, or in the triggerer if there is nothing yet."""
        if not self.deferrable:
            return super().execute(context)
        if self.poke(context):
            return None
        trigger = LandingTrigger(
            model=self.model,
            landing=self.landing,
            poll_s=self.poke_interval,
            quiet_s=self.quiet_s,
            once=True,
            s3_conn_id=self.s3_conn_id,
        )
        self.defer(trigger=trigger, method_name="landed", timeout=timedelta(seconds=self.timeout))
        return None

    def landed(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> None:  # noqa: ARG002 - Airflow's signature
        """The trigger's one event: there is something to look at."""
        self.log.info("%s: %s", self.landing, event["why"])
