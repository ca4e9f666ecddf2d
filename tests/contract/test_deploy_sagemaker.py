"""What is SageMaker's own: changes that take minutes, that it takes back, guardrails of its own, leftovers, limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from tests.contract.deployers import MODEL, carry_out, registered, split_of, with_champion, with_split
from tests.contract.sagemaker_harness import SPEC, SageMakerHarness, answer, sagemaker_harness

from perennial.adapters.deploy_sagemaker import SageMakerDeployer
from perennial.errors import DeployerUnavailableError, PerennialError, TerminalError

ENDPOINT = "perennial-flights-delay"


@pytest.fixture
def harness() -> Iterator[SageMakerHarness]:
    with sagemaker_harness() as made:
        yield made


def test_challenger_on_its_way_up_is_not_ready_and_the_champion_answers(harness: SageMakerHarness) -> None:
    with_champion(harness)
    harness.deployer().deploy(split_of(MODEL))
    status = harness.deployer().status(MODEL)
    assert (status.champion, status.challenger, status.ready, status.problem) == ("3", None, False, "")
    assert harness.served(MODEL).answers == {"3": 100}


def test_share_on_its_way_is_not_ready_and_told_as_it_is(harness: SageMakerHarness) -> None:
    with_split(harness, 5)
    harness.deployer().shift(split_of(MODEL), 25)
    status = harness.deployer().status(MODEL)
    assert (status.share, status.ready) == (5, False)
    harness.settle()
    status = harness.deployer().status(MODEL)
    assert (status.share, status.ready) == (25, True)


def test_endpoint_in_the_middle_of_a_change_takes_no_other(harness: SageMakerHarness) -> None:
    with_champion(harness)
    harness.deployer().deploy(split_of(MODEL))
    before = harness.changes
    for act in (
        lambda deployer: deployer.promote(registered(MODEL, 5)),
        lambda deployer: deployer.roll_back(registered(MODEL, 3)),
        lambda deployer: deployer.deploy(split_of(MODEL, rollout="b" * 64)),
        lambda deployer: deployer.shift(split_of(MODEL), 5),
    ):
        with pytest.raises(DeployerUnavailableError, match=r"Updating|bringing version 4 up"):
            act(harness.deployer())
    assert harness.changes == before


def test_share_that_is_no_binary_fraction_comes_back_as_it_was_given(harness: SageMakerHarness) -> None:
    with_split(harness, 33.3)
    variant = harness.platform.endpoint(ENDPOINT).production_variants
    variant[0]["CurrentWeight"], variant[1]["CurrentWeight"] = 66.69999695, 33.29999924  # as SageMaker keeps them
    variant[0]["DesiredWeight"], variant[1]["DesiredWeight"] = 66.69999695, 33.29999924
    assert harness.deployer().status(MODEL).share == 33.3
    before = harness.changes
    harness.deployer().shift(split_of(MODEL), 33.3)
    assert harness.changes == before


@pytest.mark.parametrize("step", ["deploy", "promote"])
def test_change_that_sagemaker_takes_back_is_a_problem_until_it_is_asked_for_again(
    harness: SageMakerHarness, step: str
) -> None:
    def act(deployer: Any) -> None:
        deployer.deploy(split_of(MODEL)) if step == "deploy" else deployer.promote(registered(MODEL, 4))

    with_champion(harness)
    act(harness.deployer())
    harness.platform.take_back(ENDPOINT, "alarm perennial-errors went into ALARM")
    status = harness.deployer().status(MODEL)
    assert (status.champion, status.challenger, status.ready) == ("3", None, False)
    assert "took the change of endpoint perennial-flights-delay back: alarm perennial-errors" in status.problem
    carry_out(harness, act)
    status = harness.deployer().status(MODEL)
    assert (status.ready, status.problem) == (True, "")


def test_roll_back_after_a_change_that_was_taken_back_is_ready_and_no_problem(harness: SageMakerHarness) -> None:
    with_champion(harness)
    harness.deployer().deploy(split_of(MODEL))
    harness.platform.take_back(ENDPOINT, "the container did not pass its health check")
    carry_out(harness, lambda deployer: deployer.roll_back(registered(MODEL, 3)))
    status = harness.deployer().status(MODEL)
    assert (status.champion, status.challenger, status.ready, status.problem) == ("3", None, True, "")


@pytest.mark.parametrize("state", ["Failed", "OutOfService", "UpdateRollbackFailed"])
def test_endpoint_that_takes_no_change_any_more_says_so_and_what_to_do(harness: SageMakerHarness, state: str) -> None:
    with_split(harness, 25)
    endpoint = harness.platform.endpoint(ENDPOINT)
    endpoint.endpoint_status, endpoint.failure_reason = state, "no capacity"
    assert f"is {state}: no capacity" in harness.deployer().status(MODEL).problem
    for act in (
        lambda deployer: deployer.promote(registered(MODEL, 4)),
        lambda deployer: deployer.roll_back(registered(MODEL, 3)),
        lambda deployer: deployer.shift(split_of(MODEL), 50),
        lambda deployer: deployer.deploy(split_of(MODEL)),
    ):
        with pytest.raises(TerminalError, match=rf"is {state}: no capacity.*delete the endpoint"):
            act(harness.deployer())


def test_version_takes_over_from_a_champion_alone_under_alarms_and_in_two_steps(harness: SageMakerHarness) -> None:
    with_champion(harness)
    with_champion(harness, version=4)
    takeover = harness.platform.takeovers[-1]
    assert takeover is not None
    policy = takeover["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"] == {
        "Type": "CANARY",
        "WaitIntervalInSeconds": 300,
        "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1},
    }
    assert (policy["TerminationWaitInSeconds"], policy["MaximumExecutionTimeoutInSeconds"]) == (300, 3600)
    alarms = [alarm["AlarmName"] for alarm in takeover["AutoRollbackConfiguration"]["Alarms"]]
    assert alarms == ["perennial-errors", "perennial-latency"]


@pytest.mark.parametrize(("instances", "percent", "first"), [(1, 50, None), (2, 1, 1), (10, 25, 2), (3, 50, 1)])
def test_first_step_is_never_more_than_half_of_the_instances(
    harness: SageMakerHarness, instances: int, percent: int, first: int | None
) -> None:
    takeover = SPEC.takeover.model_copy(update={"first_percent": percent})
    harness.spec = SPEC.model_copy(update={"instance_count": instances, "takeover": takeover})
    with_champion(harness)
    with_champion(harness, version=4)
    routing = harness.platform.takeovers[-1]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]  # type: ignore[index]
    assert routing.get("CanarySize", {}).get("Value") == first
    assert routing["Type"] == ("ALL_AT_ONCE" if first is None else "CANARY")


def test_version_takes_over_at_once_where_a_challenger_was_beside_the_champion(harness: SageMakerHarness) -> None:
    with_split(harness, 100)
    with_champion(harness, version=4)
    assert harness.platform.takeovers[-1] is None, "SageMaker's guardrails want the same variants before and after"


def test_leftovers_of_earlier_versions_go_and_what_is_in_use_stays(harness: SageMakerHarness) -> None:
    backend = harness.platform.backend
    others = {"perennial-flights-delay-v2-v1-0a1b2c3d", "perennial-flights-delay-mine", "mine"}
    for name in others:
        backend.create_model(name, "", {}, None, None, None)
    for version in range(3, 12):
        with_champion(harness, version=version)
    assert set(backend._models) - others == {
        name
        for name in backend._models
        if name.startswith(("perennial-flights-delay-v10-", "perennial-flights-delay-v11-"))
    }
    assert others <= set(backend._models)
    assert len(backend.endpoint_configs) == 2


def test_leftovers_that_may_not_be_deleted_stop_nothing(
    harness: SageMakerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    for version in (3, 4):
        with_champion(harness, version=version)

    def refuse(request: Any, **_: Any) -> Any:
        return answer(request, 400, "AccessDeniedException", "no identity-based policy allows sagemaker:Delete")

    harness.events.register_first("before-send.sagemaker.DeleteEndpointConfig", refuse)
    with_champion(harness, version=5)
    assert harness.served(MODEL).answers == {"5": 100}
    assert "stays for now" in caplog.text


def test_spec_that_changed_makes_a_model_of_its_own_for_the_same_version(harness: SageMakerHarness) -> None:
    with_champion(harness)
    harness.spec = SPEC.model_copy(update={"image": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/perennial:2"})
    with_champion(harness)
    images = {model.primary_container["Image"] for model in harness.platform.backend._models.values()}
    assert images == {SPEC.image, harness.spec.image}


def test_container_is_told_its_version_its_port_and_where_things_are(harness: SageMakerHarness) -> None:
    with_champion(harness)
    (model,) = harness.platform.backend._models.values()
    assert model.primary_container["Environment"] == {
        **SPEC.environment,
        "PERENNIAL_SCORING_MODEL": MODEL,
        "PERENNIAL_SCORING_VERSION": "3",
        "PERENNIAL_SCORING_HOST": "0.0.0.0",  # noqa: S104
        "PERENNIAL_SCORING_PORT": "8080",
    }
    assert model.execution_role_arn == SPEC.execution_role
    assert model.tags == [
        {"Key": "perennial:model", "Value": MODEL},
        {"Key": "perennial:version", "Value": "3"},
    ]


def test_endpoint_whose_configuration_somebody_deleted_takes_the_next_version(harness: SageMakerHarness) -> None:
    with_champion(harness)
    harness.platform.backend.endpoint_configs.clear()
    assert harness.deployer().status(MODEL).champion is None
    with_champion(harness, version=4)
    assert harness.served(MODEL).answers == {"4": 100}


@pytest.mark.parametrize(
    ("code", "status", "message", "error", "said"),
    [
        ("ResourceLimitExceeded", 400, "ml.m5.large for endpoint usage is 0", TerminalError, "a quota"),
        ("ExpiredTokenException", 400, "The security token is expired", DeployerUnavailableError, "renew"),
        ("UnrecognizedClientException", 403, "The security token is invalid", TerminalError, "check the connection"),
        ("ValidationException", 400, "1 validation error detected", TerminalError, "deployment in the model's spec"),
        ("SomethingNew", 400, "never seen", TerminalError, "docs/deployment-sagemaker.md"),
        ("ValidationException", 400, "Cannot update in-progress endpoint", DeployerUnavailableError, "try again"),
        ("ValidationException", 400, "Could not find endpoint configuration", DeployerUnavailableError, "try again"),
        ("InternalFailure", 500, "internal", DeployerUnavailableError, "after retries"),
        ("RequestLimitExceeded", 400, "slow", DeployerUnavailableError, "after retries"),
    ],
)
def test_refusal_of_an_update_is_told_with_what_to_do(
    harness: SageMakerHarness, code: str, status: int, message: str, error: type[PerennialError], said: str
) -> None:
    with_champion(harness)
    harness.events.register_first(
        "before-send.sagemaker.UpdateEndpoint", lambda request, **_: answer(request, status, code, message)
    )
    with pytest.raises(error, match=rf"(?s){code}.*{said}"):
        harness.deployer().promote(registered(MODEL, 4))


def test_no_answer_is_worth_another_try(harness: SageMakerHarness) -> None:
    def hang_up(request: Any, **_: Any) -> None:
        raise EndpointConnectionError(endpoint_url=request.url)

    with_champion(harness)
    harness.events.register_first("before-send.sagemaker.UpdateEndpoint", hang_up)
    with pytest.raises(DeployerUnavailableError, match="no answer"):
        harness.deployer().promote(registered(MODEL, 4))


def test_missing_region_and_credentials_say_where_to_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(TerminalError, match="no region; set region_name in the Airflow connection"):
        SageMakerDeployer(SPEC).status(MODEL)
    with pytest.raises(TerminalError, match="no credentials; make the Airflow connection perennial_sagemaker"):
        SageMakerDeployer(SPEC, lambda: boto3.Session(region_name="eu-central-1")).status(MODEL)
