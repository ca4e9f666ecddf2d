"""One cycle, trigger to champion: a plain script against a run in a warm Airflow, side by side on the same data.

Starts services of its own (free ports, a temporary PERENNIAL_HOME), lands 80 days of flights, and then lets a day
pass in each round: first the plain script (a process of its own, MLflow's defaults), then a triggered run of
`perennial__flights_delay__retrain` with the spec as shipped, but a gate that lets each challenger through, so that
every round ends in a promotion on both sides, and without its deployment: the script tries no model out in a clean
process either, and how long a canary takes is the spec's affair.

Overhead of a task: (trigger to end of run - what the stages themselves took) / number of tasks.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml

from flights.publisher import publish
from perennial.domain.windows import watermark_at, windows_at
from perennial.runtime import build_runtime
from perennial.settings import load_settings
from perennial.spec import load_spec
from perennial_demo.home import Home
from perennial_demo.ports import Ports, free_port
from perennial_demo.stack import Stack

REPOSITORY = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("PERENNIAL_BENCH_ROUNDS", "5"))
MODEL = "flights_delay"
DAG_ID = f"perennial__{MODEL}__retrain"
FIRST, BEFORE = date(2013, 1, 1), date(2013, 3, 22)
TASKS = ("snapshot_data", "validate_data", "train_challenger", "evaluate_on_holdout", "decide", "promote_if_better")
TARGET_RATIO, TARGET_OVERHEAD_S = 0.6, 0.7
MARGIN = 0.5


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        home = Path(folder)
        specs = write_specs(home)
        environ = {**os.environ, "PERENNIAL_HOME": str(home / "state"), "PERENNIAL_SPECS": str(specs)}
        stack = Stack(Home.from_environ(environ), free_ports(), environ)
        try:
            stack.up()
            os.environ.update({**stack.environment, "PERENNIAL_SPECS": str(specs)})
            rounds, memory = measure(stack, home, specs)
        finally:
            stack.down()
    report(rounds, memory)


def write_specs(home: Path) -> Path:
    """The shipped spec without its own triggers, deployment and monitoring, and with a gate that always opens."""
    spec = yaml.safe_load((REPOSITORY / "include/models/flights_delay.yaml").read_text())
    spec["triggers"], spec["deployment"], spec["monitoring"] = {}, None, None
    spec["gate"]["rule"] = {"kind": "non_inferiority", "margin": MARGIN}
    specs = home / "models"
    specs.mkdir()
    (specs / "flights_delay.yaml").write_text(yaml.safe_dump(spec))
    (specs / "flights_delay.json").write_text((REPOSITORY / "include/expectations/flights_delay.json").read_text())
    return specs


def measure(stack: Stack, home: Path, specs: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One warm-up round, then ROUNDS measured ones."""
    cache = home / "cache"
    publish(FIRST, BEFORE, cache=cache)
    stack.airflow.wait_for_dag(DAG_ID, timeout_s=120)
    rounds: list[dict[str, Any]] = []
    with peak_memory(home / "state") as memory:
        for number in range(ROUNDS + 1):
            day = BEFORE + timedelta(days=number)
            publish(day, day + timedelta(days=1), cache=cache)
            plain = plain_script(home, specs)
            airflow = airflow_run(stack, f"round_{number}")
            if number:
                rounds.append({"plain": plain, "airflow": airflow})
            what = "warm-up" if not number else f"round {number}"
            print(f"{what}: plain script {plain['seconds']:.2f} s, Airflow run {airflow['seconds']:.2f} s", flush=True)
    return rounds, memory


