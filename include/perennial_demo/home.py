"""Where the demo keeps its state: one folder, PERENNIAL_HOME, that can be deleted to start afresh."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOME_VARIABLE: Final = "PERENNIAL_HOME"
REPOSITORY: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Home:
    """The folders and files below PERENNIAL_HOME. `root` is absolute and has no symbolic links."""

    root: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Home:
        """PERENNIAL_HOME (relative to the working directory), else `.perennial` in the repository."""
        value = environ.get(HOME_VARIABLE)
        return cls((Path(value).expanduser() if value else REPOSITORY / ".perennial").resolve())

    @property
    def logs(self) -> Path:
        """One file a service."""
        return self.root / "logs"

    @property
    def pids(self) -> Path:
        """One file a running service."""
        return self.root / "run"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME: the database and the tasks' logs."""
        return self.root / "airflow"

    @property
    def mlflow(self) -> Path:
        """MLflow's database."""
        return self.root / "mlflow"

    @property
    def s3(self) -> Path:
        """Each folder in it is a bucket, each file in those an object."""
        return self.root / "s3"

    @property
    def environment_file(self) -> Path:
        """What `perennial` and every service need to know (`perennial.settings` reads it)."""
        return self.root / "environment"

    @property
    def airflow_secrets_file(self) -> Path:
        """Keys that only Airflow's own processes may know."""
        return self.root / "airflow.secrets"

    def create(self) -> None:
        """Make the folders, for this user only."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.logs, self.pids, self.airflow, self.mlflow, self.s3):
            folder.mkdir(exist_ok=True, mode=0o700)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Start and stop one at a time: waits for another `make demo` or `make stop` on the same home."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
