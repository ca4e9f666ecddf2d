"""Limits and times from the environment, and what `perennial serve` makes of its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from perennial.errors import TerminalError
from perennial.serving.settings import ServingSettings
from tests.unit.core.command import Shell, a_world
from tests.unit.core.world import SPEC, World


def test_environment_sets_each_field_in_its_own_type_and_arguments_count_more() -> None:
    values = {"PERENNIAL_SCORING_PORT": "9000", "PERENNIAL_SCORING_POLL_INTERVAL_S": "0.5", "OTHER": "x"}
    settings = ServingSettings.from_environment(values, port=None, host="0.0.0.0")  # noqa: S104 - not listened at
    assert (settings.port, settings.poll_interval_s, settings.host) == (9000, 0.5, "0.0.0.0")  # noqa: S104
    assert ServingSettings.from_environment(values, port=1).port == 1


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORTT", "1", "PERENNIAL_SCORING_PORT,"),
        ("PORT", "http", "expected a number"),
        ("PORT", "70000", "at most 65535"),
        ("POLL_INTERVAL_S", "0", "at least 0.001"),
        ("MAX_QUEUE_ROWS", "-1", "at least"),
        ("REQUEST_TIMEOUT_S", "nan", "at least"),
        ("DRAIN_S", "inf", "at least 0"),
    ],
)
def test_setting_that_is_wrong_is_named_with_what_is_allowed(name: str, value: str, words: str) -> None:
    with pytest.raises(TerminalError, match=words):
        ServingSettings.from_environment({f"PERENNIAL_SCORING_{name}": value})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return a_world(tmp_path, monkeypatch)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `serve` was called with, instead of serving."""
    calls: list[dict[str, Any]] = []

    def serve(names: list[str], **arguments: Any) -> None:
        calls.append({"names": names, **arguments})

    monkeypatch.setattr("perennial.serving.server.serve", serve)
    return calls


def _spec(world: World, name: str, **changes: Any) -> None:
    spec = {**SPEC, "name": name, **changes}
    (world.specs / f"{name}.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")


def test_all_models_that_are_deployed_to_the_service_are_served(
    world: World, capsys: pytest.CaptureFixture[str], served: list[dict[str, Any]]
) -> None:
    _spec(world, "one", deployment={"kind": "scoring_service", "log": {"percent": 10.0}})
    _spec(world, "two", deployment={"kind": "scoring_service", "log": None})
    _spec(world, "toy", deployment=None)
    assert Shell(capsys)("serve", "--port", "0", "--default", "two")[0] == 0
    (call,) = served
    assert call["names"] == ["one", "two"]
    assert (call["settings"].port, call["settings"].default_model) == (0, "two")
    assert (call["policies"]["one"].percent, call["policies"]["two"]) == (10.0, None)
    assert call["root"] == world.runtime.root


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["toy"], "no deployment of kind scoring_service"),
        (["nope"], "no spec for model 'nope'"),
        (["one", "--default", "two"], "none of those served: one"),
    ],
)
def test_model_that_cannot_be_served_is_wrong_usage(
    world: World,
    capsys: pytest.CaptureFixture[str],
    served: list[dict[str, Any]],
    arguments: list[str],
    words: str,
) -> None:
    _spec(world, "one", deployment={"kind": "scoring_service"})
    _spec(world, "toy", deployment=None)
    code, _, err = Shell(capsys)("serve", *arguments)
    assert code == 2
    assert words in err
    assert served == []
