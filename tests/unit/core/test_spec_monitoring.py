"""The concern `monitoring` in a spec, and what it needs of the others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.errors import SpecError
from perennial.spec import load_spec
from tests.unit.core.test_spec_loader import VALID, _edited, _write

SERVED = {"kind": "scoring_service"}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    def loaded(monitoring: Any, deployment: Any = SERVED) -> Any:
        changes = {"monitoring": monitoring, "deployment": deployment}
        return load_spec(_write(tmp_path, _edited(lambda d: d.update(changes))))

    return loaded


def test_monitoring_left_empty_has_defaults(load: Callable[..., Any]) -> None:
    spec = load({})
    assert (spec.monitoring.window, spec.monitoring.alert.windows, spec.monitoring.alert.of) == (
        timedelta(days=1),
        2,
        3,
    )
    assert spec.outcome_delay == spec.data.label_delay


def test_label_delay_of_its_own_goes_before_the_datas(load: Callable[..., Any]) -> None:
    assert load({"label_delay": "90s"}).outcome_delay == timedelta(seconds=90)


@pytest.mark.parametrize(
    ("monitoring", "field", "says"),
    [
        ({"window": "9s"}, "monitoring.window", "10s to 31d"),
        ({"window": "32d"}, "monitoring.window", "10s to 31d"),
        ({"schedule": "0 24 * * *"}, "monitoring.schedule", "hour 24 must be between 0"),
        ({"alert": {"windows": 4, "of": 3}}, "monitoring.alert", "is 4, above of (3)"),
        ({"alert": {"close_below": 0}}, "monitoring.alert.close_below", "greater than 0"),
        ({"drift": {"false_discovery_rate": 1}}, "monitoring.drift.false_discovery_rate", "less than 1"),
        ({"drift": {"min_effect": "0.1"}}, "monitoring.drift.min_effect", "number"),
        ({"slices": ["nonsense"]}, "monitoring.slices", "nonsense not among the logged features"),
        ({"notify": [{"kind": "pager"}]}, "monitoring.notify", "'slack', 'email', 'webhook'"),
        ({"notify": [{"kind": "email", "to": []}]}, "monitoring.notify", "at least 1"),
    ],
)
def test_mistake_is_told_with_its_field(
    load: Callable[..., Any], monitoring: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(SpecError) as raised:
        load(monitoring)
    [problem] = [found for found in raised.value.problems if says in str(found)]
    assert field in str(problem)


@pytest.mark.parametrize("deployment", [None, {**SERVED, "log": None}])
def test_monitoring_without_a_log_is_refused(load: Callable[..., Any], deployment: Any) -> None:
    with pytest.raises(SpecError, match="it needs a deployment with a log"):
        load({}, deployment)


def test_slice_that_is_excluded_from_the_log_is_refused(load: Callable[..., Any]) -> None:
    feature = VALID["data"]["feature_columns"][0]
    with pytest.raises(SpecError, match=f"{feature} not among the logged features"):
        load({"slices": [feature]}, {**SERVED, "log": {"exclude": [feature]}})
