"""`scripts/set_up.py`, with the commands it runs recorded rather than run."""

import importlib.util
import subprocess
import sys

import pytest

from perennial_demo.home import REPOSITORY


@pytest.fixture
def set_up(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("set_up", REPOSITORY / "scripts" / "set_up.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("uv==1.2.3 \\\n    --hash=sha256:00\n")
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "perennial-set-up")
    module.made, module.called = [], []

    def create(path, **_options):
        module.made.append(path)
        (tmp_path / ".venv").mkdir(exist_ok=True)

    monkeypatch.setattr(module.venv, "create", create)
    monkeypatch.setattr(module, "call", lambda *command: module.called.append(command))
    monkeypatch.setattr(module, "works", lambda *command: bool(module.made) and not command[0].endswith("uv"))
    return module


def test_first_set_up_makes_the_environment_and_installs_the_locked_uv(set_up):
    assert set_up.main("run") == 0
    assert len(set_up.made) == 1
    assert set_up.called[0][-1] == "uv==1.2.3"
    assert [command[2] for command in set_up.called[1:]] == ["sync", "install"]


def test_nothing_changed_does_nothing(set_up):
    set_up.main("run")
    set_up.called.clear()
    assert set_up.main("run") == 0
    assert set_up.called == []


def test_environment_for_tests_is_enough_for_the_demo_but_not_the_reverse(set_up):
    set_up.main("dev")
    set_up.called.clear()
    set_up.main("run")
    assert set_up.called == []
    set_up.install("run")
    set_up.called.clear()
    set_up.main("dev")
    assert "requirements-dev.txt" in set_up.called[1]


def test_changed_lock_file_is_installed_into_the_same_environment(set_up, tmp_path):
    set_up.main("run")
    set_up.called.clear()
    (tmp_path / "requirements.txt").write_text("uv==1.2.4\n")
    set_up.main("run")
    assert [command[2] for command in set_up.called[1:]] == ["sync", "install"]
    assert len(set_up.made) == 1


def test_interrupted_set_up_is_made_again_from_scratch(set_up, monkeypatch):
    def interrupted(*_command):
        raise KeyboardInterrupt

    set_up.main("run")
    with monkeypatch.context() as patch:
        patch.setattr(set_up, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            set_up.install("run")
    set_up.main("run")
    assert len(set_up.made) == 2


def test_command_that_fails_is_named(set_up, monkeypatch, capsys):
    def failing(*command):
        raise subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(set_up, "call", failing)
    assert set_up.main("run") == 1
    assert "uv==1.2.3 ended with exit code 2" in capsys.readouterr().err


@pytest.mark.parametrize("version", [(3, 10, 1), (3, 14, 0)])
def test_python_that_is_not_supported_is_named_with_what_is(set_up, monkeypatch, capsys, version):
    monkeypatch.setattr(sys, "version_info", version)
    assert set_up.main("run") == 1
    message = capsys.readouterr().err
    assert f"is Python {version[0]}.{version[1]}; 3.11, 3.12 or 3.13 is needed" in message
    assert "PYTHON=" in message
    assert set_up.made == []
