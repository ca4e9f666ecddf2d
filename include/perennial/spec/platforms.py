"""The concern `deployment` on platforms other than Perennial's own scoring service."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from perennial.spec.deployment import Deployment, ScoringService

Text = Annotated[str, Field(min_length=1, max_length=255)]

Environment = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str]


class SageMaker(Deployment):
    """An endpoint of Amazon SageMaker, whose containers run `perennial serve` with one version each."""

    kind: Literal["sagemaker"]
    image: Annotated[str, Field(min_length=1, max_length=255)]
    """In ECR; docker/Dockerfile makes it."""
    execution_role: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$")]
    instance_type: Annotated[str, Field(pattern=r"^ml\.[a-z0-9.-]+$")] = "ml.m5.large"
    instance_count: Annotated[int, Field(ge=1, le=1000)] = 1
    alarms: Annotated[tuple[Text, ...], Field(strict=False, max_length=10)] = ()
    """CloudWatch alarms by name: one of them in alarm while a promoted version takes over makes SageMaker go back."""
    environment: Environment = Field(default_factory=dict)
    """Of the containers: where MLflow and the store are. No secrets: the execution role has the rights."""


class KServe(Deployment):
    """An InferenceService of KServe, whose pods run `perennial serve` with one version each."""

    kind: Literal["kserve"]
    image: Annotated[str, Field(min_length=1, max_length=255)]
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "default"
    service_account: Annotated[str, Field(max_length=253)] = ""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 3
    cpu: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?m?$")] = "1"
    memory: Annotated[str, Field(pattern=r"^[0-9]+(Ki|Mi|Gi)$")] = "2Gi"
    environment: Environment = Field(default_factory=dict)
    environment_secrets: Annotated[tuple[Text, ...], Field(strict=False, max_length=20)] = ()
    """Kubernetes secrets whose keys become the pods' environment."""

    @model_validator(mode="after")
    def _can_shadow(self) -> Self:
        if self.shadow is not None:
            raise ValueError("shadow: KServe does not copy requests; leave it out, and begin with a small canary step")
        return self


AnyDeployment = Annotated[ScoringService | SageMaker | KServe, Field(discriminator="kind")]
"""What a spec may say under `deployment`."""
