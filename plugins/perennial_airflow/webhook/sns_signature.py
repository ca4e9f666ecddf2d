"""Whether a message is one of SNS, of a topic that is listed: RSA over some of its fields, versions 1 and 2.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html

The certificate is fetched from the address in the message, so that address has to be SNS's own, in the topic's region,
and the topic has to be listed before anything is fetched.
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

from perennial.domain.alert import one_line
from perennial.errors import TransientError
from perennial_airflow.webhook.authentication import NotAuthenticatedError
from perennial_airflow.webhook.signals import time_or_none

log = logging.getLogger(__name__)

MAX_AGE: Final = timedelta(hours=1)
"""SNS itself tries for so long; a message told again within it has the id of the first, and starts nothing."""
AHEAD: Final = timedelta(minutes=5)
MAX_BYTES: Final = 64 * 1024
TIMEOUT_S: Final = 5.0
MAX_CERTIFICATES: Final = 16
CERTIFICATES_A_MINUTE: Final = 10
WRONG_S: Final = 600.0
"""For so long an address at which there was no certificate is not visited again."""
MAX_WRONG: Final = 256
NOTIFICATION: Final = "Notification"
CONFIRMATIONS: Final = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
_SIGNED: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_SIGNED_CONFIRMATION: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
_HOST: Final = re.compile(r"sns\.(?P<region>[a-z0-9-]{3,32})\.amazonaws\.com(\.cn)?")
_CERTIFICATE: Final = re.compile(r"/SimpleNotificationService-[A-Za-z0-9]{1,64}\.pem")

Fetch = Callable[[str], bytes]


class AddressUnavailableError(TransientError):
    """An address of SNS did not answer, or not with what should be there."""


class NoCertificateError(AddressUnavailableError):
    """It answered, and has no certificate: somebody made the address up, most likely."""


def fetch(url: str) -> bytes:
    """What lies at an address, up to `MAX_BYTES`; redirects are not followed.

    Raises:
        NoCertificateError: an answer that says there is nothing.
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
    if 400 <= status < 500 and status != 429:
        raise NoCertificateError(f"{shown} answered {status}")
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
        self._wrong: OrderedDict[str, float] = OrderedDict()

    def verify(self, message: Any, topics: Collection[str], now: datetime) -> None:
        """Make sure that the message is SNS's, of one of the topics, and not older than an hour.

        Raises:
            NotAuthenticatedError: it is not.
            AddressUnavailableError: the certificate cannot be had now.
        """
        _require(isinstance(message, Mapping), "it is no object, as SNS's messages are")
        arn = message.get("TopicArn")
        _require(arn in list(topics), f"the topic {one_line(str(arn), 200)} is not one of the connection's sns_topics")
        content, hash_name = string_to_sign(message), _hash_of(message)
        _require(content is not None and hash_name is not None, "it lacks a part that SNS signs, or is of another kind")
        at = time_or_none(message.get("Timestamp"))
        _require(at is not None and -AHEAD <= now - at <= MAX_AGE, f"it is of {at}, an hour is allowed")
        url = message.get("SigningCertURL")
        shown = one_line(str(url).partition("?")[0], 200)
        _require(_is_certificate(url, arn), f"no certificate of SNS in the topic's region is at {shown}")
        signed = _is_signed(self._key(str(url)), message["Signature"], content or b"", str(hash_name))
        _require(signed, f"its signature is not one of {shown}")

    def confirm(self, message: Mapping[str, Any]) -> bool:
        """Visit the address that a believed subscription names; False if that is none of SNS's.

        Raises:
            AddressUnavailableError: it did not answer as it should.
        """
        url = urlsplit(message["SubscribeURL"])
        if not _is_sns(message["SubscribeURL"], message["TopicArn"]) or parse_qs(url.query).get("Action") != [
            "ConfirmSubscription"
        ]:
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
            if now - self._wrong.get(url, -WRONG_S) < WRONG_S:
                raise NoCertificateError(f"there was no certificate at {url} some minutes ago")
            if len(self._fetched) == CERTIFICATES_A_MINUTE and now - self._fetched[0] < 60:
                raise AddressUnavailableError("SNS names a new certificate too often; try again in a minute")
            self._fetched.append(now)
        try:
            key = _public_key(self._fetch(url))
        except NoCertificateError:
            with self._lock:
                self._wrong[url] = now
                while len(self._wrong) > MAX_WRONG:
                    self._wrong.popitem(last=False)
            raise
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


def _require(condition: bool, said: str) -> None:
    if not condition:
        raise NotAuthenticatedError(said)


def _is_sns(url: Any, topic: str) -> bool:
    """Whether it is an address of SNS in the region of the topic, which its ARN names."""
    # urlsplit passes over line breaks and tabs.
    if not isinstance(url, str) or not re.fullmatch(r"[!-~]{1,2048}", url):
        return False
    try:
        parts = urlsplit(url)
        plain = parts.netloc == parts.hostname and parts.scheme == "https"
    except ValueError:
        return False
    host = _HOST.fullmatch(parts.netloc)
    return plain and host is not None and host["region"] == topic.split(":")[3]


def _is_certificate(url: Any, topic: str) -> bool:
    if not _is_sns(url, topic):
        return False
    parts = urlsplit(url)
    return _CERTIFICATE.fullmatch(parts.path) is not None and not parts.query and not parts.fragment


def _public_key(pem: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import load_pem_x509_certificate

    try:
        key = load_pem_x509_certificate(pem).public_key()
    except ValueError as error:
        raise NoCertificateError("what lies at SNS's address is no certificate") from error
    if not isinstance(key, RSAPublicKey):
        raise NoCertificateError("SNS's certificate has no RSA key")
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
