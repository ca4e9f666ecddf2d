"""Shadow and canary in a real Airflow, on a real scoring service under requests; and what breaks in their middle."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest

from diabetes.publisher import FEATURE_COLUMNS, read_visits
from perennial.champion_door import QUARANTINE_TAG
from perennial.domain.ledger_entry import ROLLOUT, LedgerEntry
from perennial.domain.times import Interval
from perennial.domain.traffic import Role
from perennial.ports import DeploymentStatus
from perennial.prediction_objects import read_predictions
from perennial.runtime import Runtime
from perennial.spec import load_model
from perennial_demo import process
from perennial_demo.home import HOME_VARIABLE
from perennial_demo.ports import LOOPBACK, free_port
from perennial_demo.traffic import LiveFlight, Traffic
from tests.system.conftest import COMMAND, LENIENT, World

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.usefixtures("landed")]
AS_OF = datetime(2013, 2, 18, 3, tzinfo=UTC).isoformat()
PATIENCE_S = 120
ENOUGH = {"min_samples": 60}
GUARDED = {
    # How fast two models are side by side on a busy machine is not what is asked here.
    "guardrails": {"error_rate": ENOUGH, "prediction_distance": {"max": 1000.0, **ENOUGH}, "latency_p95_ratio": None},
    "every": "10s",
    "max_extend": "2m",
}
CANARY = {"kind": "scoring_service", "canary": {"steps": [50], **GUARDED}}
MODELS = {"tried_out": CANARY, "shadowed_first": {**CANARY, "shadow": GUARDED}}


class Service:
    """`perennial serve` for this module's models; the stack's own serves those that were there when it began."""

    def __init__(self, world: World) -> None:
        port, home = free_port(), world.stack.home
        [shared] = [service for service in world.stack.plan.services if service.name == "scoring"]
        self.url = f"http://{LOOPBACK}:{port}"
        self._launch = process.Launch(
            home=home.root,
            service="scoring-of-twins",
            command=(str(COMMAND), "serve", *MODELS, "--port", str(port)),
            environ={**shared.environ, HOME_VARIABLE: str(home.root / "scoring-of-twins")},
            log=home.logs / "scoring-of-twins.log",
        )

    def start(self) -> None:
        self._process = process.start(self._launch)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        process.stop(self._launch.home, {self._launch.service})

    def served(self, model: str, role: str) -> str | None:
        """The version that is its champion or challenger; None: none, or nobody answers."""
        try:
            answer = httpx.get(f"{self.url}/models", timeout=5, trust_env=False).raise_for_status().json()
        except httpx.HTTPError:
            return None
        [found] = [served[role] for served in answer["models"] if served["model"] == model]
        return None if found is None else str(found["version"])


@dataclass(frozen=True)
class Twin:
    """A model that is asked by its clients, and runs of its DAG."""

    world: World
    service: Service
    model: str
    dag_id: str
    runtime: Runtime

    @property
    def champion(self) -> str | None:
        return self.runtime.registry.champion_version(self.model)

    @property
    def split(self) -> DeploymentStatus:
        spec = load_model(self.world.mine / "models", self.model)
        return self.runtime.deployer(spec).status(self.model)

    def traffic(self) -> Traffic:
        url, telling = self.service.url, f"{time.time_ns()}"
        return Traffic(url, self.model, lambda _month: visits(), month=date(2013, 2, 1), telling=telling, per_second=40)

    def begin(self, alpha: float) -> str:
        """A run with another challenger."""
        return self.world.stack.airflow.trigger(self.dag_id, conf={"as_of": AS_OF, "params": {"alpha": alpha}}).run_id

    def until(self, run_id: str, condition: Callable[[], object]) -> None:
        """Wait for something that happens before the run is over."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            is_over = self.world.stack.airflow.run(self.dag_id, run_id).is_over
            assert not is_over, self.world.log_of(self.dag_id, run_id)
            assert time.monotonic() < deadline, f"{self.split}\n{self.world.log_of(self.dag_id, run_id)}"
            time.sleep(0.25)

    def until_answered(self, run_id: str, traffic: Traffic) -> str:
        """Wait for the first answer of the canary; its version."""
        self.until(run_id, lambda: self.split.role is Role.CANARY and self.split.challenger in canaries(traffic))
        assert "canary" not in self.rollouts(run_id)
        return str(self.split.challenger)

    def finished(self, run_id: str) -> Mapping[str, str | None]:
        """The states of its tasks, once it has ended well; no split is in force then."""
        airflow = self.world.stack.airflow
        run = airflow.wait_for_run(self.dag_id, run_id, timeout_s=PATIENCE_S)
        assert run.state == "success", self.world.log_of(self.dag_id, run_id)
        self.until_champion_alone()
        return {task.task_id: task.state for task in airflow.task_instances(self.dag_id, run_id)}

    def until_champion_alone(self) -> None:
        """Wait until the service has only the champion: its next look, a second later."""
        deadline = time.monotonic() + PATIENCE_S
        while (served := [self.service.served(self.model, role) for role in ("champion", "challenger")]) != [
            self.champion,
            None,
        ]:
            assert time.monotonic() < deadline, f"{served}, {self.split}"
            time.sleep(0.25)
        assert self.split.rollout_id is None

    def rollouts(self, run_id: str) -> dict[str, LedgerEntry]:
        """The ends that are on record, by phase; one of each at most."""
        found = [e for e in self.runtime.ledger.entries(self.model) if e.kind == ROLLOUT and e.run_id == run_id]
        assert len({entry.phase for entry in found}) == len(found)
        return {entry.phase: entry for entry in found}

    def logged(self, version: str) -> pd.DataFrame:
        """Its rows in the prediction log."""
        now, (store, root) = datetime.now(UTC), (self.runtime.store, self.runtime.root)
        during = Interval(now - timedelta(minutes=10), now)
        return read_predictions(store, root, self.model, during, version=version, columns=("request_id", "at", "role"))


