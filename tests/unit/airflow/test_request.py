from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from perennial.errors import RequestError
from perennial_airflow.request import run_request
from tests.unit.airflow.conftest import DUE, make_context

pytestmark = pytest.mark.airflow


def test_form_left_empty_asks_for_the_time_the_run_was_due() -> None:
    request = run_request("toy", make_context(params={"reason": "", "as_of": None, "force": False, "params": {}}))
    assert request.as_of == DUE
    assert request.trigger == "manual"
    assert request.requested_by == "ada"
    assert request.run_id == "manual__1"


def test_form_wins_over_conf() -> None:
    params = {"reason": "form", "as_of": "2013-07-01T00:00:00+02:00", "force": True, "params": {"depth": 4}}
    request = run_request("toy", make_context(params=params, conf={"reason": "conf", "as_of": "2012-01-01"}))
    assert (request.reason, request.force, request.params) == ("form", True, {"depth": 4})
    assert request.as_of == datetime(2013, 6, 30, 22, tzinfo=UTC)


def test_conf_counts_where_the_form_is_empty() -> None:
    conf = {"as_of": "2013-07-01", "force": True, "params": {"depth": 5}}
    request = run_request("toy", make_context(params={"as_of": None, "force": False, "params": {}}, conf=conf))
    assert request.as_of == datetime(2013, 7, 1, tzinfo=UTC)
    assert request.force
    assert request.params == {"depth": 5}


@pytest.mark.parametrize("conf", [{"asof": "2013-07-01"}, {"as_of": "2013-07-01", "Force": True}])
def test_key_that_is_not_known_is_refused_with_those_that_are(conf: dict[str, object]) -> None:
    with pytest.raises(
        RequestError, match=r"conf has (asof|Force), .* may have reason, as_of, force, params, break_glass"
    ):
        run_request("toy", make_context(conf=conf))


def test_alert_in_conf_is_left_alone() -> None:
    assert run_request("toy", make_context(conf={"alert": {"id": "a"}})).as_of == DUE


def test_same_run_asked_twice_gives_the_same_request() -> None:
    context = make_context()
    assert run_request("toy", context) == run_request("toy", context)


@pytest.mark.parametrize(
    ("run", "trigger"),
    [
        ({"run_type": "scheduled", "run_id": "scheduled__1"}, "schedule"),
        ({"run_type": "backfill", "run_id": "backfill__1"}, "schedule"),
        ({"run_type": "asset_triggered", "run_id": "asset_triggered__1"}, "new_data"),
        ({"run_type": "manual", "run_id": "drift__abc"}, "drift"),
        ({"run_type": "operator_triggered", "run_id": "x"}, "manual"),
    ],
)
def test_kind_of_run_names_the_trigger(run: dict[str, str], trigger: str) -> None:
    assert run_request("toy", make_context(**run)).trigger == trigger


def test_new_data_gives_its_own_reason() -> None:
    event = SimpleNamespace(extra={"from_trigger": True, "payload": {"why": "3 objects"}})
    request = run_request("toy", make_context(run_type="asset_triggered", consumed_asset_events=[event]))
    assert request.reason == "3 objects"


@pytest.mark.parametrize(
    ("conf", "named"),
    [({"as_of": "soon"}, "as_of"), ({"force": "yes"}, "force"), ({"params": [1]}, "params"), ({"reason": 7}, "reason")],
)
def test_value_of_the_wrong_kind_is_refused_by_name(conf: dict[str, object], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        run_request("toy", make_context(conf=conf))


def test_form_left_empty_asks_for_nothing() -> None:
    empty = {"reason": None, "as_of": None, "force": False, "params": {}}
    request = run_request("toy", make_context(params=empty, conf=empty))
    assert (request.reason, request.force, dict(request.params)) == ("", False, {})


def test_break_glass_takes_the_reason_and_judges_again() -> None:
    request = run_request("toy", make_context(params={"break_glass": " the old one is down "}))
    assert (request.break_glass, request.force, request.requested_by) == ("the old one is down", True, "ada")


@pytest.mark.parametrize("where", ["params", "conf"])
def test_break_glass_without_a_reason_is_refused(where: str) -> None:
    with pytest.raises(RequestError, match="break_glass is blank"):
        run_request("toy", make_context(**{where: {"break_glass": "  "}}))


def test_break_glass_left_empty_overrides_nothing() -> None:
    request = run_request("toy", make_context(params={"break_glass": None}, conf={"break_glass": ""}))
    assert (request.break_glass, request.force) == ("", False)
