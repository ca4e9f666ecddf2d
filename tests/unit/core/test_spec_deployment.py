"""The spec's part `deployment`: what it means left out, what is refused, and how that is told."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perennial.cli.entry import main
from perennial.errors import SpecError
from perennial.spec import json_schema, load_spec
from perennial.spec.deployment import Canary, ScoringService, Shadow
from tests.unit.core.test_spec_loader import VALID

LABELS = {"performance_loss": {"max": 0.02}}


def _load(folder: Path, deployment: Any) -> ScoringService:
    path = folder / "churn.yaml"
    path.write_text(yaml.safe_dump({**VALID, "deployment": deployment}), encoding="utf-8")
    spec = load_spec(path)
    assert isinstance(spec.deployment, ScoringService)
    return spec.deployment


def test_kind_alone_logs_everything_and_serves_a_promoted_version_at_once(tmp_path: Path) -> None:
    service = _load(tmp_path, {"kind": "scoring_service"})
    assert service.rollouts == {}
    assert service.log is not None
    assert (service.log.percent, service.log.exclude) == (100, ())
    assert (service.smoke_test.rows, service.smoke_test.tolerance) == (100, 1e-9)


def test_canary_left_to_its_defaults_has_steps_and_three_guardrails(tmp_path: Path) -> None:
    canary = _load(tmp_path, {"kind": "scoring_service", "canary": {}}).canary
    assert canary is not None
    assert canary.shares == (5, 25, 50, 100)
    assert canary.longest == timedelta(minutes=100)
    rails = canary.guardrails
    assert rails.error_rate is not None
    assert rails.latency_p95_ratio is not None
    assert rails.prediction_distance is not None
    assert rails.performance_loss is None


def test_everything_written_out_is_read(tmp_path: Path) -> None:
    service = _load(
        tmp_path,
        {
            "kind": "scoring_service",
            "smoke_test": {"rows": 50, "tolerance": 0.0, "timeout": "90s", "max_memory_mib": 512},
            "shadow": {"percent": 20, "every": "30m", "max_extend": "2h", "guardrails": {"error_rate": {"max": 0}}},
            "canary": {
                "steps": [10, 100],
                "every": "1d",
                "max_extend": "2d",
                "guardrails": {"prediction_distance": None, "performance_loss": {"max": 0.02, "min_samples": 500}},
            },
            "log": {"percent": 12.5, "exclude": ["age"], "labels": "s3://bucket/outcomes/churn"},
        },
    )
    assert list(service.rollouts) == ["shadow", "canary"]
    assert service.rollouts["shadow"].shares == (20,)
    assert service.rollouts["canary"].longest == timedelta(days=4)
    assert service.log is not None
    assert service.log.exclude == ("age",)
    assert service.log.labels == "s3://bucket/outcomes/churn/"


@pytest.mark.parametrize(
    ("deployment", "field", "allowed"),
    [
        ({}, "deployment.kind", "required"),
        ({"kind": "pigeon"}, "deployment.kind", "scoring_service"),
        ({"canary": {"steps": []}}, "deployment.canary.steps", "at least 1"),
        ({"canary": {"steps": [5, 5, 100]}}, "deployment.canary.steps", "larger than the one before"),
        ({"canary": {"steps": [50, 25]}}, "deployment.canary.steps", "larger than the one before"),
        ({"canary": {"steps": [0, 100]}}, "deployment.canary.steps.0", "greater than 0"),
        ({"canary": {"steps": [5, 101]}}, "deployment.canary.steps.1", "less than or equal to 100"),
        ({"canary": {"steps": ["5", 100]}}, "deployment.canary.steps.0", "number"),
        ({"canary": {"every": "0s"}}, "deployment.canary.every", "at least 10s"),
        ({"canary": {"every": "10"}}, "deployment.canary.every", "whole number and a unit"),
        ({"canary": {"max_extend": "9s"}}, "deployment.canary.max_extend", "at least 10s"),
        ({"canary": {"max_extend": "31d"}}, "deployment.canary.max_extend", "at most 30d"),
        ({"canary": {"guardrails": {"errors": {}}}}, "deployment.canary.guardrails.errors", "no such field"),
        (
            {"canary": {"guardrails": {"error_rate": {"max": 1}}}},
            "deployment.canary.guardrails.error_rate.max",
            "less than 1",
        ),
        (
            {"canary": {"guardrails": {"error_rate": {"max": float("nan")}}}},
            "deployment.canary.guardrails.error_rate.max",
            "finite",
        ),
        (
            {"canary": {"guardrails": {"latency_p95_ratio": {"max": 0}}}},
            "deployment.canary.guardrails.latency_p95_ratio.max",
            "greater than 0",
        ),
        (
            {"canary": {"guardrails": {"prediction_distance": {"min_samples": 0}}}},
            "deployment.canary.guardrails.prediction_distance.min_samples",
            "greater than or equal to 1",
        ),
        (
            {"canary": {"guardrails": {"performance_loss": {}}}},
            "deployment.canary.guardrails.performance_loss.max",
            "required",
        ),
        (
            {"canary": {"guardrails": dict.fromkeys(("error_rate", "latency_p95_ratio", "prediction_distance"), None)}},
            "deployment.canary.guardrails",
            "at least one of error_rate",
        ),
        ({"shadow": {"percent": 0}}, "deployment.shadow.percent", "greater than 0"),
        ({"shadow": {"steps": [5]}}, "deployment.shadow.steps", "no such field"),
        ({"log": None, "canary": {}}, "deployment", "log: is what the canary is judged by"),
        ({"log": None, "shadow": {}, "canary": {}}, "deployment", "log: is what the shadow and canary"),
        ({"log": {"labels": "s3://bucket"}}, "deployment.log.labels", "pattern"),
        ({"log": {"labels": "/outcomes/"}}, "deployment.log.labels", "pattern"),
        ({"log": {"percent": 101}}, "deployment.log.percent", "less than or equal to 100"),
        ({"log": {"exclude": ["agee"]}}, "(whole spec)", "agee not among data.feature_columns (age, plan)"),
        ({"smoke_test": {"timeout": "0s"}}, "deployment.smoke_test.timeout", "longer than 0s"),
        ({"smoke_test": {"tolerance": 0.1}}, "deployment.smoke_test.tolerance", "less than or equal to 0.001"),
        (
            {"canary": {"guardrails": LABELS}},
            "(whole spec)",
            "labels come 1d later (data.label_delay), and a step ends after 70m",
        ),
        (
            {"shadow": {"guardrails": LABELS, "every": "12h", "max_extend": "12h"}},
            "(whole spec)",
            "deployment.shadow.guardrails.performance_loss",
        ),
    ],
)
def test_one_mistake_is_told_with_field_and_what_is_allowed(
    tmp_path: Path, deployment: dict[str, Any], field: str, allowed: str
) -> None:
    whole = deployment if not deployment or "kind" in deployment else {"kind": "scoring_service", **deployment}
    with pytest.raises(SpecError) as caught:
        _load(tmp_path, whole)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert allowed in problem.allowed


def test_labels_that_come_within_a_step_may_be_asked_for(tmp_path: Path) -> None:
    canary = {"every": "12h", "max_extend": "13h", "guardrails": LABELS}
    assert _load(tmp_path, {"kind": "scoring_service", "canary": canary}).canary is not None


def test_check_names_the_mistake_in_a_deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "churn.yaml"
    document = {**VALID, "deployment": {"kind": "scoring_service", "canary": {"steps": [50, 25]}}}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert main(["check", str(path), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["field"] == "deployment.canary.steps"
    assert "larger than the one before" in problem["allowed"]


def test_json_schema_tells_the_deployment_with_its_defaults_and_limits() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["Canary"]["properties"]["steps"]["default"] == [5.0, 25.0, 50.0, 100.0]
    assert definitions["Canary"]["properties"]["every"]["default"] == "10m"
    assert definitions["ErrorRate"]["properties"]["max"]["exclusiveMaximum"] == 1
    assert definitions["ScoringService"]["additionalProperties"] is False
    json.dumps(definitions, allow_nan=False)


@given(st.lists(st.floats(allow_nan=True), max_size=6))
def test_any_steps_are_growing_percentages_or_refused(steps: list[float]) -> None:
    try:
        shares = Canary(steps=tuple(steps)).shares
    except ValidationError:
        return
    assert list(shares) == sorted(set(shares))
    assert all(0 < share <= 100 for share in shares)


def test_a_rollout_is_one_step_for_a_shadow() -> None:
    assert Shadow(percent=30.0).shares == (30.0,)
