"""InferenceServices against the schema of the real custom resource, and what they are called."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
from tests.contract.deployers import registered, split_of
from tests.contract.kserve_harness import SPEC
from tests.contract.kserve_schema import NotFetchedError, Problems

from perennial.adapters.kserve_manifest import inference_service, predictor, service_name

MODEL = "flights_delay"


@pytest.fixture
def problems(kserve_schema: Problems | NotFetchedError) -> Problems:
    """The real schema; where no package index is reached, the tests of it are skipped."""
    if isinstance(kserve_schema, NotFetchedError):
        pytest.skip(str(kserve_schema))
    return kserve_schema


def test_manifest_is_what_the_schema_of_kserve_allows(problems: Problems) -> None:
    manifest = inference_service(SPEC, registered(MODEL, 3))
    assert problems(manifest) == []
    split = split_of(MODEL)
    manifest["spec"]["predictor"] = {**predictor(SPEC, split.challenger, split), "canaryTrafficPercent": 5}
    assert problems(manifest) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("canaryTrafficPercnt", 5),
        ("canaryTrafficPercent", "5"),
        ("minReplicas", None),
        ("serviceAccountName", ["scoring"]),
        ("annotations", {"perennial/version": 3}),
    ],
)
def test_mistake_in_a_manifest_is_found_by_the_schema(problems: Problems, field: str, value: Any) -> None:
    manifest = inference_service(SPEC, registered(MODEL, 3))
    manifest["spec"]["predictor"][field] = value
    (found,) = problems(manifest)
    assert field in found


def test_mistake_inside_the_container_is_found_by_the_schema(problems: Problems) -> None:
    manifest = deepcopy(inference_service(SPEC, registered(MODEL, 3)))
    (container,) = manifest["spec"]["predictor"]["containers"]
    container["resources"]["limits"]["memory"] = "2 GB"
    container["readinessProbe"]["httpGet"] = {"path": "/ping"}
    container["envFrom"] = [{"secret": {"name": "s"}}]
    assert len(problems(manifest)) >= 3


@pytest.mark.parametrize("model", ["a_" * 24, "flights_", "m" + "_" * 62])
def test_name_that_kubernetes_would_refuse_is_cut_and_kept_apart(model: str) -> None:
    name = service_name(model)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47
    assert service_name(model + "x") != name


def test_longest_name_that_kubernetes_takes_is_taken() -> None:
    assert service_name("a_" * 23 + "b") == "a-" * 23 + "b"
