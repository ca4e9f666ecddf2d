"""Who sends: a signature over id, timestamp and body, or a bearer token for senders that cannot sign.

| headers | signed | sender |
| --- | --- | --- |
| `webhook-id`, `webhook-timestamp`, `webhook-signature` | `{id}.{timestamp}.{body}` | Standard Webhooks |
| `X-MLflow-Delivery-Id`, `X-MLflow-Timestamp`, `X-MLflow-Signature` | the same | MLflow 3 |
| `X-Grafana-Alerting-Timestamp`, `X-Grafana-Alerting-Signature` | `{timestamp}:{body}` | Grafana 12, with that header |
| `Authorization: Bearer <token>` | | Alertmanager and others |

Whoever is not known learns nothing but that: neither which part was wrong, nor which models there are.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from perennial.alert_sender import signature
from perennial.errors import RequestError

TOLERANCE_S: Final = 300
"""How far a signature's time may be from this clock, either way."""
MAX_HEADERS: Final = 100
"""Of a message; proxies add a few, nobody this many."""
MIN_SECRET_LENGTH: Final = 16
DEFAULT_REQUESTS_PER_S: Final = 50.0
MAX_SIGNATURES: Final = 16
"""In one header: a sender that changes its key signs with both."""
_NAME: Final = re.compile(r"[\w.@-]{1,64}")
_ARN: Final = re.compile(r"arn:aws[\w-]*:sns:[a-z0-9-]+:\d{12}:[\w-]{1,256}(\.fifo)?")
_EXTRA: Final = ("keys", "tokens", "sns_topics", "requests_per_s")


