from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

from perennial_airflow import plugin
from perennial_airflow.get_provider_info import get_provider_info
from tests.airflow_home import REPOSITORY

pytestmark = pytest.mark.airflow
LOADED = """
import json, sys
from airflow.plugins_manager import _get_plugins, get_fastapi_plugins
plugins, errors = _get_plugins()
before = sorted(sys.modules)
apps = get_fastapi_plugins()[0]
print(json.dumps({"names": [p.name for p in plugins], "errors": errors, "before": before,
                  "prefixes": [app["url_prefix"] for app in apps]}))
"""


def test_airflow_finds_one_plugin_and_runs_no_other_file() -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "include"), str(REPOSITORY / "plugins")])}
    done = subprocess.run([sys.executable, "-c", LOADED], env=environ, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert [name for name in found["names"] if "perennial" in name] == ["perennial"]
    assert found["errors"] == {}
    assert found["prefixes"].count("/perennial") == 1
    # A file of the package run as a plugin would be there under its bare name, and mlflow.py would hide MLflow.
    assert not {"mlflow", "dag_factory", "bundle", "hooks", "perennial_airflow.ui.pages"} & set(found["before"])


REGISTERED = EntryPoint("perennial", "perennial_airflow.plugin:PerennialPlugin", "airflow.plugins")
OTHER = EntryPoint("perennial", "perennial.cli:main", "console_scripts")


@pytest.mark.parametrize(("entry_points", "by_file"), [([OTHER, REGISTERED], False), ([OTHER], True), (None, True)])
def test_plugin_comes_from_the_package_or_from_the_folder_never_from_both(
    monkeypatch: pytest.MonkeyPatch, entry_points: list[EntryPoint] | None, by_file: bool
) -> None:
    def distribution(_name: str) -> SimpleNamespace:
        if entry_points is None:
            raise PackageNotFoundError
        return SimpleNamespace(entry_points=entry_points)

    monkeypatch.setattr(plugin, "distribution", distribution)
    found = runpy.run_path(str(REPOSITORY / "plugins" / "perennial_plugin.py"))
    assert (plugin.PerennialPlugin in found.values()) is by_file


FROM_WHEEL = """
from importlib.metadata import distribution
import perennial_airflow
[entry] = [e for e in distribution("perennial").entry_points if e.group == "airflow.plugins"]
found = entry.load()
print(found.name, [app["url_prefix"] for app in found.fastapi_apps], perennial_airflow.__file__)
"""


def test_wheel_brings_the_pages_along(tmp_path: Path) -> None:
    build = [str(Path(sys.executable).parent / "uv"), "build", "--quiet", "--wheel", "--no-build-isolation"]
    command = [*build, "--python", sys.executable, "--out-dir", str(tmp_path), str(REPOSITORY)]
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run([sys.executable, "-c", FROM_WHEEL], env=environ, capture_output=True, text=True, check=True)
    name, prefixes, path = done.stdout.strip().splitlines()[-1].split()
    assert (name, prefixes) == ("perennial", "['/perennial']")
    assert path.startswith(str(tmp_path))


def test_provider_info_fits_airflows_schema() -> None:
    import airflow

    schema = os.path.join(os.path.dirname(airflow.__file__), "provider_info.schema.json")
    with open(schema, encoding="utf-8") as file:
        jsonschema.validate(get_provider_info(), json.load(file))


def test_everything_the_provider_names_exists() -> None:
    from importlib import import_module

    info = get_provider_info()
    modules = [name for kind in ("operators", "sensors", "hooks", "triggers", "bundles") for name in info[kind]]
    for name in [name for entry in modules for name in entry["python-modules"]]:
        import_module(name)
    classes = [*info["extra-links"], *(entry["hook-class-name"] for entry in info["connection-types"])]
    for path in classes:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name)


def test_preload_imports_everything_it_names_and_starts_no_thread() -> None:
    code = (
        "import threading\nfrom perennial_airflow.preload import preload\nfailed = preload()\n"
        "print([failed, [t.name for t in threading.enumerate()]])"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "include"), str(REPOSITORY / "plugins")])}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[[], ['MainThread']]"
