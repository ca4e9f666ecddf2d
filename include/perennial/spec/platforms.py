"""The concern `deployment` on platforms other than Perennial's own scoring service."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from perennial.spec.deployment import Deployment, ScoringService
from perennial.spec.fields import Duration, SpecPart, parse_duration

Text = Annotated[str, Field(min_length=1, max_length=255)]

AwsId = Annotated[str, Field(max_length=32, pattern=r"^[-0-9a-zA-Z]+$")]

AlarmName = Annotated[str, Field(max_length=255, pattern=r"\S")]

KubernetesName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]

_SET_BY_PERENNIAL: Final = frozenset(f"PERENNIAL_SCORING_{name}" for name in ("MODEL", "VERSION", "HOST", "PORT"))

Environment = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str]


def _between(shortest: str, longest: str) -> AfterValidator:
    least, most = parse_duration(shortest), parse_duration(longest)

    def check(value: timedelta) -> timedelta:
        if not least <= value <= most:
            raise ValueError(f"must be {shortest} to {longest}")
        return value

    return AfterValidator(check)


class Takeover(SpecPart):
    """How a promoted version takes over from the champion before it: a new fleet of instances beside the old one.

    Where a canary was before, its challenger has proved itself, and the new fleet takes over without these steps.
    """

    first_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Of the instances, rounded down to at least one, that get requests first. With one instance all move at once."""
    bake: Annotated[Duration, _between("0s", "1h")] = timedelta(minutes=5)
    """How long the alarms are watched after the first step, and again after the second."""
    timeout: Annotated[Duration, _between("10m", "8h")] = timedelta(hours=1)
    """Of all of it, with the time that the instances take to come up."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.timeout <= 2 * self.bake:
            raise ValueError("timeout: must be longer than twice bake, such as 1h")
        return self


class SageMaker(Deployment):
    """An endpoint of Amazon SageMaker, whose containers run `perennial serve` with one version each."""

    kind: Literal["sagemaker"]
    image: Annotated[str, Field(max_length=255, pattern=r"^\S+$")]
    """In ECR; docker/Dockerfile makes it."""
    execution_role: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[a-zA-Z0-9+=,.@_/-]+$")]
    instance_type: Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")] = "ml.m5.large"
    instance_count: Annotated[int, Field(ge=1, le=1000)] = 1
    """For each version: while there is a challenger, twice as many run."""
    startup_timeout: Annotated[Duration, _between("1m", "1h")] = timedelta(minutes=10)
    """Within which a container has to answer /ping."""
    subnets: Annotated[tuple[AwsId, ...], Field(strict=False, max_length=16)] = ()
    """Of the VPC from which the containers reach MLflow; none: from SageMaker's own network."""
    security_groups: Annotated[tuple[AwsId, ...], Field(strict=False, max_length=5)] = ()
    takeover: Takeover = Takeover()
    alarms: Annotated[tuple[AlarmName, ...], Field(strict=False, max_length=10)] = ()
    """CloudWatch alarms by name: one of them in alarm while a promoted version takes over makes SageMaker go back."""
    environment: Environment = Field(default_factory=dict)
    """Of the containers: where MLflow and the store are. No secrets: the execution role has the rights."""

    @model_validator(mode="after")
    def _is_within_limits(self) -> Self:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets, security_groups: need each other; give both, or neither")
        for name, rollout in self.rollouts.items():
            if rollout.guardrails.performance_loss is not None:
                raise ValueError(
                    f"{name}.guardrails.performance_loss: cannot be measured on SageMaker, which hands no request's id "
                    f"through for the labels; leave it out"
                )
        ours = sorted(key for key in self.environment if key in _SET_BY_PERENNIAL)
        if ours:
            raise ValueError(f"environment: {', '.join(ours)} is set by Perennial itself; leave it out")
        long = sorted(key for key, value in self.environment.items() if max(len(key), len(value.encode())) > 1024)
        if long:
            raise ValueError(f"environment: {', '.join(long)} is longer than the 1024 bytes that SageMaker allows")
        if len(self.environment) > 96:
            raise ValueError(f"environment: has {len(self.environment)} variables, at most 96 are allowed")
        return self


class KServe(Deployment):
    """An InferenceService of KServe, whose pods run `perennial serve` with one version each."""

    kind: Literal["kserve"]
    image: Annotated[str, Field(max_length=255, pattern=r"^\S+$")]
    """docker/Dockerfile makes it."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "default"
    service_account: KubernetesName | Literal[""] = ""
    """Of the pods; empty: the namespace's default one."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Of each version in service; 0: pods come with the first request."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 3
    cpu: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?m?$")] = "1"
    memory: Annotated[str, Field(pattern=r"^[0-9]+(Ki|Mi|Gi)$")] = "2Gi"
    environment: Environment = Field(default_factory=dict)
    """Of the pods: where MLflow and the store are. No secrets."""
    environment_secrets: Annotated[tuple[KubernetesName, ...], Field(strict=False, max_length=20)] = ()
    """Kubernetes secrets whose keys become the pods' environment."""

    @model_validator(mode="after")
    def _kserve_can(self) -> Self:
        if self.shadow is not None:
            raise ValueError("shadow: KServe does not copy requests; leave it out, and begin with a small canary step")
        broken = [f"{step:g}" for step in (self.canary.steps if self.canary else ()) if step != round(step)]
        if broken:
            raise ValueError(f"canary.steps: KServe knows whole percents only, not {', '.join(broken)}")
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas: is {self.min_replicas}, above max_replicas ({self.max_replicas})")
        ours = sorted(key for key in self.environment if key in _SET_BY_PERENNIAL)
        if ours:
            raise ValueError(f"environment: {', '.join(ours)} is set by Perennial itself; leave it out")
        return self


AnyDeployment = Annotated[ScoringService | SageMaker | KServe, Field(discriminator="kind")]
"""What a spec may say under `deployment`."""
