from __future__ import annotations

import logging
import os
import sys
import urllib.request
from pathlib import Path

import pytest

from perennial.settings import load_settings, no_proxy

DEMO = {
    "PERENNIAL_SPECS": "/demo/models",
    "PERENNIAL_STORE": "s3://perennial/store",
    "PERENNIAL_AIRFLOW_URL": "http://127.0.0.1:8081",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9001",
    "AWS_ACCESS_KEY_ID": "DEMO",
    "AWS_SECRET_ACCESS_KEY": "demo-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
}
COMPANY = {
    "AWS_ENDPOINT_URL": "https://s3.company.example",
    "AWS_ACCESS_KEY_ID": "COMPANY",
    "AWS_SECRET_ACCESS_KEY": "company-secret",
    "AWS_SESSION_TOKEN": "company-token",
    "AWS_PROFILE": "work",
    "MLFLOW_TRACKING_URI": "https://mlflow.company.example",
    "MLFLOW_TRACKING_TOKEN": "company-mlflow",
    "MLFLOW_REGISTRY_URI": "https://registry.company.example",
    "PERENNIAL_STORE": "s3://company/store",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With a demo's environment file."""
    write(tmp_path, DEMO)
    return tmp_path


@pytest.fixture
def process_environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process's environment, put back afterwards whatever the code under test does to it."""
    before = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_", "PERENNIAL_"))}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for key in [key for key in os.environ if key not in before]:
        del os.environ[key]
    return monkeypatch


def write(home: Path, values: dict[str, str]) -> None:
    lines = ["# written by a test", *(f"{key}={value}" for key, value in values.items())]
    (home / "environment").write_text("\n".join(lines), encoding="utf-8")


def test_nothing_set_gives_the_documented_defaults(tmp_path: Path) -> None:
    settings = load_settings({"PERENNIAL_HOME": str(tmp_path)})
    assert settings.store == "s3://perennial/store"
    assert settings.s3_endpoint is None
    assert settings.mlflow_tracking_uri == "http://127.0.0.1:5000"
    assert settings.airflow_url == "http://127.0.0.1:8080"
    assert settings.specs == Path("include/models").resolve()


def test_without_a_demo_the_environment_counts(tmp_path: Path) -> None:
    settings = load_settings({**COMPANY, "PERENNIAL_HOME": str(tmp_path)})
    assert settings.store == "s3://company/store"
    assert settings.s3_endpoint == "https://s3.company.example"
    assert settings.mlflow_tracking_uri == "https://mlflow.company.example"


def test_models_are_tried_out_in_this_interpreter_unless_another_is_named(tmp_path: Path) -> None:
    here = load_settings({"PERENNIAL_HOME": str(tmp_path)})
    there = load_settings({"PERENNIAL_HOME": str(tmp_path), "PERENNIAL_SMOKE_TEST_PYTHON": "/image/bin/python"})
    assert (here.smoke_test_python, there.smoke_test_python) == (sys.executable, "/image/bin/python")


def test_demo_wins_over_what_the_shell_exports_for_other_servers(home: Path) -> None:
    settings = load_settings({**COMPANY, "PERENNIAL_HOME": str(home)})
    assert settings.store == "s3://perennial/store"
    assert settings.s3_endpoint == "http://127.0.0.1:9001"
    assert settings.mlflow_tracking_uri == "http://127.0.0.1:5001"
    assert settings.airflow_url == "http://127.0.0.1:8081"


def test_specs_folder_is_the_users_own(home: Path) -> None:
    given = {"PERENNIAL_HOME": str(home)}
    assert load_settings(given).specs == Path("/demo/models")
    assert load_settings({**given, "PERENNIAL_SPECS": "/mine"}).specs == Path("/mine")
    assert load_settings({**given, "PERENNIAL_SPECS": ""}).specs == Path("/demo/models")


def test_switch_leaves_the_demo_alone(home: Path) -> None:
    settings = load_settings({**COMPANY, "PERENNIAL_HOME": str(home), "PERENNIAL_USE_DEMO": "0"})
    assert settings.s3_endpoint == "https://s3.company.example"
    assert settings.mlflow_tracking_uri == "https://mlflow.company.example"
    assert settings.specs == Path("include/models").resolve()


def test_group_that_the_file_says_nothing_of_stays_the_users(tmp_path: Path) -> None:
    write(tmp_path, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5001"})
    settings = load_settings({**COMPANY, "PERENNIAL_HOME": str(tmp_path)})
    assert settings.s3_endpoint == "https://s3.company.example"
    assert settings.mlflow_tracking_uri == "http://127.0.0.1:5001"


def test_libraries_see_the_demo_whole_and_nothing_else(home: Path, process_environ: pytest.MonkeyPatch) -> None:
    neutral = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "AWS_CA_BUNDLE": "/etc/ca.pem"}
    os.environ.update({**COMPANY, **neutral, "PERENNIAL_HOME": str(home)})
    load_settings()
    seen = {key: value for key, value in os.environ.items() if key.startswith(("AWS_", "MLFLOW_"))}
    expected = {key: value for key, value in DEMO.items() if key.startswith(("AWS_", "MLFLOW_"))}
    assert seen == {**expected, **neutral}


def test_what_the_demo_replaces_is_told_once_by_name_only(
    home: Path, process_environ: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    os.environ.update({**COMPANY, "PERENNIAL_HOME": str(home)})
    with caplog.at_level(logging.WARNING):
        load_settings()
        load_settings()
    [record] = caplog.records
    assert "AWS_PROFILE" in record.getMessage()
    assert "PERENNIAL_USE_DEMO=0" in record.getMessage()
    assert not [value for value in ("company-secret", "company-token", "company-mlflow") if value in caplog.text]


def test_process_without_a_demo_is_left_as_it_is(tmp_path: Path, process_environ: pytest.MonkeyPatch) -> None:
    os.environ.update({**COMPANY, "PERENNIAL_HOME": str(tmp_path), "NO_PROXY": "corp"})
    before = dict(os.environ)
    load_settings()
    assert dict(os.environ) == before


def test_demo_is_reached_without_the_shells_proxy(home: Path, process_environ: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        os.environ[name] = "http://proxy.company.example:3128"
    os.environ.update({"PERENNIAL_HOME": str(home), "NO_PROXY": "corp.example", "no_proxy": ""})
    assert not urllib.request.proxy_bypass_environment("127.0.0.1:9001")  # type: ignore[attr-defined]
    load_settings()
    assert urllib.request.proxy_bypass_environment("127.0.0.1:9001")  # type: ignore[attr-defined]
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "corp.example,127.0.0.1,localhost"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "corp", "no_proxy": "lab, corp"}, "corp,lab,127.0.0.1,localhost"),
        ({"no_proxy": "127.0.0.1,localhost"}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_loopback_joins_what_the_user_has(environ: dict[str, str], expected: str) -> None:
    assert no_proxy(environ) == expected
