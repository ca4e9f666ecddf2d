"""An endpoint of Amazon SageMaker as a deployer.

One endpoint a model. Its variants are called `champion` and `challenger`, each with a SageMaker model for one version.
A challenger comes up beside the champion by an endpoint configuration with both; its share is the variants' weights. A
version takes over by a configuration with it alone.

An endpoint that changes (minutes, each time) takes no other change: what cannot be done now is refused as unavailable,
and done by the next call. What was asked for is written down first, as a tag of the endpoint, so that a change that
SageMaker took back is told apart from one that was never asked for. A split does not expire by itself here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from perennial.adapters import sagemaker_requests as requests
from perennial.adapters.sagemaker_errors import is_missing, is_there_already, mapped
from perennial.adapters.sagemaker_requests import CHALLENGER, CHAMPION
from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError, PerennialError, TerminalError
from perennial.ports import DeploymentStatus, RegisteredVersion, Split
from perennial.spec.platforms import SageMaker

_log = logging.getLogger(__name__)

ATTEMPTS: Final = 4
"""Tries a call, the first included, with exponential back-off."""
CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 30
_CONFIGURATION: Final = "EndpointConfigName"
_IN_SERVICE: Final = "InService"
_STUCK: Final = frozenset({"Failed", "OutOfService", "UpdateRollbackFailed"})
_SHARE_DIGITS: Final = 4
"""SageMaker keeps weights in single precision; 33.3 comes back as 33.29999924."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Configuration:
    """What an endpoint configuration says."""

    models: Mapping[str, str] = field(default_factory=dict)
    """SageMaker model of each variant."""
    role: Role | None = None
    """The challenger's, if there is one."""
    rollout_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Endpoint:
    """What SageMaker says of an endpoint, as far as it matters here."""

    name: str
    arn: str
    status: str
    reason: str
    """Why a change failed; empty: none did, or SageMaker does not say."""
    configuration: str
    """In force."""
    pending: str
    """On its way into force; empty: none."""
    intended: str
    """What was asked for last; empty: somebody else made the endpoint."""
    current: Mapping[str, float]
    """Weight of each variant."""
    desired: Mapping[str, float]
    models: Mapping[str, str]
    """SageMaker model of each variant."""
    role: Role | None
    """The challenger's, if there is one."""
    rollout_id: str | None

    @property
    def is_idle(self) -> bool:
        """Whether it takes a change."""
        return self.status == _IN_SERVICE

    @property
    def heads_for(self) -> str:
        """The configuration that is in force when nothing changes any more."""
        return self.pending or self.configuration

    @property
    def problem(self) -> str:
        """Why what was asked for will never be in force; empty: it is, or is on the way."""
        if self.status in _STUCK:
            return f"SageMaker endpoint {self.name} is {self.status}: {self.reason or 'no reason given'}"
        if self.is_idle and self.reason and self.intended not in ("", self.configuration):
            return f"SageMaker took the change of endpoint {self.name} back: {self.reason}"
        return ""