class NotAuthenticatedError(Exception):
    """A message is not believed. Its text is for the log; whoever sent it is told nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who may send alerts: the extra of the Airflow connection `perennial_webhook`."""

    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Signing secrets by name. Several at once, so that one can follow another."""
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Bearer tokens by name."""
    sns_topics: frozenset[str] = frozenset()
    """ARNs of the SNS topics that are believed."""
    requests_per_s: float = DEFAULT_REQUESTS_PER_S
    """Of each sender, in the long run; twice as many may come at once."""

    @property
    def anybody(self) -> bool:
        """Whether there is anybody who is believed."""
        return bool(self.keys or self.tokens or self.sns_topics)

    @classmethod
    def parse(cls, extra: Any) -> Credentials:
        """From the connection's extra.

        Raises:
            ValueError: says which field is wrong; never repeats a secret.
        """
        if not isinstance(extra, Mapping):
            raise ValueError("the extra is not a JSON object")
        unknown = sorted(str(name) for name in extra if name not in _EXTRA)
        if unknown:
            raise ValueError(f"there is no field {', '.join(unknown)}; there are {', '.join(_EXTRA)}")
        keys, tokens = (_secrets(extra.get(name) or {}, name) for name in ("keys", "tokens"))
        for name, secret in keys.items():
            try:
                signature(secret, "", "", b"")
            except RequestError:
                raise ValueError(f"keys.{name} begins with whsec_, but is not base64 after it") from None
        rate = extra.get("requests_per_s", DEFAULT_REQUESTS_PER_S)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1e6:
            raise ValueError("requests_per_s is not a number above 0")
        return cls(keys=keys, tokens=tokens, sns_topics=_topics(extra.get("sns_topics") or ()), requests_per_s=rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who a message was proven to be of."""

    name: str
    """Of the key or token; `sns:<topic>` of a topic."""
    message_id: str | None = None
    """Of the message's header, None if it has none."""
    signed: bool = False
    """Whether a signature covers the body; headers but id and timestamp are covered by none."""


def authenticate(headers: Sequence[tuple[str, str]], body: bytes, credentials: Credentials, now: datetime) -> Sender:
    """Who sends. A message with a signature has to have a right one, whatever token it may carry.

    Args:
        headers: names in lower case; one that comes twice is believed neither time.
        body: as it came over the wire.
        credentials: who is known.
        now: aware, by this machine's clock.

    Raises:
        NotAuthenticatedError: nobody who is known.
    """
    if len(headers) > MAX_HEADERS:
        raise NotAuthenticatedError(f"it has {len(headers)} headers, {MAX_HEADERS} are allowed")
    counts = Counter(name for name, _ in headers)
    found = {name: value for name, value in headers if counts[name] == 1}
    if "webhook-signature" in found:
        return _signed(found, ("webhook-id", "webhook-timestamp", "webhook-signature"), body, credentials, now)
    if "x-mlflow-signature" in found:
        names = ("x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature")
        return _signed(found, names, body, credentials, now)
    if "x-grafana-alerting-signature" in found:
        return _signed_by_grafana(found, body, credentials, now)
    return _token_bearer(found, credentials)


def _signed(
    found: Mapping[str, str], names: tuple[str, str, str], body: bytes, credentials: Credentials, now: datetime
) -> Sender:
    message_id, timestamp, signatures = (found.get(name, "") for name in names)
    if not message_id:
        raise NotAuthenticatedError(f"it is signed, and has not one header {names[0]}")
    _require_in_time(timestamp, names[1], now)
    given = signatures.split(" ")[:MAX_SIGNATURES]
    name = _key_that(credentials, given, lambda secret: signature(secret, message_id, timestamp, body))
    return Sender(name=name, message_id=message_id, signed=True)


def _signed_by_grafana(found: Mapping[str, str], body: bytes, credentials: Credentials, now: datetime) -> Sender:
    timestamp = found.get("x-grafana-alerting-timestamp", "")
    _require_in_time(timestamp, "x-grafana-alerting-timestamp", now)
    content = f"{timestamp}:".encode() + body
    given = [found["x-grafana-alerting-signature"]]
    name = _key_that(credentials, given, lambda secret: hmac.new(secret.encode(), content, hashlib.sha256).hexdigest())
    return Sender(name=name, signed=True)


def _token_bearer(found: Mapping[str, str], credentials: Credentials) -> Sender:
    scheme, _, token = found.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticatedError("it has neither a signature nor a bearer token, or one of their headers twice")
    given = _digest(token)
    names = [name for name, known in credentials.tokens.items() if hmac.compare_digest(_digest(known), given)]
    if not names:
        raise NotAuthenticatedError("its token is none of the connection's")
    return Sender(name=names[0], message_id=found.get("webhook-id"))


def _key_that(credentials: Credentials, given: Sequence[str], signs: Callable[[str], str]) -> str:
    """The name of the first key that gives one of the signatures; every pair is compared, in constant time."""
    matching = [
        name
        for name, secret in credentials.keys.items()
        for expected in [signs(secret).encode()]
        for one in given
        if hmac.compare_digest(expected, one.encode(errors="surrogateescape"))
    ]
    if not matching:
        raise NotAuthenticatedError("no key of the connection gives its signature")
    return matching[0]


def _require_in_time(timestamp: str, header: str, now: datetime) -> None:
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise NotAuthenticatedError(f"it is signed, and has not one header {header} of seconds since 1970")
    off_s = int(timestamp) - now.timestamp()
    if abs(off_s) > TOLERANCE_S:
        raise NotAuthenticatedError(f"its time is {off_s:.0f} s off this clock, {TOLERANCE_S} s are allowed")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _secrets(given: Any, field_name: str) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{field_name} is not a mapping of names to secrets")
    for name, secret in given.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{field_name} has a name that is not 1 to 64 letters, digits or . _ - @")
        if not isinstance(secret, str) or len(secret) < MIN_SECRET_LENGTH or not secret.isprintable():
            raise ValueError(f"{field_name}.{name} is not a text of at least {MIN_SECRET_LENGTH} printable characters")
    return dict(given)


def _topics(given: Any) -> frozenset[str]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(arn, str) and _ARN.fullmatch(arn) for arn in given):
        raise ValueError("sns_topics is not a list of topics' ARNs, such as arn:aws:sns:eu-west-1:123456789012:drift")
    return frozenset(given)
