"""What is asked of SageMaker, as plain values: names, models, endpoint configurations, how a version takes over.

A name carries a digest of what it names, so that the same content is created once, whoever asks for it how often.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from perennial.domain.fingerprint import digest_of
from perennial.domain.traffic import Role
from perennial.ports import RegisteredVersion, Split
from perennial.spec.platforms import SageMaker

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
"""Names of the variants. They are roles, not versions: SageMaker shifts traffic with guardrails only between fleets
whose variants have the same names, and policies for scaling hang on them."""
INTENDED: Final = "perennial:configuration"
"""Tag of an endpoint: the configuration that it was asked to go to last."""
ROLLOUT: Final = "perennial:rollout"
"""Tag of a configuration with a challenger: whose split it is."""
PORT: Final = 8080
"""On which SageMaker sends requests to a container."""
FULL: Final = 100.0
"""Sum of the weights of two production variants. A shadow's counts against the champion's weight, which is this."""
_NAME_LENGTH: Final = 63
_STEM_LENGTH: Final = 30


def endpoint_name(model: str) -> str:
    """The endpoint's name: `perennial-<model>`, with hyphens for underscores."""
    return f"perennial-{_stem(model, _NAME_LENGTH - len('perennial-'))}"


def model_name(spec: SageMaker, version: RegisteredVersion) -> str:
    """Of one version in containers as the spec wants them."""
    content = {"container": _container(spec, version), "digest": version.model.digest, **_model_options(spec)}
    return f"{_prefix(version.name)}v{version.version}-{digest_of(content)[:8]}"


def version_of(model: str, name: str) -> str | None:
    """The version that a SageMaker model of this name holds; None: it is none of this model's."""
    match = re.fullmatch(rf"{re.escape(_prefix(model))}v([0-9]+)-[0-9a-f]{{8}}", name)
    return None if match is None else match[1]


def is_configuration_of(model: str, name: str) -> bool:
    """Whether an endpoint configuration is one that Perennial made for this model."""
    return re.fullmatch(rf"{re.escape(_prefix(model))}c-[0-9a-f]{{16}}", name) is not None


def name_part(model: str) -> str:
    """What all names of the model's SageMaker models and configurations contain; so may others' names."""
    return _prefix(model)


def tags(values: Mapping[str, str]) -> list[dict[str, str]]:
    """As SageMaker wants them."""
    return [{"Key": key, "Value": value} for key, value in values.items()]


def create_model(spec: SageMaker, version: RegisteredVersion) -> dict[str, Any]:
    """CreateModel for one version."""
    return {
        "ModelName": model_name(spec, version),
        "PrimaryContainer": _container(spec, version),
        **_model_options(spec),
        "Tags": tags({"perennial:model": version.name, "perennial:version": version.version}),
    }


def create_configuration(spec: SageMaker, champion: RegisteredVersion, split: Split | None = None) -> dict[str, Any]:
    """CreateEndpointConfig: the champion alone, or with a challenger beside it that has no share yet."""
    content: dict[str, Any] = {"ProductionVariants": [_variant(spec, CHAMPION, champion, FULL)]}
    about = {"perennial:model": champion.name, "perennial:version": champion.version}
    if split is not None:
        challenger = _variant(spec, CHALLENGER, split.challenger, 0.0)
        key = "ShadowProductionVariants" if split.role is Role.SHADOW else "ProductionVariants"
        content[key] = [*content.get(key, ()), challenger]
        about |= {"perennial:challenger": split.challenger.version, ROLLOUT: split.rollout_id}
    digest = digest_of({"content": content, "about": about})[:16]
    return {"EndpointConfigName": f"{_prefix(champion.name)}c-{digest}", **content, "Tags": tags(about)}


def weights(role: Role, share: float) -> dict[str, float]:
    """Each variant's weight that gives the challenger this percentage."""
    return {CHAMPION: FULL if role is Role.SHADOW else FULL - share, CHALLENGER: share}


def takeover(spec: SageMaker) -> dict[str, Any]:
    """DeploymentConfig: a new fleet takes over in one or two steps, and SageMaker goes back if an alarm goes off.

    A first step needs an instance of its own beside as many more: with one instance all moves at once.
    """
    policy = spec.takeover
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": int(policy.bake.total_seconds())}
    if spec.instance_count > 1:
        first = max(1, spec.instance_count * policy.first_percent // 100)
        routing |= {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": first}}
    config: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": int(policy.bake.total_seconds()),
            "MaximumExecutionTimeoutInSeconds": int(policy.timeout.total_seconds()),
        }
    }
    if spec.alarms:
        config["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in spec.alarms]}
    return config


def _container(spec: SageMaker, version: RegisteredVersion) -> dict[str, Any]:
    ours = {"MODEL": version.name, "VERSION": version.version, "HOST": "0.0.0.0", "PORT": str(PORT)}  # noqa: S104 - within its container
    own = {f"PERENNIAL_SCORING_{name}": value for name, value in ours.items()}
    return {"Image": spec.image, "Environment": {**spec.environment, **own}}


def _model_options(spec: SageMaker) -> dict[str, Any]:
    options: dict[str, Any] = {"ExecutionRoleArn": spec.execution_role}
    if spec.subnets:
        options["VpcConfig"] = {"Subnets": list(spec.subnets), "SecurityGroupIds": list(spec.security_groups)}
    return options


def _variant(spec: SageMaker, name: str, version: RegisteredVersion, weight: float) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model_name(spec, version),
        "InstanceType": spec.instance_type,
        "InitialInstanceCount": spec.instance_count,
        "InitialVariantWeight": weight,
        "ContainerStartupHealthCheckTimeoutInSeconds": int(spec.startup_timeout.total_seconds()),
    }


def _prefix(model: str) -> str:
    return f"perennial-{_stem(model, _STEM_LENGTH)}-"


def _stem(model: str, length: int) -> str:
    """The model's name in letters, digits and hyphens; cut, and told apart by a digest, where it does not fit."""
    name = model.replace("_", "-")
    if len(name) <= length and not name.endswith("-"):
        return name
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{name[: length - 9]}-{digest}"
