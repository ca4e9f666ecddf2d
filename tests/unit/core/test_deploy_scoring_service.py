"""The scoring service's deployer: how long a plan lives, when it is renewed, and what counts as no plan.

And which deployer a spec gets.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perennial.adapters.deploy_nothing import NoDeployer
from perennial.adapters.deploy_sagemaker import SageMakerDeployer
from perennial.adapters.deploy_scoring_service import LIFETIME, RENEW_AFTER, ScoringServiceDeployer
from perennial.domain.traffic import Role, TrafficPlan, plan_uri
from perennial.errors import DeployerUnavailableError
from perennial.ports import DeploymentStatus
from perennial.spec import ModelSpec
from perennial.spec.platforms import KServe, SageMaker
from perennial.testing import FixedClock, FolderStore, MemoryDeployer
from tests.contract.deployers import MODEL, registered, split_of
from tests.unit.core.world import World

NOW = datetime(2013, 4, 1, tzinfo=UTC)
ROOT = "s3://bucket/store"
URI = plan_uri(ROOT, MODEL)
NOBODYS = DeploymentStatus(champion=None)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path)
    store.add_bucket("bucket")
    return store


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def deployer(store: FolderStore, clock: FixedClock) -> ScoringServiceDeployer:
    return ScoringServiceDeployer(store, ROOT, clock)


def plan_in(store: FolderStore) -> TrafficPlan:
    return TrafficPlan.from_dict(json.loads(store.read(URI)))


def test_plan_says_what_the_split_says_and_lives_for_three_minutes(
    store: FolderStore, deployer: ScoringServiceDeployer
) -> None:
    deployer.shift(split_of(MODEL, role=Role.SHADOW), 20)
    assert plan_in(store) == TrafficPlan(
        model=MODEL,
        challenger="4",
        role=Role.SHADOW,
        share=20,
        rollout_id="a" * 64,
        issued_at=NOW,
        expires_at=NOW + timedelta(minutes=3),
    )


def test_plan_is_renewed_when_it_is_thirty_seconds_old_and_not_before(
    store: FolderStore, deployer: ScoringServiceDeployer, clock: FixedClock
) -> None:
    deployer.shift(split_of(MODEL), 5)
    clock.advance(RENEW_AFTER - timedelta(seconds=1))
    deployer.shift(split_of(MODEL), 5)
    assert plan_in(store).issued_at == NOW
    clock.advance(timedelta(seconds=1))
    deployer.shift(split_of(MODEL), 5)
    assert plan_in(store).expires_at == NOW + RENEW_AFTER + LIFETIME


def test_split_that_nobody_renews_is_over_and_can_be_put_in_force_again(
    deployer: ScoringServiceDeployer, clock: FixedClock
) -> None:
    deployer.shift(split_of(MODEL), 5)
    clock.advance(LIFETIME)
    assert deployer.status(MODEL) == NOBODYS
    deployer.shift(split_of(MODEL), 5)
    assert deployer.status(MODEL).share == 5


def test_deploy_leaves_the_share_of_its_own_rollout_in_force(deployer: ScoringServiceDeployer) -> None:
    deployer.shift(split_of(MODEL), 25)
    deployer.deploy(split_of(MODEL))
    assert deployer.status(MODEL).share == 25


def test_plan_of_another_rollout_is_in_the_way_until_it_expires(
    deployer: ScoringServiceDeployer, clock: FixedClock
) -> None:
    deployer.shift(split_of(MODEL), 25)
    other = replace(split_of(MODEL), rollout_id="b" * 64)
    with pytest.raises(DeployerUnavailableError, match=f"rollout {'a' * 64}, until 2013-04-01T00:03:00Z"):
        deployer.deploy(other)
    clock.advance(LIFETIME)
    deployer.deploy(other)
    assert (deployer.status(MODEL).rollout_id, deployer.status(MODEL).share) == ("b" * 64, 0)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"model": "flights_delay"}', b"\xff"])
def test_plan_that_cannot_be_read_is_nobodys_and_replaced(
    store: FolderStore, deployer: ScoringServiceDeployer, content: bytes
) -> None:
    store.write(URI, content, content_type="application/json")
    assert deployer.status(MODEL) == NOBODYS
    deployer.shift(split_of(MODEL), 5)
    assert deployer.status(MODEL).share == 5


def test_plan_of_another_model_in_this_ones_place_does_not_count(
    store: FolderStore, deployer: ScoringServiceDeployer
) -> None:
    deployer.shift(split_of("churn"), 5)
    store.write(URI, store.read(plan_uri(ROOT, "churn")), content_type="application/json")
    assert deployer.status(MODEL) == NOBODYS


@pytest.mark.parametrize(
    ("deployment", "expected"),
    [
        (None, NoDeployer),
        ({"kind": "scoring_service"}, ScoringServiceDeployer),
        (
            {"kind": "sagemaker", "image": "i", "execution_role": "arn:aws:iam::123456789012:role/serving"},
            SageMakerDeployer,
        ),
    ],
    ids=["none", "scoring_service", "sagemaker"],
)
def test_spec_gets_the_deployer_that_it_asks_for(
    tmp_path: Path, deployment: dict[str, Any] | None, expected: type[object]
) -> None:
    world = World(tmp_path)
    spec = ModelSpec.model_validate({**world.spec.model_dump(mode="json"), "deployment": deployment})
    assert type(world.runtime.deployer(spec)) is expected


def test_spec_on_kserve_gets_its_deployer_which_needs_a_package_that_others_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    module: Any = ModuleType("perennial.adapters.deploy_kserve")
    module.KServeDeployer = made.append
    monkeypatch.setitem(sys.modules, module.__name__, module)
    world, kserve = World(tmp_path), KServe(kind="kserve", image="i")
    world.runtime.deployer(world.spec.model_copy(update={"deployment": kserve}))
    assert made == [kserve]


def test_own_deployer_takes_the_place_of_all_but_none(tmp_path: Path) -> None:
    world, own = World(tmp_path), MemoryDeployer()
    runtime = replace(world.runtime, own_deployer=own)
    sagemaker = SageMaker(kind="sagemaker", image="i", execution_role="arn:aws:iam::123456789012:role/serving")
    assert runtime.deployer(world.spec.model_copy(update={"deployment": sagemaker})) is own
    assert isinstance(runtime.deployer(world.spec.model_copy(update={"deployment": None})), NoDeployer)


def test_no_deployer_is_ready_and_does_nothing() -> None:
    deployer = NoDeployer()
    deployer.deploy(split_of(MODEL))
    deployer.shift(split_of(MODEL), 5)
    deployer.promote(registered(MODEL, 4))
    deployer.roll_back(registered(MODEL, 3))
    assert deployer.status(MODEL) == NOBODYS
