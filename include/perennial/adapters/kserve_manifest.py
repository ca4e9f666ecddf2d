"""InferenceServices as Perennial writes them: names, labels, and a predictor whose pods serve one version.

What is in `spec.predictor` is the template of a Knative revision: whatever changes there, an annotation included, makes
KServe start new pods. So nothing is written there, or on the InferenceService, that changes during a rollout, except
`canaryTrafficPercent`, which is none of the template's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from perennial.domain.fingerprint import digest_of
from perennial.ports import RegisteredVersion, Split
from perennial.spec.platforms import KServe

API_VERSION: Final = "serving.kserve.io/v1beta1"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "perennial"
MODEL: Final = "perennial/model"
"""An annotation: a label's value cannot end with an underscore."""
VERSION: Final = "perennial/version"
DIGEST: Final = "perennial/digest"
TEMPLATE: Final = "perennial/template"
"""Digest of all that makes the pods what they are: the same one, the same pods."""
ROLLOUT: Final = "perennial/rollout"
CHAMPION: Final = "perennial/champion"
"""Version that a challenger was brought up beside."""
MODE: Final = "serving.kserve.io/deploymentMode"
SERVERLESS: Final = "Serverless"
"""Newer releases say Knative, and know this name too."""
PORT: Final = 8080
_LONGEST_NAME: Final = 47
"""KServe's and Knative's own names add 16 characters, and may have 63."""
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def service_name(model: str) -> str:
    """The InferenceService's name: the model's with dashes for underscores; cut, and with a digest, if it must be."""
    name = model.replace("_", "-")
    if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name):
        return name
    return f"{name[: _LONGEST_NAME - 9].rstrip('-')}-{digest_of(model)[:8]}"


def predictor(spec: KServe, version: RegisteredVersion, split: Split | None = None) -> dict[str, Any]:
    """`spec.predictor` that serves the version; None stands for a field that must not be there.

    Args:
        spec: the model's.
        version: the one that its pods serve.
        split: the rollout that the version is the challenger of.
    """
    pods: dict[str, Any] = {
        "minReplicas": spec.min_replicas,
        "maxReplicas": spec.max_replicas,
        "serviceAccountName": spec.service_account or None,
        "containers": [_container(spec, version)],
    }
    annotations = {
        DIGEST: version.model.digest,
        TEMPLATE: template_of(spec, version),
        ROLLOUT: split.rollout_id if split else None,
        CHAMPION: split.champion.version if split else None,
    }
    return {**pods, "labels": {VERSION: version.version}, "annotations": annotations}


def template_of(spec: KServe, version: RegisteredVersion) -> str:
    """Digest of what the version's pods are made from, in 64 hex digits."""
    pods = [spec.min_replicas, spec.max_replicas, spec.service_account, _container(spec, version)]
    return digest_of([*pods, version.model.digest])


def inference_service(spec: KServe, version: RegisteredVersion) -> dict[str, Any]:
    """A new InferenceService in which the version answers everything."""
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "metadata": {
            "name": service_name(version.name),
            "namespace": spec.namespace,
            "labels": {MANAGED_BY: MANAGER},
            "annotations": {MODE: SERVERLESS, MODEL: version.name},
        },
        "spec": {"predictor": without_nothing(predictor(spec, version))},
    }


def without_nothing(value: Any) -> Any:
    """Without the fields that are None, at any depth: in a new object they are left out."""
    if isinstance(value, Mapping):
        return {key: without_nothing(item) for key, item in value.items() if item is not None}
    return value


def _container(spec: KServe, version: RegisteredVersion) -> dict[str, Any]:
    ours = {"PERENNIAL_SCORING_MODEL": version.name, "PERENNIAL_SCORING_VERSION": version.version}
    environment = {**spec.environment, **ours}
    ping = {"httpGet": {"path": "/ping", "port": PORT}, "periodSeconds": 5, "timeoutSeconds": 5}
    size = {"cpu": spec.cpu, "memory": spec.memory}
    return {
        "name": "kserve-container",
        "image": spec.image,
        "args": ["serve"],
        "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        "envFrom": [{"secretRef": {"name": name}} for name in spec.environment_secrets],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {**ping, "failureThreshold": 2},
        # A model that hangs makes /ping say 503 until somebody restarts the pod; so does one that loads, at most 120 s.
        "livenessProbe": {**ping, "initialDelaySeconds": 150, "failureThreshold": 6},
        "resources": {"requests": size, "limits": size},
    }
