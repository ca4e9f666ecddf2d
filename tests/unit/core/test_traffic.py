"""Traffic plans: who answers which key, for how long, and what is no plan."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.traffic import CLOCK_SKEW, MAX_LIFETIME, Role, TrafficPlan, bucket, plan_uri, role_for

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
VALID: dict[str, Any] = {
    "model": "churn",
    "challenger": "7",
    "role": "canary",
    "share": 25,
    "rollout_id": "manual__2026-11-21",
    "issued_at": "2026-11-21T12:00:00Z",
    "expires_at": "2026-11-21T12:05:00Z",
}


def plan(**changes: Any) -> TrafficPlan:
    return TrafficPlan.from_dict({**VALID, **changes})


def test_plan_survives_json() -> None:
    assert TrafficPlan.from_dict(json.loads(json.dumps(plan().to_dict()))) == plan()
    assert plan_uri("s3://b/store", "churn") == "s3://b/store/traffic/churn.json"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"role": "champion"}, "canary or shadow"),
        ({"role": "king"}, "canary or shadow, got 'king'"),
        ({"share": 101}, r"\[0, 100\] percent, got 101"),
        ({"share": -1}, r"\[0, 100\]"),
        ({"share": math.nan}, r"\[0, 100\]"),
        ({"share": "5"}, r"\[0, 100\]"),
        ({"share": True}, r"\[0, 100\]"),
        ({"rollout_id": ""}, "rollout_id must be a text"),
        ({"challenger": 7}, "challenger must be a text"),
        ({"issued_at": 5}, "issued_at must be an ISO 8601 time, got 5"),
        ({"expires_at": "soon"}, "expires_at must be an ISO 8601 time, got 'soon'"),
        ({"expires_at": "2026-11-21T12:00:00Z"}, "must expire"),
        ({"expires_at": "2026-11-21T13:00:01Z"}, "must expire 0 to 1:00:00 after issued_at, got 1:00:01"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_plan_with_a_mistake_is_refused_by_name(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        plan(**changes)


@pytest.mark.parametrize("content", [None, [], "x", 5, {}, {**VALID, "role": {}}, {**VALID, "issued_at": None}])
def test_json_that_is_no_plan_raises_value_error_only(content: Any) -> None:
    with pytest.raises(ValueError, match="traffic plan"):
        TrafficPlan.from_dict(content)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
    | st.fixed_dictionaries(
        {name: st.none() | st.booleans() | st.floats() | st.text() | st.just(VALID[name]) for name in VALID}
    )
)
def test_any_json_is_a_plan_or_a_value_error(content: Any) -> None:
    try:
        found = TrafficPlan.from_dict(content)
    except ValueError:
        return
    assert 0 <= found.share <= 100
    assert found.expires_at - found.issued_at <= MAX_LIFETIME


@pytest.mark.parametrize(
    ("seconds", "live"), [(-61, False), (-60, True), (0, True), (299.9, True), (300, False), (86400, False)]
)
def test_plan_is_live_from_its_issue_less_the_skew_until_it_expires(seconds: float, live: bool) -> None:
    assert plan().is_live(NOW + timedelta(seconds=seconds)) is live


def test_plan_of_a_clock_years_ahead_is_never_live_before_its_time() -> None:
    assert not plan(issued_at="2030-01-01T00:00:00Z", expires_at="2030-01-01T00:30:00Z").is_live(NOW)
    assert CLOCK_SKEW < MAX_LIFETIME


def test_bucket_is_what_the_docstring_says() -> None:
    """Written down, so that no change of the code moves keys in the middle of somebody's canary."""
    assert bucket("run-1", "customer-1") == pytest.approx(23.161069932096122, abs=1e-12)
    assert bucket("1", "1:a") != bucket("11", ":a")


def test_bucket_is_the_same_in_another_process() -> None:
    code = "from perennial.domain.traffic import bucket; print(repr([bucket('s', str(k)) for k in range(50)]))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == repr([bucket("s", str(key)) for key in range(50)])


@given(st.text(), st.text())
def test_bucket_of_any_text_is_within_0_and_100(salt: str, key: str) -> None:
    assert 0 <= bucket(salt, key) < 100
    assert bucket(salt, "\ud800" + key) < 100


def test_buckets_are_spread_evenly_and_salts_are_independent() -> None:
    keys = [f"customer-{number}" for number in range(20_000)]
    first, second = ([bucket(salt, key) for key in keys] for salt in ("run-1", "run-2"))
    for low in range(0, 100, 10):
        # 4.7 standard deviations of a binomial count
        assert sum(low <= value < low + 10 for value in first) == pytest.approx(2000, abs=200)
    both = sum(a < 25 and b < 25 for a, b in zip(first, second, strict=True))
    assert both == pytest.approx(1250, abs=160)


@given(st.text(), st.lists(st.floats(0, 100), min_size=2, max_size=2).map(sorted))
def test_growing_share_keeps_every_key_that_was_in(key: str, shares: list[float]) -> None:
    smaller, larger = (role_for(plan(share=share), key, NOW) for share in shares)
    assert smaller is Role.CHAMPION or larger is Role.CANARY


@pytest.mark.parametrize("key", ["", "a", "\ud800", "x" * 10_000])
def test_shares_0_and_100_take_nobody_and_everybody(key: str) -> None:
    assert role_for(plan(share=0), key, NOW) is Role.CHAMPION
    assert role_for(plan(share=100), key, NOW) is Role.CANARY
    assert role_for(plan(share=100, role="shadow"), key, NOW) is Role.SHADOW


def test_key_that_stands_right_at_the_share_is_out() -> None:
    here = bucket(VALID["rollout_id"], "a")
    assert role_for(plan(share=here), "a", NOW) is Role.CHAMPION
    assert role_for(plan(share=math.nextafter(here, 100)), "a", NOW) is Role.CANARY


def test_without_a_live_plan_the_champion_answers() -> None:
    assert role_for(None, "a", NOW) is Role.CHAMPION
    assert role_for(plan(share=100), "a", NOW + timedelta(minutes=5)) is Role.CHAMPION


@pytest.mark.parametrize("offset", ["Z", "+05:00"])
def test_plan_from_the_beginning_of_time_is_none_and_breaks_nothing(offset: str) -> None:
    values = {**VALID, "issued_at": f"0001-01-01T00:00:00{offset}", "expires_at": f"0001-01-01T00:30:00{offset}"}
    try:
        live = TrafficPlan.from_dict(values).is_live(NOW)
    except ValueError:
        live = False
    assert not live
