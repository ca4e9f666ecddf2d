"""Specs as a DAG bundle: many models parse in parallel, and a broken spec is an import error of its own.

Airflow's DAG processor finds `.py` files only, parses each in a process of its own, and flags every DAG of a file that
has an error. So this bundle keeps a folder of small generated files: `shard_<nnn>.py`, each of which makes the DAGs of
its share of the good specs, and for each broken spec `<file>.py`, which raises the spec's problems. Nothing generated
holds a setting: a shard's file reads the specs when it is parsed, a task's process reads its own model's spec only.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from airflow.dag_processing.bundles.base import BaseDagBundle

from perennial.errors import SpecError
from perennial.settings import load_settings
from perennial.spec import spec_paths, suite_path

log = logging.getLogger(__name__)

DEFAULT_SHARDS: Final = 20
"""About 50 specs a shard at 1,000 models: a second for each parse, and work for every core."""
_READY: Final = ".ready"

_SHARD: Final = """# Written by perennial_airflow.bundle: Airflow DAGs of shard {shard} of {shards}.
from perennial_airflow.dag_factory import shard_dags

globals().update(shard_dags({folder!r}, {shard}, {shards}))
# {digest}
"""
_BROKEN: Final = """# Written by perennial_airflow.bundle in place of a broken spec's Airflow DAG.
from perennial_airflow.dag_factory import raise_problems

raise_problems({path!r})
# {digest}
"""


@dataclass(frozen=True, slots=True)
class _Checked:
    """What a look at a spec gave, and what its files looked like then."""

    good: bool
    stamp: tuple[Any, ...]
    suite: Path | None = None


class SpecBundle(BaseDagBundle):
    """A DAG bundle (`[dag_processor] dag_bundle_config_list`) whose source is a folder of specs.

    Args:
        specs: the folder; by default PERENNIAL_SPECS.
        shards: number of files that the good specs are spread over. Changing it renames DAG files; stop Airflow for it.
        **kwargs: BaseDagBundle's, such as `name` and `refresh_interval`.
    """

    supports_versioning = False

    def __init__(self, *, specs: str | None = None, shards: int = DEFAULT_SHARDS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 1 <= shards <= 1000:
            raise ValueError(f"shards = {shards}: must be between 1 and 1000")
        self._specs = specs
        self.shards = shards
        self._checks: dict[Path, _Checked] = {}

    @property
    def specs(self) -> Path:
        """Folder of the specs."""
        return Path(self._specs).expanduser().resolve() if self._specs else load_settings().specs

    @property
    def path(self) -> Path:
        """Folder of the generated files. Another specs folder has another one, also on a machine with two Airflows."""
        key = hashlib.sha256(f"{self.specs}\n{self.shards}".encode()).hexdigest()[:12]
        return Path(self.base_dir) / key

    def get_current_version(self) -> None:
        """None: the specs folder has one version, the one that is there."""
        return

    def initialize(self) -> None:
        """Make sure that the shards' files exist; a worker that never ran a DAG processor has none yet."""
        if not (self.path / _READY).is_file():
            with self.lock():
                if not (self.path / _READY).is_file():
                    for shard in range(self.shards):
                        _replace(self.path / _shard_name(shard), self._shard_file(shard, "not looked at yet"))
                    _replace(self.path / _READY, "")
        super().initialize()

    def refresh(self) -> None:
        """Look at the specs and bring the generated files up to date. Unchanged specs cost a look at their dates."""
        with self.lock():
            wanted = self._wanted_files()
            for name, content in wanted.items():
                _replace(self.path / name, content)
            for stale in self.path.glob("*.py"):
                if stale.name not in wanted:
                    stale.unlink(missing_ok=True)
            _replace(self.path / _READY, "")

    def _wanted_files(self) -> dict[str, str]:
        """Name and content of every file that should exist."""
        paths = spec_paths(self.specs)
        self._checks = {path: self._check(path) for path in paths}
        files: dict[str, str] = {}
        for shard in range(self.shards):
            mine = [path for path in paths if self._checks[path].good and self._shard_of(path) == shard]
            if mine:  # the digest changes the file with its specs, so that Airflow parses it at once
                files[_shard_name(shard)] = self._shard_file(shard, self._digest(mine))
        for path in paths:
            if not self._checks[path].good:
                files[f"{path.name}.py"] = _BROKEN.format(path=str(path), digest=self._digest([path]))
        return files

    def _check(self, path: Path) -> _Checked:
        """A look at a spec. A good one is looked at again when it or its suite changes; a broken one each time."""
        known = self._checks.get(path)
        if known is not None and known.good and known.stamp == _stamp(path, known.suite):
            return known
        # Imported here: the processor's parsing processes are forked from this one and inherit the modules.
        from perennial_airflow.dag_factory import checked

        try:
            suite = suite_path(path.parent, checked(path))
        except SpecError as error:
            broken = _Checked(good=False, stamp=_stamp(path, None))
            if broken != known:
                log.warning("%s is broken and has no DAG:\n%s", path, error)
            return broken
        return _Checked(good=True, stamp=_stamp(path, suite), suite=suite)

    def _digest(self, paths: list[Path]) -> str:
        return hashlib.sha256(repr([(path.name, self._checks[path].stamp) for path in paths]).encode()).hexdigest()

    def _shard_of(self, path: Path) -> int:
        from perennial_airflow.dag_factory import shard_of

        return shard_of(path.stem, self.shards)

    def _shard_file(self, shard: int, digest: str) -> str:
        return _SHARD.format(shard=shard, shards=self.shards, folder=str(self.specs), digest=digest)


def _shard_name(shard: int) -> str:
    return f"shard_{shard:03d}.py"


def _stamp(path: Path, suite: Path | None) -> tuple[Any, ...]:
    """Name, time of change (ns) and size of the spec, of a file that declares the same model, and of the suite."""
    facts = []
    for file in dict.fromkeys((path, path.with_suffix(".yaml"), suite)):
        with contextlib.suppress(OSError):
            if file is not None:
                found = file.stat()
                facts.append((file.name, found.st_mtime_ns, found.st_size))
    return tuple(facts)


def _replace(path: Path, content: str) -> None:
    """Write the file in one step, and only if it says something else."""
    with contextlib.suppress(OSError):
        if path.read_text(encoding="utf-8") == content:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    os.chmod(draft, 0o644)
    os.replace(draft, path)
