"""What goes wrong beside the windows themselves: no MLflow, no page, a canary, another spec, a damaged report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.profile import HoldoutProfile
from perennial.domain.traffic import Role
from perennial.errors import IntegrityError, RegistryUnavailableError
from perennial.reports import monitoring_page
from perennial.testing import FolderStore
from tests.unit.core.monitored import DAY, FIRST, ROOT, Monitored, monitored_spec

ALERTS = ["data_drift", "prediction_drift"]


@pytest.fixture
def world(tmp_path: Path) -> Monitored:
    """Three calm days of version 1, looked at."""
    world = Monitored(tmp_path)
    world.train()
    for day in range(3):
        world.serve(day)
    world.observe()
    return world


class _Down:
    """A registry that does not answer."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            self.calls.append(name)
            raise RegistryUnavailableError("MLflow did not answer")

        return call


def _opened(world: Monitored, day: int) -> list[str]:
    return [each["signal"] for each in world.report(day)["alerts"] if each["opened_now"]]


def _two_days_of_drift(world: Monitored) -> None:
    for day in (3, 4):
        world.serve(day, shift=1.0)
    world.clock.advance(2 * DAY)


def test_mlflow_that_is_down_keeps_no_window_from_being_looked_at_and_no_alert_from_being_raised(
    world: Monitored,
) -> None:
    _two_days_of_drift(world)
    down = _Down()
    with pytest.raises(RegistryUnavailableError):
        world.observe(registry=down)
    assert down.calls == ["log_monitoring", "version"]  # each of these once, however many windows there are
    assert _opened(world, 4) == ALERTS
    assert [item.signal for item in world.outbox] == ALERTS
    assert world.report(4)["reference"]["fingerprint"] == "f" * 64
    assert world.observe().windows == 0


def test_version_that_no_report_tells_of_waits_for_mlflow(world: Monitored) -> None:
    world.train("a" * 64)
    world.serve(3, version="2")
    world.clock.advance(DAY)
    with pytest.raises(RegistryUnavailableError):
        world.observe(registry=_Down())
    assert world.objects.report(FIRST + 4 * DAY) is None
    assert world.observe().windows == 1
    assert world.report(3)["champion"] == "2"


def test_version_that_perennial_does_not_know_is_remembered_as_such(world: Monitored) -> None:
    for day in (3, 4):
        world.serve(day, version="7")
    world.look_at(3)
    world.clock.advance(DAY)
    with pytest.raises(RegistryUnavailableError):
        world.observe(registry=_Down())
    assert "did not register version 7" in world.report(4)["data_drift"]["why_not"]


def test_page_that_cannot_be_drawn_keeps_nothing_back(world: Monitored, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> bytes:
        raise ZeroDivisionError("<float division>")

    monkeypatch.setattr(monitoring_page, "monitoring_page", fail)
    _two_days_of_drift(world)
    seen = world.observe()
    assert (seen.windows, [item.signal for item in world.outbox]) == (2, ALERTS)
    assert seen.page_uri is not None
    page = world.store.read(seen.page_uri).decode()
    assert "ZeroDivisionError(&#x27;&lt;float division&gt;&#x27;)" in page
    assert world.report(4)["alerts"][0]["summary"] in page


def test_alert_is_in_the_outbox_before_its_page_is_written(world: Monitored, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(monitoring_page, "monitoring_page", lambda *_: seen.append(len(world.outbox)) or b"page")
    _two_days_of_drift(world)
    world.observe()
    assert seen == [0, 2]


def test_canary_that_answers_most_is_no_champion_and_ends_no_alert(world: Monitored) -> None:
    _two_days_of_drift(world)
    world.observe()
    world.train("a" * 64)
    world.serve(5, rows=15, shift=1.0)
    world.serve(5, version="2", role=Role.CANARY, rows=30, shift=1.0)
    report = world.look_at(5)
    assert (report["champion"], report["closed"]) == ("1", [])
    world.serve(6, shift=1.0)
    world.look_at(6)
    assert _opened(world, 6) == []


def test_reference_for_other_windows_is_not_judged_by(world: Monitored) -> None:
    world.serve(3, shift=3.0)
    world.spec = monitored_spec(window="12h", min_rows=50)
    version_2 = world.train("a" * 64, stretch_s=43_200.0)
    report = world.look_at(3)
    assert report["data_drift"]["why_not"] == (
        "The reference of version 1 tells what stretches of 1d differ by, and the spec now asks for 12h. "
        "Train again on newer data."
    )
    assert report["data_drift"]["columns"][0]["effect"] > 1
    assert {each["signal"] for each in report["signals"] if each["judged"]} >= {"performance", "service", "skew"}
    world.serve(4, version=version_2)
    assert world.look_at(4)["data_drift"]["judged"]


def test_scores_of_a_holdout_for_other_windows_are_not_judged(tmp_path: Path) -> None:
    world = Monitored(tmp_path)
    world.train(stretch_s=3600.0)
    world.serve(2, shift=3.0)
    world.observe()
    assert "stretches of 1h" in world.report(2)["prediction_drift"][0]["why_not"]
    assert world.report(2)["data_drift"]["judged"]


def test_slice_that_was_asked_for_after_the_training_is_told_as_not_compared(world: Monitored) -> None:
    world.serve(3)
    world.spec = monitored_spec(slices=["plan"])
    report = world.look_at(3)
    (told,) = report["data_drift"]["not_compared"]
    assert told["column"] == "slices of plan"
    assert report["data_drift"]["judged"]


def test_slice_that_is_asked_for_no_more_is_not_looked_at(tmp_path: Path) -> None:
    world = Monitored(tmp_path, monitored_spec(slices=["plan"], min_rows=100))
    world.train()
    world.spec = monitored_spec()
    world.serve(2)
    world.observe()
    assert world.report(2)["slices"] == []


def test_profile_of_before_stretches_were_kept_still_loads() -> None:
    given = {"model": "toy", "fingerprint": "f", "rows": 1, "holdout_sha256": "0", "scores": [], "performance": []}
    assert HoldoutProfile.from_dict({**given, "confidence": 0.9}).stretch_s is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda report: {}, "it lacks window_start, window_end"),
        (lambda report: {**report, "window_end": "soon"}, "its window_end is 'soon'"),
        (lambda report: {**report, "window_end": "2026-03-03T00:00:00Z"}, "its window_end is '2026-03-03T00:00:00Z'"),
    ],
)
def test_report_that_is_none_is_an_error_that_says_where_and_what_to_do(
    world: Monitored, change: Any, what: str
) -> None:
    newest = world.objects.newest(world.clock.now())
    assert newest is not None
    changed = json.dumps(change(newest.content)).encode()
    world.store.write(newest.uri, changed, content_type="application/json")
    with pytest.raises(IntegrityError, match=f"{what}.*delete it"):
        world.observe()


def test_newest_report_is_looked_for_by_day_first(world: Monitored, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    inner = FolderStore.list

    def noted(self: FolderStore, prefix: str) -> Any:
        listed.append(prefix)
        return inner(self, prefix)

    monkeypatch.setattr(FolderStore, "list", noted)
    assert world.objects.newest(world.clock.now()) is not None
    assert listed == [f"{ROOT}/monitoring/toy/20260305"]
    assert world.objects.newest(world.clock.now() + 400 * DAY) is not None
