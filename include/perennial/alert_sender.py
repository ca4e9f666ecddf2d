"""Sends alerts to the webhook, signed; what the monitor's task and `perennial alert` use, and what a script may.

A message is signed as Standard Webhooks (https://www.standardwebhooks.com) and MLflow do it: HMAC-SHA256 over
`{id}.{timestamp}.{body}`, told in the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.

Nothing is tried again here: whoever sends the same alert again gets the same answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from perennial.addresses import WEBHOOK_PREFIX, without_credentials
from perennial.domain.alert import Alert, Outcome
from perennial.domain.times import format_time
from perennial.errors import (
    NotAllowedError,
    NotFoundError,
    RequestError,
    WebhookRefusedError,
    WebhookUnavailableError,
)

TIMEOUT_S: Final = 15.0
"""For the connection, and again for the answer."""
TICK_TIMEOUT_S: Final = 60.0
"""Likewise, for a tick: the webhook takes up alerts for some seconds, and ends what it has begun."""
ENCODED_SECRET: Final = "whsec_"  # noqa: S105 - a prefix
"""A secret that begins so is base64 from there on (Standard Webhooks); any other is its own UTF-8 bytes (MLflow)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """What a sender vouches with. The webhook knows the same secret under the same name."""

    name: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """From `name:secret`, as PERENNIAL_WEBHOOK_KEY has it.

        Raises:
            RequestError: a part is missing. The message does not repeat the text.
        """
        name, _, secret = text.strip().partition(":")
        if not name or not secret:
            raise RequestError(
                "the webhook's key is not name:secret, such as monitor:S3cr3t; set PERENNIAL_WEBHOOK_KEY"
            )
        return cls(name=name, secret=secret)


def signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """`v1,` and the base64 HMAC-SHA256 of `{message_id}.{timestamp}.{body}`.

    Args:
        secret: see `ENCODED_SECRET`.
        message_id: of the header `webhook-id` (MLflow: `X-MLflow-Delivery-Id`).
        timestamp: seconds since 1970, in decimal digits, as the header says it.
        body: as it goes over the wire.

    Raises:
        RequestError: a secret that says it is base64, and is not.
    """
    digest = hmac.digest(_secret_bytes(secret), f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def signed_headers(key: SigningKey, message_id: str, body: bytes, *, now: datetime) -> dict[str, str]:
    """The three headers of Standard Webhooks, and the content's type."""
    timestamp = str(int(now.timestamp()))
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(key.secret, message_id, timestamp, body),
    }


