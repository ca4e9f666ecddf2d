"""The way back in a real Airflow: a click, the alias, the ledger, and a challenger that does not return by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.system.conftest import LENIENT, World

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.usefixtures("landed")]
AS_OF = datetime(2013, 2, 18, 3, tzinfo=UTC).isoformat()
MODEL = "taken_back"


def test_rollback_puts_the_version_before_back_and_what_it_removed_is_not_promoted_again(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    dag_id = world.add_twin(MODEL, gate=LENIENT)
    airflow, registry = world.stack.airflow, world.runtime.registry
    for alpha, version in ((1.0, "1"), (2.0, "2")):
        run = world.run(dag_id, as_of=AS_OF, params={"alpha": alpha})
        assert run.state == "success", world.log_of(dag_id, run.run_id)
        assert registry.champion_version(MODEL) == version

    rollback_id = f"perennial__{MODEL}__rollback"
    began = time.monotonic()
    started = airflow.trigger(rollback_id, conf={"reason": "too many false alarms"})
    while registry.champion_version(MODEL) != "1" and not airflow.run(rollback_id, started.run_id).is_over:
        time.sleep(0.1)
    took = time.monotonic() - began
    record_property("rollback_trigger_to_alias_s", round(took, 2))
    log.info("rollback: %.1f s from the trigger to the alias", took)
    finished = airflow.wait_for_run(rollback_id, started.run_id, timeout_s=120)
    assert finished.state == "success", world.log_of(rollback_id, started.run_id)
    assert registry.champion_version(MODEL) == "1"
    entry = world.runtime.ledger.entries(MODEL)[-1]
    assert (entry.kind, entry.run_id) == ("rollback", started.run_id)
    assert (entry.champion_before, entry.champion_after) == ("2", "1")
    assert "too many false alarms" in entry.summary
    assert len(entry.quarantined) == 1

    again = world.run(dag_id, as_of=AS_OF, params={"alpha": 2.0}, force=True)
    assert again.state == "success", world.log_of(dag_id, again.run_id)
    assert registry.champion_version(MODEL) == "1"
    judged = world.runtime.ledger.entries(MODEL)[-1]
    assert (judged.kind, judged.run_id) == ("decision", again.run_id)
    assert judged.verdict != "PROMOTE"


def test_rollback_to_what_is_not_there_fails_at_once_and_moves_nothing(world: World) -> None:
    dag_id = world.add_twin("nowhere_to_go", gate=LENIENT)
    world.run(dag_id, as_of=AS_OF)
    rollback_id = "perennial__nowhere_to_go__rollback"
    run = world.run(rollback_id, to="7")
    assert run.state == "failed"
    [task] = world.stack.airflow.task_instances(rollback_id, run.run_id)
    assert task.try_number == 1
    assert world.runtime.registry.champion_version("nowhere_to_go") == "1"
