"""The spec's part `deployment` on SageMaker: what it means left out, and its mistakes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from perennial.errors import SpecError
from perennial.spec import load_spec
from perennial.spec.platforms import SageMaker
from tests.unit.core.test_spec_loader import VALID

LEAST: Final = {
    "kind": "sagemaker",
    "image": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/perennial:1",
    "execution_role": "arn:aws:iam::123456789012:role/service-role/perennial-serving",
}


def _load(folder: Path, **deployment: Any) -> SageMaker:
    path = folder / "churn.yaml"
    path.write_text(yaml.safe_dump({**VALID, "deployment": {**LEAST, **deployment}}), encoding="utf-8")
    loaded = load_spec(path).deployment
    assert isinstance(loaded, SageMaker)
    return loaded


def test_image_and_role_alone_are_enough(tmp_path: Path) -> None:
    spec = _load(tmp_path)
    assert (spec.instance_type, spec.instance_count, spec.alarms) == ("ml.m5.large", 1, ())
    assert spec.takeover.timeout > 2 * spec.takeover.bake
    assert (spec.shadow, spec.canary) == (None, None)


def test_everything_written_out_is_read(tmp_path: Path) -> None:
    spec = _load(
        tmp_path,
        instance_type="ml.p6-b200.48xlarge",
        instance_count=4,
        startup_timeout="20m",
        subnets=["subnet-0a1b"],
        security_groups=["sg-0a1b", "sg-2c3d"],
        takeover={"first_percent": 25, "bake": "0s", "timeout": "10m"},
        alarms=["churn errors"],
        environment={"MLFLOW_TRACKING_URI": "https://mlflow.example"},
        shadow={"percent": 20},
        canary={"steps": [10, 100]},
    )
    assert (spec.subnets, spec.security_groups) == (("subnet-0a1b",), ("sg-0a1b", "sg-2c3d"))
    assert (spec.takeover.first_percent, spec.takeover.bake) == (25, timedelta(0))
    assert list(spec.rollouts) == ["shadow", "canary"]


@pytest.mark.parametrize(
    ("deployment", "field", "allowed"),
    [
        ({"image": ""}, "deployment.image", ""),
        ({"image": "two words"}, "deployment.image", ""),
        ({"execution_role": "perennial-serving"}, "deployment.execution_role", "arn:aws"),
        ({"execution_role": "arn:aws:iam::123456789012:user/ada"}, "deployment.execution_role", "role"),
        ({"instance_type": "m5.large"}, "deployment.instance_type", "ml"),
        ({"instance_count": 0}, "deployment.instance_count", "1"),
        ({"startup_timeout": "30s"}, "deployment.startup_timeout", "must be 1m to 1h"),
        ({"startup_timeout": "2h"}, "deployment.startup_timeout", "must be 1m to 1h"),
        ({"subnets": ["subnet-1"]}, "deployment", "need each other"),
        ({"security_groups": ["sg-1"]}, "deployment", "need each other"),
        ({"subnets": ["subnet 1"], "security_groups": ["sg-1"]}, "deployment.subnets", ""),
        ({"alarms": [" "]}, "deployment.alarms", ""),
        ({"alarms": [f"a{number}" for number in range(11)]}, "deployment.alarms", "10"),
        ({"takeover": {"first_percent": 51}}, "deployment.takeover.first_percent", "50"),
        ({"takeover": {"bake": "2h"}}, "deployment.takeover.bake", "must be 0s to 1h"),
        ({"takeover": {"timeout": "5m"}}, "deployment.takeover.timeout", "must be 10m to 8h"),
        ({"takeover": {"bake": "1h", "timeout": "2h"}}, "deployment.takeover", "longer than twice bake"),
        ({"canary": {"guardrails": {"performance_loss": {"max": 0.02}}}}, "deployment", "no request's id"),
        ({"environment": {"PERENNIAL_SCORING_VERSION": "3"}}, "deployment", "set by Perennial itself"),
        ({"environment": {"A": "x" * 1025}}, "deployment", "1024 bytes"),
        ({"environment": {f"A{number}": "" for number in range(97)}}, "deployment", "at most 96"),
        ({"environment": {"2A": ""}}, "deployment.environment", ""),
        ({"autoscale": True}, "deployment.autoscale", ""),
    ],
)
def test_mistake_is_told_with_its_field(tmp_path: Path, deployment: dict[str, Any], field: str, allowed: str) -> None:
    with pytest.raises(SpecError) as caught:
        _load(tmp_path, **deployment)
    assert [problem for problem in caught.value.problems if field in problem.field and allowed in problem.allowed], (
        caught.value
    )
