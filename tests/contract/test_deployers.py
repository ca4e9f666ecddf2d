"""One suite for every deployer: what each step brings about, that it can be repeated, and what is in its way.

A step is carried out as whoever walks a rollout does it: called again, by a new deployer each time, while the platform
says that it is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from tests.contract.deployers import (
    MODEL,
    Crash,
    Fault,
    Harness,
    HarnessMaker,
    Served,
    answered,
    carry_out,
    registered,
    split_of,
    with_champion,
    with_split,
)
from tests.contract.kserve_harness import KServeHarness, kserve_harness
from tests.contract.kserve_schema import NotFetchedError, Problems
from tests.contract.memory_harness import MemoryHarness
from tests.contract.s3_servers import Server
from tests.contract.sagemaker_harness import SageMakerHarness, sagemaker_harness
from tests.contract.scoring_service_harness import ScoringServiceHarness, on_folder, on_server

from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError, TerminalError
from perennial.ports import Deployer

HARNESSES: Final = (
    HarnessMaker("memory", "memory"),
    HarnessMaker("scoring_service", "scoring_service_harness"),
    HarnessMaker("scoring_service_on_moto", "scoring_service_on_moto_harness"),
    HarnessMaker("scoring_service_on_rclone", "scoring_service_on_rclone_harness"),
    HarnessMaker("sagemaker", "sagemaker"),
    HarnessMaker("kserve", "kserve", roles=(Role.CANARY,)),
)
ON_EACH = pytest.mark.parametrize("harness", HARNESSES, ids=lambda maker: maker.name, indirect=True)
IN_EACH_ROLE = pytest.mark.parametrize(
    ("harness", "role"),
    [pytest.param(maker, role, id=f"{maker.name}-{role}") for maker in HARNESSES for role in maker.roles],
    indirect=["harness"],
)
MANY_CALLS: Final = 100


@pytest.fixture
def harness(request: pytest.FixtureRequest) -> Harness:
    made: Harness = request.getfixturevalue(request.param.fixture)
    return made


@pytest.fixture
def memory() -> MemoryHarness:
    return MemoryHarness()


@pytest.fixture
def scoring_service_harness(tmp_path: Path) -> ScoringServiceHarness:
    return on_folder(tmp_path)


@pytest.fixture
def scoring_service_on_moto_harness(moto_running: Server, bucket: str) -> Iterator[ScoringServiceHarness]:
    with on_server(moto_running, bucket) as made:
        yield made


@pytest.fixture
def scoring_service_on_rclone_harness(rclone_running: Server, bucket: str) -> Iterator[ScoringServiceHarness]:
    with on_server(rclone_running, bucket) as made:
        yield made


@pytest.fixture
def sagemaker() -> Iterator[SageMakerHarness]:
    with sagemaker_harness() as made:
        yield made


@pytest.fixture
def kserve(kserve_schema: Problems | NotFetchedError, tmp_path: Path) -> Iterator[KServeHarness]:
    with kserve_harness(kserve_schema, tmp_path) as made:
        yield made


@dataclass(frozen=True)
class Step:
    """One of the deployer's methods, with what was there before and what is there afterwards."""

    name: str
    share_before: float | None
    """None: no challenger."""
    act: Callable[[Deployer, str], None]
    after: Served
    alias_after: int = 3

    def prepare(self, harness: Harness, model: str = MODEL) -> None:
        if self.share_before is None:
            with_champion(harness, model)
        else:
            with_split(harness, self.share_before, model=model)

    def carry_out(self, harness: Harness, model: str = MODEL) -> None:
        harness.move_alias(model, str(self.alias_after))
        carry_out(harness, partial(self.again, model=model))

    def again(self, deployer: Deployer, model: str = MODEL) -> None:
        self.act(deployer, model)


