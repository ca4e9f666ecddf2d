"""`deployment: {kind: kserve}`: what is read, what is refused, and how that is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from perennial.errors import SpecError
from perennial.spec import load_spec
from perennial.spec.platforms import KServe
from tests.unit.core.test_spec_loader import VALID

KSERVE = {"kind": "kserve", "image": "registry.example/perennial:1"}


def _load(folder: Path, **more: Any) -> KServe:
    path = folder / "churn.yaml"
    path.write_text(yaml.safe_dump({**VALID, "deployment": {**KSERVE, **more}}), encoding="utf-8")
    deployment = load_spec(path).deployment
    assert isinstance(deployment, KServe)
    return deployment


def test_image_alone_is_one_to_three_pods_in_the_default_namespace(tmp_path: Path) -> None:
    found = _load(tmp_path)
    assert (found.namespace, found.service_account, found.min_replicas, found.max_replicas) == ("default", "", 1, 3)
    assert (found.cpu, found.memory, found.environment, found.environment_secrets) == ("1", "2Gi", {}, ())


def test_everything_written_out_is_read(tmp_path: Path) -> None:
    found = _load(
        tmp_path,
        namespace="models",
        service_account="scoring",
        min_replicas=0,
        max_replicas=5,
        cpu="500m",
        memory="512Mi",
        environment={"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
        environment_secrets=["scoring-s3"],
        canary={"steps": [5, 50, 99]},
    )
    assert found.canary is not None
    assert found.canary.shares == (5, 50, 99)
    assert (found.min_replicas, found.environment_secrets) == (0, ("scoring-s3",))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"shadow": {}}, "KServe does not copy requests"),
        ({"canary": {"steps": [2.5, 50, 99.5]}}, "whole percents only, not 2.5, 99.5"),
        ({"min_replicas": 4}, "min_replicas: is 4, above max_replicas (3)"),
        ({"min_replicas": -1}, "min_replicas"),
        ({"image": "my image"}, "image"),
        ({"image": ""}, "image"),
        ({"namespace": "Models"}, "namespace"),
        ({"service_account": "my account"}, "service_account"),
        ({"cpu": "one"}, "cpu"),
        ({"memory": "2 GB"}, "memory"),
        ({"environment": {"A-B": "1"}}, "environment"),
        ({"environment": {"PERENNIAL_SCORING_VERSION": "7"}}, "PERENNIAL_SCORING_VERSION is set by Perennial itself"),
        ({"environment_secrets": ["my_secret"]}, "environment_secrets"),
        ({"replicas": 3}, "replicas"),
    ],
)
def test_mistake_is_told_with_its_field(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        _load(tmp_path, **wrong)
    assert words in str(caught.value)
