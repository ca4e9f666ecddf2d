"""How fast a window of the prediction log is counted and judged: 10,000,000 rows of 50 features, streamed from S3.

The log is laid out as the scoring service writes it: Parquet objects of 2,000 rows each, which is what one replica
flushes at once under such a load. Their number is that of a real log; their contents repeat after 200 objects, which
saves the time of making them. `rclone serve s3` hands them out on this machine, so that its work is on the same cores.

Two of the features are moved by half a spread, and the verdict has to name these two and no other one. A process of its
own does what the monitor does: loads the profile, counts the window, compares. Its wall time, imports included, and its
peak memory are held against 60 s and 4 GiB.

Beside it, what one writes first: pandas reads the window, scipy's `ks_2samp` and `chi2_contingency` compare each column
with the training rows. It gets a tenth of the rows, for all of them do not fit in memory, and its time is printed as it
is, and times ten (reading is linear, sorting a little more than that).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd

from perennial.adapters.s3 import S3Store
from perennial.domain.drift import compare
from perennial.domain.times import Interval
from perennial.prediction_objects import predictions_path
from perennial.spec.model import ModelSpec
from perennial.spec.monitoring import DriftRules
from perennial.stages.profiles import load_profiles, write_training_profile
from perennial.stages.window_counts import count_window

TARGET_S, TARGET_GIB = 60.0, 4.0
ROOT = "s3://bench/store"
DAY = Interval(datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC))
NUMBERS = [f"n{place:02d}" for place in range(35)]
CATEGORIES = [f"c{place:02d}" for place in range(15)]
MOVED = ("n00", "n07")
REFERENCE_ROWS = 200_000
DIFFERENT = 200
"""Objects with contents of their own."""
BASELINE_SHARE = 10
KEYS = ("bench", "bench-secret")
SPEC = ModelSpec.model_validate(
    {
        "name": "wide",
        "description": "Fifty features",
        "owner": "bench",
        "task": "binary_classification",
        "data": {
            "landing": "s3://bench/landing/",
            "time_column": "at",
            "label_column": "y",
            "key_columns": ["id"],
            "feature_columns": [*NUMBERS, *CATEGORIES],
            "windows": {"training": "20d", "holdout": "7d"},
        },
        "validation": {"suite": "wide.json"},
        "training": {"estimator": "wide:build"},
        "evaluation": {"primary": "roc_auc"},
        "gate": {"rule": {"kind": "superiority", "min_effect": 0.01}, "cluster_by": None},
        "deployment": {"kind": "scoring_service"},
        "monitoring": {"window": "1d"},
    }
)


def features(rows: int, seed: int, *, moved: float = 0.0) -> pd.DataFrame:
    """Numbers of all kinds that logs hold, a fifth of each, and categories of 2 to 300 levels."""
    rng = np.random.default_rng(seed)
    kinds = (
        lambda: rng.normal(size=rows),
        lambda: rng.normal(20, 5, rows).round(2),
        lambda: rng.integers(0, 24, rows).astype(np.float64),
        lambda: np.where(rng.random(rows) < 0.03, np.nan, rng.lognormal(3, 1, rows).round(1)),
        lambda: rng.exponential(100, rows),
    )
    frame = {name: kinds[place % len(kinds)]() for place, name in enumerate(NUMBERS)}
    for name in MOVED:
        frame[name] = frame[name] + moved * {"n00": 1.0, "n07": 7.0}[name]
    for place, name in enumerate(CATEGORIES):
        levels = np.array([f"{name}-level-{level}" for level in range(2 + place * 20)], dtype=object)
        share = 1 / np.arange(1, len(levels) + 1)
        frame[name] = levels[rng.choice(len(levels), rows, p=share / share.sum())]
    return pd.DataFrame(frame)


def write_log(bucket: Path, rows: int, rows_per_object: int) -> int:
    """Write the log's objects into the server's folder; their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = bucket / ROOT.removeprefix("s3://bench/") / predictions_path(SPEC.name, DAY.start, "1")
    folder.mkdir(parents=True)
    number = rows // rows_per_object
    for place in range(min(number, DIFFERENT)):
        rng = np.random.default_rng(1_000 + place)
        score = rng.beta(2, 5, rows_per_object)
        times = [
            DAY.start + timedelta(seconds=float(second)) for second in np.sort(rng.random(rows_per_object)) * 86_399
        ]
        own = {
            "request_id": [f"{place:06d}-{row:06d}-0123456789abcdef" for row in range(rows_per_object)],
            "row": np.zeros(rows_per_object, dtype=np.int32),
            "at": pa.array(times, pa.timestamp("us", "UTC")),
            "model_version": ["1"] * rows_per_object,
            "role": ["champion"] * rows_per_object,
            "latency_ms": rng.lognormal(1, 0.5, rows_per_object),
            "error": pa.nulls(rows_per_object, pa.string()),
        }
        served = pa.Table.from_pandas(features(rows_per_object, 2_000 + place, moved=0.5), preserve_index=False)
        columns = {**own, **{name: served[name] for name in served.column_names}}
        columns["prediction"] = pa.array([[1 - value, value] for value in score])
        path = folder / f"replica-{place:06d}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")
    for place in range(DIFFERENT, number):
        # The same bytes under another key; the server reads each anew.
        os.link(folder / f"replica-{place % DIFFERENT:06d}.parquet", folder / f"replica-{place:06d}.parquet")
    return number


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`rclone serve s3` of the folder; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "rclone"
    command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(KEYS), str(folder)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def store_at(address: str) -> S3Store:
    return S3Store(boto3.Session(*KEYS, region_name="us-east-1"), address)


