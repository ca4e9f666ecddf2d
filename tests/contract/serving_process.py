"""A scoring service in a process of its own: `python -m tests.contract.serving_process FOLDER PORT`.

The registry is the one in memory, which the parent pickled to FOLDER/registry.pickle; it is read anew at each look, so
the parent promotes by replacing the file.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

from perennial.errors import RegistryUnavailableError
from perennial.runtime import SystemClock
from perennial.serving.server import serve
from perennial.serving.settings import ServingSettings
from perennial.spec.deployment import Log
from perennial.testing import FolderStore, MemoryRegistry


class FileRegistry:
    """What the parent's registry says at the moment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Any:
        if name == "open_fetched":  # needs no server
            return MemoryRegistry().open_fetched
        try:
            content = self._path.read_bytes()
        except FileNotFoundError as error:
            raise RegistryUnavailableError("the registry is down") from error
        return getattr(pickle.loads(content), name)  # noqa: S301 - the parent's own


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    serve(
        ["toy"],
        registry=FileRegistry(folder / "registry.pickle"),  # type: ignore[arg-type]
        store=FolderStore(folder / "store"),
        root="s3://bucket/store",
        clock=SystemClock(),
        home=folder / "home",
        settings=ServingSettings(port=int(sys.argv[2]), poll_interval_s=0.05, drain_s=0.3),
        policies={"toy": Log()},
    )
