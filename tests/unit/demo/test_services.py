"""Which services there are, as the specs have it."""

import shutil

import pytest
import yaml

from perennial_demo.home import REPOSITORY, Home
from perennial_demo.ports import Ports
from perennial_demo.services import make_plan
from perennial_demo.stack import STOPPED_FIRST, Stack


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def specs(tmp_path):
    """A copy of the shipped specs that a test may change."""
    return shutil.copytree(REPOSITORY / "include" / "models", tmp_path / "models")


def scoring(home, specs, ports=None):
    plan = make_plan(home, ports or Ports(), {"PERENNIAL_SPECS": str(specs)})
    return next((service for service in plan.services if service.name == "scoring"), None)


def change(path, **fields):
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))


def test_scoring_service_serves_the_models_that_ask_for_it(home, specs):
    service = scoring(home, specs, Ports(scoring=8001))
    assert service.command[1:] == ("serve", "flights_delay", "--port", "8001")
    assert service.port == ("scoring", 8001)
    assert not service.needs_airflow_database
    assert Stack(home, Ports(scoring=8001), {}).scoring_url == "http://127.0.0.1:8001"


def test_scoring_service_ends_while_the_store_still_takes_its_log():
    assert "scoring" in STOPPED_FIRST
    assert not {"s3", "mlflow"} & STOPPED_FIRST


def test_broken_spec_does_not_keep_the_others_from_being_served(home, specs):
    (specs / "broken.yaml").write_text("name: broken")
    assert "broken" not in scoring(home, specs).command


def test_without_a_model_that_asks_for_it_there_is_no_scoring_service(home, specs):
    change(specs / "flights_delay.yaml", deployment=None)
    assert scoring(home, specs) is None
    assert Stack(home, Ports(), {"PERENNIAL_SPECS": str(specs)}).scoring_url is None


def test_scoring_service_is_another_one_if_what_it_logs_changes_and_not_for_a_canarys_sake(home, specs):
    path = specs / "flights_delay.yaml"
    make_plan(home, Ports(), {}).write()
    before = scoring(home, specs).fingerprint
    change(path, deployment={"kind": "scoring_service"})
    assert scoring(home, specs).fingerprint == before
    change(path, deployment={"kind": "scoring_service", "log": {"exclude": ["carrier"]}})
    assert scoring(home, specs).fingerprint != before
