"""The commands about a challenger on live traffic: who it is, how it ended, and what takes it back."""

from __future__ import annotations

import getpass
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial import runtime
from perennial.champion_door import QUARANTINE_TAG
from perennial.domain.references import RolloutRef
from perennial.domain.rollout import RolloutRecord, RolloutState
from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError
from perennial.ports import DeploymentStatus, Split
from perennial.spec.model import ModelSpec
from perennial.stages.rollout_objects import RolloutObjects
from tests.unit.core.command import AS_OF, Shell, a_world, an_hour_passes, respec, run_twice
from tests.unit.core.rolled_out import a_trial, entry_of_end, passed, taken_back
from tests.unit.core.world import ROOT, SPEC, World

AIRFLOW = "https://airflow.example"
CANARY: dict[str, Any] = {"kind": "scoring_service", "canary": {}}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    world = a_world(tmp_path, monkeypatch)
    monkeypatch.setattr(runtime, "build_runtime", lambda _settings: replace(world.runtime, airflow_url=AIRFLOW))
    return world


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


class Stuck:
    """A deployer whose platform has something to say, or does not answer."""

    def __init__(self, says: DeploymentStatus | DeployerUnavailableError) -> None:
        self.says = says

    def status(self, model: str) -> DeploymentStatus:
        del model
        if isinstance(self.says, DeployerUnavailableError):
            raise self.says
        return self.says


def _judged(world: World, shell: Shell) -> dict[str, Any]:
    """Version 1 is champion, and another run judged PROMOTE since. What of that run the ledger's entries share."""
    world.land(range(28))
    assert shell("run", "toy", "--as-of", AS_OF)[0] == 0
    first = world.runtime.ledger.entries("toy")[0]
    request = {**first.request, "run_id": "scheduled__2", "trigger": "schedule"}
    world.runtime.ledger.append(replace(first, request=request, champion_before="1", champion_after="1"))
    respec(world, deployment={**CANARY, "shadow": {}})
    return request


def _end(world: World, request: dict[str, Any], record: RolloutRecord, **trial: Any) -> None:
    given = {"model": "toy", "request": request, "champion": "1", "challenger": "2", **trial}
    record = replace(record, trial=a_trial(**given), champion_at_end="1")
    world.runtime.ledger.append(entry_of_end(record))


def _history(shell: Shell) -> str:
    return " ".join(shell("history", "toy", "--limit", "1")[1].split())


def test_rollout_that_is_not_over_is_told_with_where_to_look(world: World, shell: Shell) -> None:
    request = _judged(world, shell)
    assert "Not promoted so far: its shadow is not over" in _history(shell)
    _end(world, request, passed(), phase="shadow")
    told = _history(shell)
    assert "Version 2 passed its shadow" in told
    assert "Not promoted so far: its canary is not over" in told
    assert "perennial champion toy" in told
    assert "/runs/scheduled__2" in told
    _end(world, request, passed())
    assert "Not promoted so far: the run goes on" in _history(shell)


def test_challenger_that_was_taken_back_is_told_with_its_page_and_waits_for_nothing(world: World, shell: Shell) -> None:
    request = _judged(world, shell)
    _end(world, request, taken_back())
    told = _history(shell)
    assert "Version 2 was taken back from its canary at 25 %: The error rate is 0.1167" in told
    assert "Not promoted" not in told
    page = f"{AIRFLOW}/perennial/ui/perennial__toy__retrain/rollouts/0123456789abcdef/page.html"
    assert f"page: {page}" in told
    last = shell.json("history", "toy")[1][-1]
    assert (last["outcome"], last["page_url"], last["approved"]) == ("canary taken back", page, False)
    assert shell.json("champion", "toy")[1]["quarantined"].keys() == {"2"}
    assert "quarantined v2" in shell("champion", "toy")[1]


