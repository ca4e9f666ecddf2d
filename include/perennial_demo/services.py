"""What the demo consists of: each service's command, its environment and how to tell that it is ready."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from perennial_demo.airflow_settings import DAG_BUNDLES, airflow_environ, base_environ, mlflow_database_url
from perennial_demo.environment import BUCKET, make_airflow_secrets, make_environment, write_private
from perennial_demo.health import Probe, airflow_component, all_of, http_answers
from perennial_demo.home import REPOSITORY, Home
from perennial_demo.ports import LOOPBACK, Ports

_BIN: Final = Path(sys.executable).parent

# Both servers would bind every interface; the API server reads the very same files.
_NO_LOG_SERVER: Final = "--skip-serve-logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A server of the demo. Two services of equal fingerprint are the same: a running one need not be restarted."""

    name: str
    title: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    probe: Probe
    ready_timeout_s: float = 180.0
    port: tuple[str, int] | None = None
    """Service name as in `ports.variable`, and number."""
    needs_airflow_database: bool = False
    code_digest: str = ""
    """Of the source files that a running process holds in memory."""

    @property
    def fingerprint(self) -> str:
        """Digest of all that a restart would change. What the user's shell exports has no part in it."""
        settings = {k: v for k, v in self.environ.items() if k.startswith(("AIRFLOW", "AWS_", "MLFLOW_", "PERENNIAL_"))}
        facts = [self.command, settings, self.code_digest, sys.version]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything needed to start the demo in one home."""

    home: Home
    environment: Mapping[str, str] = field(repr=False)
    airflow_secrets: Mapping[str, str] = field(repr=False)
    airflow: Mapping[str, str] = field(repr=False)
    """Environment of every Airflow process."""
    services: tuple[Service, ...]

    def write(self) -> None:
        """Make the home's folders and files, and the bucket."""
        self.home.create()
        write_private(self.home.environment_file, self.environment)
        write_private(self.home.airflow_secrets_file, self.airflow_secrets)
        (self.home.s3 / BUCKET).mkdir(exist_ok=True)
        _make_write_ahead(self.home.mlflow / "mlflow.db")


def make_plan(
    home: Home,
    ports: Ports,
    environ: Mapping[str, str],
    *,
    bundles: Sequence[Mapping[str, Any]] = DAG_BUNDLES,
    overrides: Mapping[str, str] | None = None,
) -> Plan:
    """Work out the services; writes nothing.

    Args:
        home: where all state is kept.
        ports: where the services listen.
        environ: the user's environment.
        bundles: Airflow's DAG bundles; tests give their own.
        overrides: further variables for Airflow's processes; they win.
    """
    environment = make_environment(home, ports, environ)
    secret = make_airflow_secrets(home)
    common = {**base_environ(environ, home), **environment}
    airflow = {**common, **airflow_environ(home, ports, secret, bundles), **(overrides or {})}
    return Plan(
        home=home,
        environment=environment,
        airflow_secrets=secret,
        airflow=airflow,
        services=(
            _s3(home, ports, common),
            _mlflow(home, ports, common),
            *_scoring(ports, common),
            *_airflow_services(ports, airflow),
        ),
    )


def migrate_command() -> tuple[str, ...]:
    """Makes Airflow's tables, or brings them up to date."""
    return (str(_BIN / "airflow"), "db", "migrate")


def _s3(home: Home, ports: Ports, common: Mapping[str, str]) -> Service:
    address = f"{LOOPBACK}:{ports.s3}"
    key = f'"{common["AWS_ACCESS_KEY_ID"]},{common["AWS_SECRET_ACCESS_KEY"]}"'
    return Service(
        name="s3",
        title="S3 (rclone)",
        command=(str(_BIN / "rclone"), "serve", "s3", "--config", "", "--addr", address, str(home.s3)),
        environ={**common, "RCLONE_AUTH_KEY": key},  # not on the command line, which every user can read
        probe=http_answers(f"http://{address}/"),  # it refuses an unsigned request; that it answers is enough
        port=("s3", ports.s3),
        ready_timeout_s=30,
    )


