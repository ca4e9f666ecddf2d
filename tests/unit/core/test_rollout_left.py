"""What a rollout that was killed, or whose platform was away, has left; and who clears it up."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.errors import DeployerUnavailableError
from perennial.stages.rollout import end_abandoned
from perennial.stages.rollout_objects import RolloutObjects
from tests.unit.core.faulty import ProcessDied
from tests.unit.core.production import MODEL
from tests.unit.core.walking import MINUTE, Live


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path)


def _die(*_: object) -> None:
    raise ProcessDied


def test_rollout_does_not_begin_beside_the_split_of_one_that_waits_for_its_promotion(live: Live) -> None:
    first, second = live.case("first-run"), live.case("second-run")
    live.walk(first)
    with pytest.raises(DeployerUnavailableError, match="version 2 still has 100 %"):
        live.look(second)
    live.pass_time(timedelta(minutes=15))
    live.look(second)
    assert live.deployer.changes[-2:] == [("roll_back", "1", 100), ("deploy", "3", 0)]


def test_fault_that_a_killed_run_had_found_is_on_record_after_the_next_one(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = live.case()
    live.under_way(case)

    live.pass_time(MINUTE)
    live.traffic(failed=8)
    monkeypatch.setattr(RolloutObjects, "put_record", _die)
    with pytest.raises(ProcessDied):
        live.look(case)
    monkeypatch.undo()
    live.pass_time(timedelta(minutes=15))
    end_abandoned(live.spec, door=live.door, deployer=live.deployer, owner="next")
    (entry,) = live.ends()
    assert list(entry.quarantined) == [case.model.digest]
    assert live.deployer.status(MODEL).rollout_id is None


@pytest.mark.parametrize("minutes", [0, 16])
def test_pass_that_a_killed_run_had_reached_is_no_promotion(
    live: Live, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    case = live.case()

    monkeypatch.setattr(RolloutObjects, "put_record", _die)
    with pytest.raises(ProcessDied):
        live.walk(case)
    monkeypatch.undo()
    live.pass_time(minutes * MINUTE)
    end_abandoned(live.spec, door=live.door, deployer=live.deployer, owner="next")
    assert [entry.approved for entry in live.ends()] == ([False] if minutes else [])
    assert live.champion == "1"


def test_stop_while_the_platform_is_away_is_on_record_and_done_again_takes_the_share_back(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.under_way(live.case())

    def away(*_: Any) -> None:
        raise DeployerUnavailableError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(live.deployer, "roll_back", away)
        with pytest.raises(DeployerUnavailableError, match=r"no answer\. The stop of churn's challenger is on record"):
            live.stop()
    assert live.deployer.status(MODEL).rollout_id is not None
    live.stop()
    assert live.deployer.status(MODEL).rollout_id is None
