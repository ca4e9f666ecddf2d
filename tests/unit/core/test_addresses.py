from __future__ import annotations

import pytest

from perennial.addresses import page_address, retrain_dag_id, rollback_dag_id, run_address, version_address

ROOT = "s3://bucket/store"
AIRFLOW = "https://airflow.example/base"


def _address(uri: str, airflow_url: str = AIRFLOW) -> str:
    return page_address(uri, root=ROOT, model="toy", airflow_url=airflow_url)


def test_dags_are_named_after_the_model() -> None:
    assert (retrain_dag_id("toy"), rollback_dag_id("toy")) == ("perennial__toy__retrain", "perennial__toy__rollback")


@pytest.mark.parametrize("kind", ["validations", "decisions", "rollouts"])
@pytest.mark.parametrize("base", [AIRFLOW, f"{AIRFLOW}/"])
def test_page_of_the_model_has_an_address_in_airflow(kind: str, base: str) -> None:
    expected = f"{AIRFLOW}/perennial/ui/perennial__toy__retrain/{kind}/abc/page.html"
    assert _address(f"{ROOT}/{kind}/toy/abc/page.html", base) == expected


@pytest.mark.parametrize(
    "uri",
    ["", f"{ROOT}/decisions/other/a/page.html", f"{ROOT}/quarantine/toy/x", "s3://else/decisions/toy/a/page.html"],
)
def test_anything_else_has_none(uri: str) -> None:
    assert _address(uri) == ""


@pytest.mark.parametrize("airflow_url", ["", "/", "javascript:alert(1)"])
def test_without_airflows_address_there_is_none(airflow_url: str) -> None:
    assert _address(f"{ROOT}/decisions/toy/abc/page.html", airflow_url) == ""


def test_run_has_an_address_if_airflows_is_known() -> None:
    run = "manual__2026-01-01T00:00:00+00:00_a b"
    assert run_address("dag", run, airflow_url=f"{AIRFLOW}/") == (
        f"{AIRFLOW}/dags/dag/runs/manual__2026-01-01T00:00:00+00:00_a%20b"
    )
    assert run_address("dag", run, airflow_url="") == ""


def test_version_has_an_address_without_credentials_if_mlflow_is_reached_by_http() -> None:
    assert version_address("toy", "3", mlflow_url="https://ada:pw@mlflow.example/x/") == (
        "https://mlflow.example/x/#/models/toy/versions/3"
    )
    assert version_address("toy", "3", mlflow_url="sqlite:///mlflow.db") == ""


def test_folder_names_are_quoted() -> None:
    assert _address(f"{ROOT}/decisions/toy/a b?c/page.html").endswith("/decisions/a%20b%3Fc/page.html")
