"""One version that serves whatever the alias and the traffic plan say, as in SageMaker's and KServe's containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from perennial.domain.traffic import Role
from perennial.errors import ChampionUnusableError, NotFoundError, PerennialError
from perennial.serving.cache import ModelCache
from perennial.serving.host import ModelHost
from perennial.serving.server import serve
from perennial.serving.watcher import Watcher
from tests.unit.core.command import Shell, a_world
from tests.unit.core.serving.served import MODEL, ROOT, ROW, Adding, ServedWorld, client, ready, split
from tests.unit.core.serving.test_cache import Down
from tests.unit.core.world import SPEC, World


@pytest.fixture
def served_world(tmp_path: Path) -> ServedWorld:
    return ServedWorld(tmp_path)


def _watcher(world: ServedWorld, version: str, registry: Any = None) -> Watcher:
    registry = registry or world.registry
    return Watcher(
        registry=registry,
        store=world.store,
        root=ROOT,
        clock=world.clock,
        cache=ModelCache(world.folder / version, registry, keep=1),
        metrics=world.metrics,
        version=version,
    )


def _host(world: ServedWorld, version: str, registry: Any = None) -> ModelHost:
    return ModelHost((MODEL,), _watcher(world, version, registry), world.settings, world.clock, world.metrics)


async def _asked(world: ServedWorld, host: ModelHost) -> httpx.Response:
    async with client(world, host) as http:
        return await http.post("/invocations", json=split(ROW))


@pytest.mark.asyncio
async def test_pinned_version_serves_whatever_alias_and_plan_say(served_world: ServedWorld) -> None:
    pinned = served_world.add_version(Adding(10.0))
    other = served_world.promote(Adding(1.0))
    served_world.plan(other, Role.CANARY, 100.0)
    host = _host(served_world, pinned)
    served = await ready(host)
    served_world.promote(Adding(2.0))
    await host.refresh(served)
    answer = await _asked(served_world, host)
    assert (answer.json(), answer.headers["x-perennial-version"]) == ({"predictions": [12.5]}, pinned)
    assert [(row.version, row.role) for row in served_world.log.requests] == [(pinned, Role.CHAMPION)]
    assert served.challenger is None


@pytest.mark.asyncio
async def test_pinned_version_is_asked_for_until_it_is_loaded_and_ping_says_so(served_world: ServedWorld) -> None:
    version = served_world.add_version(Adding(10.0))
    host = _host(served_world, version, Down(served_world.registry))
    async with client(served_world, host) as http:
        served = await ready(host)
        answer = await http.get("/ping")
        assert answer.status_code == 503
        assert "could not version: MLflow did not answer" in answer.text
        host._watcher.registry = served_world.registry
        host._watcher.cache = ModelCache(served_world.folder / version, served_world.registry, keep=1)
        await host.refresh(served)
        assert (await http.get("/ping")).status_code == 200


@pytest.mark.asyncio
async def test_pinned_version_starts_from_the_cache_when_mlflow_is_down(served_world: ServedWorld) -> None:
    version = served_world.add_version(Adding(10.0))
    await ready(_host(served_world, version))
    host = _host(served_world, version, Down(served_world.registry))
    host._watcher.require_version(MODEL)
    await ready(host)
    assert (await _asked(served_world, host)).json() == {"predictions": [12.5]}


@pytest.mark.asyncio
async def test_pinned_version_that_is_corrupt_is_not_replaced_by_another(served_world: ServedWorld) -> None:
    served_world.promote(Adding(1.0))
    version = served_world.add_version(Adding(10.0))
    served_world.registry.corrupt(served_world.registry.version(MODEL, version).model.model_uri)
    host = _host(served_world, version)
    await ready(host)
    assert "was changed" in host.unhealthy()
    assert (await _asked(served_world, host)).status_code == 503


@pytest.mark.parametrize("fault", ["missing", "by_hand"])
def test_version_that_cannot_be_pinned_ends_the_start(served_world: ServedWorld, tmp_path: Path, fault: str) -> None:
    served_world.promote(Adding(1.0))
    version = "7" if fault == "missing" else served_world.registry.register_by_hand(MODEL)
    kind: type[PerennialError] = NotFoundError if fault == "missing" else ChampionUnusableError
    from perennial.serving.settings import ServingSettings

    with pytest.raises(kind, match=version):
        serve(
            [MODEL],
            registry=served_world.registry,
            store=served_world.store,
            root=ROOT,
            clock=served_world.clock,
            home=tmp_path / "home",
            settings=ServingSettings(version=version, port=0),
            policies={},
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = a_world(tmp_path, monkeypatch)
    for name in ("one", "two"):
        spec = {**SPEC, "name": name, "deployment": {"kind": "kserve", "image": "registry.example/perennial:1"}}
        (world.specs / f"{name}.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return world


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `serve` was called with, instead of serving."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("perennial.serving.server.serve", lambda names, **more: calls.append({"names": names, **more}))
    return calls


@pytest.mark.parametrize(
    ("arguments", "environment", "wanted"),
    [
        (("one", "--version", "3"), {}, ("one", "3")),
        ((), {"MODEL": "two", "VERSION": "4"}, ("two", "4")),
        (("one", "--version", "3"), {"MODEL": "two", "VERSION": "4"}, ("one", "3")),
    ],
)
def test_version_comes_from_the_command_line_or_the_environment(
    world: World,
    called: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    wanted: tuple[str, str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"PERENNIAL_SCORING_{name}", value)
    assert Shell(capsys)("serve", *arguments)[0] == 0
    (call,) = called
    assert (call["names"], call["settings"].version) == ([wanted[0]], wanted[1])
    assert list(call["policies"]) == [wanted[0]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--version", "3"), "of which model? Name one (given: none)"),
        (("one", "two", "--version", "3"), "(given: one, two)"),
        (("one", "--version", "v3"), "'v3'; versions are whole numbers"),
        (("nope", "--version", "3"), "no spec for model 'nope'"),
    ],
)
def test_version_of_no_model_or_of_several_is_wrong_usage(
    world: World,
    called: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    code, _, err = Shell(capsys)("serve", *arguments)
    assert (code, called) == (2, [])
    assert words in err
