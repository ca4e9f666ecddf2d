"""What the governor is told of the data and of earlier challengers."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perennial.domain.alert import Fate
from perennial.domain.governor import DataFacts
from perennial.errors import StoreUnavailableError
from perennial.ports import ObjectStore
from perennial.spec.model import ModelSpec
from perennial.stages.alert_facts import KEPT_FOR, data_facts
from perennial.testing.store import FolderStore
from tests.unit.core.alerting import NOW, Desk, alert_of, spec_with
from tests.unit.core.faulty import Fault, Faulty
from tests.unit.core.world import LANDING, ROOT, SPEC, World

ALERT = alert_of()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def _facts(desk: Desk, store: ObjectStore | None = None) -> DataFacts:
    desk.clock.advance(KEPT_FOR)
    ledger = desk.ledger
    return data_facts(desk.spec, store=store or desk.store, root=ROOT, ledger=ledger, clock=desk.clock)


def _trained(desk: Desk, **changes: Any) -> None:
    desk.looked()
    desk.judged(**changes)


def test_model_that_was_never_trained_has_everything_before_it(desk: Desk) -> None:
    desk.land("a.parquet")
    assert _facts(desk) == DataFacts()


@pytest.mark.parametrize("kind", ["decision", "nothing_new"])
def test_data_that_was_judged_is_nothing_new_until_something_lands(desk: Desk, kind: str) -> None:
    desk.land("a.parquet")
    _trained(desk, kind=kind)
    assert _facts(desk).judged_at == NOW + timedelta(seconds=1)
    desk.land("b.parquet")
    assert _facts(desk).judged_at is None


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "refused"},
        {"params": {"depth": 5}},
        {"snapshot": {"watermark": None}},
        {"snapshot": {"watermark": "2030-01-01T00:00:00Z"}},
    ],
    ids=["data refused", "other parameters", "no watermark", "labels to come"],
)
def test_data_of_which_a_run_could_make_something_else_is_something_new(desk: Desk, changes: dict[str, Any]) -> None:
    _trained(desk)
    assert _facts(desk).judged_at is not None
    _trained(desk, **changes)
    assert _facts(desk).judged_at is None


def test_labels_that_have_matured_since_are_something_new(desk: Desk) -> None:
    desk.spec = ModelSpec.model_validate(
        {**SPEC, "data": {**SPEC["data"], "label_delay": "1d"}, "triggers": {"on_drift": {}}}  # type: ignore[dict-item]
    )
    _trained(desk, snapshot={"watermark": "2026-02-28T12:00:01Z"})
    assert _facts(desk).judged_at is not None
    _trained(desk, snapshot={"watermark": "2026-02-28T12:30:00Z"})
    assert _facts(desk).judged_at is None


def test_files_that_had_to_settle_are_something_new(desk: Desk) -> None:
    _trained(desk, snapshot={"pending_files": 1})
    assert _facts(desk).judged_at is not None
    desk.spec = desk.spec.model_copy(
        update={"data": desk.spec.data.model_copy(update={"settle": timedelta(minutes=1)})}
    )
    assert _facts(desk).judged_at is None


def test_data_of_a_run_that_broke_off_is_not_taken_for_judged(desk: Desk) -> None:
    _trained(desk)
    desk.later(minutes=1)
    desk.starter.add_run("toy", "nightly")
    desk.land("a.parquet")
    desk.looked()
    desk.starter.end("toy", "nightly", "failed")
    desk.later(hours=7)
    assert _facts(desk).judged_at is not None
    assert desk.receive(ALERT).outcome.fate is Fate.STARTED


def test_alert_over_judged_data_is_refused(desk: Desk) -> None:
    _trained(desk)
    outcome = desk.receive(ALERT).outcome
    assert (outcome.fate, outcome.rule) == (Fate.REFUSED, "nothing_new")
    assert "2026-03-01T12:00:01Z" in outcome.reason


def test_cycle_that_judged_everything_leaves_nothing_new_behind(tmp_path: Path) -> None:
    """The real stages' marks and entries, not those that this test would write."""
    world = World(tmp_path, spec=spec_with())
    world.land(range(28))
    world.run()
    runtime = world.runtime
    facts = data_facts(world.spec, store=world.store, root=ROOT, ledger=runtime.ledger, clock=world.clock)
    (entry, *_) = runtime.ledger.entries("toy")
    assert facts.judged_at == entry.recorded_at
    world.clock.advance(timedelta(days=1))
    world.run(params={"depth": 4})
    facts = data_facts(world.spec, store=world.store, root=ROOT, ledger=runtime.ledger, clock=world.clock)
    assert facts.judged_at is None