class SageMakerDeployer:
    """A `Deployer` on SageMaker. Connects at first use; not shared among threads."""

    def __init__(self, spec: SageMaker, session: Callable[[], boto3.Session | None] | None = None) -> None:
        self._spec = spec
        self._session = session

    def deploy(self, split: Split) -> None:
        """Bring the endpoint to a configuration with both versions. Takes SageMaker some minutes."""
        endpoint = self._look(split.challenger.name)
        _refuse_others(endpoint, split)
        request = requests.create_configuration(self._spec, split.champion, split)
        self._go_to(endpoint, request, split.champion, split.challenger)

    def shift(self, split: Split, share: float) -> None:
        """Set the variants' weights. A challenger that is not up is brought up first."""
        endpoint = self._look(split.challenger.name)
        _refuse_others(endpoint, split)
        request = requests.create_configuration(self._spec, split.champion, split)
        if endpoint is None or endpoint.configuration != request["EndpointConfigName"]:
            self._go_to(endpoint, request, split.champion, split.challenger)
            raise DeployerUnavailableError(
                f"{split.challenger.name}: SageMaker is bringing version {split.challenger.version} up; its share can "
                f"be set when the endpoint is {_IN_SERVICE}"
            )
        self._weigh(endpoint, requests.weights(split.role, share))

    def status(self, model: str) -> DeploymentStatus:
        """What the configuration in force and its weights say."""
        endpoint = self._look(model)
        if endpoint is None:
            return DeploymentStatus(champion=None)
        versions = {name: requests.version_of(model, found) for name, found in endpoint.models.items()}
        return DeploymentStatus(
            champion=versions.get(CHAMPION),
            challenger=versions.get(CHALLENGER),
            role=endpoint.role,
            share=_share(endpoint.role, endpoint.current),
            rollout_id=endpoint.rollout_id,
            ready=endpoint.is_idle and endpoint.intended in ("", endpoint.configuration),
            problem=endpoint.problem,
        )

    def promote(self, champion: RegisteredVersion) -> None:
        """Bring the endpoint to a configuration with this version alone; or make the endpoint."""
        endpoint = self._look(champion.name)
        # SageMaker's guardrails want the same variants before and after. Where there is a challenger they cannot be
        # had; the rollout's own were there instead.
        guarded = endpoint is not None and endpoint.role is None
        takeover = requests.takeover(self._spec) if guarded else None
        self._go_to(endpoint, requests.create_configuration(self._spec, champion), champion, takeover=takeover)

    def roll_back(self, champion: RegisteredVersion) -> None:
        """Take the share away, which SageMaker does in seconds; then the challenger's instances, by a later call."""
        endpoint = self._look(champion.name)
        if endpoint is None:
            return
        request = requests.create_configuration(self._spec, champion)
        has_share = endpoint.role is Role.CANARY and endpoint.desired.get(CHALLENGER, 0.0) > 0
        if has_share and endpoint.heads_for != request["EndpointConfigName"]:
            self._weigh(endpoint, requests.weights(Role.CANARY, 0.0))
            raise DeployerUnavailableError(
                f"{champion.name}: SageMaker is giving all requests to the champion; the challenger's instances can be "
                f"taken away when the endpoint is {_IN_SERVICE} again"
            )
        self._go_to(endpoint, request, champion)

    def _weigh(self, endpoint: _Endpoint, wanted: Mapping[str, float]) -> None:
        if all(math.isclose(endpoint.desired.get(name, -1.0), wanted[name], abs_tol=1e-4) for name in wanted):
            return
        _require_idle(endpoint)
        self._call(
            "update_endpoint_weights_and_capacities",
            EndpointName=endpoint.name,
            DesiredWeightsAndCapacities=[{"VariantName": n, "DesiredWeight": w} for n, w in wanted.items()],
        )

    def _go_to(
        self,
        endpoint: _Endpoint | None,
        request: Mapping[str, Any],
        *versions: RegisteredVersion,
        takeover: Mapping[str, Any] | None = None,
    ) -> None:
        """Create what is missing and ask SageMaker for the configuration, unless it is in force or on its way."""
        model, wanted = versions[0].name, request[_CONFIGURATION]
        is_on_its_way = endpoint is not None and endpoint.heads_for == wanted
        if endpoint is not None:
            _refuse_stuck(endpoint)
        if not is_on_its_way:
            if endpoint is not None:
                _require_idle(endpoint)
                self._clean(model, endpoint, keep=wanted)
            for version in versions:
                self._create("create_model", requests.create_model(self._spec, version))
            self._create("create_endpoint_config", request)
        target = {"EndpointName": requests.endpoint_name(model), _CONFIGURATION: wanted}
        if endpoint is None:
            about = requests.tags({"perennial:model": model, requests.INTENDED: wanted})
            self._call("create_endpoint", **target, Tags=about)
            return
        if endpoint.intended != wanted:
            self._call("add_tags", ResourceArn=endpoint.arn, Tags=requests.tags({requests.INTENDED: wanted}))
        if not is_on_its_way:
            options = {} if takeover is None else {"DeploymentConfig": takeover}
            self._call("update_endpoint", **target, **options)

    def _create(self, operation: str, request: Mapping[str, Any]) -> None:
        """Create it, unless it is there: its name says its content."""
        with mapped(operation):
            try:
                getattr(self._client, operation)(**request)
            except ClientError as error:
                if not is_there_already(error):
                    raise

    def _clean(self, model: str, endpoint: _Endpoint, keep: str) -> None:
        """Delete the configurations that are not in use any more, and the models that none of the others names.

        Done before a change, so that what was in force before the last one is still there. What cannot be deleted costs
        nothing, and is tried again before the next.
        """
        if not endpoint.models:  # the configuration in force cannot be read: who knows what is in use
            return
        kept = {endpoint.configuration, endpoint.intended, keep}
        used = set(endpoint.models.values())
        try:
            for name in self._names("list_endpoint_configs", "EndpointConfigs", _CONFIGURATION, model):
                if not requests.is_configuration_of(model, name):
                    continue
                if name in kept:
                    used |= set(self._configuration(name).models.values())
                else:
                    self._call("delete_endpoint_config", EndpointConfigName=name)
            for name in self._names("list_models", "Models", "ModelName", model):
                if requests.version_of(model, name) is not None and name not in used:
                    self._call("delete_model", ModelName=name)
        except PerennialError as error:
            _log.warning("%s: what is left of earlier versions on SageMaker stays for now: %s", model, error)

    def _names(self, operation: str, items: str, key: str, model: str) -> list[str]:
        with mapped(operation):
            pages = self._client.get_paginator(operation).paginate(NameContains=requests.name_part(model))
            return [str(item[key]) for page in pages for item in page[items]]

    def _look(self, model: str) -> _Endpoint | None:
        name = requests.endpoint_name(model)
        told = self._described("describe_endpoint", EndpointName=name)
        if told is None:
            return None
        variants = [*told.get("ProductionVariants", ()), *told.get("ShadowProductionVariants", ())]
        in_force = told.get(_CONFIGURATION, "")
        configured = self._configuration(in_force)
        return _Endpoint(
            name=name,
            arn=told["EndpointArn"],
            status=told["EndpointStatus"],
            reason=told.get("FailureReason", ""),
            configuration=in_force,
            pending=told.get("PendingDeploymentSummary", {}).get(_CONFIGURATION, ""),
            intended=self._tags(told["EndpointArn"]).get(requests.INTENDED, ""),
            current={variant["VariantName"]: variant.get("CurrentWeight", 0.0) for variant in variants},
            desired={variant["VariantName"]: variant.get("DesiredWeight", 0.0) for variant in variants},
            models=configured.models,
            role=configured.role,
            rollout_id=configured.rollout_id,
        )

    def _configuration(self, name: str) -> _Configuration:
        told = self._described("describe_endpoint_config", EndpointConfigName=name) if name else None
        if told is None:  # an endpoint serves on without the configuration that it was made of
            return _Configuration()
        answering, copying = told["ProductionVariants"], told.get("ShadowProductionVariants", ())
        models = {variant["VariantName"]: variant["ModelName"] for variant in (*answering, *copying)}
        if CHALLENGER not in models:
            return _Configuration(models=models)
        role = Role.SHADOW if copying else Role.CANARY
        rollout_id = self._tags(told["EndpointConfigArn"]).get(requests.ROLLOUT)
        return _Configuration(models=models, role=role, rollout_id=rollout_id)

    def _described(self, operation: str, **name: str) -> Any:
        with mapped(operation):
            try:
                return getattr(self._client, operation)(**name)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise

    def _tags(self, arn: str) -> dict[str, str]:
        with mapped("list_tags"):
            pages = self._client.get_paginator("list_tags").paginate(ResourceArn=arn)
            return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}

    def _call(self, operation: str, **request: Any) -> None:
        with mapped(operation):
            getattr(self._client, operation)(**request)

    @cached_property
    def _client(self) -> Any:
        session = (self._session() if self._session is not None else None) or boto3.Session()
        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
        )
        return session.client("sagemaker", config=config)


