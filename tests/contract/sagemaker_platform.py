"""SageMaker for the contract suite: moto, and what moto 5.2.5 lacks of it.

Read in moto's source; each point is played here as AWS documents it, or as its well-known messages tell:

- `UpdateEndpoint` is not there. Shadow variants are dropped, from configurations and from endpoints.
- A variant of weight 0 has no weight in DescribeEndpoint. UpdateEndpointWeightsAndCapacities takes the instance counts
  away.
- Everything is InService at once: no Creating, no Updating, no PendingDeploymentSummary, no weight that is desired and
  not yet current. Here a change takes until `settle`, and SageMaker can take it back.
- What is there already is created again. An endpoint in the middle of a change takes another.
- AddTags leaves two tags of one key. ListModels knows no NameContains. What describes endpoints and
  configurations tells of a DataCaptureConfig without its required fields.
- A DeploymentConfig between configurations with different variants is accepted; AWS documents that it needs the same.

What neither moto nor this plays: instances that do not come up in time, quotas, delays between what was written and
what is read, IAM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from moto.core.responses import ActionResult
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.models import FakeEndpoint, SageMakerModelBackend, sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse
from tests.contract.deployers import Served

ACCOUNT: Final = "123456789012"
REGION: Final = "eu-central-1"


@dataclass
class Platform:
    """SageMaker in one region, from the inside."""

    pending: dict[str, str] = field(default_factory=dict)
    """Configuration on its way into force, by endpoint."""
    takeovers: list[dict[str, Any] | None] = field(default_factory=list)
    """The DeploymentConfig of each UpdateEndpoint."""
    is_slow: bool = True
    """Whether a change takes until `settle`."""

    @property
    def backend(self) -> SageMakerModelBackend:
        backend: SageMakerModelBackend = sagemaker_backends[ACCOUNT][REGION]
        return backend

    def endpoint(self, name: str) -> FakeEndpoint:
        return self.backend.endpoints[name]

    def settle(self) -> None:
        """Finish what is going on."""
        for name, endpoint in self.backend.endpoints.items():
            if endpoint.endpoint_status not in ("Creating", "Updating"):
                continue
            if name in self.pending:
                self._put_in_force(endpoint, self.pending.pop(name))
            for variant in self._variants(endpoint):
                variant["CurrentWeight"] = variant["DesiredWeight"]
            endpoint.pending_deployment_summary = None
            endpoint.failure_reason = None
            endpoint.endpoint_status = "InService"

    def take_back(self, name: str, reason: str) -> None:
        """As after an alarm: the configuration before stays in force."""
        del self.pending[name]
        endpoint = self.endpoint(name)
        endpoint.pending_deployment_summary = None
        endpoint.failure_reason, endpoint.endpoint_status = reason, "InService"

    def served(self, name: str) -> Served:
        """From the containers' environment, not from any name or tag."""
        endpoint = self.backend.endpoints.get(name)
        if endpoint is None or endpoint.endpoint_status in ("Creating", "Failed"):
            return Served()
        configuration = self.backend.endpoint_configs[endpoint.endpoint_config_name]
        answering = self._weights(endpoint.production_variants, configuration.production_variants)
        copying = self._weights(endpoint.shadow_production_variants, configuration.shadow_production_variants)
        whole = sum(answering.values())
        return Served(
            answers={version: 100 * weight / whole for version, weight in answering.items() if weight},
            copies={version: 100 * weight / whole for version, weight in copying.items() if weight},
        )

    def _weights(
        self, variants: list[dict[str, Any]] | None, configured: list[dict[str, Any]] | None
    ) -> dict[str, Any]:
        models = {variant["VariantName"]: self.backend._models[variant["ModelName"]] for variant in configured or ()}
        version = {
            name: model.primary_container["Environment"]["PERENNIAL_SCORING_VERSION"] for name, model in models.items()
        }
        return {version[variant["VariantName"]]: variant["CurrentWeight"] for variant in variants or ()}

    def _variants(self, endpoint: FakeEndpoint) -> list[dict[str, Any]]:
        return [*endpoint.production_variants, *(endpoint.shadow_production_variants or ())]

    def _put_in_force(self, endpoint: FakeEndpoint, name: str) -> None:
        configuration = self.backend.endpoint_configs[name]
        endpoint.endpoint_config_name = name
        endpoint.production_variants = [_summary(given) for given in configuration.production_variants]
        shadows = configuration.shadow_production_variants
        endpoint.shadow_production_variants = [_summary(given) for given in shadows] if shadows else None

    def begin(self, endpoint: FakeEndpoint, status: str, configuration: str | None = None) -> None:
        endpoint.endpoint_status = status
        if configuration is not None:
            self.pending[endpoint.endpoint_name] = configuration
            endpoint.pending_deployment_summary = {"EndpointConfigName": configuration}
        if not self.is_slow:
            self.settle()


@contextmanager
def more_than_moto() -> Iterator[Platform]:
    """Within `mock_aws`: the operations that the deployer uses, as this module says."""
    platform = Platform()
    with pytest.MonkeyPatch.context() as patch:
        for name, method in _methods(platform).items():
            patch.setattr(SageMakerResponse, name, method, raising=False)
        yield platform


