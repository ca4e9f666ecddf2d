"""Every call that the SageMaker deployer makes in a rollout's life, against botocore's own model of the API.

botocore checks names, types and minima of what is sent. It leaves out patterns, enumerations and maxima, and checks
nothing of what comes back: that is done here, from the same model, recursively.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from botocore.validate import ParamValidator
from tests.contract.deployers import Harness, carry_out, registered, split_of
from tests.contract.sagemaker_harness import SPEC, Call, sagemaker_harness

from perennial.domain.traffic import Role

MODELS: Final = ("b", "flights_delay", "m" + "_" * 62, "x" * 63)
USED: Final = {
    "AddTags",
    "CreateEndpoint",
    "CreateEndpointConfig",
    "CreateModel",
    "DeleteEndpointConfig",
    "DeleteModel",
    "DescribeEndpoint",
    "DescribeEndpointConfig",
    "ListEndpointConfigs",
    "ListModels",
    "ListTags",
    "UpdateEndpoint",
    "UpdateEndpointWeightsAndCapacities",
}
GUIDE: Final = Path(__file__).parents[2] / "docs" / "deployment-sagemaker.md"


@pytest.fixture(scope="module")
def calls() -> Iterator[list[Call]]:
    with sagemaker_harness() as harness:
        for model in MODELS:
            live(harness, model)
        harness.spec = SPEC.model_copy(update={"instance_count": 1, "alarms": (), "subnets": (), "security_groups": ()})
        live(harness, "plain")
        yield harness.made


def live(harness: Harness, model: str) -> None:
    """A first champion, a shadow, a canary that is taken back, one that is promoted, and a roll-back."""
    shadow = split_of(model, role=Role.SHADOW, rollout="b" * 64)
    bad, good = split_of(model, rollout="c" * 64), split_of(model, challenger=1234567, rollout="d" * 64)
    carry_out(harness, lambda deployer: deployer.promote(registered(model, 3)))
    for split, shares in ((shadow, (100,)), (bad, (5, 33.3)), (good, (5, 100))):
        carry_out(harness, lambda deployer, split=split: deployer.deploy(split))
        for share in shares:
            carry_out(harness, lambda deployer, split=split, share=share: deployer.shift(split, share))
            harness.deployer().status(model)
        if split is not good:
            carry_out(harness, lambda deployer: deployer.roll_back(registered(model, 3)))
    carry_out(harness, lambda deployer: deployer.promote(registered(model, 1234567)))
    carry_out(harness, lambda deployer: deployer.promote(registered(model, 3)))


def test_operations_are_those_that_the_documented_policy_allows(calls: list[Call]) -> None:
    policy = json.loads(GUIDE.read_text(encoding="utf-8").split("```json")[1].split("```")[0])
    allowed = [action for statement in policy["Statement"] for action in _list(statement["Action"])]
    documented = {action.removeprefix("sagemaker:") for action in allowed if action.startswith("sagemaker:")}
    assert {call.operation.name for call in calls} == USED == documented


def test_everything_sent_is_as_the_model_of_the_api_wants_it(calls: list[Call]) -> None:
    for call in calls:
        report = ParamValidator().validate(call.sent, call.operation.input_shape)
        assert not report.has_errors(), f"{call.operation.name}: {report.generate_report()}"
        problems = list(misfits(call.operation.input_shape, call.sent, call.operation.name))
        assert problems == []


def test_everything_received_is_as_the_model_of_the_api_promises_it(calls: list[Call]) -> None:
    for call in calls:
        shape = call.operation.output_shape
        received = {key: value for key, value in call.received.items() if key != "ResponseMetadata"}
        assert shape is not None or received == {}
        if shape is not None:
            assert list(misfits(shape, received, call.operation.name)) == []


def test_each_field_that_can_be_left_out_was_sent_and_left_out(calls: list[Call]) -> None:
    sent = [call.sent for call in calls if call.operation.name in ("CreateModel", "CreateEndpointConfig")]
    sent += [call.sent for call in calls if call.operation.name == "UpdateEndpoint"]
    for field in ("VpcConfig", "ShadowProductionVariants", "DeploymentConfig"):
        assert {field in request for request in sent} == {True, False}, field
    takeovers = [request["DeploymentConfig"] for request in sent if "DeploymentConfig" in request]
    assert {"AutoRollbackConfiguration" in takeover for takeover in takeovers} == {True, False}


def test_check_itself_sees_what_botocore_does_not(calls: list[Call]) -> None:
    """Each fault is put into a request that was made."""
    request = next(call for call in calls if call.operation.name == "CreateEndpointConfig")
    variant = request.sent["ProductionVariants"][0]
    for fault in (
        {"EndpointConfigName": "under_scores"},
        {"EndpointConfigName": "x" * 64},
        {"ProductionVariants": [variant | {"InstanceType": "ml.m5.huge"}]},
        {"ProductionVariants": [variant] * 11},
        {"ProductionVariants": [variant | {"ContainerStartupHealthCheckTimeoutInSeconds": 4000}]},
        {"ProductionVariants": [variant | {"Weight": 1}]},
        {"ProductionVariants": [{key: value for key, value in variant.items() if key != "VariantName"}]},
        {"Tags": [{"Key": "a|b", "Value": ""}]},
    ):
        broken = replace(request, sent=request.sent | fault)
        assert list(misfits(broken.operation.input_shape, broken.sent, "broken")), fault


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def misfits(shape: Any, value: Any, where: str) -> Iterator[str]:
    """What does not fit a shape of botocore's model: unknown or missing members, lengths, ranges, patterns, enums."""
    if shape.type_name == "structure":
        yield from (f"{where}: unknown {name}" for name in set(value) - set(shape.members))
        yield from (f"{where}: no {name}" for name in set(shape.required_members) - set(value))
        for name in set(value) & set(shape.members):
            yield from misfits(shape.members[name], value[name], f"{where}.{name}")
        return
    if shape.type_name == "list":
        for position, item in enumerate(value):
            yield from misfits(shape.member, item, f"{where}[{position}]")
    if shape.type_name == "map":
        for key, item in value.items():
            yield from misfits(shape.key, key, f"{where} key {key}")
            yield from misfits(shape.value, item, f"{where}[{key}]")
    yield from limits(shape.metadata, value, where)


def limits(metadata: Mapping[str, Any], value: Any, where: str) -> Iterator[str]:
    size = value if isinstance(value, int | float) else len(value) if isinstance(value, str | list | dict) else None
    if size is not None and not metadata.get("min", size) <= size <= metadata.get("max", size):
        yield f"{where}: {value!r} is not within {metadata.get('min')} and {metadata.get('max')}"
    if "enum" in metadata and value not in metadata["enum"]:
        yield f"{where}: {value!r} is none of {metadata['enum']}"
    if "pattern" in metadata and isinstance(value, str) and not re.fullmatch(_python(metadata["pattern"]), value):
        yield f"{where}: {value!r} is not like {metadata['pattern']}"


def _python(pattern: str) -> str:
    """Java's classes of Unicode letters, separators and digits, for ASCII."""
    return pattern.replace(r"\p{L}", "a-zA-Z").replace(r"\p{Z}", " ").replace(r"\p{N}", "0-9")
