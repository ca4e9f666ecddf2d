"""The local cache: nothing damaged is loaded from it, nothing half is left in it, and it stays small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from perennial.errors import IntegrityError, RegistryUnavailableError
from perennial.ports import RegisteredVersion
from perennial.serving.cache import ModelCache
from perennial.testing.registry import MODEL_FILE
from tests.unit.core.serving.served import MODEL, Adding, ServedWorld


class Down:
    """A registry that opens what was fetched, and does not answer otherwise."""

    def __init__(self, registry: Any) -> None:
        self.open_fetched = registry.open_fetched

    def __getattr__(self, name: str) -> Any:
        def unavailable(*_arguments: Any) -> Any:
            raise RegistryUnavailableError(f"could not {name}: MLflow did not answer")

        return unavailable


@pytest.fixture
def world(tmp_path: Path) -> ServedWorld:
    return ServedWorld(tmp_path)


def _cache(world: ServedWorld, registry: Any = None, keep: int = 3) -> ModelCache:
    return ModelCache(world.folder, registry or world.registry, keep=keep)


def _version(world: ServedWorld, shift: float = 1.0) -> RegisteredVersion:
    return world.registry.version(MODEL, world.promote(Adding(shift)))


def _place(world: ServedWorld, version: RegisteredVersion) -> Path:
    return world.folder / MODEL / version.model.digest


def test_model_is_fetched_once_and_then_opened_without_the_registry(world: ServedWorld) -> None:
    version = _version(world)
    assert _cache(world).obtain(version).estimator.shift == 1.0
    assert _cache(world, Down(world.registry)).obtain(version).estimator.shift == 1.0
    assert [path.name for path in _place(world, version).parent.iterdir()] == [version.model.digest]


@pytest.mark.parametrize("damage", ["changed", "added", "gone", "record"])
def test_damaged_copy_is_fetched_anew(world: ServedWorld, damage: str) -> None:
    version = _version(world)
    _cache(world).obtain(version)
    file = _place(world, version) / "files" / MODEL_FILE
    if damage == "changed":
        file.write_bytes(file.read_bytes() + b"?")
    elif damage == "added":
        file.with_name("extra.py").write_text("x = 1")
    elif damage == "gone":
        file.unlink()
    else:
        (_place(world, version) / "record.json").write_text("{")
    assert _cache(world).obtain(version).estimator.shift == 1.0
    assert _cache(world, Down(world.registry)).obtain(version).estimator.shift == 1.0
    assert sorted(path.name for path in _place(world, version).iterdir()) == ["files", "record.json"]


def test_damaged_copy_without_a_registry_is_not_loaded(world: ServedWorld) -> None:
    version = _version(world)
    _cache(world).obtain(version)
    (_place(world, version) / "files" / MODEL_FILE).write_bytes(b"?")
    with pytest.raises(RegistryUnavailableError):
        _cache(world, Down(world.registry)).obtain(version)


def test_model_that_is_damaged_in_the_registry_leaves_nothing_behind(world: ServedWorld) -> None:
    version = _version(world)
    world.registry.corrupt(version.model.model_uri)
    with pytest.raises(IntegrityError, match="was changed"):
        _cache(world).obtain(version)
    assert list(_place(world, version).parent.iterdir()) == []


@pytest.mark.parametrize("digest", ["../../etc", "", "D" * 64])
def test_digest_that_is_none_never_becomes_a_path(world: ServedWorld, digest: str) -> None:
    from dataclasses import replace

    version = _version(world)
    with pytest.raises(IntegrityError, match="for a digest"):
        _cache(world).obtain(replace(version, model=replace(version.model, digest=digest)))


def test_what_served_last_is_known_while_its_files_are_there(world: ServedWorld) -> None:
    cache = _cache(world)
    assert cache.champion(MODEL) is None
    version = _version(world)
    cache.obtain(version)
    cache.remember_champion(version)
    assert cache.champion(MODEL) == version
    (world.folder / MODEL / "champion.json").write_text("[]")
    assert cache.champion(MODEL) is None


def test_only_the_newest_versions_and_those_in_use_are_kept(world: ServedWorld) -> None:
    cache = _cache(world, keep=1)
    versions = [_version(world, float(number)) for number in range(4)]
    for age, version in enumerate(reversed(versions)):
        cache.obtain(version)
        os.utime(_place(world, version), (1000 - age, 1000 - age))
    abandoned = world.folder / MODEL / ".unfinished-old"
    abandoned.mkdir()
    os.utime(abandoned, (1, 1))
    (world.folder / MODEL / ".unfinished-new").mkdir()
    cache.trim(MODEL, {versions[0].model.digest})
    left = {path.name for path in (world.folder / MODEL).iterdir()}
    assert left == {versions[0].model.digest, versions[3].model.digest, ".unfinished-new"}
    cache.trim("never_seen", set())


def test_two_replicas_that_fetch_at_the_same_time_both_get_the_model(world: ServedWorld) -> None:
    version = _version(world)
    other = _cache(world)

    class Slow:
        """While it fetches, another replica is done."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.registry, name)

        def fetch(self, model: Any, folder: Path) -> Any:
            other.obtain(version)
            return world.registry.fetch(model, folder)

    assert _cache(world, Slow()).obtain(version).estimator.shift == 1.0
    assert [path.name for path in _place(world, version).parent.iterdir()] == [version.model.digest]