def canaries(traffic: Traffic) -> set[str]:
    """Versions that answered as a canary."""
    return {version for version, role in traffic.tally.answers if role == Role.CANARY}


def visits() -> list[LiveFlight]:
    """A request for each visit: its key and its measurements."""
    found = []
    for visit in read_visits().to_pylist():
        row = {"columns": list(FEATURE_COLUMNS), "data": [[visit[name] for name in FEATURE_COLUMNS]]}
        body = json.dumps({"dataframe_split": row}).encode()
        found.append(LiveFlight(body=body, key=visit["patient_id"], label=int(visit["progression"])))
    return found


@pytest.fixture(scope="module")
def twins(world: World, landed: None) -> Iterator[dict[str, Twin]]:
    """Each with its first champion, and in service."""
    service = Service(world)
    made = {
        model: Twin(world, service, model, world.add_twin(model, gate=LENIENT, deployment=deployment), world.runtime)
        for model, deployment in MODELS.items()
    }
    service.start()
    try:
        begun = {model: twin.begin(alpha=1.0) for model, twin in made.items()}
        for model, run_id in begun.items():
            states = made[model].finished(run_id)
            assert (states["smoke_test"], states["canary"], made[model].champion) == ("success", "skipped", "1")
        yield made
    finally:
        service.end()


@pytest.fixture
def twin(twins: dict[str, Twin]) -> Twin:
    return twins["tried_out"]


def test_triggerer_killed_within_a_step_is_followed_by_another_and_no_request_fails(twin: Twin) -> None:
    with twin.traffic() as traffic:
        run_id = twin.begin(alpha=2.0)
        challenger = twin.until_answered(run_id, traffic)
        killed = process.marked(twin.world.stack.home.root, {"airflow-triggerer"})
        for one in killed:
            one.kill()
        psutil.wait_procs(killed, timeout=10)
        assert (twin.rollouts(run_id), twin.split.share) == ({}, 50.0)  # the service goes on with the split
        twin.world.stack.up()
        twin.finished(run_id)
    [ended] = twin.rollouts(run_id).values()
    assert ended.approved, ended.summary
    assert twin.champion == challenger
    assert traffic.tally.failures == {}


