"""The webhook in a storm: 20 clients, 5,000 alerts over 100 models, 60 % of them sent before.

Starts S3 and Airflow's API server as the demo does (free ports, a temporary PERENNIAL_HOME; with `--postgres` on a
PostgreSQL of its own instead of SQLite) with the DAGs of 100 models, and no scheduler: what is started stays queued, so
each model's first alert starts its one run and all later ones coalesce with it. Afterwards every alert has to be in the
ledger once, and each model has to have one run.

Beside it, in the same run, Airflow's own `POST /api/v2/dags/{id}/dagRuns` of the same server: one client each, where
every request starts a run (compared as p99 of starts), then with 20 clients. Airflow 3.3.2 writes its action log on the
event loop: on SQLite clients of its own route stall each other, and the whole server, until the database's time-out of
30 s. So there it is asked a few times only with 20 clients, and an answer that did not come within 60 s counts as 60 s.
Client and server share the cores. Last line: one JSON object; `value` is the webhook's p99 in milliseconds with 20
clients, `baseline` Airflow's own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from sqlalchemy import create_engine, text

from perennial.adapters.s3 import S3Store
from perennial.addresses import WEBHOOK_PREFIX, retrain_dag_id
from perennial.alert_ledger import AlertRecord
from perennial.alert_sender import SigningKey, signed_headers
from perennial_demo.airflow_api import AirflowApi
from perennial_demo.home import REPOSITORY, Home
from perennial_demo.ports import LOOPBACK, Ports, free_port
from perennial_demo.services import Plan
from perennial_demo.stack import Stack
from servers.postgres import postgres

CLIENTS: Final = 20
TIMEOUT_S: Final = 60.0
TARGET_RATIO: Final = 1.5
SAMPLE: Final = REPOSITORY / "include" / "models" / "flights_delay.yaml"
WEBHOOK: Final = "AIRFLOW_CONN_PERENNIAL_WEBHOOK"
KEY: Final = SigningKey(name="bench", secret="a secret of the benchmark")  # noqa: S106 - of a server on the loopback
CONNECTION: Final = {
    "conn_type": "generic",
    "extra": {"keys": {KEY.name: KEY.secret}, "requests_per_s": 100_000},
}


class Storm(Stack):
    """The demo's S3 and API server alone."""

    @cached_property
    def plan(self) -> Plan:
        """Two services."""
        whole = super().plan
        return replace(
            whole,
            environment={**whole.environment, WEBHOOK: json.dumps(CONNECTION)},
            airflow={**whole.airflow, WEBHOOK: json.dumps(CONNECTION)},
            services=tuple(service for service in whole.services if service.name in ("s3", "airflow-api-server")),
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what came of it."""

    name: str
    status: int
    ms: float
    answer: Any


@dataclass(frozen=True, slots=True)
class Measured:
    """What some clients asked, and for how long they were at it."""

    asked: list[Asked]
    seconds: float

    @property
    def per_s(self) -> float:
        """Requests that were answered in a second."""
        return len(self.asked) / self.seconds

    def ms(self, percent: float) -> float:
        """A percentile of the milliseconds that a client waited."""
        return round(float(np.percentile([one.ms for one in self.asked], percent)), 1)

    def __str__(self) -> str:
        statuses = dict(Counter(one.status for one in self.asked))
        return (
            f"{len(self.asked):5d} requests, {self.per_s:6.1f}/s, p50 {self.ms(50):8.1f} ms, "
            f"p99 {self.ms(99):8.1f} ms, answers {statuses}"
        )


Request = tuple[str, bytes, dict[str, str]]
"""Path, body, headers."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alerts", type=int, default=5000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--duplicates", type=float, default=0.6, help="share of the requests that repeat another one")
    parser.add_argument("--postgres", action="store_true", help="Airflow's database is PostgreSQL, as in production")
    parser.add_argument(
        "--baseline", type=int, help="requests to Airflow's own route, of all clients (default 20; 400)"
    )
    parser.add_argument("--starts", type=int, default=200, help="runs that one client starts on each route")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    models = [f"model_{number:04d}" for number in range(given.models)]
    alone = [f"alone_{number:04d}" for number in range(given.starts)]
    baseline = given.baseline or (400 if given.postgres else 20)
    with storm([*models, *alone], on_postgres=given.postgres) as running:
        port = running.ports.airflow
        api = AirflowApi(running.airflow_url)
        token = api._http.get("/auth/token").raise_for_status().json()["access_token"]
        warm_up(running, models)
        names = [f"a{number:05d}" for number in range(given.starts)]
        single = ask_all(names, port, alert_of(alone), clients=1)
        single_own = ask_all([f"b{n[1:]}" for n in names], port, run_of(alone, token), clients=1)
        webhook = ask_all(names_of(given.alerts, given.duplicates), port, alert_of(models))
        checks = verify(running, webhook, models)
        own = ask_all([f"c{number:05d}" for number in range(baseline)], port, run_of(models, token))
    return report({"starts": (single, single_own), "storm": (webhook, own)}, checks)


@contextmanager
def storm(models: Sequence[str], *, on_postgres: bool) -> Iterator[Storm]:
    """The servers, up, with the models' DAGs; at the end every process is ended."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="perennial-bench-"))
        database = stack.enter_context(postgres()) if on_postgres else None
        home = Home(Path(folder).resolve())
        specs = write_specs(home.root / "specs" / "models", models)
        ports = Ports(airflow=free_port(), mlflow=free_port(), s3=free_port(), scoring=free_port())
        environ = {**os.environ, "PERENNIAL_HOME": folder, "PERENNIAL_SPECS": str(specs)}
        overrides = {
            WEBHOOK: json.dumps(CONNECTION),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        }
        if database is not None:
            overrides["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+psycopg2://postgres@{database}"
            overrides["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = f"postgresql+asyncpg://postgres@{database}"
        running = Storm(home, ports, environ, airflow_overrides=overrides)
        try:
            running.plan.write()
            airflow = [sys.executable, "-m", "airflow"]
            for command in ("db", "migrate"), ("dags", "reserialize"):
                subprocess.run(
                    [*airflow, *command], env=running.plan.airflow, check=True, stdout=subprocess.DEVNULL, cwd=folder
                )
            running.up()
            os.environ.update(running.environment)
            yield running
        finally:
            running.down()


def write_specs(folder: Path, models: Sequence[str]) -> Path:
    """Specs that differ in their name, and take alerts."""
    folder.mkdir(parents=True)
    suites = folder.parent / "expectations"
    suites.mkdir()
    (suites / "flights_delay.json").write_bytes((REPOSITORY / "include/expectations/flights_delay.json").read_bytes())
    spec = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    for name in models:
        own = {**spec, "name": name, "triggers": {"on_drift": {}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    return folder


def names_of(number: int, duplicates: float) -> list[str]:
    """Names of requests in the order in which they are sent, each repeat anywhere after its first."""
    rng = random.Random(7)
    different = [f"a{number:05d}" for number in range(round(number * (1 - duplicates)))]
    names = [*different, *rng.choices(different, k=number - len(different))]
    rng.shuffle(names)
    return names


def model_of(name: str, models: Sequence[str]) -> str:
    return models[int(name[1:]) % len(models)]


def alert_of(models: Sequence[str]) -> Callable[[str], Request]:
    def request(name: str) -> Request:
        content = {"model": model_of(name, models), "id": name, "summary": "temp is higher", "evidence": {"psi": 0.4}}
        body = json.dumps(content).encode()
        return f"{WEBHOOK_PREFIX}/alerts", body, signed_headers(KEY, name, body, now=datetime.now(UTC))

    return request


def run_of(models: Sequence[str], token: str) -> Callable[[str], Request]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def request(name: str) -> Request:
        content = {"dag_run_id": f"manual__{name}", "logical_date": None, "conf": {"reason": "temp is higher"}}
        path = f"/api/v2/dags/{retrain_dag_id(model_of(name, models))}/dagRuns"
        return path, json.dumps(content).encode(), headers

    return request


def ask_all(names: Sequence[str], port: int, request: Callable[[str], Request], *, clients: int = CLIENTS) -> Measured:
    """Send all, over as many connections as there are clients."""
    queue = iter(names)

    def client(_number: int) -> list[Asked]:
        found = []
        for name in queue:  # a list's iterator hands each name to one thread
            began = time.perf_counter()
            status, answer = send(connections, request(name))
            found.append(Asked(name, status, (time.perf_counter() - began) * 1000, answer))
        return found

    connections = Connections(port)
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        asked = [one for found in pool.map(client, range(clients)) for one in found]
    return Measured(asked, time.perf_counter() - began)


class Connections(threading.local):
    """One of each client's own."""

    def __init__(self, port: int) -> None:
        self.http = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S)


