"""The demo's services as one thing that can be started, looked at and stopped."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from perennial_demo import process
from perennial_demo.airflow_api import AirflowApi
from perennial_demo.airflow_settings import DAG_BUNDLES
from perennial_demo.console import make_console
from perennial_demo.errors import ServiceError
from perennial_demo.home import HOME_VARIABLE, Home
from perennial_demo.ports import LOOPBACK, Ports, require_free
from perennial_demo.records import Record, living_record, remove_record, remove_records, write_record
from perennial_demo.services import Plan, Service, make_plan, migrate_command

POLL_S: Final = 0.25
MIGRATE_TIMEOUT_S: Final = 180.0
TAIL_LINES: Final = 30
MIGRATE: Final = "airflow-migrate"
STOPPED_FIRST: Final = {"airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "scoring"}
"""They report to the API server and write to MLflow and S3 until the end: those have to be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """How one service is doing."""

    service: Service
    pid: int | None
    problem: str | None
    """None when it is healthy."""


@dataclass
class Stack:
    """The services of one PERENNIAL_HOME. Starting and stopping are safe to repeat."""

    home: Home
    ports: Ports
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    """Of the user who starts it."""
    bundles: Sequence[Mapping[str, Any]] = DAG_BUNDLES
    airflow_overrides: Mapping[str, str] = field(default_factory=dict)
    console: Console = field(default_factory=make_console, repr=False)
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None, **more: Any) -> Stack:
        """The stack that PERENNIAL_HOME and the port variables describe.

        Raises:
            PortError: a port variable has a value that is not allowed.
        """
        values = os.environ if environ is None else environ
        return cls(Home.from_environ(values), Ports.from_environ(values), values, **more)

    @cached_property
    def plan(self) -> Plan:
        """The services, and what is in the home's files."""
        return make_plan(self.home, self.ports, self.environ, bundles=self.bundles, overrides=self.airflow_overrides)

    @property
    def environment(self) -> Mapping[str, str]:
        """Addresses and keys for S3, MLflow and Airflow, as in the environment file, and where that file is."""
        return {**self.plan.environment, HOME_VARIABLE: str(self.home.root)}

    @property
    def airflow_url(self) -> str:
        """Airflow's UI and REST API."""
        return self.environment["PERENNIAL_AIRFLOW_URL"]

    @property
    def mlflow_url(self) -> str:
        """MLflow's UI, tracking server and registry."""
        return self.environment["MLFLOW_TRACKING_URI"]

    @property
    def s3_url(self) -> str:
        """The S3 endpoint; its keys are in `environment`."""
        return self.environment["AWS_ENDPOINT_URL_S3"]

    @cached_property
    def airflow(self) -> AirflowApi:
        """A client for Airflow's REST API."""
        return AirflowApi(self.airflow_url)

    @property
    def scoring_url(self) -> str | None:
        """The scoring service; None if no spec asks for it."""
        deployed = any(service.name == "scoring" for service in self.plan.services)
        return f"http://{LOOPBACK}:{self.ports.scoring}" if deployed else None

    def up(self) -> None:
        """Start what does not run yet and wait until every service is healthy.

        Services that run with the same settings and code, and are healthy, are left alone.

        Raises:
            PortError: a port is taken; nothing was started.
            ServiceError: a service died or was not healthy in time; what this call started was stopped again.
        """
        began = time.monotonic()
        with self.home.lock():
            missing = [service for service in self.plan.services if not self._is_reusable(service)]
            self._clear(missing)
            self.plan.write()
            try:
                self._start(missing)
            except BaseException:
                self.console.print("Stopping what was started.")
                self._stop(missing)
                raise
        kept = len(self.plan.services) - len(missing)
        note = f", {kept} of them from before," if kept else ""
        self.console.print(f"{len(self.plan.services)} services{note} are healthy after {_since(began)}")

    def down(self) -> None:
        """End every process of this home."""
        stop_home(self.home, self.console)
        self._children.clear()

    def status(self) -> list[ServiceStatus]:
        """How each service is doing right now."""
        return [self._status(service) for service in self.plan.services]

    def _status(self, service: Service) -> ServiceStatus:
        record = living_record(self.home, service.name)
        if record is None:
            return ServiceStatus(service=service, pid=None, problem="not running")
        return ServiceStatus(service=service, pid=record.pid, problem=service.probe(record.started_at))

    def _is_reusable(self, service: Service) -> bool:
        record = living_record(self.home, service.name)
        if record is None or record.fingerprint != service.fingerprint:
            return False
        return service.probe(record.started_at) is None

    def _clear(self, services: Sequence[Service]) -> None:
        """End what is left of these services from before, and make sure that their ports are free.

        Ports that the home does not hold itself come first, so that a stranger on a port stops nothing.
        """
        own = process.listening_ports(self.home.root)
        for service in services:
            if service.port and service.port[1] not in own:
                require_free(*service.port)
        self._stop(services)
        for service in services:
            if service.port:
                require_free(*service.port)

    def _stop(self, services: Sequence[Service]) -> None:
        if services:
            _stop_or_raise(self.home, {MIGRATE, *(service.name for service in services)})
        for service in services:
            remove_record(self.home, service.name)
            self._children.pop(service.name, None)

    def _start(self, services: Sequence[Service]) -> None:
        """Start the services and wait for all; Airflow's as soon as its database is there."""
        began = time.monotonic()
        later = [service for service in services if service.needs_airflow_database]
        waiting = [self._launch(service) for service in services if not service.needs_airflow_database]
        migration = self._begin_migration() if later else None
        with self._spinner(bool(services)):
            while waiting or later:
                if later and self._is_migrated(migration, began):
                    waiting += [self._launch(service) for service in later]
                    later = []
                waiting = [entry for entry in waiting if not self._is_healthy(*entry, began)]
                time.sleep(POLL_S if waiting or later else 0)

    def _launch(self, service: Service) -> tuple[Service, datetime]:
        log = self.home.logs / f"{service.name}.log"
        self.console.print(f"  starting  {service.title:<22} log: {log}")
        started_at = datetime.now(UTC)
        launch = process.Launch(
            home=self.home.root, service=service.name, command=service.command, environ=service.environ, log=log
        )
        child = self._children[service.name] = process.start(launch)
        record = Record(pid=child.pid, fingerprint=service.fingerprint, started_at=started_at)
        write_record(self.home, service.name, record)
        return service, started_at

    def _begin_migration(self) -> subprocess.Popen[bytes] | None:
        """Make or update Airflow's tables; None if this version of Airflow has done it before in this home."""
        if (self.home.airflow / "airflow.db").exists() and _content(self._migrated) == _airflow_version():
            return None
        log = self.home.logs / f"{MIGRATE}.log"
        self.console.print(f"  migrating {'Airflow database':<22} log: {log}")
        launch = process.Launch(
            home=self.home.root, service=MIGRATE, command=migrate_command(), environ=self.plan.airflow, log=log
        )
        return process.start(launch)

    def _is_migrated(self, migration: subprocess.Popen[bytes] | None, began: float) -> bool:
        if migration is None:
            return True
        code = migration.poll()
        if code is None and time.monotonic() - began > MIGRATE_TIMEOUT_S:
            raise self._failure(MIGRATE, f"did not end within {MIGRATE_TIMEOUT_S:.0f} s")
        if code:
            raise self._failure(MIGRATE, f"ended with code {code}")
        if code == 0:
            self._migrated.write_text(_airflow_version(), encoding="utf-8")
        return code == 0

    def _is_healthy(self, service: Service, started_at: datetime, began: float) -> bool:
        code = self._children[service.name].poll()
        if code is not None:
            raise self._failure(service.name, f"ended with code {code}")
        problem = service.probe(started_at)
        waited_s = (datetime.now(UTC) - started_at).total_seconds()
        if problem is not None and waited_s > service.ready_timeout_s:
            raise self._failure(service.name, f"was not healthy after {service.ready_timeout_s:.0f} s: {problem}")
        if problem is None:
            self.console.print(f"  healthy   {service.title:<22} after {_since(began)}")
        return problem is None

    @property
    def _migrated(self) -> Path:
        """Holds the version of Airflow that made, or last updated, the tables."""
        return self.home.airflow / "migrated"

    @contextmanager
    def _spinner(self, wanted: bool) -> Iterator[None]:
        if not (wanted and self.console.is_terminal):
            yield
            return
        with self.console.status("waiting for the services to become healthy"):
            yield

    def _failure(self, name: str, what: str) -> ServiceError:
        log = self.home.logs / f"{name}.log"
        tail = "\n".join(f"  | {line}" for line in _content(log).splitlines()[-TAIL_LINES:])
        return ServiceError(f"{name} {what}. The last lines of {log}:\n{tail}")


def stop_home(home: Home, console: Console) -> None:
    """End every process of a home; fine when there is none.

    Raises:
        ServiceError: something is still alive.
    """
    if not home.root.exists():
        console.print(f"Nothing was ever started in {home.root}")
        return
    with home.lock():
        found = len(process.marked(home.root))
        if found:
            console.print(f"Stopping {found} processes of {home.root}")
            _stop_or_raise(home, None)
        remove_records(home)
    console.print("All services are stopped." if found else f"Nothing runs in {home.root}")


def _stop_or_raise(home: Home, services: set[str] | None) -> None:
    process.stop(home.root, STOPPED_FIRST if services is None else STOPPED_FIRST & services)
    survivors = process.stop(home.root, services)
    if survivors:
        pids = ", ".join(str(survivor.pid) for survivor in survivors)
        raise ServiceError(f"These processes could not be ended: {pids}. Look at them with: ps -fp {pids}")


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _airflow_version() -> str:
    return version("apache-airflow-core")


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