STEPS: Final = (
    Step("deploy", None, lambda d, model: d.deploy(split_of(model)), answered(v3=100)),
    Step("shift", 0, lambda d, model: d.shift(split_of(model), 25), answered(v3=75, v4=25)),
    Step("shift_on", 25, lambda d, model: d.shift(split_of(model), 50), answered(v3=50, v4=50)),
    Step("promote", 50, lambda d, model: d.promote(registered(model, 4)), answered(v4=100), alias_after=4),
    Step("promote_alone", None, lambda d, model: d.promote(registered(model, 4)), answered(v4=100), alias_after=4),
    Step("roll_back", 50, lambda d, model: d.roll_back(registered(model, 3)), answered(v3=100)),
    Step("roll_back_early", 0, lambda d, model: d.roll_back(registered(model, 3)), answered(v3=100)),
)
EACH_STEP = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)


@ON_EACH
def test_nothing_deployed_is_nobodys_split_and_no_problem(harness: Harness) -> None:
    status = harness.deployer().status(MODEL)
    assert (status.champion, status.challenger, status.share, status.rollout_id) == (None, None, 0, None)
    assert status.problem == ""


@ON_EACH
def test_first_champion_where_nothing_was_deployed_answers_everything(harness: Harness) -> None:
    with_champion(harness)
    assert harness.served(MODEL) == answered(v3=100)
    status = harness.deployer().status(MODEL)
    assert status.ready
    assert status.champion in (None, "3")


@ON_EACH
def test_challenger_where_nothing_was_deployed_comes_up_beside_its_champion(harness: Harness) -> None:
    harness.move_alias(MODEL, "3")
    carry_out(harness, lambda deployer: deployer.deploy(split_of(MODEL)))
    assert harness.served(MODEL) == answered(v3=100)
    assert harness.deployer().status(MODEL).challenger == "4"


@IN_EACH_ROLE
def test_deployed_challenger_is_up_and_has_no_share(harness: Harness, role: Role) -> None:
    with_split(harness, 0, role)
    assert harness.served(MODEL) == answered(v3=100)
    status = harness.deployer().status(MODEL)
    assert (status.challenger, status.role, status.share, status.rollout_id) == ("4", role, 0, "a" * 64)
    assert status.ready
    assert status.problem == ""
    assert status.champion in (None, "3")


@ON_EACH
@pytest.mark.parametrize("share", [1, 25, 50, 99])
def test_canary_answers_its_share(harness: Harness, share: float) -> None:
    with_split(harness, share)
    assert harness.served(MODEL).answers == pytest.approx({"3": 100 - share, "4": share})
    status = harness.deployer().status(MODEL)
    assert (status.challenger, status.share, status.ready) == ("4", pytest.approx(share), True)


@ON_EACH
def test_canary_with_all_the_requests_leaves_the_champion_none(harness: Harness) -> None:
    with_split(harness, 100)
    assert harness.served(MODEL) == answered(v4=100)
    assert harness.deployer().status(MODEL).share == pytest.approx(100)


@ON_EACH
def test_share_can_be_taken_down_again(harness: Harness) -> None:
    with_split(harness, 50)
    carry_out(harness, lambda deployer: deployer.shift(split_of(MODEL), 5))
    assert harness.served(MODEL).answers == pytest.approx({"3": 95, "4": 5})


@pytest.mark.parametrize(
    "harness", [maker for maker in HARNESSES if Role.SHADOW in maker.roles], ids=lambda maker: maker.name, indirect=True
)
@pytest.mark.parametrize("share", [20, 100])
def test_shadow_gets_copies_and_answers_nobody(harness: Harness, share: float) -> None:
    with_split(harness, share, Role.SHADOW)
    served = harness.served(MODEL)
    assert served.answers == {"3": 100}
    assert served.copies == pytest.approx({"4": share})
    status = harness.deployer().status(MODEL)
    assert (status.role, status.share) == (Role.SHADOW, pytest.approx(share))