def _refuse_others(endpoint: _Endpoint | None, split: Split) -> None:
    if endpoint is None or endpoint.role is None or endpoint.rollout_id == split.rollout_id:
        return
    raise DeployerUnavailableError(
        f"{split.challenger.name}: endpoint {endpoint.name} has a challenger of rollout {endpoint.rollout_id}, which "
        f"does not expire; wait for its end, or take it back: perennial rollback {split.challenger.name} --challenger"
    )


def _refuse_stuck(endpoint: _Endpoint) -> None:
    if endpoint.status in _STUCK:
        raise TerminalError(
            f"{endpoint.problem}. It takes no change any more: mend what the reason says, delete the endpoint and try "
            f"again (it is made anew)"
        )


def _require_idle(endpoint: _Endpoint) -> None:
    _refuse_stuck(endpoint)
    if not endpoint.is_idle:
        raise DeployerUnavailableError(
            f"SageMaker endpoint {endpoint.name} is {endpoint.status} and takes no other change until it is "
            f"{_IN_SERVICE}; try again then"
        )


def _share(role: Role | None, weights: Mapping[str, float]) -> float:
    """Percent of the requests, or of their copies, that go to the challenger."""
    if role is None:
        return 0.0
    champion, challenger = weights.get(CHAMPION, 0.0), weights.get(CHALLENGER, 0.0)
    whole = champion if role is Role.SHADOW else champion + challenger
    return round(100 * challenger / whole, _SHARE_DIGITS) if whole else 0.0
