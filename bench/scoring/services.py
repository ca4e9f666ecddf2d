"""The demo's S3 and MLflow on free ports, champions of `flights_delay` in them, and the servers that are asked.

All of it belongs to one temporary PERENNIAL_HOME, each service in a process group of its own, and ends with it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd
import psutil
import yaml

from flights.source import read_flights
from flights.training import build_estimator
from perennial.adapters.mlflow_registry import MlflowRegistry
from perennial.ports import FittedTraining
from perennial.spec.model import ModelSpec
from perennial_demo.airflow_settings import base_environ
from perennial_demo.health import http_answers
from perennial_demo.home import REPOSITORY, Home
from perennial_demo.ports import LOOPBACK, Ports, free_port
from perennial_demo.records import living_record
from perennial_demo.services import Plan, Service
from perennial_demo.stack import Stack

MODEL: Final = "flights_delay"
TRAINING_DAYS: Final = 60
FIRST: Final = date(2013, 1, 1)
ASKED_FROM: Final = FIRST + timedelta(days=90)
"""Requests are flights of this day; no version has seen them."""
_BIN: Final = Path(sys.executable).parent


def write_specs(folder: Path, *, log: bool) -> None:
    """The shipped spec, with or without its prediction log, and what reads that."""
    folder.mkdir(parents=True)
    spec = yaml.safe_load((REPOSITORY / f"include/models/{MODEL}.yaml").read_text())
    if not log:
        spec["deployment"], spec["monitoring"] = {"kind": "scoring_service", "log": None}, None
    (folder / f"{MODEL}.yaml").write_text(yaml.safe_dump(spec))


class Storage(Stack):
    """The demo without its Airflow. `serve` adds servers that score."""

    @cached_property
    def plan(self) -> Plan:
        """S3 and MLflow."""
        whole = super().plan
        return replace(whole, services=tuple(one for one in whole.services if one.name in ("s3", "mlflow")))

    @cached_property
    def registry(self) -> MlflowRegistry:
        """The models."""
        return MlflowRegistry(self.mlflow_url)

    def serve(self, name: str, command: Sequence[str], port: int, environ: dict[str, str] | None = None) -> None:
        """Start a server and wait until its /ping answers 200."""
        own = self.home.root / name
        own.mkdir()
        everywhere = {**base_environ(self.environ, self.home), **self.environment, "PERENNIAL_HOME": str(own)}
        service = Service(
            name=name,
            title=name,
            command=tuple(command),
            environ={**everywhere, **(environ or {})},
            probe=http_answers(f"http://{LOOPBACK}:{port}/ping", status=200),
        )
        self.plan = replace(self.plan, services=(*self.plan.services, service))
        self.up()

    def cpu_seconds(self, name: str) -> float:
        """That a service's processes have used so far: a figure that the machine's other work hardly touches."""
        record = living_record(self.home, name)
        assert record is not None, f"{name} does not run; see {self.home.logs}"
        leader = psutil.Process(record.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (leader, *leader.children(recursive=True)))

    def serve_perennial(self, name: str, *, log: bool = True) -> int:
        """Start `perennial serve` with the shipped spec, with or without its prediction log; the port."""
        port = free_port()
        specs = self.home.root / f"{name}-specs"
        write_specs(specs, log=log)
        command = [sys.executable, "-m", "perennial.cli", "serve", "--port", str(port)]
        self.serve(name, command, port, {"PERENNIAL_SPECS": str(specs), "PERENNIAL_USE_DEMO": "0"})
        return port

    def serve_mlflow(self, name: str, *, workers: int) -> int:
        """Start `mlflow models serve` with the same champion, in the same environment; the port."""
        port = free_port()
        command = [str(_BIN / "mlflow"), "models", "serve", "--model-uri", f"models:/{MODEL}@champion"]
        command += ["--host", LOOPBACK, "--port", str(port), "--env-manager", "local", "--workers", str(workers)]
        # It starts uvicorn by name, through a shell.
        self.serve(name, command, port, {"PATH": f"{_BIN}{os.pathsep}{self.environ.get('PATH', '')}"})
        return port


@contextmanager
def storage() -> Iterator[Storage]:
    """S3 and MLflow, up and empty; at the end every process that was started is ended."""
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        ports = Ports(airflow=free_port(), mlflow=free_port(), s3=free_port())
        running = Storage(Home(Path(folder).resolve()), ports, {**os.environ, "PERENNIAL_HOME": folder})
        try:
            running.up()
            os.environ.update(running.environment)
            yield running
        finally:
            running.down()


def flights(first: date, days: int, cache: Path) -> pd.DataFrame:
    """Features and label of all flights of some days."""
    frame: pd.DataFrame = read_flights(first, first + timedelta(days=days), cache=cache).to_pandas()
    return frame


def register(running: Storage, versions: int) -> dict[str, Any]:
    """Train and register versions, each on data of another day's start; the first is champion.

    Returns:
        The fitted estimators, by version.
    """
    spec = ModelSpec.model_validate(yaml.safe_load((REPOSITORY / f"include/models/{MODEL}.yaml").read_text()))
    fitted = {}
    for number in range(versions):
        training = _training(spec, FIRST + timedelta(days=number), running.home.root / "cache")
        version = running.registry.register(MODEL, running.registry.log_training(training), {})
        fitted[version] = training.estimator
    running.registry.point_alias(MODEL, "champion", next(iter(fitted)))
    return fitted


def _training(spec: ModelSpec, start: date, cache: Path) -> FittedTraining:
    rows = flights(start, TRAINING_DAYS, cache)
    features, began = rows[list(spec.data.feature_columns)], datetime.combine(start, datetime.min.time(), UTC)
    params: dict[str, Any] = dict(spec.training.params)
    estimator = build_estimator(**params, random_state=spec.training.seed)
    estimator.fit(features, rows[spec.data.label_column])
    return FittedTraining(
        model=MODEL,
        task=spec.task,
        estimator=estimator,
        params=params,
        metrics={"training_rows": float(len(rows))},
        tags={},
        input_example=features.head(5),
        output_example=estimator.predict_proba(features.head(5)),
        dataset_uri="s3://perennial/bench",
        dataset_sha256="d" * 64,
        dataset_rows=len(rows),
        fingerprint=f"{start.toordinal():064d}",
        keys_sha256="c" * 64,
        training_start=began,
        training_end=began + timedelta(days=TRAINING_DAYS),
        trusted_types=(),
        run_name=f"from {start}",
    )


def asked_rows(running: Storage, count: int) -> pd.DataFrame:
    """Flights to ask about, without gaps in any column: MLflow's server refuses a null in a column of numbers."""
    spec = yaml.safe_load((REPOSITORY / f"include/models/{MODEL}.yaml").read_text())
    rows: pd.DataFrame = flights(ASKED_FROM, 7, running.home.root / "cache")[spec["data"]["feature_columns"]].dropna()
    return rows.head(count).reset_index(drop=True)
