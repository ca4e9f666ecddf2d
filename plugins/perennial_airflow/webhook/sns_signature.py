"""Whether a message is one of SNS, of a topic that is listed: RSA over some of its fields, versions 1 and 2.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html

The certificate is fetched from the address in the message, so that address has to be SNS's own, and the topic has to
be listed before anything is fetched.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from perennial.errors import TransientError
from perennial_airflow.webhook.signals import time_or_none

log = logging.getLogger(__name__)

MAX_AGE: Final = timedelta(hours=1)
"""SNS itself tries for so long; a message told again within it has the id of the first, and starts nothing."""
AHEAD: Final = timedelta(minutes=5)
MAX_BYTES: Final = 64 * 1024
TIMEOUT_S: Final = 5.0
MAX_CERTIFICATES: Final = 16
CERTIFICATES_A_MINUTE: Final = 10
NOTIFICATION: Final = "Notification"
CONFIRMATIONS: Final = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
_SIGNED: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_SIGNED_CONFIRMATION: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
_HOST: Final = re.compile(r"sns\.[a-z0-9-]{3,32}\.amazonaws\.com(\.cn)?")
_CERTIFICATE: Final = re.compile(r"/SimpleNotificationService-[A-Za-z0-9]{1,64}\.pem")

Fetch = Callable[[str], bytes]


class AddressUnavailableError(TransientError):
    """An address of SNS did not answer."""


def fetch(url: str) -> bytes:
    """What lies at an address, up to `MAX_BYTES`; redirects are not followed.

    Raises:
        AddressUnavailableError: no answer, or another one than 200.
    """
    import requests

    shown = url.partition("?")[0]  # behind it there may be a token
    try:
        with requests.get(url, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as answer:
            content: bytes = answer.raw.read(MAX_BYTES + 1, decode_content=True)
            status = answer.status_code
    except (requests.RequestException, OSError) as error:
        raise AddressUnavailableError(f"{shown} did not answer ({type(error).__name__})") from error
    if status != 200 or len(content) > MAX_BYTES:
        raise AddressUnavailableError(f"{shown} answered {status}, {len(content)} bytes")
    return content


class SnsVerifier:
    """Says of messages whether they are to be believed, and confirms subscriptions. For all threads of a process."""

    def __init__(self, fetch: Fetch = fetch, seconds: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._seconds = fetch, seconds
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, Any] = OrderedDict()
        self._fetched: deque[float] = deque(maxlen=CERTIFICATES_A_MINUTE)

    def believed(self, message: Any, topics: Collection[str], now: datetime) -> bool:
        """Whether the message is SNS's, of one of the topics, and not older than an hour.

        Raises:
            AddressUnavailableError: the certificate cannot be had now.
        """
        if not isinstance(message, Mapping) or message.get("TopicArn") not in list(topics):
            return False
        content = string_to_sign(message)
        at = time_or_none(message.get("Timestamp"))
        url, hash_name = message.get("SigningCertURL"), _hash_of(message)
        if content is None or at is None or hash_name is None or not _is_certificate(url):
            return False
        if not -AHEAD <= now - at <= MAX_AGE:
            log.info("a message of %s was refused: it is of %s", message["TopicArn"], at)
            return False
        return _is_signed(self._key(str(url)), message["Signature"], content, hash_name)

    def confirm(self, message: Mapping[str, Any]) -> bool:
        """Visit the address that a believed subscription names; False if that is none of SNS's.

        Raises:
            AddressUnavailableError: it did not answer as it should.
        """
        url = urlsplit(message["SubscribeURL"])
        if not _is_sns(message["SubscribeURL"]) or parse_qs(url.query).get("Action") != ["ConfirmSubscription"]:
            return False
        self._fetch(message["SubscribeURL"])
        log.info("confirmed the subscription to %s", message["TopicArn"])
        return True

    def _key(self, url: str) -> Any:
        with self._lock:
            if url in self._keys:
                self._keys.move_to_end(url)
                return self._keys[url]
            now = self._seconds()
            if len(self._fetched) == CERTIFICATES_A_MINUTE and now - self._fetched[0] < 60:
                raise AddressUnavailableError("SNS names a new certificate too often; try again in a minute")
            self._fetched.append(now)
        key = _public_key(self._fetch(url))
        with self._lock:
            self._keys[url] = key
            while len(self._keys) > MAX_CERTIFICATES:
                self._keys.popitem(last=False)
        return key


def string_to_sign(message: Mapping[str, Any]) -> bytes | None:
    """The text that SNS signed, or None if the message lacks a part of it. An absent subject has no part in it."""
    kind = message.get("Type")
    if kind == NOTIFICATION:
        names = [name for name in _SIGNED if name != "Subject" or message.get("Subject") is not None]
    elif kind in CONFIRMATIONS:
        names = list(_SIGNED_CONFIRMATION)
    else:
        return None
    if not all(isinstance(message.get(name), str) for name in (*names, "Signature")):
        return None
    return "".join(f"{name}\n{message[name]}\n" for name in names).encode()


def _hash_of(message: Mapping[str, Any]) -> str | None:
    return {"1": "SHA1", "2": "SHA256"}.get(str(message.get("SignatureVersion")))


def _is_sns(url: Any) -> bool:
    # urlsplit passes over line breaks and tabs.
    if not isinstance(url, str) or not re.fullmatch(r"[!-~]{1,2048}", url):
        return False
    try:
        parts = urlsplit(url)
        plain = parts.netloc == parts.hostname and parts.scheme == "https"
    except ValueError:
        return False
    return plain and _HOST.fullmatch(parts.netloc) is not None


def _is_certificate(url: Any) -> bool:
    if not _is_sns(url):
        return False
    parts = urlsplit(url)
    return _CERTIFICATE.fullmatch(parts.path) is not None and not parts.query and not parts.fragment


def _public_key(pem: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import load_pem_x509_certificate

    try:
        key = load_pem_x509_certificate(pem).public_key()
    except ValueError as error:
        raise AddressUnavailableError("what lies at SNS's address is no certificate") from error
    if not isinstance(key, RSAPublicKey):
        raise AddressUnavailableError("SNS's certificate has no RSA key")
    return key


def _is_signed(key: Any, signature: str, content: bytes, hash_name: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    try:
        key.verify(base64.b64decode(signature, validate=True), content, PKCS1v15(), getattr(hashes, hash_name)())
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
