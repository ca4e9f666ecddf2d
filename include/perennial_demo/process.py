"""Starting processes that outlive this one, and finding every one of them again.

Each is the leader of its own session and carries a mark in its environment, which everything it starts inherits.
The mark, not a pid, decides what belongs to a demo: a pid may have been taken over by a stranger.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

STACK_VARIABLE: Final = "PERENNIAL_STACK"
"""Set to PERENNIAL_HOME in every process of a demo. PERENNIAL_HOME itself may well be set in a user's shell."""
SERVICE_VARIABLE: Final = "PERENNIAL_SERVICE"

TERMINATE_GRACE_S: Final = 10.0
KILL_GRACE_S: Final = 5.0
SWEEPS: Final = 3
"""How often to look again for processes that were forked while others were being ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A program to start for a home, and where its output goes."""

    home: Path
    service: str
    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path


def start(launch: Launch) -> subprocess.Popen[bytes]:
    """Start the program in a session of its own, with the mark. The log of its run before is kept as `<log>.1`."""
    if launch.log.exists():
        launch.log.replace(launch.log.with_name(f"{launch.log.name}.1"))
    # setproctitle, which Airflow uses, would overwrite the environment in /proc and with it the mark.
    mark = {STACK_VARIABLE: str(launch.home), SERVICE_VARIABLE: launch.service, "SPT_NOENV": "1"}
    with launch.log.open("wb") as log:
        return subprocess.Popen(
            launch.command,
            env={**launch.environ, **mark},
            cwd=launch.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def marked(home: Path, services: Collection[str] | None = None) -> list[psutil.Process]:
    """Every living process of a home, or of some of its services; never this process or one that it runs under."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [p for p in psutil.process_iter() if p.pid not in own and _has_mark(p, home, services)]


def leader(home: Path, service: str, pid: int) -> psutil.Process | None:
    """The process with this pid if it is alive and is the leader of this home's service, else None."""
    try:
        process = psutil.Process(pid)
        is_leader = os.getsid(pid) == pid
    except (psutil.Error, OSError):
        return None
    return process if is_leader and _has_mark(process, home, (service,)) else None


def listening_ports(home: Path) -> set[int]:
    """TCP ports on which this home's processes listen."""
    ports: set[int] = set()
    for process in marked(home):
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        ports |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN and c.laddr}
    return ports


def stop(
    home: Path, services: Collection[str] | None = None, *, grace_s: float = TERMINATE_GRACE_S
) -> list[psutil.Process]:
    """End every process of a home, or of some of its services: SIGTERM, after `grace_s` SIGKILL, then look again.

    Returns:
        What is still alive; nothing unless the kernel itself cannot end a process.
    """
    for _ in range(SWEEPS):
        found = marked(home, services)
        if not found:
            return []
        _signal(found, kill=False)
        _, alive = psutil.wait_procs(found, timeout=grace_s)
        _signal(alive, kill=True)
        psutil.wait_procs(alive, timeout=KILL_GRACE_S)
    return marked(home, services)


def _signal(processes: Iterable[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        try:
            if kill:
                process.kill()
            else:
                process.terminate()
        except psutil.NoSuchProcess:
            continue


def _has_mark(process: psutil.Process, home: Path, services: Collection[str] | None) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        environ = process.environ()
    except (psutil.Error, OSError):
        return False
    if environ.get(STACK_VARIABLE) != str(home):
        return False
    return services is None or environ.get(SERVICE_VARIABLE) in services
