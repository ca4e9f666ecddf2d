"""Models on the local disk, so that the service starts and keeps serving while MLflow or the store is down.

Below `<folder>/<model>/`: `<digest>/files/`, `<digest>/record.json` with what the registry knows of them, and
`champion.json`, which names the version that served last. Each is written beside its place and renamed, so there is
never half of one, and files are compared with their digest each time they are loaded (invariant 8). Replicas of a
machine may share the folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import Any, Final

from perennial.domain.references import ModelRef
from perennial.errors import IntegrityError
from perennial.ports import LoadedModel, ModelRecords, ModelRegistry, RegisteredVersion

log = logging.getLogger(__name__)
_FILES: Final = "files"
_RECORD: Final = "record.json"
_CHAMPION: Final = "champion.json"
_UNFINISHED: Final = ".unfinished-"
_REPLACED: Final = "replaced"
_ABANDONED_S: Final = 3600
"""Something unfinished that is older was left behind by a process that was killed."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class ModelCache:
    """Fetches models from the registry once. Blocks; safe to call from several threads."""

    def __init__(self, folder: Path, registry: ModelRegistry, *, keep: int) -> None:
        """Touch nothing yet.

        Args:
            folder: made when it is first needed.
            registry: where models come from.
            keep: how many versions of each model `trim` leaves beside those in use.
        """
        self._folder, self._registry, self._keep = folder, registry, keep

    def obtain(self, version: RegisteredVersion) -> LoadedModel:
        """The model from the disk, or from the registry if it is not there or damaged.

        Raises:
            IntegrityError: the registry's files are damaged, too.
            NotFoundError, RegistryUnavailableError: as `ModelRegistry.fetch`.
        """
        place = self._place(version)
        if place.is_dir():
            try:
                loaded = self._registry.open_fetched(version.model, place / _FILES, _records(_read(place / _RECORD)))
                os.utime(place)  # `trim` takes away what was not used for longest
                return loaded
            except (IntegrityError, OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: version %s in %s is damaged and fetched anew: %s", *_named(version), place, error)
        return self._fetch(version, place)

    def champion(self, model: str) -> RegisteredVersion | None:
        """The version that served as champion last, if it is on the disk."""
        try:
            values = _read(self._folder / model / _CHAMPION)
            found = RegisteredVersion(
                name=model, version=str(values["version"]), model=ModelRef.from_dict(values["model"])
            )
            return found if self._place(found).is_dir() else None
        except FileNotFoundError:
            return None
        except (IntegrityError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: what served last is not known: %s", model, error)
            return None

    def remember_champion(self, version: RegisteredVersion) -> None:
        """What a start without MLflow serves.

        Raises:
            OSError: the disk would not take it.
        """
        _write(self._place(version).parent / _CHAMPION, _described(version))

    def trim(self, model: str, in_use: Collection[str]) -> None:
        """Delete what was not used for longest. Digests in use stay."""
        folder = self._folder / model
        idle, abandoned = [], []
        for entry in os.scandir(folder) if folder.is_dir() else ():
            changed = entry.stat().st_mtime
            if _DIGEST.fullmatch(entry.name) and entry.name not in in_use:
                idle.append((changed, entry.path))
            elif entry.name.startswith(_UNFINISHED) and time.time() - changed > _ABANDONED_S:
                abandoned.append(entry.path)
        too_many = [path for _, path in sorted(idle, reverse=True)[self._keep :]]
        for path in (*too_many, *abandoned):
            shutil.rmtree(path, ignore_errors=True)

    def _place(self, version: RegisteredVersion) -> Path:
        digest = version.model.digest
        if not _DIGEST.fullmatch(digest):  # a tag that anybody may edit is about to become a path
            raise IntegrityError(f"version {version.version} of {version.name} has {digest!r} for a digest, no sha256")
        return self._folder / version.name / digest

    def _fetch(self, version: RegisteredVersion, place: Path) -> LoadedModel:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(mkdtemp(dir=place.parent, prefix=_UNFINISHED))
        try:
            (unfinished / _FILES).mkdir()
            records = self._registry.fetch(version.model, unfinished / _FILES)
            loaded = self._registry.open_fetched(version.model, unfinished / _FILES, records)
            _write(unfinished / _RECORD, {**_described(version), "records": asdict(records)})
            self._put_in_place(unfinished, place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return loaded

    def _put_in_place(self, unfinished: Path, place: Path) -> None:
        with suppress(FileNotFoundError):  # what is there is damaged
            place.rename(unfinished / _REPLACED)
        try:
            unfinished.rename(place)
        except OSError:
            if not place.is_dir():
                raise
            return  # another replica was faster, with the same files
        shutil.rmtree(place / _REPLACED, ignore_errors=True)


def _described(version: RegisteredVersion) -> dict[str, Any]:
    return {"name": version.name, "version": version.version, "model": version.model.to_dict()}


def _records(values: Mapping[str, Any]) -> ModelRecords:
    return ModelRecords(**values["records"])


def _named(version: RegisteredVersion) -> tuple[str, str]:
    return version.name, version.version


def _read(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_bytes())
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object")
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with NamedTemporaryFile("w", dir=path.parent, prefix=_UNFINISHED, delete=False, encoding="utf-8") as stream:
        json.dump(values, stream)
    os.replace(stream.name, path)