def test_challengers_of_alerts_are_counted_since_the_last_promotion(desk: Desk) -> None:
    for trigger in ("drift", "schedule", "drift", "drift"):
        desk.judged(trigger=trigger)
    assert _facts(desk).rejections == 3
    desk.judged(verdict="PROMOTE")
    desk.judged("promotion", verdict="PROMOTE")
    assert _facts(desk).rejections == 0
    desk.judged(trigger="drift", verdict="INCONCLUSIVE")
    last = desk.judged("nothing_new", trigger="drift")
    facts = _facts(desk)
    assert (facts.rejections, facts.last_for_alert_at) == (1, last.recorded_at)


def test_rejections_are_counted_however_many_other_runs_lie_between(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perennial.stages.alert_facts.LOOK_BACK", 4)
    desk.spec = spec_with(stop_after_rejections=5)
    desk.judged("promotion", trigger="drift", verdict="PROMOTE")
    for _ in range(5):
        for trigger in ("drift", "schedule", "schedule", "schedule"):
            desk.judged(trigger=trigger)
    assert _facts(desk).rejections == 5
    assert desk.receive(ALERT).outcome.rule == "stopped"


def test_limit_that_was_raised_is_counted_for_anew(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perennial.stages.alert_facts.LOOK_BACK", 2)
    for _ in range(6):
        desk.judged(trigger="drift")
    desk.spec = spec_with(stop_after_rejections=2)
    assert 2 <= _facts(desk).rejections < 6
    desk.spec = spec_with(stop_after_rejections=6)
    assert _facts(desk).rejections == 6


def test_promising_challenger_that_was_not_promoted_counts_as_rejected(desk: Desk) -> None:
    desk.judged(trigger="drift", verdict="PROMOTE")
    assert _facts(desk).rejections == 1


def test_rejections_in_a_row_stop_alerts_until_one_is_let_through(desk: Desk) -> None:
    desk.spec = spec_with(stop_after_rejections=2, resume_after="7d")
    for _ in range(2):
        desk.judged(trigger="drift")
    outcome = desk.receive(alert_of("a")).outcome
    assert (outcome.rule, outcome.fate) == ("stopped", Fate.REFUSED)
    desk.later(days=7)
    assert desk.receive(alert_of("b", received_at=desk.clock.now())).outcome.fate is Fate.STARTED


def _parquet(rows: int) -> bytes:
    sink = io.BytesIO()
    pd.DataFrame({"x": range(rows)}).to_parquet(sink, index=False)
    return sink.getvalue()


def _age(desk: Desk, uri: str, age: timedelta) -> None:
    path = desk.folder / uri.removeprefix("s3://")
    then = path.stat().st_mtime - age.total_seconds()
    os.utime(path, (then, then))


def test_rows_that_landed_since_the_last_training_are_counted_and_nothing_else(desk: Desk) -> None:
    desk.spec = spec_with(min_new_rows=100)
    desk.land("old.parquet", _parquet(1000))
    _age(desk, f"{LANDING}old.parquet", timedelta(hours=2))
    assert _facts(desk).new_rows is None
    trained = desk.judged()
    _age(desk, trained.references["snapshot"]["uri"], timedelta(hours=1))
    assert _facts(desk).new_rows == 0
    for name, content in {
        "a.parquet": _parquet(30),
        "b.parquet": _parquet(40),
        "broken.parquet": b"PAR1",
        "_hidden.parquet": _parquet(500),
        "unfinished.parquet.tmp": _parquet(500),
    }.items():
        desk.land(name, content)
    assert _facts(desk).new_rows == 70
    outcome = desk.receive(ALERT).outcome
    assert (outcome.fate, outcome.rule) == (Fate.DEFERRED, "min_new_rows")
    assert outcome.reason == "70 rows have landed since the last training, 100 are asked for."
    desk.land("c.parquet", _parquet(30))
    desk.later(minutes=15)
    assert desk.tick()[0].outcome.fate is Fate.STARTED


class _Counting(FolderStore):
    """Takes its time over each file, and remembers which ones were read."""

    def __init__(self, desk: Desk, seconds: float = 0.0) -> None:
        super().__init__(desk.folder)
        self.desk, self.seconds, self.files = desk, seconds, set[str]()

    def read(self, uri: str, **part: Any) -> bytes:
        if uri.endswith(".parquet"):
            self.files.add(uri)
            self.desk.later(seconds=self.seconds)
        return super().read(uri, **part)


def _land_since(desk: Desk, files: int) -> None:
    trained = desk.judged()
    _age(desk, trained.references["snapshot"]["uri"], timedelta(hours=1))
    for number in range(files):
        desk.land(f"rows-{number}.parquet", _parquet(number + 1))


def test_rows_are_counted_for_some_seconds_and_the_next_look_goes_on(desk: Desk) -> None:
    desk.spec = spec_with(min_new_rows=10_000)
    _land_since(desk, 20)
    slow = _Counting(desk, seconds=1)
    first = _facts(desk, slow).new_rows
    assert first is not None
    assert 0 < first < 210
    assert len(slow.files) == 16
    assert _facts(desk, slow).new_rows == 210
    assert len(slow.files) == 20


def test_rows_that_were_counted_stay_known_to_another_client_of_the_store(desk: Desk) -> None:
    desk.spec = spec_with(min_new_rows=10_000)
    _land_since(desk, 3)
    assert _facts(desk).new_rows == 6
    renewed = _Counting(desk)
    assert _facts(desk, renewed).new_rows == 6
    assert renewed.files == set()


def test_store_is_asked_once_in_five_seconds_and_the_ledger_when_it_has_grown(desk: Desk) -> None:
    desk.looked()
    desk.judged()
    asked = Fault(at=0, after=False, fatal=True)
    store: Any = Faulty(desk.store, ("list", "read", "head"), asked, AssertionError)
    desk.clock.advance(KEPT_FOR)

    def ask() -> list[str]:
        asked.calls.clear()
        data_facts(
            desk.spec, store=store, root=ROOT, ledger=type(desk.ledger)(store, ROOT, desk.clock), clock=desk.clock
        )
        return list(asked.calls)

    first = ask()
    desk.clock.advance(KEPT_FOR - timedelta(seconds=1))
    assert ask() == []
    desk.clock.advance(timedelta(seconds=1))
    again = ask()
    assert sorted(again) == ["list", "list", "read"]
    assert len(first) > len(again)
    desk.judged()
    desk.clock.advance(KEPT_FOR)
    assert len(ask()) > len(again)


def test_store_that_hangs_keeps_one_thread_waiting_and_sends_the_others_away(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perennial.stages.alert_facts.WAIT_S", 0.01)
    hangs, asked = threading.Event(), threading.Event()

    class Hanging(FolderStore):
        def list(self, prefix_uri: str) -> Any:
            asked.set()
            assert hangs.wait(60)
            return super().list(prefix_uri)

    store = Hanging(desk.folder)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_facts, desk, store)
        assert asked.wait(60)
        with pytest.raises(StoreUnavailableError, match="try again"):
            _facts(desk, store)
        hangs.set()
        assert first.result() == DataFacts()
