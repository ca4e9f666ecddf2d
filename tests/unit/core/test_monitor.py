"""The monitor's looks: which windows, which alerts, and what a report says of them."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.traffic import Role
from perennial.errors import IntegrityError, TerminalError
from perennial.ledger import Ledger
from perennial.stages.monitor_report import _metric_name
from perennial.testing import MemoryRegistry
from tests.unit.core.ledgers import entry_of
from tests.unit.core.monitored import DAY, FIRST, MODEL, ROOT, Monitored, monitored_spec


@pytest.fixture
def world(tmp_path: Path) -> Monitored:
    """Three calm days of version 1."""
    world = Monitored(tmp_path)
    world.train()
    for day in range(3):
        world.serve(day)
    return world


def _signal(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in report["signals"] if each["signal"] == name]
    return dict(found)


def _opened(report: dict[str, Any]) -> list[str]:
    return [each["signal"] for each in report["alerts"] if each["opened_now"]]


def test_first_look_takes_the_newest_windows_that_an_alert_needs_and_finds_calm_traffic_calm(world: Monitored) -> None:
    seen = world.observe()
    assert (seen.windows, seen.rows, seen.open_alerts) == (3, 960, 0)
    assert seen.window_end == FIRST + 3 * DAY
    report = world.report(2)
    assert [signal["judged"] for signal in report["signals"]] == [True] * 6
    assert not any(signal["beyond"] for signal in report["signals"])
    assert [entry["rows"] for entry in report["history"]] == [960] * 3
    assert world.outbox == ()


def test_second_look_finds_nothing_new_and_gives_what_stands(world: Monitored) -> None:
    first = world.observe()
    again = world.observe()
    assert (again.windows, again.uri, again.sha256) == (0, first.uri, first.sha256)
    assert again.summary.startswith("No window has ended since the last look.")


def test_window_that_ended_less_than_the_grace_ago_waits(world: Monitored) -> None:
    seen = world.observe(as_of=FIRST + 3 * DAY + timedelta(seconds=29))
    assert seen.window_end == FIRST + 2 * DAY
    assert world.observe(as_of=FIRST + 3 * DAY + timedelta(seconds=30)).windows == 1


def test_time_in_the_future_is_now(world: Monitored) -> None:
    assert world.observe(as_of=FIRST + 30 * DAY).window_end == FIRST + 3 * DAY


def test_drift_in_two_windows_raises_one_alert_with_its_evidence(world: Monitored) -> None:
    world.observe()
    world.serve(3, shift=1.0)
    assert _opened(world.look_at(3)) == []
    world.serve(4, shift=1.0)
    report = world.look_at(4)
    assert _opened(report) == ["data_drift", "prediction_drift"]
    item = next(item for item in world.outbox if item.signal == "data_drift")
    assert item.retrain
    assert item.alert.alert_id == f"data_drift:{report['window_end']}"
    assert item.alert.summary.startswith("1 of 3 columns has drifted, x most: higher by")
    assert [each["name"] for each in item.alert.evidence["beyond"]] == ["x"]
    assert item.alert.evidence["page"] == item.page_uri
    world.serve(5, shift=1.0)
    assert _opened(world.look_at(5)) == []
    assert len(world.outbox) == 2


def test_alert_closes_after_calm_windows_and_tells_so(world: Monitored) -> None:
    world.observe()
    for day, shift in ((3, 1.0), (4, 1.0), (5, 0.0), (6, 0.0)):
        world.serve(day, shift=shift)
        report = world.look_at(day)
    # An effect's lower limit of two calm days may be above 0, and has to be below 0.8 of the limit.
    assert [each["signal"] for each in report["closed"]] == ["data_drift", "prediction_drift"]
    assert report["alerts"] == []
    assert report["history"][-1]["closed"] == ["data_drift", "prediction_drift"]


def test_concept_change_is_seen_by_labels_alone(world: Monitored) -> None:
    world.observe()
    for day in (3, 4):
        world.serve(day, sign=-1.0)
        report = world.look_at(day)
    assert _opened(report) == ["performance"]
    realised = report["performance"]["realised"]
    assert realised["labelled"] == 960
    assert realised["high"] < report["performance"]["limit"]
    assert not _signal(report, "estimated_performance")["beyond"]
    assert report["matured"][-1]["value"] == realised["value"]


def test_loss_that_the_inputs_explain_is_estimated_before_labels_come(world: Monitored) -> None:
    world.observe()
    for day in (3, 4):
        world.serve(day, scale=0.3, labels=False)  # nobody is a clear case any more
        report = world.look_at(day)
    estimated = report["performance"]["estimated"]
    assert estimated["beyond"]
    assert "estimated_performance" in _opened(report)
    assert not report["performance"]["realised"]["judged"]
    assert "The labels of 0 rows are known" in report["performance"]["realised"]["why_not"]


def test_estimate_that_the_spec_does_not_trust_is_told_and_raises_nothing(tmp_path: Path) -> None:
    world = Monitored(tmp_path, monitored_spec(performance={"estimate": False}))
    world.train()
    for day in (1, 2):
        world.serve(day, scale=0.3)
    world.observe()
    report = world.report(2)
    assert report["performance"]["estimated"]["value"] is not None
    assert not _signal(report, "estimated_performance")["judged"]


def test_labels_that_take_days_are_filed_under_the_day_of_their_requests(tmp_path: Path) -> None:
    world = Monitored(tmp_path, monitored_spec(label_delay="30h"))
    world.train()
    for day in range(3):
        world.serve(day)
    world.observe()
    report = world.report(2)
    realised = report["performance"]["realised"]
    assert realised["window_end"] == "2026-03-03T00:00:00Z"  # day 0: the newest whose labels are all known
    assert report["matured"] == [
        {"metric": "roc_auc", **{key: realised[key] for key in ("window_end", "value", "low", "high")}}
    ]


def test_label_that_came_after_the_window_is_not_counted(world: Monitored) -> None:
    world.serve(3, labels=False)
    world.look_at(3)
    assert world.report(3)["performance"]["realised"]["labelled"] == 0


def test_window_with_few_rows_is_told_and_not_judged(world: Monitored) -> None:
    world.serve(3, rows=10, shift=3.0)
    report = world.look_at(3)
    judged = {signal["signal"]: signal["judged"] for signal in report["signals"]}
    assert judged == {**dict.fromkeys(judged, False), "service": True}
    assert _signal(report, "data_drift")["why_not"] == "There are 240 rows, at least 500 are judged."
    assert report["data_drift"]["columns"][0]["effect"] > 1


def test_window_without_requests_has_a_small_report(world: Monitored) -> None:
    report = world.look_at(3)
    assert (report["rows"], report["judged"], report["champion"]) == (0, False, None)
    assert report["summary"] == (
        "0 rows, and nothing beyond its limit. Drift was not judged: no champion has answered a request."
    )
    world.serve(4)
    assert world.look_at(4)["judged"]


def test_service_without_requests_is_beyond_where_the_spec_expects_some(tmp_path: Path) -> None:
    world = Monitored(tmp_path, monitored_spec(service={"min_requests": 5}, alert={"windows": 1, "of": 1}))
    assert world.observe().open_alerts == 1
    (item,) = world.outbox
    assert (item.signal, item.retrain) == ("service", False)
    assert item.alert.summary == "0 requests came, at least 5 should. 0 of 0 requests could not be scored."


def test_failed_requests_are_for_people_and_start_no_run(world: Monitored) -> None:
    world.observe()
    for day in (3, 4):
        world.serve(day, failed=4)
        report = world.look_at(day)
    assert report["service"]["error_kinds"] == {"ValueError": 4}
    assert [(item.signal, item.retrain) for item in world.outbox] == [("service", False)]


def test_category_that_training_never_saw_is_skew_and_drift(world: Monitored) -> None:
    world.observe()
    for day in (3, 4):
        world.serve(day, plan="platinum")
        report = world.look_at(day)
    assert _opened(report) == ["data_drift", "skew"]
    assert {item.signal: item.retrain for item in world.outbox} == {"data_drift": True, "skew": False}


def test_version_without_profiles_is_served_without_reference(tmp_path: Path) -> None:
    world = Monitored(tmp_path)
    world.register("a" * 64)
    world.serve(2, shift=3.0)
    world.observe()
    report = world.report(2)
    assert report["reference"] is None
    assert "trained before profiles were kept" in report["data_drift"]["why_not"]
    assert {each["signal"] for each in report["signals"] if each["judged"]} == {"service"}


def test_version_that_perennial_does_not_know_is_told_as_such(tmp_path: Path) -> None:
    world = Monitored(tmp_path, registry=MemoryRegistry())
    world.serve(2, version="7")
    world.observe()
    assert "did not register version 7" in world.report(2)["why_not"] + world.report(2)["data_drift"]["why_not"]


def test_new_champion_begins_its_alarms_anew(world: Monitored) -> None:
    world.observe()
    for day in (3, 4):
        world.serve(day, shift=1.0)
        world.look_at(day)
    assert world.train("a" * 64) == "2"
    world.serve(5, version="2", shift=1.0)
    report = world.look_at(5)
    assert report["champion"] == "2"
    assert {each["signal"] for each in report["closed"]} == {"data_drift", "prediction_drift"}
    assert report["alerts"] == []


def test_shadow_is_reported_and_counts_for_nothing_else(world: Monitored) -> None:
    assert world.train("a" * 64) == "2"
    world.serve(2, version="2", role=Role.SHADOW, shift=3.0)
    world.observe()
    report = world.report(2)
    assert (report["champion"], report["rows"], report["service"]["requests"]) == ("1", 960, 24)
    assert not _signal(report, "prediction_drift")["beyond"]
    shadow = next(each for each in report["prediction_drift"] if each["version"] == "2")
    assert (shadow["role"], shadow["beyond"]) == ("shadow", True)


def test_version_that_fails_every_request_is_no_champion_and_a_shadow_does_not_become_one(world: Monitored) -> None:
    world.train("a" * 64)
    world.observe()
    world.serve(3, failed=24)
    world.serve(3, version="2", role=Role.SHADOW)
    report = world.look_at(3)
    assert (report["champion"], report["service"]["errors"]) == (None, 24)
    assert report["states"]["data_drift"]["version"] == "1"


def test_broken_object_in_the_log_is_left_out_and_told(world: Monitored) -> None:
    uri = f"{ROOT}/predictions/{MODEL}/day=2026-03-04/version=1/broken.parquet"
    world.store.write(uri, b"PAR1 half of it", content_type="application/vnd.apache.parquet")
    assert world.observe().rows == 960
    assert world.report(2)["service"]["unreadable"] == [uri]
    assert world.report(2)["performance"]["realised"]["labelled"] == 960


def test_metrics_that_mlflow_refuses_stop_nothing(world: Monitored, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise TerminalError("a metric's name is too long")

    monkeypatch.setattr(world.registry, "log_monitoring", refuse)
    assert world.observe().windows == 3


@pytest.mark.parametrize(("column", "name"), [("temp (F)", "temp _F_"), ("..", "__"), ("x" * 255, "x" * 200)])
def test_name_of_a_column_becomes_one_that_mlflow_takes(column: str, name: str) -> None:
    assert _metric_name(column) == name


def test_drift_within_a_slice_is_found_and_named(tmp_path: Path) -> None:
    world = Monitored(tmp_path, monitored_spec(slices=["plan"], min_rows=200))
    world.train()
    for day in range(3):
        world.serve(day, shift=0.0 if day == 0 else 1.0)
    world.observe()
    report = world.report(2)
    (gold,) = [part for part in report["slices"] if part["level"] == "gold"]
    assert gold["beyond"]
    assert [each["column"] for each in gold["columns"] if each["drifted"]] == ["x"]
    assert "plan=gold: x" in world.report(2)["alerts"][0]["because"]


def test_windows_longer_ago_than_a_look_takes_are_skipped_and_that_is_told(tmp_path: Path) -> None:
    world = Monitored(tmp_path, monitored_spec(window="1h"))
    world.observe()
    world.clock.advance(timedelta(hours=60))
    seen = world.observe()
    assert seen.windows == 48
    assert seen.summary.startswith("12 windows before were skipped.")


def test_promotions_are_told_with_the_history(world: Monitored) -> None:
    Ledger(world.store, ROOT, world.clock).append(
        entry_of(
            "run-1",
            model=MODEL,
            kind="promotion",
            champion_before=None,
            champion_after="1",
            recorded_at=FIRST + timedelta(hours=1),
        )
    )
    world.observe()
    told = [{"at": "2026-03-02T01:00:00Z", "version": "1", "how": "promotion"}]
    assert world.report(2)["promotions"] == told


def test_metrics_go_to_the_run_of_their_month(world: Monitored) -> None:
    assert isinstance(world.registry, MemoryRegistry)
    world.observe()
    ((name, steps),) = world.registry.monitoring.items()
    assert name == "monitoring toy 2026-03"
    assert len(steps) == 3
    newest = steps[max(steps)]
    assert newest["rows"] == 960
    assert newest["realised/roc_auc"] == world.report(2)["performance"]["realised"]["value"]
    effects = {each["column"]: each["effect"] for each in world.report(2)["data_drift"]["columns"]}
    assert {column: newest[f"data_drift/{column}"] for column in effects} == effects
    assert newest["prediction_drift/score"] == world.report(2)["prediction_drift"][0]["columns"][0]["effect"]


def test_report_is_json_without_what_json_cannot_carry(world: Monitored) -> None:
    world.serve(3, rows=1)
    report = world.look_at(3)
    json.dumps(report, allow_nan=False)


def test_page_is_written_once_and_shows_the_window(world: Monitored) -> None:
    seen = world.observe()
    assert seen.page_uri is not None
    assert b"<html" in world.store.read(seen.page_uri)


def test_report_that_somebody_changed_is_an_error_that_says_what_to_do(world: Monitored) -> None:
    seen = world.observe()
    changed = {**world.report(2), "states": {"data_drift": {"signal": "data_drift"}}}
    assert seen.uri is not None
    world.store.write(seen.uri, json.dumps(changed).encode(), content_type="application/json")
    with pytest.raises(IntegrityError, match="put it back, or delete it"):
        world.look_at(3)


def test_model_that_is_not_monitored_is_refused(world: Monitored) -> None:
    with pytest.raises(TerminalError, match="has no `monitoring`"):
        world.observe(spec=world.spec.model_copy(update={"monitoring": None}))