def alert_body(alert: Alert) -> bytes:
    """What `POST /perennial/v1/alerts` takes: model, id, summary, raised_at, source, evidence."""
    content = {
        "model": alert.model,
        "id": alert.alert_id,
        "summary": alert.summary,
        "raised_at": format_time(alert.raised_at),
        "source": alert.source,
        "evidence": dict(alert.evidence),
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def send_alert(
    alert: Alert, *, airflow_url: str, key: SigningKey, now: datetime, timeout_s: float = TIMEOUT_S
) -> Outcome:
    """Post an alert; what became of it, refused included, once that is on record.

    Args:
        alert: `sender` and `received_at` are the webhook's to say, and are not sent.
        airflow_url: base address of Airflow's API server.
        key: signs the message.
        now: the signature's time; more than 5 minutes from the server's clock and it is not believed.
        timeout_s: seconds.

    Raises:
        WebhookUnavailableError: no answer, or one that asks to try again (429, 5xx).
        NotAllowedError: the signature was not accepted.
        NotFoundError: no such model, or no webhook at this address.
        WebhookRefusedError: anything else that is no outcome, such as the same id with another content.
    """
    # The alert's key, not its id: a header takes no text such as "Überhitzung", and a retry has to have the same.
    return send_message(
        alert_body(alert), message_id=alert.key, airflow_url=airflow_url, key=key, now=now, timeout_s=timeout_s
    )


def send_message(
    body: bytes, *, message_id: str, airflow_url: str, key: SigningKey, now: datetime, timeout_s: float = TIMEOUT_S
) -> Outcome:
    """Post an alert that somebody else has written, such as a queue's message; the webhook says what is wrong with it.

    Args:
        body: JSON as `alert_body` makes it; of `model` and `summary` both are needed.
        message_id: the same for the same message, ASCII; stands for `id` if the body has none.
        airflow_url: as of `send_alert`.
        key: likewise.
        now: likewise.
        timeout_s: likewise.

    Raises: as `send_alert`.
    """
    url = f"{airflow_url.rstrip('/')}{WEBHOOK_PREFIX}/alerts"
    answer = _post(url, message_id, body, key, now, timeout_s)
    return _outcome(answer.get("outcome"), url)


def send_tick(
    model: str, *, airflow_url: str, key: SigningKey, now: datetime, timeout_s: float = TICK_TIMEOUT_S
) -> tuple[Outcome, ...]:
    """Let the webhook look at the model's deferred alerts; what became of those that were due.

    Raises: as `send_alert`.
    """
    body = json.dumps({"model": model}, separators=(",", ":")).encode()
    message_id = f"tick.{model}.{format_time(now)}"
    url = f"{airflow_url.rstrip('/')}{WEBHOOK_PREFIX}/tick"
    answer = _post(url, message_id, body, key, now, timeout_s)
    outcomes = answer.get("outcomes")
    if not isinstance(outcomes, list):
        raise _foreign(url)
    return tuple(_outcome(found, url) for found in outcomes)


def _post(
    url: str, message_id: str, body: bytes, key: SigningKey, now: datetime, timeout_s: float
) -> Mapping[str, Any]:
    import requests

    shown = without_credentials(url)
    try:
        answer = requests.post(
            url,
            data=body,
            headers=signed_headers(key, message_id, body, now=now),
            timeout=timeout_s,
            allow_redirects=False,  # what was signed for one address is not for another
        )
    except requests.RequestException as error:
        raise WebhookUnavailableError(f"{shown} did not answer ({type(error).__name__})") from error
    try:
        content = answer.json()
    except ValueError:
        content = None
    said = content if isinstance(content, dict) else {}
    if "outcome" in said or "outcomes" in said:  # whatever the status: a refusal by the governor is one of them
        return said
    raise _error(answer.status_code, str(said.get("message") or said.get("detail") or "")[:300], shown, key)


def _error(status: int, message: str, url: str, key: SigningKey) -> Exception:
    told = f": {message}" if message else ""
    if status == 429 or status >= 500:
        return WebhookUnavailableError(f"{url} asks to try again later ({status}){told}")
    if status in (401, 403):
        return NotAllowedError(
            f"{url} did not accept the key {key.name!r} ({status}). The Airflow connection perennial_webhook has to "
            f"have the same secret under extra.keys, and both clocks have to agree within 5 minutes"
        )
    if status == 404:
        return NotFoundError(f"{url}: no such model, or no webhook at this address ({status}){told}")
    if status < 400:
        return _foreign(url)
    return WebhookRefusedError(f"{url} refused the message ({status}){told}. It will not be accepted as it is")


def _outcome(found: Any, url: str) -> Outcome:
    try:
        return Outcome.from_dict(found)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise _foreign(url) from error


def _foreign(url: str) -> WebhookRefusedError:
    return WebhookRefusedError(
        f"{without_credentials(url)} answered, but not as Perennial's webhook does; is it the address of Airflow's API "
        f"server, and is the plugin loaded there?"
    )


def _secret_bytes(secret: str) -> bytes:
    if not secret.startswith(ENCODED_SECRET):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(ENCODED_SECRET), validate=True)
    except binascii.Error as error:
        raise RequestError(f"a webhook secret begins with {ENCODED_SECRET}, but is not base64 after it") from error
