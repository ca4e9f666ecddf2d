"""What docs/rollout.md shows is what the spec takes, and what it calls defaults are the defaults."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from perennial.spec.deployment import Canary, Guardrails, ScoringService, Shadow
from perennial.spec.model import ModelSpec
from tests.unit.core.judging import SPEC

DOCS = Path(__file__).parents[3] / "docs" / "rollout.md"


def test_example_is_a_deployment_with_the_defaults_written_out() -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.S)
    data = {**SPEC["data"], "feature_columns": ["age", "plan"]}
    deployment = ModelSpec.model_validate({**SPEC, "data": data, **yaml.safe_load(example)}).deployment
    assert isinstance(deployment, ScoringService)
    assert deployment.shadow == Shadow()
    assert deployment.smoke_test == ScoringService(kind="scoring_service").smoke_test
    assert deployment.canary is not None
    guardrails = deployment.canary.guardrails
    assert guardrails.performance_loss is not None
    assert guardrails.model_copy(update={"performance_loss": None}) == Guardrails()
    assert deployment.canary.model_copy(update={"guardrails": Guardrails()}) == Canary()