def ours(address: str) -> dict[str, Any]:
    """What the monitor does for a window."""
    store = store_at(address)
    profile, _ = load_profiles(store, ROOT, SPEC.name, "reference")
    assert profile is not None
    (counts,) = count_window(SPEC, DAY, store=store, root=ROOT, reference_of=lambda _: (profile, None))
    drifts = compare(profile.columns, counts.columns, DriftRules())
    return {"rows": counts.rows, "drifted": [drift.column for drift in drifts if drift.drifted]}


def plain(address: str) -> dict[str, Any]:
    """What one writes first, on a tenth of the objects."""
    import pyarrow.parquet as pq
    from scipy.stats import chi2_contingency, ks_2samp

    store = store_at(address)
    infos = list(store.list(f"{ROOT}/{predictions_path(SPEC.name, DAY.start, '1')}"))
    frames = []
    for info in infos[::BASELINE_SHARE]:
        filesystem, path = store.arrow(info.uri)
        frames.append(pq.read_table(path, filesystem=filesystem).to_pandas())
    current, reference = pd.concat(frames, ignore_index=True), features(REFERENCE_ROWS, seed=1)
    values = [ks_2samp(reference[name].dropna(), current[name].dropna()).pvalue for name in NUMBERS]
    for name in CATEGORIES:
        table = pd.concat([reference[name].value_counts(), current[name].value_counts()], axis=1).fillna(0)
        values.append(chi2_contingency(table.to_numpy()).pvalue)
    assert np.isfinite(values).all()
    return {"rows": len(current)}


def measured(way: str, address: str) -> dict[str, Any]:
    """Run a way in a process of its own; with its wall seconds, imports included, and its peak memory."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--way", way, "--address", address]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    return {**json.loads(found.stdout.splitlines()[-1]), "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rows-per-object", type=int, default=2_000)
    parser.add_argument("--way", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        found = {"ours": ours, "plain": plain}[given.way](given.address)
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = round(used.ru_utime + used.ru_stime, 1)
        print(json.dumps({**found, "cpu_s": cpu, "peak_gib": round(used.ru_maxrss / 2**20, 2)}))
        return
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        bucket = Path(folder) / "bench"
        bucket.mkdir()
        objects = write_log(bucket, given.rows, given.rows_per_object)
        with served(Path(folder)) as address:
            reference = features(REFERENCE_ROWS, seed=1)
            minutes = pd.to_timedelta(np.linspace(0, 20 * 86_400 - 1, REFERENCE_ROWS), unit="s")
            reference["at"] = DAY.start - timedelta(days=30) + minutes
            write_training_profile(store_at(address), ROOT, SPEC, "reference", reference)
            mine, theirs = measured("ours", address), measured("plain", address)
    report(given.rows, objects, mine, theirs)


def report(rows: int, objects: int, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    scaled = theirs["seconds"] * BASELINE_SHARE
    checks = {
        f"{rows:,} rows counted": mine["rows"] == rows,
        f"drift found in {' and '.join(MOVED)} and nowhere else": mine["drifted"] == list(MOVED),
        f"at most {TARGET_S:.0f} s": mine["seconds"] <= TARGET_S,
        f"at most {TARGET_GIB:.0f} GiB": mine["peak_gib"] <= TARGET_GIB,
    }
    print(f"{rows:,} rows of {len(NUMBERS) + len(CATEGORIES)} features in {objects:,} objects")
    took = f"{mine['seconds']} s ({mine['cpu_s']} s of CPU), peak {mine['peak_gib']} GiB"
    print(f"counted and judged: {took}, drifted: {mine['drifted']}")
    print(
        f"pandas and scipy, {theirs['rows']:,} rows: {theirs['seconds']} s, peak {theirs['peak_gib']} GiB; "
        f"times {BASELINE_SHARE}: {scaled:.0f} s"
    )
    for check, holds in checks.items():
        print(f"{'holds ' if holds else 'FAILS '} {check}")
    line = {
        "bench": "drift_speed",
        "value": mine["seconds"],
        "unit": "s",
        "baseline": round(scaled, 1),
        "ratio": round(mine["seconds"] / scaled, 3),
        "target": TARGET_S,
        "holds": all(checks.values()),
        "rows": rows,
        "objects": objects,
        "peak_gib": mine["peak_gib"],
        "cpu_s": mine["cpu_s"],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
