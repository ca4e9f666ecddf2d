"""Perennial's webhook, as a task talks to it."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from perennial.alert_sender import SigningKey, send_alert, send_message, send_tick
from perennial.errors import RequestError
from perennial.settings import WEBHOOK_KEY_VARIABLE, load_settings
from perennial_airflow.hooks.mlflow import server_address
from perennial_airflow.links import airflow_url

if TYPE_CHECKING:
    from perennial.domain.alert import Alert, Outcome

WEBHOOK_CONN_ID: Final = "perennial_webhook"
OWN_KEY: Final = "monitor"
"""Name of the key that tasks sign with, if there are several."""
_EXECUTION_API: Final = "/execution"


class WebhookHook(BaseHook):
    """Sends alerts to the webhook in Airflow's API server, signed.

    The key is PERENNIAL_WEBHOOK_KEY (`name:secret`), else the one named `monitor` in the connection's `extra.keys`,
    else the first there. The API server is looked for at the connection's host, if it has one; else where tasks
    reach it (`[core] execution_api_server_url`).
    """

    def __init__(self, *, webhook_conn_id: str = WEBHOOK_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.webhook_conn_id = webhook_conn_id

    def send(self, alert: Alert) -> Outcome:
        """Post an alert; see `perennial.alert_sender.send_alert`."""
        return send_alert(alert, airflow_url=self.address, key=self.key, now=datetime.now(UTC))

    def send_message(self, body: bytes, *, message_id: str) -> Outcome:
        """Post an alert that somebody else has written; see `perennial.alert_sender.send_message`."""
        now = datetime.now(UTC)
        return send_message(body, message_id=message_id, airflow_url=self.address, key=self.key, now=now)

    def tick(self, model: str) -> tuple[Outcome, ...]:
        """Let it look at the model's deferred alerts; see `perennial.alert_sender.send_tick`."""
        return send_tick(model, airflow_url=self.address, key=self.key, now=datetime.now(UTC))

    @cached_property
    def address(self) -> str:
        """Base address of the API server."""
        if self._connection is not None and self._connection.host:
            return server_address(self._connection)
        inside = conf.get("core", "execution_api_server_url", fallback="") or ""
        return inside.rstrip("/").removesuffix(_EXECUTION_API) or airflow_url()

    @cached_property
    def key(self) -> SigningKey:
        """What messages are signed with; its secret is masked in this process's logs.

        Raises:
            RequestError: there is none.
        """
        key = self._find_key()
        mask_secret(key.secret)
        return key

    def _find_key(self) -> SigningKey:
        if own := load_settings().webhook_key:
            return SigningKey.parse(own)
        extra = self._connection.extra_dejson if self._connection is not None else {}
        keys = extra.get("keys")
        if not isinstance(keys, dict) or not keys:
            raise RequestError(
                f"alerts cannot be signed: the Airflow connection {self.webhook_conn_id} has no keys. Its extra has to "
                f'be {{"keys": {{"{OWN_KEY}": "<secret>"}}}}, or {WEBHOOK_KEY_VARIABLE} name:secret of one of them'
            )
        name = OWN_KEY if OWN_KEY in keys else next(iter(keys))
        return SigningKey(name=name, secret=str(keys[name]))

    @cached_property
    def _connection(self) -> Any:
        """None: there is none."""
        try:
            return self.get_connection(self.webhook_conn_id)
        except AirflowNotFoundException:
            return None
