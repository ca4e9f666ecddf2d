from __future__ import annotations

import json
import os
import subprocess
import sys

import jsonschema
import pytest

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