def plain_script(home: Path, specs: Path) -> dict[str, Any]:
    """Run the plain script; wall seconds of the whole process, interpreter start included."""
    spec = load_spec(specs / "flights_delay.yaml")
    store = build_runtime(load_settings()).store
    days = sorted(info.uri.split("dt=")[1][:10] for info in store.list(spec.data.landing))
    newest = datetime.fromisoformat(days[-1]).replace(tzinfo=UTC) + timedelta(days=1, hours=3, minutes=59)
    windows = windows_at(watermark_at(newest, datetime.now(UTC)), datetime.now(UTC), spec.data)
    bucket, _, prefix = spec.data.landing.removeprefix("s3://").partition("/")
    task = {
        "bucket": bucket,
        "prefix": prefix,
        "start": windows.training.start.isoformat(),
        "cut": windows.training.end.isoformat(),
        "holdout": windows.holdout.start.isoformat(),
        "end": windows.holdout.end.isoformat(),
        "days": windows.whole.end.toordinal() - windows.whole.start.toordinal(),
        "suite": str(specs / "flights_delay.json"),
        "features": list(spec.data.feature_columns),
        "params": spec.training.params,
        "seed": spec.training.seed,
        "trusted": TRUSTED,
        "include": str(REPOSITORY / "include"),
        "name": "plain_flights",
        "margin": MARGIN,
    }
    path = home / "task.json"
    path.write_text(json.dumps(task))
    began = time.perf_counter()
    command = [sys.executable, str(REPOSITORY / "bench/baselines/plain_cycle.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=home)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"the plain script failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["promoted"], answer
    return {"seconds": seconds, **answer}


def airflow_run(stack: Stack, run_id: str) -> dict[str, Any]:
    """Trigger a run and follow it; seconds from the request until Airflow calls the run ended."""
    began = datetime.now(UTC)
    stack.airflow.trigger(DAG_ID, run_id=run_id, conf={"reason": "benchmark"})
    run = stack.airflow.wait_for_run(DAG_ID, run_id, timeout_s=180, poll_s=0.1)
    assert run.ended_at is not None
    if run.state != "success":
        logs = {task: stack.airflow.task_log(DAG_ID, run_id, task)[-1500:] for task in TASKS}
        raise SystemExit(f"run {run_id} ended as {run.state}: {logs}")
    instances = {item.task_id: item for item in stack.airflow.task_instances(DAG_ID, run_id)}
    assert all(instances[task].state == "success" for task in TASKS), "every round must end in a promotion"
    stages = {task: stage_seconds(stack.airflow.task_log(DAG_ID, run_id, task)) for task in TASKS}
    tasks = {
        task: (instances[task].ended_at - instances[task].started_at).total_seconds()  # type: ignore[operator]  # all have ended
        for task in TASKS
    }
    seconds = (run.ended_at - began).total_seconds()
    return {
        "seconds": seconds,
        "steps": stages,
        "tasks": tasks,
        "overhead_s": (seconds - sum(stages.values())) / len(TASKS),
    }


def stage_seconds(log: str) -> float:
    """What the stage itself took, as its log line says."""
    found = re.findall(r"stage \w+ took ([\d.]+) s", log)
    assert found, f"no stage time in the log:\n{log[-1500:]}"
    return float(found[-1])


@contextmanager
def peak_memory(state: Path) -> Iterator[dict[str, float]]:
    """Samples the services' memory: unique-set size summed over all (MB), and the largest single process (RSS, MB)."""
    peaks = {"all_services_mb": 0.0, "largest_process_mb": 0.0}
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(1.0):
            total = 0.0
            for process in marked(state):
                try:
                    info = process.memory_full_info()
                except psutil.Error:
                    continue
                total += info.pss
                peaks["largest_process_mb"] = max(peaks["largest_process_mb"], info.rss / 2**20)
            peaks["all_services_mb"] = max(peaks["all_services_mb"], total / 2**20)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def marked(state: Path) -> Iterator[psutil.Process]:
    """Processes of the benchmark's own services."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("PERENNIAL_STACK") == str(state.resolve()):
                yield process
        except psutil.Error:
            continue


def free_ports() -> Ports:
    """Ports that nobody listens on."""
    return Ports(airflow=free_port(), mlflow=free_port(), s3=free_port(), scoring=free_port())


def report(rounds: list[dict[str, Any]], memory: dict[str, float]) -> None:
    """A table by step, then the line for machines."""
    for side in ("plain", "airflow"):
        print(f"\n{side}: seconds by step (median of {len(rounds)} rounds)")
        for step in rounds[0][side]["steps"]:
            print(f"  {step:<22}{statistics.median(r[side]['steps'][step] for r in rounds):8.2f}")
        print(f"  {'from start to champion':<22}{statistics.median(r[side]['seconds'] for r in rounds):8.2f}")
    plain = statistics.median(r["plain"]["seconds"] for r in rounds)
    airflow = statistics.median(r["airflow"]["seconds"] for r in rounds)
    ratio = statistics.median(r["airflow"]["seconds"] / r["plain"]["seconds"] for r in rounds)
    overhead = statistics.median(r["airflow"]["overhead_s"] for r in rounds)
    peak_plain = max(r["plain"]["peak_mb"] for r in rounds)
    print(f"\nAirflow adds {overhead:.2f} s a task (target: at most {TARGET_OVERHEAD_S} s)")
    print(f"peak memory: plain script {peak_plain:.0f} MB; Airflow, MLflow and S3 together", end=" ")
    print(f"{memory['all_services_mb']:.0f} MB, largest process {memory['largest_process_mb']:.0f} MB")
    line = {
        "bench": "cycle",
        "value": round(airflow, 3),
        "unit": "s",
        "baseline": round(plain, 3),
        "ratio": round(ratio, 3),
        "target": TARGET_RATIO,
        "holds": ratio <= TARGET_RATIO and overhead <= TARGET_OVERHEAD_S,
        "overhead_s_per_task": round(overhead, 3),
        "overhead_target_s": TARGET_OVERHEAD_S,
        "peak_mb": {"plain": round(peak_plain), **{key: round(value) for key, value in memory.items()}},
    }
    print(json.dumps(line))


# As MLflow's error message tells the author of the script to add.
TRUSTED = [
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
]

if __name__ == "__main__":
    main()