def _mlflow(home: Home, ports: Ports, common: Mapping[str, str]) -> Service:
    command = [str(_BIN / "mlflow"), "server", "--host", LOOPBACK, "--port", str(ports.mlflow), "--workers", "1"]
    command += ["--backend-store-uri", mlflow_database_url(home)]
    command += ["--serve-artifacts", "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
    return Service(
        name="mlflow",
        title="MLflow",
        command=tuple(command),
        # Job execution would add a queue and four processes for features that Perennial does not use.
        environ={**common, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        probe=http_answers(f"http://{LOOPBACK}:{ports.mlflow}/health", status=200),
        port=("mlflow", ports.mlflow),
    )


def _scoring(ports: Ports, common: Mapping[str, str]) -> tuple[Service, ...]:
    """`perennial serve` with every model that asks for it; no service if none does."""
    served = _served_models(Path(common["PERENNIAL_SPECS"]))
    if not served:
        return ()
    return (
        Service(
            name="scoring",
            title="Scoring service",
            # By name: a spec that is broken must not keep the others from being served.
            command=(str(_BIN / "perennial"), "serve", *served, "--port", str(ports.scoring)),
            environ=common,
            # Not /ping, which says 503 until there is a champion.
            probe=http_answers(f"http://{LOOPBACK}:{ports.scoring}/models", status=200),
            port=("scoring", ports.scoring),
            code_digest=f"{_code_digest(REPOSITORY)} {served}",
        ),
    )


def _served_models(specs: Path) -> dict[str, str]:
    """What a running service holds of the specs that are deployed to it: what to log, by model."""
    from perennial.errors import SpecError
    from perennial.spec import load_spec, spec_paths

    found = {}
    for path in spec_paths(specs):
        try:
            spec = load_spec(path)
        except SpecError:
            continue
        if spec.deployment is not None and spec.deployment.kind == "scoring_service":
            found[spec.name] = str(spec.deployment.log)
    return found


def _airflow_services(ports: Ports, airflow: Mapping[str, str]) -> tuple[Service, ...]:
    executable = str(_BIN / "airflow")
    url = f"http://{LOOPBACK}:{ports.airflow}"
    code = _code_digest(REPOSITORY)

    def component(name: str, *arguments: str, probe: Probe, **more: Any) -> Service:
        return Service(
            name=f"airflow-{name}",
            title=f"Airflow {name}",
            command=(executable, name, *arguments),
            environ=more.pop("environ", airflow),
            probe=probe,
            needs_airflow_database=True,
            code_digest=code,
            **more,
        )

    return (
        component(
            "api-server",
            # Answering the first request of a task takes several seconds of preparation: let it happen now.
            probe=all_of(
                http_answers(f"{url}/api/v2/monitor/health", status=200),
                http_answers(f"{url}/execution/health", status=200),
            ),
            port=("airflow", ports.airflow),
        ),
        component(
            "scheduler",
            _NO_LOG_SERVER,
            probe=airflow_component(url, "scheduler"),
            environ={**airflow, "PERENNIAL_PRELOAD": "1"},
        ),
        component("dag-processor", probe=airflow_component(url, "dag_processor")),
        component("triggerer", _NO_LOG_SERVER, probe=airflow_component(url, "triggerer")),
    )


def _code_digest(repository: Path) -> str:
    """Digest of the names, sizes and times of the source files that Airflow and the scoring service import."""
    digest = hashlib.sha256()
    for folder in ("include", "plugins", "config"):
        for path in sorted((repository / folder).rglob("*.py")):
            stat = path.stat()
            digest.update(f"{path.relative_to(repository)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _make_write_ahead(database: Path) -> None:
    """Readers and one writer at a time do not block each other in this mode; SQLite keeps it in the file.

    Airflow switches it on by itself, MLflow does not.
    """
    connection = sqlite3.connect(database)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