@IN_EACH_ROLE
def test_shift_before_deploy_brings_the_challenger_up_and_gives_it_its_share(harness: Harness, role: Role) -> None:
    with_champion(harness)
    carry_out(harness, lambda deployer: deployer.shift(split_of(MODEL, role=role), 25))
    status = harness.deployer().status(MODEL)
    assert (status.challenger, status.role, status.share) == ("4", role, pytest.approx(25))


@IN_EACH_ROLE
@pytest.mark.parametrize("share", [0, 25, 100])
def test_promoted_challenger_answers_everything_and_the_split_is_over(
    harness: Harness, role: Role, share: float
) -> None:
    with_split(harness, share, role)
    with_champion(harness, version=4)
    assert harness.served(MODEL) == answered(v4=100)
    status = harness.deployer().status(MODEL)
    assert (status.challenger, status.role, status.share, status.rollout_id) == (None, None, 0, None)
    assert status.ready
    assert status.problem == ""
    assert status.champion in (None, "4")


@IN_EACH_ROLE
@pytest.mark.parametrize("share", [0, 25, 100])
def test_rolled_back_challenger_gets_nothing_and_the_split_is_over(harness: Harness, role: Role, share: float) -> None:
    with_split(harness, share, role)
    carry_out(harness, lambda deployer: deployer.roll_back(registered(MODEL, 3)))
    assert harness.served(MODEL) == answered(v3=100)
    status = harness.deployer().status(MODEL)
    assert (status.challenger, status.role, status.share, status.rollout_id) == (None, None, 0, None)
    assert status.ready


@ON_EACH
def test_first_call_to_roll_back_takes_the_share_away(harness: Harness) -> None:
    with_split(harness, 50)
    with suppress(DeployerUnavailableError):  # the rest has to wait
        harness.deployer().roll_back(registered(MODEL, 3))
    harness.settle()
    assert harness.served(MODEL) == answered(v3=100)


@ON_EACH
def test_roll_back_without_a_challenger_changes_nothing(harness: Harness) -> None:
    with_champion(harness)
    before = harness.changes
    harness.deployer().roll_back(registered(MODEL, 3))
    assert harness.changes == before
    assert harness.served(MODEL) == answered(v3=100)


@ON_EACH
def test_roll_back_where_nothing_is_deployed_changes_nothing(harness: Harness) -> None:
    harness.deployer().roll_back(registered(MODEL, 3))
    assert harness.changes == 0


@ON_EACH
def test_earlier_version_promoted_again_ends_the_split_of_another(harness: Harness) -> None:
    with_split(harness, 50)
    with_champion(harness, version=2)
    assert harness.served(MODEL) == answered(v2=100)
    assert harness.deployer().status(MODEL).rollout_id is None


@IN_EACH_ROLE
def test_same_challenger_is_tried_out_again_by_another_rollout(harness: Harness, role: Role) -> None:
    with_split(harness, 25, role)
    carry_out(harness, lambda deployer: deployer.roll_back(registered(MODEL, 3)))
    carry_out(harness, lambda deployer: deployer.deploy(split_of(MODEL, rollout="b" * 64)))
    carry_out(harness, lambda deployer: deployer.shift(split_of(MODEL, rollout="b" * 64), 5))
    assert harness.served(MODEL).answers == pytest.approx({"3": 95, "4": 5})
    assert harness.deployer().status(MODEL).rollout_id == "b" * 64


@IN_EACH_ROLE
@pytest.mark.parametrize("share", [0, 25])
def test_split_of_another_rollout_is_left_alone(harness: Harness, role: Role, share: float) -> None:
    with_split(harness, share, role)
    other = split_of(MODEL, challenger=5, rollout="b" * 64)
    before = harness.changes, harness.served(MODEL)
    with pytest.raises(DeployerUnavailableError, match=f"(?s){MODEL}.*{'a' * 64}"):
        harness.deployer().deploy(other)
    with pytest.raises(DeployerUnavailableError, match=f"(?s){MODEL}.*{'a' * 64}"):
        harness.deployer().shift(other, 50)
    harness.settle()
    assert (harness.changes, harness.served(MODEL)) == before


