"""SNS: who is believed, what is fetched, and what a notification says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from moto import mock_aws
from moto.core.base_backend import BackendDict  # noqa: F401 - loads moto's backends
from moto.sns.models import sns_backends

from perennial_airflow.webhook.authentication import NotAuthenticatedError
from perennial_airflow.webhook.sns_signature import (
    WRONG_S,
    AddressUnavailableError,
    NoCertificateError,
    SnsVerifier,
    fetch,
    string_to_sign,
)
from tests.unit.airflow.webhook.gate import NOW, TOPIC, Gate
from tests.unit.airflow.webhook.payloads import CLOUDWATCH_ALARM, SNS_CONFIRMATION, SNS_NOTIFICATION

pytestmark = pytest.mark.airflow
CERTIFICATE_URL = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
PRIVATE_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
HASHES = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303 - SNS's own version 1


def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(PRIVATE_KEY.public_key())
    made = made.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return made.sign(PRIVATE_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def signed_by_sns(message: dict[str, Any], *, version: str = "2", url: str = CERTIFICATE_URL) -> dict[str, Any]:
    content = string_to_sign({**message, "Signature": ""})
    assert content is not None
    signature = PRIVATE_KEY.sign(content, padding.PKCS1v15(), HASHES[version])
    signature_text = base64.b64encode(signature).decode()
    return {**message, "SignatureVersion": version, "Signature": signature_text, "SigningCertURL": url}


@pytest.fixture
def send(gate: Gate) -> Callable[[Any], httpx.Response]:
    gate.certificates[CERTIFICATE_URL] = certificate()

    def send(message: Any) -> httpx.Response:
        headers = {"content-type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification"}
        return gate.client.post("/alerts/sns", content=json.dumps(message), headers=headers)

    return send


@pytest.mark.parametrize("version", ["1", "2"])
def test_cloudwatch_alarm_is_an_alert_of_the_model_that_its_dimension_names(
    gate: Gate, send: Callable[[Any], httpx.Response], version: str
) -> None:
    answer = send(signed_by_sns(SNS_NOTIFICATION, version=version))
    assert answer.status_code == 200
    [record] = gate.records()
    assert record.alert.alert_id == f"sns:{SNS_NOTIFICATION['MessageId']}"
    assert (record.alert.source, record.alert.sender) == ("sns", "sns:drift")
    assert record.alert.summary.startswith("toy-drift: Threshold Crossed")
    assert len(gate.run_ids()) == 1
    again = send(signed_by_sns(SNS_NOTIFICATION, version=version))
    assert again.json()["results"][0]["duplicate"] is True


@pytest.mark.parametrize(
    ("change", "outcomes"),
    [
        ({"Message": json.dumps({**CLOUDWATCH_ALARM, "NewStateValue": "OK"})}, 0),
        ({"Message": json.dumps({"model": "toy", "summary": "drift"})}, 1),
        ({"Message": "free text", "MessageAttributes": {"perennial_model": {"Type": "String", "Value": "toy"}}}, 1),
        ({"Message": "free text", "Subject": None}, None),
    ],
)
def test_message_says_whether_it_is_an_alert_and_of_which_model(
    gate: Gate, send: Callable[[Any], httpx.Response], change: dict[str, Any], outcomes: int | None
) -> None:
    answer = send(signed_by_sns({**SNS_NOTIFICATION, **change}))
    assert answer.status_code == (422 if outcomes is None else 200)
    assert len(gate.records()) == (outcomes or 0)


def changed(**changes: Any) -> dict[str, Any]:
    return {**signed_by_sns(SNS_NOTIFICATION), **changes}


def aged(by: timedelta) -> dict[str, Any]:
    return signed_by_sns({**SNS_NOTIFICATION, "Timestamp": (NOW - by).isoformat().replace("+00:00", "Z")})


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {},
        changed(Message="other"),
        changed(Subject=None),
        changed(Signature="?"),
        changed(Signature=None),
        changed(SignatureVersion="3"),
        changed(Type="Other"),
        changed(TopicArn=["arn"]),
        changed(MessageId=7),
        changed(Timestamp="soon"),
        signed_by_sns({**SNS_NOTIFICATION, "TopicArn": TOPIC + "-other"}),
        aged(timedelta(hours=1, seconds=1)),
        aged(-timedelta(minutes=6)),
    ],
)
def test_message_that_is_not_snss_or_of_another_topic_or_time_is_401(
    gate: Gate, send: Callable[[Any], httpx.Response], message: Any
) -> None:
    answer = send(message)
    assert (answer.status_code, answer.json()) == (401, {"message": "not authenticated"})
    assert gate.records() == []


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.us-east-1.amazonaws.com/SimpleNotificationService-01.pem",
        "https://sns.us-east-1.amazonaws.com.evil.example/SimpleNotificationService-01.pem",
        "https://evil.example/SimpleNotificationService-01.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01.pem",
        "https://evil.s3.amazonaws.com/SimpleNotificationService-01.pem",
        "https://x@sns.us-east-1.amazonaws.com/SimpleNotificationService-01.pem",
        "https://sns.us-east-1.amazonaws.com:8443/SimpleNotificationService-01.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-01.pem?x=1",
        "https://sns.us-east-1.amazonaws.com/../SimpleNotificationService-01.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-01.pem\n",
        "https://[/SimpleNotificationService-01.pem",
        "file:///SimpleNotificationService-01.pem",
        7,
    ],
)
def test_certificate_is_fetched_from_sns_only(gate: Gate, send: Callable[[Any], httpx.Response], url: Any) -> None:
    assert send(changed(SigningCertURL=url)).status_code == 401
    assert gate.visited == []


def test_nothing_is_fetched_for_a_topic_that_is_not_listed(gate: Gate, send: Callable[[Any], httpx.Response]) -> None:
    for message in (SNS_NOTIFICATION, SNS_CONFIRMATION):
        assert send(signed_by_sns({**message, "TopicArn": TOPIC + "2"})).status_code == 401
    assert gate.visited == []


def test_certificate_is_fetched_once_and_new_ones_not_too_often(
    gate: Gate, send: Callable[[Any], httpx.Response]
) -> None:
    for _ in range(3):
        send(signed_by_sns(SNS_NOTIFICATION))
    assert gate.visited == [CERTIFICATE_URL]
    others = [CERTIFICATE_URL.replace("0123", f"{number:04d}") for number in range(1, 30)]
    assert {send(changed(SigningCertURL=url)).status_code for url in others} == {503}
    assert len(gate.visited) == 10
    assert send(signed_by_sns(SNS_NOTIFICATION)).status_code == 200  # real ones go on


def test_address_without_a_certificate_is_not_visited_again_for_a_while() -> None:
    at, answers, visited = [0.0], [b"", AddressUnavailableError("away"), certificate()], []

    def answer(url: str) -> bytes:
        visited.append(url)
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    verifier, message = SnsVerifier(answer, lambda: at[0]), signed_by_sns(SNS_NOTIFICATION)
    for _ in range(3):
        with pytest.raises(NoCertificateError):
            verifier.verify(message, [TOPIC], NOW)
    assert len(visited) == 1
    at[0] = WRONG_S
    with pytest.raises(AddressUnavailableError, match="away"):
        verifier.verify(message, [TOPIC], NOW)
    verifier.verify(message, [TOPIC], NOW)  # what did not answer is asked again at once
    assert len(visited) == 3


def test_subscription_is_confirmed_for_a_listed_topic(gate: Gate, send: Callable[[Any], httpx.Response]) -> None:
    gate.certificates[SNS_CONFIRMATION["SubscribeURL"]] = b"<ConfirmSubscriptionResponse/>"
    assert send(signed_by_sns(SNS_CONFIRMATION)).status_code == 200
    assert gate.visited == [CERTIFICATE_URL, SNS_CONFIRMATION["SubscribeURL"]]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/?Action=ConfirmSubscription",
        "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com/?Action=Publish",
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Action=Publish",
    ],
)
def test_subscription_with_another_address_is_not_confirmed(
    gate: Gate, send: Callable[[Any], httpx.Response], url: str
) -> None:
    assert send(signed_by_sns({**SNS_CONFIRMATION, "SubscribeURL": url})).status_code == 400
    assert gate.visited == [CERTIFICATE_URL]


def test_unsubscription_visits_nothing(gate: Gate, send: Callable[[Any], httpx.Response]) -> None:
    message = signed_by_sns({**SNS_CONFIRMATION, "Type": "UnsubscribeConfirmation"})
    assert send(message).status_code == 200
    assert gate.visited == [CERTIFICATE_URL]


def test_message_that_moto_signs_is_believed() -> None:
    """Somebody else's reading of the documentation agrees."""
    with mock_aws():
        client = boto3.client("sns", region_name="us-east-1")
        arn = client.create_topic(Name="drift")["TopicArn"]
        client.subscribe(TopicArn=arn, Protocol="http", Endpoint="http://127.0.0.1/")
        backend = sns_backends["123456789012"]["us-east-1"]
        [subscription] = backend.subscriptions.values()
        message = subscription.get_post_data("hello", "id-1", None)
        pems = {
            f"https://sns.us-east-1.amazonaws.com/{name}": pem for name, pem in backend._message_public_keys.items()
        }
    now = datetime.now(UTC)
    SnsVerifier(pems.__getitem__).verify(message, [arn], now)
    with pytest.raises(NotAuthenticatedError, match="signature"):
        SnsVerifier(pems.__getitem__).verify({**message, "Message": "x"}, [arn], now)


def test_fetch_names_no_token_when_nothing_answers() -> None:
    with pytest.raises(AddressUnavailableError) as caught:
        fetch("http://127.0.0.1:9/?Token=a-token")
    assert "a-token" not in str(caught.value)