def _methods(platform: Platform) -> dict[str, Callable[[SageMakerResponse], ActionResult]]:
    original = {name: getattr(SageMakerResponse, name) for name in ("create_model", "create_endpoint_config")}

    def create_model(self: SageMakerResponse) -> ActionResult:
        _refuse_existing("model", self._get_param("ModelName"), platform.backend._models)
        return original["create_model"](self)

    def create_endpoint_config(self: SageMakerResponse) -> ActionResult:
        name, shadows = self._get_param("EndpointConfigName"), self._get_param("ShadowProductionVariants")
        _refuse_existing("endpoint configuration", name, platform.backend.endpoint_configs)
        platform.backend.validate_production_variants(shadows or [])
        if shadows and (len(shadows) > 1 or len(self._get_param("ProductionVariants")) > 1):
            raise ValidationError(message="one production variant and one shadow variant at most")
        result = original["create_endpoint_config"](self)
        configuration = platform.backend.endpoint_configs[name]
        configuration.shadow_production_variants, configuration.data_capture_config = shadows or None, None
        return result

    def create_endpoint(self: SageMakerResponse) -> ActionResult:
        name, configuration = self._get_param("EndpointName"), self._get_param("EndpointConfigName")
        _refuse_existing("endpoint", name, platform.backend.endpoints)
        platform.backend.describe_endpoint_config(configuration)  # moto's own error if there is none
        endpoint = FakeEndpoint(ACCOUNT, REGION, name, configuration, [], {}, self._get_param("Tags"))
        platform.backend.endpoints[name] = endpoint
        endpoint.data_capture_config = None
        platform._put_in_force(endpoint, configuration)
        platform.begin(endpoint, "Creating", configuration)
        return ActionResult({"EndpointArn": endpoint.arn})

    def update_endpoint(self: SageMakerResponse) -> ActionResult:
        endpoint = _idle(platform, self._get_param("EndpointName"))
        name, takeover = self._get_param("EndpointConfigName"), self._get_param("DeploymentConfig")
        platform.backend.describe_endpoint_config(name)
        wanted = platform.backend.endpoint_configs[name]
        before = {variant["VariantName"] for variant in platform._variants(endpoint)}
        after = {v["VariantName"] for v in (*wanted.production_variants, *(wanted.shadow_production_variants or ()))}
        if takeover and before != after:
            raise ValidationError(message=f"DeploymentConfig needs the same variants, not {before} and {after}")
        platform.takeovers.append(takeover)
        platform.begin(endpoint, "Updating", name)
        return ActionResult({"EndpointArn": endpoint.arn})

    def update_weights(self: SageMakerResponse) -> ActionResult:
        endpoint = _idle(platform, self._get_param("EndpointName"))
        variants = {variant["VariantName"]: variant for variant in platform._variants(endpoint)}
        wanted = self._get_param("DesiredWeightsAndCapacities")
        unknown = [given["VariantName"] for given in wanted if given["VariantName"] not in variants]
        if unknown:
            raise ValidationError(message=f"The variant name(s) {unknown} is/are not present")
        for given in wanted:
            variants[given["VariantName"]]["DesiredWeight"] = given["DesiredWeight"]
        platform.begin(endpoint, "Updating")
        return ActionResult({"EndpointArn": endpoint.arn})

    def add_tags(self: SageMakerResponse) -> ActionResult:
        resource = platform.backend._get_resource_from_arn(self._get_param("ResourceArn"))
        new = {tag["Key"]: tag["Value"] for tag in (*resource.tags, *self._get_param("Tags"))}
        resource.tags = [{"Key": key, "Value": value} for key, value in new.items()]
        return ActionResult({"Tags": resource.tags})

    def list_models(self: SageMakerResponse) -> ActionResult:
        part = self._get_param("NameContains") or ""
        models = [model.response_object for name, model in platform.backend._models.items() if part in name]
        return ActionResult({"Models": models})

    return {
        "create_model": create_model,
        "create_endpoint_config": create_endpoint_config,
        "create_endpoint": create_endpoint,
        "update_endpoint": update_endpoint,
        "update_endpoint_weights_and_capacities": update_weights,
        "add_tags": add_tags,
        "list_models": list_models,
    }


def _summary(configured: dict[str, Any]) -> dict[str, Any]:
    weight, count = configured["InitialVariantWeight"], configured["InitialInstanceCount"]
    return {
        "VariantName": configured["VariantName"],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
        "CurrentInstanceCount": count,
        "DesiredInstanceCount": count,
    }


def _refuse_existing(kind: str, name: str, there: dict[str, Any]) -> None:
    if name in there:
        raise ValidationError(message=f'Cannot create already existing {kind} "{name}".')


def _idle(platform: Platform, name: str) -> FakeEndpoint:
    platform.backend.describe_endpoint(name)  # moto's own error if there is none
    endpoint = platform.endpoint(name)
    if endpoint.endpoint_status != "InService":
        raise ValidationError(message=f'Cannot update in-progress endpoint "{endpoint.arn}".')
    return endpoint
