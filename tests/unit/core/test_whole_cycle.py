"""From landed data to production in one process, with a smoke test and a canary on the way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.references import Reference, RolloutRef, SmokeTestRef
from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError, IntegrityError, NotAllowedError, SmokeTestError, TerminalError
from perennial.runtime import Runtime
from perennial.spec.model import ModelSpec
from perennial.stages.rollout import Look
from perennial.testing.clock import FixedClock
from perennial.testing.deployer import MemoryDeployer
from perennial.whole_cycle import MOST_FAILURES, CycleResult, run_cycle
from tests.unit.core.walking import CANARY, SHADOW, log_requests
from tests.unit.core.world import SPEC, World

DEPLOYMENT: dict[str, Any] = {
    "kind": "scoring_service",
    "smoke_test": {"rows": 5},
    "shadow": SHADOW,
    "canary": {**CANARY, "steps": [100]},
}


class Served(World):
    """A world whose models serve requests while a cycle waits."""

    def __init__(self, folder: Path, **deployment: Any) -> None:
        spec = ModelSpec.model_validate({**SPEC, "deployment": {**DEPLOYMENT, **deployment}})
        super().__init__(folder, spec=spec)
        self.deployer: Any = MemoryDeployer()
        self.failed = 0
        self.told: list[str] = []
        self.looks: list[tuple[str, Look]] = []

    @property
    def runtime(self) -> Runtime:
        return replace(super().runtime, own_deployer=self.deployer)

    def run(self, **changes: Any) -> CycleResult:
        self.clock = FixedClock(self.clock.now() + timedelta(hours=1))
        return run_cycle(
            self.runtime,
            self.spec,
            self.request(**changes),
            on_stage=self._tell,
            on_look=lambda phase, seen: self.looks.append((phase, seen)),
            sleep=self._sleep,
        )

    def _tell(self, name: str, reference: Reference | None) -> None:
        self.told += [name] if reference is None else []

    def _sleep(self, seconds: float) -> None:
        """Requests come meanwhile; time runs ten times as fast as the walker believes, to keep the test short."""
        self.clock.advance(timedelta(seconds=10 * seconds))
        for version, role, failed in (("1", Role.CHAMPION, 0), ("2", Role.CANARY, self.failed)):
            log_requests(
                self.store, "toy", version, self.clock.now(), f"{len(self.looks)}", 6, failed=failed, role=role
            )


@pytest.fixture
def world(tmp_path: Path) -> Served:
    world = Served(tmp_path)
    world.land(range(28))
    return world


def test_first_champion_is_smoke_tested_and_serves_at_once(world: Served) -> None:
    result = world.run()
    assert world.told == ["snapshot", "validate", "train", "evaluate", "decide", "smoke_test", "promote"]
    assert result.promotion is not None
    assert (result.promotion.champion_after, result.rollouts) == ("1", ())
    assert world.deployer.changes == [("promote", "1", 100)]
    assert isinstance(result.smoke, SmokeTestRef)
    assert result.smoke.passed


def test_better_challenger_goes_through_shadow_and_canary_into_production(world: Served) -> None:
    world.run()
    world.land(range(28, 56), sign=-1.0)
    world.told.clear()
    result = world.run()
    assert world.told[-4:] == ["smoke_test", "shadow", "canary", "promote"]
    assert [(ended.phase, ended.passed) for ended in result.rollouts] == [("shadow", True), ("canary", True)]
    assert {phase for phase, _ in world.looks} == {"shadow", "canary"}
    promotion = world.runtime.ledger.entries("toy")[-1]
    assert (promotion.kind, promotion.champion_after) == ("promotion", "2")
    assert RolloutRef.from_dict(promotion.references["canary"]) == result.rollouts[1]
    assert promotion.references["smoke_test"]["passed"] is True
    assert world.deployer.status("toy").champion == "2"


def test_challenger_that_fails_in_its_shadow_gets_no_canary_and_the_cycle_ends_well(world: Served) -> None:
    world.run()
    world.land(range(28, 56), sign=-1.0)
    world.told.clear()
    world.failed = 6
    result = world.run()
    assert world.told[-2:] == ["smoke_test", "shadow"]
    assert (result.promotion, result.waits_for_approval) == (None, False)
    assert world.registry.champion_version("toy") == "1"
    assert world.deployer.status("toy").champion == "1"
    world.run()
    # The same training again is not tried once more: its model is in quarantine.
    assert world.outcomes()[-1][0] == "nothing_new"


def test_challenger_that_fails_its_smoke_test_is_a_red_run_before_any_traffic(
    world: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> SmokeTestRef:
        raise SmokeTestError("its scores differ by 0.1")

    monkeypatch.setattr("perennial.cycle.smoke_test", failing)
    with pytest.raises(SmokeTestError):
        world.run()
    assert world.deployer.changes == []
    assert world.registry.champion_version("toy") is None


def test_platform_that_stays_away_ends_the_run_after_a_while_and_another_walk_goes_on(
    world: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run()
    world.land(range(28, 56), sign=-1.0)
    world.looks.clear()
    tries: list[float] = []

    def away(_model: str) -> Any:
        tries.append(0.0)
        raise DeployerUnavailableError("503")

    with monkeypatch.context() as patched:
        patched.setattr(world.deployer, "status", away)
        with pytest.raises(DeployerUnavailableError):
            world.run(run_id="night")
    assert len(tries) == MOST_FAILURES
    result = world.run(run_id="night")
    assert result.promotion is not None
    assert result.promotion.champion_after == "2"


def test_broken_glass_overrides_the_rollouts_on_record(tmp_path: Path) -> None:
    world = Served(tmp_path)
    approval = world.spec.approval.model_copy(update={"break_glass": ("ada",)})
    world.spec = world.spec.model_copy(update={"approval": approval})
    world.land(range(28))
    world.run()
    world.land(range(28, 30))
    result = world.run(requested_by="ada", break_glass="the old one is wrong about Sundays")
    assert result.rollouts == ()
    promotion = world.runtime.ledger.entries("toy")[-1]
    assert (promotion.kind, promotion.champion_after) == ("promotion", "2")
    assert "Overridden: shadow, canary." in promotion.summary
    assert "Overridden: the canary was not walked." in promotion.reasons


def test_promotion_without_the_smoke_test_that_the_deployment_needs_is_refused(
    world: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perennial.cycle.smoke_test", lambda *_: None)
    with pytest.raises(NotAllowedError, match="was not tried out in a clean process"):
        world.run()
    assert world.registry.champion_version("toy") is None


@pytest.mark.parametrize("error", [DeployerUnavailableError, TerminalError, IntegrityError])
def test_rollout_of_a_killed_run_that_cannot_be_ended_keeps_nobody_from_training(
    world: Served, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error("the platform says no")

    monkeypatch.setattr("perennial.stages.rollout.end_abandoned", refuse)
    assert world.run().decision is not None