def send(connections: Connections, request: Request) -> tuple[int, Any]:
    """Status and answer; status 0 if there was none in time."""
    path, body, headers = request
    try:
        connections.http.request("POST", path, body, headers)
        answer = connections.http.getresponse()
        return answer.status, json.loads(answer.read())
    except TimeoutError:
        connections.http.close()
        return 0, {}


def warm_up(running: Storm, models: Sequence[str]) -> None:
    """The first requests of a process pay for imports and connections: one that is refused, and a run of Airflow's."""
    body = json.dumps({"model": models[0]}).encode()
    path, headers = f"{WEBHOOK_PREFIX}/tick", signed_headers(KEY, "warm-up", body, now=datetime.now(UTC))
    ask_all(["a00000"] * CLIENTS, running.ports.airflow, lambda _: (path, body, headers))
    running.airflow.dag_ids()


_RUNS: Final = "select dag_id from dag_run where dag_id like 'perennial\\_\\_model\\_%' escape '\\'"


def verify(running: Storm, measured: Measured, models: Sequence[str]) -> dict[str, bool]:
    """Whether all are accounted for."""
    asked = measured.asked
    store = S3Store.from_session(None, running.s3_url)
    root = running.environment["PERENNIAL_STORE"]
    uris = [info.uri for info in store.list(f"{root}/alerts/model_")]
    with ThreadPoolExecutor(16) as pool:
        records = [AlertRecord.from_dict(json.loads(content)) for content in pool.map(store.read, uris)]
    outcomes = {record.alert.alert_id: record.outcomes[0].to_dict() for record in records}
    fates = Counter(outcome["fate"] for outcome in outcomes.values())
    with create_engine(running.plan.airflow["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]).connect() as database:
        runs = Counter(dag_id for (dag_id,) in database.execute(text(_RUNS)))
    print(f"{len(asked)} requests; ledger {len(records)} {dict(fates)}; {sum(runs.values())} runs of {len(runs)} DAGs")
    print(f"statuses {dict(Counter(one.status for one in asked))}")
    return {
        "every request was answered 200 or 202": all(one.status in (200, 202) for one in asked),
        "every alert is in the ledger once, and ended": sorted(outcomes) == sorted({one.name for one in asked})
        and len(records) == len(outcomes)
        and not any(record.open for record in records),
        # Not its time: over a store that ignores conditional puts, of two deliveries at once the later one is kept.
        "every answer is what the ledger says": all(
            facts_of(one.answer.get("outcome")) == facts_of(outcomes.get(one.name)) for one in asked
        ),
        "one run of each model": runs == dict.fromkeys(map(retrain_dag_id, models), 1)
        and fates["started"] == len(models),
        "nothing is left open": not list(store.list(f"{root}/alerts-open/")),
    }


def facts_of(outcome: Any) -> tuple[Any, ...]:
    """What has to be the same in each answer to an alert."""
    return tuple((outcome or {}).get(name) for name in ("fate", "run_id", "rule"))


def report(measured: dict[str, tuple[Measured, Measured]], checks: dict[str, bool]) -> int:
    """A table, then the line for machines."""
    for title, (ours, theirs) in measured.items():
        print(f"{title:<7} webhook       {ours}\n{title:<7} POST dagRuns  {theirs}")
    (single, single_own), (storm_ours, storm_own) = measured["starts"], measured["storm"]
    alone, together = (ours.ms(99) / theirs.ms(99) for ours, theirs in measured.values())
    checks = {
        **checks,
        "every start of the single client is one": {one.status for one in single.asked} == {202}
        and {one.status for one in single_own.asked} == {200},
        f"p99 at most {TARGET_RATIO} times Airflow's own, one client": alone <= TARGET_RATIO,
        f"p99 at most {TARGET_RATIO} times Airflow's own, {CLIENTS} clients": together <= TARGET_RATIO,
    }
    for check, holds in checks.items():
        print(f"{'holds ' if holds else 'FAILS '} {check}")
    line = {
        "bench": "webhook",
        "value": storm_ours.ms(99),
        "unit": "ms p99",
        "baseline": storm_own.ms(99),
        "ratio": round(together, 3),
        "target": TARGET_RATIO,
        "holds": all(checks.values()),
        "per_s": round(storm_ours.per_s, 1),
        "p50_ms": storm_ours.ms(50),
        "one_client": {"p99_ms": single.ms(99), "baseline_p99_ms": single_own.ms(99), "ratio": round(alone, 2)},
    }
    print(json.dumps(line))
    return 0 if line["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