def test_promotion_is_told_with_the_rollouts_that_led_to_it(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    promotion = world.runtime.ledger.entries("toy")[-1]
    _end(world, dict(promotion.request), passed())
    assert [told["phase"] for told in shell.json("champion", "toy")[1]["rollouts"]] == ["canary"]
    assert "Version 2 passed its canary" in " ".join(shell("champion", "toy")[1].split())


def _on_traffic(world: World, shell: Shell, share: float = 25.0, role: Role = Role.CANARY) -> Split:
    """Version 2 beside champion version 1, as a rollout that somebody walks leaves it."""
    run_twice(world, shell)
    world.registry.point_alias("toy", "champion", "1")
    world.runtime.door.settle("toy", owner="a look")
    respec(world, deployment=CANARY)
    champion, challenger = (world.registry.version("toy", version) for version in ("1", "2"))
    trial = a_trial(
        model="toy",
        phase=role.value,
        champion="1",
        champion_model=champion.model,
        challenger="2",
        challenger_model=challenger.model,
        asked_at=world.clock.now(),
    )
    objects = RolloutObjects(store=world.store, root=ROOT, model="toy")
    objects.put_state(RolloutState(trial=trial, looked_at=world.clock.now()), instead_of=None)
    objects.put_current(trial.rollout_id)
    split = Split(champion=champion, challenger=challenger, role=role, rollout_id=trial.rollout_id)
    world.runtime.deployer(_spec()).shift(split, share)
    return split


def _spec() -> ModelSpec:
    return ModelSpec.model_validate({**SPEC, "deployment": CANARY})


@pytest.mark.parametrize(
    ("share", "role", "said"),
    [
        (25.0, Role.CANARY, "version 2 answers 25 % of the requests (canary)"),
        (100.0, Role.SHADOW, "version 2 scores a copy of 100 % (shadow)"),
        (0.0, Role.CANARY, "version 2 is being brought up (canary)"),
    ],
)
def test_champion_tells_what_is_on_live_traffic_beside_it(
    world: World, shell: Shell, share: float, role: Role, said: str
) -> None:
    _on_traffic(world, shell, share, role)
    told = " ".join(shell("champion", "toy")[1].split())
    assert said in told
    assert "perennial rollback toy --challenger" in told
    live = shell.json("champion", "toy")[1]["live"]
    assert (live["challenger"], live["role"], live["share"]) == ("2", role.value, share)


def test_champion_of_a_model_that_is_not_deployed_has_nothing_live(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    assert "live" not in shell.json("champion", "toy")[1]
    respec(world, deployment=CANARY)
    assert shell.json("champion", "toy")[1]["live"]["challenger"] is None
    assert "live traffic" not in shell("champion", "toy")[1]


def test_platform_that_lags_or_does_not_answer_hides_no_champion(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_twice(world, shell)
    respec(world, deployment=CANARY)

    def serves(says: DeploymentStatus | DeployerUnavailableError) -> str:
        stuck: Any = Stuck(says)
        built = replace(world.runtime, own_deployer=stuck)
        monkeypatch.setattr(runtime, "build_runtime", lambda _settings: built)
        code, out, _ = shell("champion", "toy")
        assert code == 0
        return " ".join(out.split())

    told = serves(DeploymentStatus(champion="1", problem="no capacity"))
    assert "platform serves version 1 still, not version 2" in told
    assert "platform says no capacity" in told
    assert "on live traffic not known: no answer" in serves(DeployerUnavailableError("no answer"))


def test_challenger_is_taken_back_at_once_and_the_champion_stays(world: World, shell: Shell) -> None:
    split = _on_traffic(world, shell)
    an_hour_passes(world)
    world.runtime.deployer(_spec()).shift(split, 25.0)
    code, out, _ = shell("rollback", "toy", "--challenger", "--reason", "complaints")
    said = " ".join(out.split())
    assert code == 0
    assert said.startswith("version 2 is off live traffic")
    assert "ada took it back: complaints" in said
    assert "perennial rollback toy --to 2 --reason TEXT" in said
    assert f"page: {AIRFLOW}/perennial/ui/perennial__toy__retrain/rollouts/" in said
    assert world.registry.champion_version("toy") == "1"
    assert world.runtime.deployer(_spec()).status("toy").challenger is None
    entry = world.runtime.ledger.entries("toy")[-1]
    assert (entry.kind, entry.approved, entry.actor) == ("rollout", False, "ada")
    assert list(entry.quarantined) == [split.challenger.model.digest]
    assert "complaints" in world.registry.version_tags("toy")["2"][QUARANTINE_TAG]


def test_challenger_taken_back_is_told_to_machines_and_twice_is_once(world: World, shell: Shell) -> None:
    _on_traffic(world, shell)
    code, told = shell.json("rollback", "toy", "--challenger")
    assert (code, told["model"], told["version"], told["passed"], told["phase"]) == (0, "toy", "2", False, "canary")
    assert told["page_url"].startswith(AIRFLOW)
    before = len(world.runtime.ledger.entries("toy"))
    assert shell.json("rollback", "toy", "--challenger")[1]["ledger_uri"] == told["ledger_uri"]
    assert len(world.runtime.ledger.entries("toy")) == before
    assert RolloutRef.from_dict(world.runtime.ledger.entries("toy")[-1].references["rollout"]).version == "2"


def test_nothing_on_live_traffic_to_take_back_is_exit_code_1(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    respec(world, deployment=CANARY)
    code, out, err = shell("rollback", "toy", "--challenger")
    assert (code, out) == (1, "")
    assert "no challenger is being tried out" in err
    assert world.registry.champion_version("toy") == "2"


def test_champion_and_challenger_are_not_taken_back_in_one_command(world: World, shell: Shell) -> None:
    run_twice(world, shell)
    assert shell("rollback", "toy", "--challenger", "--to", "1")[0] == 2


def test_challenger_of_a_canary_that_was_taken_back_can_be_put_into_production_on_purpose(
    world: World, shell: Shell
) -> None:
    _on_traffic(world, shell)
    assert shell("rollback", "toy", "--challenger", "--reason", "complaints")[0] == 0
    world.clock.advance(timedelta(hours=1))
    code, _, err = shell("rollback", "toy", "--to", "2")
    assert code == 1
    assert "version 2 is in quarantine" in err
    code, out, _ = shell("rollback", "toy", "--to", "2", "--reason", "it was the data")
    assert code == 0
    assert "Version 2 is released from quarantine" in " ".join(out.split())
    assert shell.json("champion", "toy")[1]["quarantined"].keys() == {"1"}
