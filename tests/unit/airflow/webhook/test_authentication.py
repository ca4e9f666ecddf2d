"""Who is believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from perennial.alert_sender import SigningKey, signature
from perennial_airflow.webhook.authentication import (
    MAX_HEADERS,
    Credentials,
    NotAuthenticatedError,
    Sender,
    authenticate,
)
from perennial_airflow.webhook.rate_limit import RateLimit
from tests.unit.airflow.webhook.gate import CREDENTIALS, KEY, NEXT_KEY, NOW, TOKEN, signed

pytestmark = pytest.mark.airflow
BODY = b'{"model": "toy"}'
KNOWN = Credentials.parse(CREDENTIALS)


def asked(headers: dict[str, str], *, body: bytes = BODY, known: Credentials = KNOWN, now: datetime = NOW) -> Any:
    return answer_to(list(headers.items()), body=body, known=known, now=now)


def answer_to(headers: Any, *, body: bytes = BODY, known: Credentials = KNOWN, now: datetime = NOW) -> Sender | None:
    try:
        return authenticate(headers, body, known, now)
    except NotAuthenticatedError:
        return None


def test_signature_of_a_known_key_names_its_sender() -> None:
    assert asked(signed(BODY)) == Sender(name="monitor", message_id="m-1", signed=True)
    assert asked(signed(BODY, key=NEXT_KEY)) == Sender(name="next", message_id="m-1", signed=True)


def test_signature_is_that_of_the_standards_own_example() -> None:
    """https://github.com/standard-webhooks/standard-webhooks: the vector of its libraries' tests."""
    body = b'{"test": 2432232314}'
    given = signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert given == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_message_signed_by_mlflow_itself_is_believed() -> None:
    timestamp = str(int(NOW.timestamp()))
    headers = {
        "x-mlflow-delivery-id": "d-1",
        "x-mlflow-timestamp": timestamp,
        "x-mlflow-signature": _generate_hmac_signature(KEY.secret, "d-1", timestamp, BODY.decode()),
    }
    assert asked(headers) == Sender(name="monitor", message_id="d-1", signed=True)
    assert asked(headers, body=b"{}") is None


def test_message_signed_as_grafana_does_is_believed_with_its_timestamp_only() -> None:
    timestamp = str(int(NOW.timestamp()))

    def digest(content: bytes) -> str:
        return hmac.new(KEY.secret.encode(), content, hashlib.sha256).hexdigest()

    dated = {
        "x-grafana-alerting-timestamp": timestamp,
        "x-grafana-alerting-signature": digest(timestamp.encode() + b":" + BODY),
    }
    assert asked(dated) == Sender(name="monitor", signed=True)
    assert asked({"x-grafana-alerting-signature": digest(BODY)}) is None  # could be told again for ever
    assert asked({**dated, "x-grafana-alerting-timestamp": "1"}) is None


def test_old_key_is_believed_beside_the_new_one_until_it_is_taken_away() -> None:
    both, new = KNOWN, Credentials.parse({"keys": {"next": NEXT_KEY.secret}})
    assert asked(signed(BODY), known=both)
    assert asked(signed(BODY), known=new) is None
    assert asked(signed(BODY, key=NEXT_KEY), known=new)


def test_sender_that_signs_with_two_keys_needs_one_right_one() -> None:
    wrong = signed(BODY, key=SigningKey(name="x", secret="another secret text"))["webhook-signature"]
    right = signed(BODY)["webhook-signature"]
    assert asked(signed(BODY, webhook_signature=f"{wrong} {right}"))
    assert asked(signed(BODY, webhook_signature=" ".join([wrong] * 16 + [right]))) is None  # a bounded number


@pytest.mark.parametrize("seconds", [-301, 301, -86_400, 10**9])
def test_signature_of_another_time_is_not_believed(seconds: int) -> None:
    assert asked(signed(BODY, now=NOW + timedelta(seconds=seconds))) is None


