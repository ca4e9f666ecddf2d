"""Which ports the services listen on, and who is in the way."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

import psutil

from perennial_demo.errors import PortError

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """TCP ports on the loopback interface. Airflow's components need no others: its log servers are off."""

    airflow: int = 8080
    mlflow: int = 5000
    s3: int = 9000
    scoring: int = 8000

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Ports:
        """PERENNIAL_AIRFLOW_PORT and so on, else the defaults.

        Raises:
            PortError: a value is not a port number, or two services share one.
        """
        given = {field.name: environ.get(variable(field.name)) for field in fields(cls)}
        ports = cls(**{name: _parse(variable(name), value) for name, value in given.items() if value})
        ports._refuse_duplicates()
        return ports

    def _refuse_duplicates(self) -> None:
        seen: dict[int, str] = {}
        for name in (field.name for field in fields(self)):
            port = getattr(self, name)
            if port in seen:
                raise PortError(
                    f"{variable(seen[port])} and {variable(name)} are both {port}; each needs a port of its own."
                )
            seen[port] = name


def variable(service: str) -> str:
    """Name of the environment variable that moves a service to another port."""
    return f"PERENNIAL_{service.upper()}_PORT"


def require_free(service: str, port: int, *, patience_s: float = 2.0) -> None:
    """Check that nothing listens on the port; a process that was killed a moment ago gets `patience_s` to let go of it.

    Raises:
        PortError: names the port, its holder if that can be told, and the variable to change.
    """
    deadline = time.monotonic() + patience_s
    while (problem := _bind_problem(port)) is not None:
        if time.monotonic() >= deadline:
            raise PortError(
                f"Port {port}, wanted for {service}, is taken by {_holder(port) or 'another program'} ({problem}).\n"
                f"Stop that program, or choose another port: {variable(service)}={_suggest(port)} make demo"
            )
        time.sleep(0.1)


def free_port() -> int:
    """A port that was free a moment ago; for tests."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _parse(name: str, value: str) -> int:
    if value.strip().isascii() and value.strip().isdigit() and 1 <= int(value) <= 65535:
        return int(value)
    raise PortError(f"{name}={value} is not a port; allowed is a number from 1 to 65535.")


def _bind_problem(port: int) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection that was closed a moment ago is not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error.strerror
    return None


def _holder(port: int) -> str | None:
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            return _describe(connection.pid)
    return None


def _describe(pid: int | None) -> str | None:
    if pid is None:
        return None
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return f"process {pid}"
    return f"process {pid} ({command[:100]})"


def _suggest(port: int) -> int:
    return port + 1 if port < 65535 else port - 1