def test_scoring_service_killed_within_a_canary_leaves_an_end_on_record_and_no_split(twin: Twin) -> None:
    before = twin.champion
    with twin.traffic() as traffic:
        run_id = twin.begin(alpha=3.0)
        challenger = twin.until_answered(run_id, traffic)
        twin.service.kill()
        twin.service.start()
        states = twin.finished(run_id)
    assert traffic.tally.failures  # it was asked while it was away
    [ended] = twin.rollouts(run_id).values()
    assert states["promote_if_better"] == ("success" if ended.approved else "skipped"), ended.summary
    assert twin.champion == (challenger if ended.approved else before)
    assert ended.quarantined == {}  # it is not the challenger's fault


def test_challenger_taken_back_by_a_person_is_not_promoted_and_in_quarantine(twin: Twin) -> None:
    before = twin.champion
    with twin.traffic() as traffic:
        run_id = twin.begin(alpha=4.0)
        challenger = twin.until_answered(run_id, traffic)
    # Without requests it has too few samples to pass, however long the command takes.
    done = twin.world.command.json("rollback", twin.model, "--challenger", "--reason", "complaints")
    assert (done["version"], done["passed"]) == (challenger, False)
    states = twin.finished(run_id)
    assert (states["canary"], states["promote_if_better"]) == ("success", "skipped")
    assert twin.champion == before
    [ended] = twin.rollouts(run_id).values()
    assert ended.approved is False
    assert "complaints" in ended.summary
    assert ended.quarantined
    assert ended.quarantined.items() <= twin.runtime.ledger.quarantine(twin.model).items()
    assert "complaints" in twin.runtime.registry.version_tags(twin.model)[challenger][QUARANTINE_TAG]
    assert traffic.tally.failures == {}


def test_shadow_answers_nobody_and_its_canary_marked_as_failed_goes_on_once_it_is_cleared(
    twins: dict[str, Twin],
) -> None:
    twin = twins["shadowed_first"]
    dag, canary = f"/dags/{twin.dag_id}", {"task_ids": ["canary"], "include_downstream": True}
    with twin.traffic() as traffic:
        run_id = twin.begin(alpha=2.0)
        twin.until(run_id, lambda: twin.split.role is Role.SHADOW)
        twin.until(run_id, lambda: "shadow" in twin.rollouts(run_id))
        twin.until_answered(run_id, traffic)
        asked(twin, "PATCH", f"{dag}/dagRuns/{run_id}/taskInstances/canary", new_state="failed")
        twin.until_champion_alone()
        assert twin.world.stack.airflow.wait_for_run(twin.dag_id, run_id, timeout_s=PATIENCE_S).state == "failed"
        assert (twin.champion, list(twin.rollouts(run_id))) == ("1", ["shadow"])
        asked(twin, "POST", f"{dag}/clearTaskInstances", dag_run_id=run_id, dry_run=False, **canary)
        twin.finished(run_id)
    ended = twin.rollouts(run_id)
    assert [(phase, entry.approved) for phase, entry in ended.items()] == [("shadow", True), ("canary", True)]
    assert (twin.champion, canaries(traffic), traffic.tally.failures) == ("2", {"2"}, {})
    old, new = twin.logged("1"), twin.logged("2")
    shadows, answers = (new[new["role"] == role] for role in (Role.SHADOW, Role.CANARY))
    assert len(shadows) >= ENOUGH["min_samples"]
    assert set(shadows["request_id"]) <= set(old.loc[old["role"] == Role.CHAMPION, "request_id"])
    assert answers["at"].min() > ended["shadow"].recorded_at


def asked(twin: Twin, method: str, path: str, **body: Any) -> None:
    """Airflow's REST API, for what its people click."""
    with httpx.Client(base_url=twin.world.stack.airflow_url, timeout=30, trust_env=False) as client:
        token = client.get("/auth/token").raise_for_status().json()["access_token"]
        answer = client.request(method, f"/api/v2{path}", json=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.is_success, answer.text
