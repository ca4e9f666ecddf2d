"""The scoring service beside `mlflow models serve`: the same champion, the same single-row requests, one run.

Starts S3 and MLflow (free ports, a temporary PERENNIAL_HOME), registers `flights_delay` as the shipped spec trains it,
and starts three servers: `perennial serve` as shipped (with its prediction log), the same without the log, and
`mlflow models serve`, each one process. In each round every one of them is asked over 8 and over 64 connections, one
at a time, in an order that turns round each time; judged are medians over the rounds of ratios within a round, because
a shared machine's speed changes from minute to minute. Each measurement begins in the middle of the same load, once it
has gone on for the log's flush interval: so the log pays within the measurement what it costs all along.

The client is wrk if it is on the path (Debian's package `wrk`), else one in asyncio, which takes more of the machine
from the faster server. Client and servers share the cores. Last line: one JSON object; `value` is what the service
answers a second over 64 connections with its log on, `baseline` the same of MLflow's server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from scoring.load import Load, ask, bodies_of, has_wrk
from scoring.services import Storage, asked_rows, register, storage

CONNECTIONS: Final = (8, 64)
TARGET_RATIO: Final = 10.0
TARGET_LOGGED: Final = 0.9
WARM_UP_S: Final = 5
"""The log's flush interval."""
BASELINE_S: Final = 5
LOGGED, PLAIN, MLFLOW = "perennial", "perennial-no-log", "mlflow-models-serve"


@dataclass(frozen=True, slots=True)
class Measured(Load):
    """Of one server in one round."""

    cpu_ms: float
    """Of the server's processes, a request."""


Round = dict[tuple[str, int], Measured]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement of the scoring service")
    parser.add_argument("--rows", type=int, default=500, help="different rows that are asked for")
    parser.add_argument("--mlflow-workers", type=int, default=1, help="processes of `mlflow models serve`")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    with storage() as running:
        register(running, 1)
        rows = asked_rows(running, given.rows)
        bodies = running.home.root / "bodies"
        bodies.write_bytes(b"\n".join(bodies_of(rows)))
        ports = {
            LOGGED: running.serve_perennial(LOGGED),
            PLAIN: running.serve_perennial(PLAIN, log=False),
            MLFLOW: running.serve_mlflow(MLFLOW, workers=given.mlflow_workers),
        }
        require_same_answers(ports, bodies)
        client = "wrk" if has_wrk() else "asyncio (wrk is not installed)"
        print(f"client: {client}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the first round")
        rounds = [measure(running, ports, bodies, given.seconds, turned=bool(n % 2)) for n in range(given.rounds)]
        dropped = log_dropped(ports[LOGGED])
    report(rounds, client, dropped)


def require_same_answers(ports: dict[str, int], bodies: Path) -> None:
    """Nothing is worth measuring unless all three answer the same."""
    for body in bodies.read_bytes().splitlines()[:20]:
        answers = [predictions(port, body) for port in ports.values()]
        assert np.ptp(answers, axis=0).max() < 1e-9, f"the servers differ: {answers}"


def predictions(port: int, body: bytes) -> list[list[float]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[list[float]] = json.load(answer)["predictions"]
    return found


def measure(running: Storage, ports: dict[str, int], bodies: Path, seconds: int, *, turned: bool) -> Round:
    """One round: each server over each number of connections."""
    found: Round = {}
    for connections in CONNECTIONS:
        for name in reversed(ports) if turned else ports:
            is_baseline = name == MLFLOW
            ask(ports[name], bodies, connections, 2 if is_baseline else WARM_UP_S)
            before = running.cpu_seconds(name)
            load = ask(ports[name], bodies, connections, BASELINE_S if is_baseline else seconds)
            cpu_ms = (running.cpu_seconds(name) - before) * 1000 / max(load.requests, 1)
            found[name, connections] = Measured(**asdict(load), cpu_ms=cpu_ms)
            print(
                f"{name:<20} {connections:>3} connections: {load.per_second:7.0f} requests/s, "
                f"p50 {load.p50_ms:6.1f} ms, p99 {load.p99_ms:6.1f} ms, CPU {cpu_ms:5.2f} ms, failed {load.failed}",
                flush=True,
            )
            time.sleep(0.5)
    return found


def log_dropped(port: int) -> float:
    """Rows that the prediction log had no room for."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("perennial_serving_log_dropped_rows"))


def median_ratio(rounds: Sequence[Round], of: Callable[[Measured], float], over: tuple[str, int], under: str) -> float:
    """Median over the rounds of one server's figure as a multiple of another's, over as many connections."""
    name, connections = over
    return statistics.median(of(found[name, connections]) / of(found[under, connections]) for found in rounds)


def report(rounds: Sequence[Round], client: str, dropped: float) -> None:
    """A table, then the line for machines."""
    middle = {
        key: {f: statistics.median(asdict(r[key])[f] for r in rounds) for f in asdict(rounds[0][key])}
        for key in rounds[0]
    }
    print(f"\nmedians of {len(rounds)} rounds")
    for (name, connections), load in middle.items():
        print(
            f"  {name:<20} {connections:>3} connections {load['per_second']:8.0f} requests/s   "
            f"p50 {load['p50_ms']:7.1f} ms   p99 {load['p99_ms']:7.1f} ms   CPU {load['cpu_ms']:5.2f} ms a request"
        )
    failed = {
        name: sum(load.failed for found in rounds for (n, _), load in found.items() if n == name)
        for name in (LOGGED, PLAIN, MLFLOW)
    }
    ratio = median_ratio(rounds, lambda load: load.per_second, (LOGGED, 64), MLFLOW)
    p99 = median_ratio(rounds, lambda load: load.p99_ms, (LOGGED, 8), MLFLOW)
    logged = {n: median_ratio(rounds, lambda load: load.per_second, (LOGGED, n), PLAIN) for n in CONNECTIONS}
    checks = {
        f"{TARGET_RATIO:.0f} times MLflow's throughput at 64 connections": ratio >= TARGET_RATIO,
        "lower p99 than MLflow's at 8 connections": p99 < 1,
        **{f"with the log {TARGET_LOGGED:.0%} of that without at {n}": r >= TARGET_LOGGED for n, r in logged.items()},
        "nothing failed, no row missing in the log": not (failed[LOGGED] or failed[PLAIN] or dropped),
    }
    for check, holds in checks.items():
        print(f"{'holds ' if holds else 'FAILS '} {check}")
    details = {
        "client": client,
        "p99_ratio_8": round(p99, 3),
        "throughput_ratio_8": round(median_ratio(rounds, lambda load: load.per_second, (LOGGED, 8), MLFLOW), 2),
        "log_on_over_off": {str(n): round(value, 3) for n, value in logged.items()},
        "cpu_ms": {f"{name}, {n}": round(load["cpu_ms"], 3) for (name, n), load in middle.items()},
        "failed": failed,
        "log_dropped_rows": dropped,
        "checks": checks,
    }
    print(json.dumps(details))
    line = {
        "bench": "serving",
        "value": round(middle[LOGGED, 64]["per_second"], 1),
        "unit": "requests/s",
        "baseline": round(middle[MLFLOW, 64]["per_second"], 1),
        "ratio": round(ratio, 2),
        "target": TARGET_RATIO,
        "holds": all(checks.values()),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