@pytest.mark.parametrize("seconds", [-300, -1, 0, 299])
def test_signature_within_five_minutes_is_believed(seconds: int) -> None:
    assert asked(signed(BODY, now=NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize(
    "change",
    [
        {"webhook_id": "m-2"},
        {"webhook_id": ""},
        {"webhook_timestamp": str(int(NOW.timestamp()) + 1)},
        {"webhook_timestamp": f" {int(NOW.timestamp())}"},
        {"webhook_timestamp": "٣"},
        {"webhook_timestamp": "9" * 400},
        {"webhook_timestamp": f"{int(NOW.timestamp())}.0"},
        {"webhook_signature": ""},
        {"webhook_signature": "v1,"},
        {"webhook_signature": "v1a," + base64.b64encode(b"x" * 64).decode()},
        {"webhook_signature": "ÿ"},
    ],
)
def test_message_that_was_changed_is_not_believed(change: dict[str, str]) -> None:
    assert asked(signed(BODY, **change)) is None


def test_changed_body_or_unknown_key_is_not_believed() -> None:
    assert asked(signed(BODY), body=BODY + b" ") is None
    assert asked(signed(BODY, key=SigningKey(name="monitor", secret="not the secret at all"))) is None


def test_wrong_signature_is_not_made_good_by_a_token() -> None:
    headers = {**signed(BODY, webhook_signature="v1,x"), "authorization": f"Bearer {TOKEN}"}
    assert asked(headers) is None


def test_header_that_comes_twice_is_believed_neither_time() -> None:
    for name, value in signed(BODY).items():
        if name.startswith("webhook-"):
            assert answer_to([*signed(BODY).items(), (name, value)]) is None
    assert answer_to([("authorization", f"Bearer {TOKEN}")] * 2) is None


def test_message_with_more_headers_than_anybody_sends_is_not_looked_at() -> None:
    known = list(signed(BODY).items())
    others = [("x-other", "1")] * (MAX_HEADERS - len(known))
    assert answer_to([*others, *known])
    assert answer_to([*others, ("x-more", "1"), *known]) is None


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "neither a signature nor a bearer token"),
        ({"authorization": "Bearer not it at all"}, "token"),
        (signed(BODY, webhook_id=""), "webhook-id"),
        (signed(BODY, webhook_timestamp="soon"), "webhook-timestamp"),
        (signed(BODY, now=NOW - timedelta(hours=1)), "-3600 s off this clock"),
        (signed(BODY, webhook_signature="v1,x"), "signature"),
        ({"x-grafana-alerting-signature": "x"}, "x-grafana-alerting-timestamp"),
    ],
)
def test_refusal_has_a_reason_without_what_was_sent(headers: dict[str, str], reason: str) -> None:
    with pytest.raises(NotAuthenticatedError, match=reason) as caught:
        authenticate(list(headers.items()), BODY, KNOWN, NOW)
    assert "not it at all" not in str(caught.value)


def test_token_names_its_sender_and_vouches_for_no_header() -> None:
    assert asked({"authorization": f"Bearer {TOKEN}"}) == Sender(name="prometheus")
    assert asked({"authorization": f"bearer {TOKEN}", "webhook-id": "b-1"}) == Sender(
        name="prometheus", message_id="b-1"
    )


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", f"Bearer {TOKEN} ", f"Bearer {TOKEN[:-1]}", TOKEN, "Bearer ÿ"]
)
def test_token_that_is_not_right_is_not_believed(value: str) -> None:
    assert asked({"authorization": value}) is None


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ([], "object"),
        ({"key": {}}, "key"),
        ({"keys": ["a"]}, "keys"),
        ({"keys": {"a": "short"}}, "keys.a"),
        ({"keys": {"a": 12345678901234567890}}, "keys.a"),
        ({"keys": {"a": "whsec_***************"}}, "keys.a"),
        ({"keys": {"a b": "long enough for a secret"}}, "keys"),
        ({"tokens": {"t": "with\na line break in it"}}, "tokens.t"),
        ({"sns_topics": "arn:aws:sns:us-east-1:123456789012:drift"}, "sns_topics"),
        ({"sns_topics": ["arn:aws:sqs:us-east-1:123456789012:drift"]}, "sns_topics"),
        ({"requests_per_s": 0}, "requests_per_s"),
        ({"requests_per_s": True}, "requests_per_s"),
        ({"requests_per_s": float("nan")}, "requests_per_s"),
    ],
)
def test_connection_that_makes_no_sense_says_where_and_repeats_no_secret(extra: Any, field: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        Credentials.parse(extra)
    assert "***" not in str(caught.value)
    assert "short" not in str(caught.value)


def test_secrets_are_in_no_representation() -> None:
    assert KEY.secret not in repr(KNOWN)
    assert TOKEN not in repr(KNOWN)


@pytest.fixture
def limit() -> tuple[RateLimit, Callable[[float], None]]:
    at = [0.0]

    def advance(seconds: float) -> None:
        at[0] += seconds

    return RateLimit(lambda: at[0]), advance


def test_bucket_fills_again_and_never_above_its_rim(limit: tuple[RateLimit, Callable[[float], None]]) -> None:
    bucket, advance = limit
    assert [bucket.wait_s("a", 50) for _ in range(100)] == [0.0] * 100
    assert bucket.wait_s("a", 50) == pytest.approx(0.02)
    assert bucket.wait_s("b", 50) == 0.0
    advance(0.1)
    assert [bucket.wait_s("a", 50) for _ in range(6)] == [0.0] * 5 + [pytest.approx(0.02)]
    advance(3600)
    assert [bucket.wait_s("a", 50) for _ in range(101)][-2:] == [0.0, pytest.approx(0.02)]
