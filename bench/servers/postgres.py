"""A PostgreSQL server of its own for a benchmark, from the machine's packages (Debian: postgresql)."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from perennial_demo.ports import LOOPBACK, free_port

PACKAGES: Final = Path("/usr/lib/postgresql")
"""Debian keeps each version's programs in a folder here, out of PATH."""
START_S: Final = 30.0
_OWNER: Final = "postgres"


@contextmanager
def postgres() -> Iterator[str]:
    """A new, empty database on the loopback: `host:port/name`, to be logged into as `postgres`, without a password.

    It ends, and all that it kept goes, with the context. As root, which PostgreSQL refuses to run as, it runs as the
    user `postgres` of the package.

    Raises:
        SystemExit: it is not installed, or does not come up; says what to do.
    """
    programs = _programs()
    user, group = _owner()
    with tempfile.TemporaryDirectory(prefix="perennial-postgres-") as folder:
        if user is not None and group is not None:
            os.chown(folder, user, group)
        data, port = f"{folder}/data", free_port()

        def run(command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
            quiet = subprocess.DEVNULL
            return subprocess.Popen(
                command, user=user, group=group, cwd=folder, stdout=quiet, stderr=quiet, start_new_session=True
            )

        made = run([programs / "initdb", "--username", _OWNER, "--auth", "trust", "--encoding", "UTF8", data])
        if made.wait():
            sys.exit("initdb failed; try it by hand")
        server = run([programs / "postgres", "-D", data, "-h", LOOPBACK, "-p", str(port), "-k", folder])
        try:
            _wait(programs, port)
            yield f"{LOOPBACK}:{port}/postgres"
        finally:
            os.killpg(server.pid, signal.SIGINT)  # fast: clients are cut off, nothing is left behind
            server.wait(timeout=START_S)


def _owner() -> tuple[int | None, int | None]:
    """User and group to run as; None: as we do."""
    if os.geteuid() != 0:
        return None, None
    try:
        found = pwd.getpwnam(_OWNER)
    except KeyError:
        sys.exit(f"PostgreSQL does not run as root, and there is no user {_OWNER} (Debian: apt-get install postgresql)")
    return found.pw_uid, found.pw_gid


def _programs() -> Path:
    found = shutil.which("initdb")
    versions = sorted(
        PACKAGES.glob("*/bin"), key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0
    )
    places = [*reversed(versions), *([Path(found).resolve().parent] if found else [])]
    usable = [place for place in places if (place / "initdb").is_file() and (place / "postgres").is_file()]
    if not usable:
        sys.exit("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return usable[0]


def _wait(programs: Path, port: int) -> None:
    end = time.monotonic() + START_S
    while subprocess.run([programs / "pg_isready", "-q", "-h", LOOPBACK, "-p", str(port)], check=False).returncode:
        if time.monotonic() > end:
            sys.exit(f"PostgreSQL does not answer on port {port} after {START_S:.0f} s")
        time.sleep(0.1)
