from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from perennial_airflow.links import (
    DecisionLink,
    MlflowRunLink,
    MlflowVersionLink,
    RolloutLink,
    ValidationReportLink,
    page_url,
)

pytestmark = pytest.mark.airflow
ROOT = "s3://bucket/store"
KEY = SimpleNamespace(dag_id="perennial__toy__retrain", task_id="decide", run_id="r", map_index=-1)


def test_link_gives_what_the_operator_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = {"decision_url": "http://airflow.example/page.html"}
    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom.get_value", lambda *, ti_key, key: pushed.get(key))
    assert DecisionLink().get_link(None, ti_key=KEY) == "http://airflow.example/page.html"
    assert MlflowRunLink().get_link(None, ti_key=KEY) == ""


def test_links_have_names_for_people_and_keys_of_their_own() -> None:
    links: list[Any] = [ValidationReportLink(), DecisionLink(), RolloutLink(), MlflowRunLink(), MlflowVersionLink()]
    names = ["Validation report", "Decision", "Rollout", "MLflow run", "Version in MLflow"]
    assert [link.name for link in links] == names
    assert len({link.xcom_key for link in links}) == len({link.key for link in links}) == len(links)


@pytest.mark.parametrize("kind", ["validations", "decisions", "rollouts"])
def test_page_of_the_model_has_an_address_in_airflow(kind: str) -> None:
    url = page_url(f"{ROOT}/{kind}/toy/abc/page.html", root=ROOT, model="toy")
    assert url == f"http://airflow.example/perennial/ui/perennial__toy__retrain/{kind}/abc/page.html"


@pytest.mark.parametrize(
    "uri",
    ["", f"{ROOT}/decisions/other/abc/page.html", f"{ROOT}/quarantine/toy/x", "s3://else/decisions/toy/a/page.html"],
)
def test_anything_else_has_none(uri: str) -> None:
    assert page_url(uri, root=ROOT, model="toy") == ""
