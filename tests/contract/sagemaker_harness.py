"""The SageMaker deployer and its platform for the suite of all deployers; every call is kept and can be looked at."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import boto3
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError
from botocore.loaders import create_loader
from moto import mock_aws
from tests.contract.deployers import Crash, Fault, Served
from tests.contract.sagemaker_platform import REGION, Platform, more_than_moto
from tests.contract.scoring_service_harness import NoSleep

from perennial.adapters.deploy_sagemaker import SageMakerDeployer
from perennial.adapters.sagemaker_requests import endpoint_name
from perennial.domain.traffic import Role
from perennial.ports import Deployer
from perennial.spec.platforms import SageMaker

SPEC: Final = SageMaker(
    kind="sagemaker",
    image="123456789012.dkr.ecr.eu-central-1.amazonaws.com/perennial@sha256:0a1b",
    execution_role="arn:aws:iam::123456789012:role/service-role/perennial-serving",
    instance_count=4,
    subnets=("subnet-0a1b2c3d", "subnet-4e5f6a7b"),
    security_groups=("sg-0a1b2c3d",),
    alarms=("perennial-errors", "perennial-latency"),
    environment={"MLFLOW_TRACKING_URI": "https://mlflow.example", "PERENNIAL_STORE": "s3://perennial/store"},
)
_READING: Final = ("Describe", "List")
_LOADER: Final = create_loader()
"""SageMaker's model is large; read once."""


@dataclass(frozen=True)
class Call:
    """One call of the API: with the model that botocore has of it, what was sent, and what came back."""

    operation: Any
    sent: dict[str, Any]
    received: dict[str, Any]


class _OneClient:
    """A session whose deployers share a client: to make one takes longer than a test."""

    def __init__(self, session: boto3.Session) -> None:
        self._session = session
        self._made: Any = None

    def client(self, name: str, **options: Any) -> Any:
        self._made = self._made or self._session.client(name, **options)
        return self._made


@dataclass
class SageMakerHarness:
    """See `tests.contract.deployers.Harness`."""

    platform: Platform
    spec: SageMaker = SPEC
    roles: tuple[Role, ...] = (Role.CANARY, Role.SHADOW)
    made: list[Call] = field(default_factory=list)
    calls: int = 0
    changes: int = 0
    _fault: Fault | None = None
    _crash_at: tuple[int, bool] | None = None
    _sent: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        core = botocore.session.Session()
        core.register_component("data_loader", _LOADER)
        session = boto3.Session("key", "secret", region_name=REGION, botocore_session=core)
        session.events.register("provide-client-params.sagemaker", self._keep)
        session.events.register("before-call.sagemaker", self._before)
        session.events.register("before-send.sagemaker", self._answer)
        session.events.register("after-call.sagemaker", self._after)
        self._session = _OneClient(session)

    def deployer(self) -> Deployer:
        return SageMakerDeployer(self.spec, lambda: self._session)  # type: ignore[arg-type,return-value]

    @property
    def events(self) -> Any:
        """Of the deployers' client, once there is one: to answer single operations."""
        return self._session.client("sagemaker").meta.events

    def settle(self) -> None:
        self.platform.settle()

    def move_alias(self, model: str, version: str) -> None:
        """The containers are told their versions."""

    def served(self, model: str) -> Served:
        return self.platform.served(endpoint_name(model))

    @contextmanager
    def play(self, fault: Fault) -> Iterator[None]:
        self._fault = fault
        yield
        self._fault = None

    @contextmanager
    def crash(self, at: int, *, after: bool) -> Iterator[None]:
        self._crash_at = (self.calls + at, after)
        try:
            yield
        finally:
            self._crash_at = None

    def _keep(self, params: dict[str, Any], **_: Any) -> None:
        self._sent = params

    def _before(self, model: Any, **_: Any) -> None:
        if self._crash_at == (self.calls, False):
            raise Crash
        self.calls += 1
        self.changes += not model.name.startswith(_READING)

    def _after(self, model: Any, parsed: dict[str, Any], http_response: Any, **_: Any) -> None:
        if http_response.status_code < 300:
            self.made.append(Call(model, self._sent, parsed))
        if self._crash_at == (self.calls - 1, True):
            raise Crash

    def _answer(self, request: Any, **_: Any) -> AWSResponse | None:
        if self._fault is None:
            return None
        if self._fault is Fault.DOWN:
            raise EndpointConnectionError(endpoint_url=request.url)
        if self._fault is Fault.THROTTLED:
            return answer(request, 400, "ThrottlingException", "Rate exceeded")
        return answer(request, 400, "AccessDeniedException", "User: arn:aws:sts::1:x is not authorized to perform it")


class _Body(io.BytesIO):
    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def answer(request: Any, status: int, code: str, message: str) -> AWSResponse:
    """As SageMaker's protocol has it."""
    body = json.dumps({"__type": code, "message": message}).encode()
    return AWSResponse(request.url, status, {"Content-Type": "application/x-amz-json-1.1"}, _Body(body))


@contextmanager
def sagemaker_harness() -> Iterator[SageMakerHarness]:
    """A platform with nothing on it. Retries do not wait."""
    with pytest.MonkeyPatch.context() as patch, mock_aws(), more_than_moto() as platform:
        patch.setattr("botocore.endpoint.time", NoSleep)
        yield SageMakerHarness(platform)
