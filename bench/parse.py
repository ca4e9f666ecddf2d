"""1,000 specs: how long until the DAG processor has stored their 2,000 DAGs, and what they cost a single task's parse.

Runs the real `airflow dag-processor` with SpecBundle on an empty SQLite database, on two cores. Then, in fresh
processes, parses one DAG the way a task does, with 1 and with 1,000 specs. Peak memory counts children too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent
DAGS = 3  # of a model: retraining, rollback, monitor
SAMPLE = REPOSITORY / "include" / "models" / "flights_delay.yaml"
SUITE = REPOSITORY / "include" / "expectations" / "flights_delay.json"
PASS_TARGET_S = 60.0
TASK_TARGET_S = 0.3
GIVE_UP_S = 400.0

TASK_PARSE = """
import json, resource, sys, time
import airflow.sdk.execution_time.task_runner
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk.definitions.context import _AIRFLOW_PARSING_CONTEXT_DAG_ID
import os
os.environ[_AIRFLOW_PARSING_CONTEXT_DAG_ID] = sys.argv[1]
began = time.perf_counter()
bundle = DagBundlesManager().get_bundle("perennial")
bundle.initialize()
bag = BundleDagBag(dag_folder=str(bundle.path / sys.argv[2]), safe_mode=False, load_op_links=False,
                   bundle_path=bundle.path, bundle_name="perennial")
seconds = time.perf_counter() - began
assert sys.argv[1] in bag.dags and len(bag.dags) == int(sys.argv[3]), (list(bag.dags), bag.import_errors)
print(json.dumps({"seconds": seconds, "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def write_specs(folder: Path, number: int) -> list[str]:
    """Specs that differ in their name only."""
    (folder / "models").mkdir(parents=True)
    (folder / "expectations").mkdir()
    shutil.copy(SUITE, folder / "expectations")
    text = SAMPLE.read_text(encoding="utf-8")
    names = [f"model_{position:04d}" for position in range(number)]
    for name in names:
        spec = re.sub(r"(?m)^name: .*$", f"name: {name}", text)
        (folder / "models" / f"{name}.yaml").write_text(spec, encoding="utf-8")
    return names


def environment(home: Path, specs: Path) -> dict[str, str]:
    """An Airflow of its own, with nothing of the caller's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PERENNIAL"))}
    bundle = {"name": "perennial", "classpath": "perennial_airflow.bundle.SpecBundle", "kwargs": {"specs": str(specs)}}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / folder) for folder in ("include", "plugins")),
        "PERENNIAL_HOME": str(home / "perennial"),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "2",
        "AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL": "error",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }


def memory_bytes(process: psutil.Process) -> int:
    """Of a process and its children; memory that they share counts once (PSS)."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except (psutil.Error, AttributeError):
            continue
    return total


def stored_dags(database: Path) -> int:
    """Number of DAGs in Airflow's table of serialised ones."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    try:
        return int(connection.execute("select count(distinct dag_id) from serialized_dag").fetchone()[0])
    finally:
        connection.close()


def full_pass(home: Path, env: dict[str, str], number: int) -> tuple[float, int, dict[str, float]]:
    """Seconds from the start of the DAG processor until every DAG is stored; peak memory in bytes; CPU seconds."""
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run(
        [*airflow, "db", "migrate"], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with (home / "dag-processor.log").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*airflow, "dag-processor"], env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        watched = psutil.Process(process.pid)
        peak, found = 0, 0
        try:
            while found < number:
                time.sleep(0.5)
                if process.poll() is not None or time.perf_counter() - began > GIVE_UP_S:
                    tail = (home / "dag-processor.log").read_text(errors="replace")[-3000:]
                    raise SystemExit(f"the DAG processor stored {found} of {number} DAGs\n{tail}")
                peak = max(peak, memory_bytes(watched))
                found = stored_dags(home / "airflow.db")
            used = watched.cpu_times()
            cpu_s = {"manager": used.user + used.system, "parsers": used.children_user + used.children_system}
            return time.perf_counter() - began, peak, {name: round(value, 1) for name, value in cpu_s.items()}
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def task_parse(env: dict[str, str], model: str, shard: str, repeats: int) -> tuple[float, int]:
    """Median seconds of one DAG's parse in a fresh process, and its peak memory in bytes."""
    seconds, peak = [], 0
    for _ in range(repeats):
        command = [sys.executable, "-c", TASK_PARSE, f"perennial__{model}__retrain", shard, str(DAGS)]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        seconds.append(figures["seconds"])
        peak = max(peak, figures["peak_kb"] * 1024)
    return statistics.median(seconds), peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    from perennial_airflow.bundle import DEFAULT_SHARDS
    from perennial_airflow.dag_factory import shard_of

    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as scratch:
        figures: dict[str, tuple[float, int]] = {}
        for label, number in (("one", 1), ("all", arguments.specs)):
            home = Path(scratch) / label
            names = write_specs(home / "specs", number)
            env = environment(home, home / "specs" / "models")
            if label == "all":
                pass_s, pass_bytes, cpu_s = full_pass(home, env, DAGS * number)
                print(f"{DAGS * number} DAGs stored after {pass_s:.1f} s, {pass_bytes / 1e6:.0f} MB at most")
            shard = f"shard_{shard_of(names[0], DEFAULT_SHARDS):03d}.py"
            figures[label] = task_parse(env, names[0], shard, arguments.repeats)
            print(f"a task's parse with {number} specs: {figures[label][0]:.3f} s, {figures[label][1] / 1e6:.0f} MB")
    extra_s = figures["all"][0] - figures["one"][0]
    print(
        json.dumps(
            {
                "bench": "parse",
                "value": round(pass_s, 1),
                "unit": "s",
                "baseline": PASS_TARGET_S,
                "ratio": round(pass_s / PASS_TARGET_S, 3),
                "target": f"<= {PASS_TARGET_S:g} s; a task's parse at most {TASK_TARGET_S:g} s more than with 1 spec",
                "holds": pass_s <= PASS_TARGET_S and extra_s <= TASK_TARGET_S,
                "specs": arguments.specs,
                "cpu_s": cpu_s,
                "peak_memory_mb": round(pass_bytes / 1e6),
                "task_parse_s": {"one_spec": round(figures["one"][0], 3), "all_specs": round(figures["all"][0], 3)},
                "task_parse_extra_s": round(extra_s, 3),
                "task_peak_memory_mb": {label: round(figures[label][1] / 1e6) for label in ("one", "all")},
            }
        )
    )


if __name__ == "__main__":
    main()