@ON_EACH
def test_models_do_not_touch_each_other(harness: Harness) -> None:
    for model in ("churn", "churn_v", "churn_v4"):
        with_split(harness, 25, model=model)
    with_champion(harness, "churn", 4)
    carry_out(harness, lambda deployer: deployer.roll_back(registered("churn_v4", 3)))
    assert harness.served("churn") == answered(v4=100)
    assert harness.served("churn_v") == answered(v3=75, v4=25)
    assert harness.served("churn_v4") == answered(v3=100)


@ON_EACH
@pytest.mark.parametrize("model", ["m" * 63, "m" + "_" * 62, "a_", "b"], ids=["long", "underscores", "ends", "short"])
def test_every_name_that_a_spec_may_give_is_deployed(harness: Harness, model: str) -> None:
    with_split(harness, 25, model=model)
    assert harness.served(model) == answered(v3=75, v4=25)
    status = harness.deployer().status(model)
    assert (status.challenger, status.share) == ("4", pytest.approx(25))


@ON_EACH
@EACH_STEP
def test_step_brings_about_what_it_says(harness: Harness, step: Step) -> None:
    step.prepare(harness)
    step.carry_out(harness)
    assert harness.served(MODEL) == step.after


@ON_EACH
@EACH_STEP
def test_step_once_more_changes_nothing(harness: Harness, step: Step) -> None:
    step.prepare(harness)
    step.carry_out(harness)
    before = harness.changes, harness.deployer().status(MODEL)
    step.again(harness.deployer())
    assert (harness.changes, harness.deployer().status(MODEL)) == before
    assert harness.served(MODEL) == step.after


@ON_EACH
@EACH_STEP
def test_step_asked_for_again_while_it_is_on_its_way_changes_nothing(harness: Harness, step: Step) -> None:
    step.prepare(harness)
    harness.move_alias(MODEL, str(step.alias_after))
    for _ in range(2):
        with suppress(DeployerUnavailableError):
            step.again(harness.deployer())
        before = harness.changes
    assert harness.changes == before
    step.carry_out(harness)
    assert harness.served(MODEL) == step.after


@ON_EACH
@EACH_STEP
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_crash_around_any_call_is_mended_by_the_next_try(harness: Harness, step: Step, after: bool) -> None:
    for at in range(MANY_CALLS):
        model = f"m{at}"
        step.prepare(harness, model)
        try:
            with harness.crash(at, after=after):
                step.carry_out(harness, model)
        except Crash:
            assert harness.served(model).answers, "somebody answers all the time"
            step.carry_out(harness, model)
            crashed = True
        else:
            crashed = False
        status = harness.deployer().status(model)
        assert harness.served(model) == step.after
        assert (status.ready, status.problem) == (True, "")
        if not crashed:
            break
    assert 0 < at < MANY_CALLS - 1, "a step is at least one call, and ends"


@ON_EACH
@EACH_STEP
@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.THROTTLED])
def test_platform_that_does_not_answer_is_tried_again_later(harness: Harness, step: Step, fault: Fault) -> None:
    step.prepare(harness)
    with harness.play(fault):
        with pytest.raises(DeployerUnavailableError):
            step.again(harness.deployer())
        with pytest.raises(DeployerUnavailableError):
            harness.deployer().status(MODEL)
    step.carry_out(harness)
    assert harness.served(MODEL) == step.after


@ON_EACH
@EACH_STEP
def test_denied_access_says_what_to_change(harness: Harness, step: Step) -> None:
    step.prepare(harness)
    with harness.play(Fault.DENIED):
        with pytest.raises(TerminalError, match=r"allow.*(grant|give|bind)"):
            step.again(harness.deployer())
        with pytest.raises(TerminalError, match=r"allow.*(grant|give|bind)"):
            harness.deployer().status(MODEL)
    step.carry_out(harness)
    assert harness.served(MODEL) == step.after
