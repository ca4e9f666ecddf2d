"""What an alert is about decides when it ends, window by window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.core.monitored import Monitored, monitored_spec


def _alert(report: dict[str, Any]) -> dict[str, Any]:
    (found,) = report["alerts"]
    return dict(found)


def test_requests_just_above_the_least_keep_the_alert_of_too_few_open(tmp_path: Path) -> None:
    """24 a day come later; below 0.8 of the limit is what 30 of them would be."""
    world = Monitored(tmp_path, monitored_spec(service={"min_requests": 24}, alert={"windows": 1, "of": 1}))
    world.observe()
    for day in (3, 4, 5):
        world.serve(day)
        report = world.look_at(day)
    assert _alert(report)["because"] == ["requests"]


def test_requests_far_above_the_least_end_the_alert_of_too_few(tmp_path: Path) -> None:
    world = Monitored(tmp_path, monitored_spec(service={"min_requests": 10}, alert={"windows": 1, "of": 1}))
    world.observe()
    for day in (3, 4):
        world.serve(day)
        report = world.look_at(day)
    assert report["alerts"] == []


def test_errors_while_too_few_requests_are_an_alert_are_told_too(tmp_path: Path) -> None:
    rules = {"service": {"min_requests": 1000, "max_error_rate": 0.01}, "alert": {"windows": 1, "of": 1}}
    world = Monitored(tmp_path, monitored_spec(**rules))
    world.observe()
    world.serve(3, failed=12)
    alert = _alert(world.look_at(3))
    assert (alert["opened_now"], alert["because"]) == (True, ["requests", "error_rate"])
    assert alert["summary"].startswith("error_rate: 12 of ")
    assert [item.signal for item in world.outbox] == ["service", "service"]
