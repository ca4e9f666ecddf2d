"""The prediction log: everything arrives once, nothing waits, memory and disk are bounded, what is lost is counted."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.times import Interval
from perennial.domain.traffic import Role
from perennial.errors import TerminalError
from perennial.prediction_objects import OWN_COLUMNS, read_predictions
from perennial.serving.prediction_log import PredictionLog
from perennial.spec.deployment import Log
from tests.unit.core.serving.logged import DAYS, NOON, ROOT, FaultyStore, request, rows_of, started


@pytest.fixture
def store(tmp_path: Path) -> FaultyStore:
    return FaultyStore(tmp_path / "s3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "prediction-log"


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.01)


def test_every_column_comes_back_as_it_was_scored(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    log.add(request(1, rows=2, features={"age": [31, None], "plan": ["basic", "plus"], "fee": [1.5, math.nan]}))
    log.add(request(2, role=Role.CANARY, predictions=None, error="it raised", features={"age": [40]}))
    log.close()
    frame = rows_of(store)
    assert list(frame.columns) == [*OWN_COLUMNS[:-1], "age", "plan", "fee", "prediction"]
    assert list(frame["request_id"]) == ["r-1", "r-1", "r-2"]
    assert list(frame["row"]) == [0, 1, 0]
    assert list(frame["role"]) == ["champion", "champion", "canary"]
    assert set(frame["model_version"]) == {"3"}
    assert frame["at"][0] == NOON + timedelta(milliseconds=1)
    assert list(frame["plan"][:2]) == ["basic", "plus"]
    assert frame["age"].isna().tolist() == [False, True, False]
    assert frame["fee"][0] == 1.5
    assert list(frame["prediction"][0]) == [0.75, 0.25]
    assert (frame["prediction"][2], frame["error"][2]) == (None, "it raised")
    assert frame["error"][:2].isna().all()
    assert set(frame["latency_ms"]) == {1.5}


def test_files_lie_by_utc_day_of_the_request_and_version(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    late = NOON.replace(hour=23, minute=59, second=59)
    for number, changes in enumerate([{}, {"version": "4"}, {"at": late}, {"at": late + timedelta(seconds=1)}]):
        log.add(request(number, **changes))
    log.close()
    found = [info.uri.removeprefix(f"{ROOT}/predictions/") for info in store.list(f"{ROOT}/")]
    assert [uri.rpartition("/")[0] for uri in found] == [
        "churn/day=2026-11-21/version=3",
        "churn/day=2026-11-21/version=4",
        "churn/day=2026-11-22/version=3",
    ]
    assert all(uri.rpartition("/")[2].startswith("host_1-00000") for uri in found)
    assert rows_of(store)["request_id"].tolist() == ["r-0", "r-2", "r-3"]
    assert rows_of(store, version="4")["request_id"].tolist() == ["r-1"]


def test_reading_a_stretch_of_time_is_half_open(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    for number in range(4):
        log.add(request(number))
    log.close()
    during = Interval(NOON + timedelta(milliseconds=1), NOON + timedelta(milliseconds=3))
    frame = read_predictions(store, ROOT, "churn", during, version="3", columns=["request_id", "colour"])
    assert sorted(frame["request_id"]) == ["r-1", "r-2"]
    assert list(frame.columns) == ["request_id", "colour"]
    assert frame["colour"].isna().all()
    assert rows_of(store, version="9").empty


def test_add_never_waits_for_a_store_that_hangs_and_counts_what_has_no_room(store: FaultyStore, folder: Path) -> None:
    store.open.clear()
    log = started(store, folder, max_memory_bytes=20_000)
    log.add(request(0))
    _flush(log)
    assert store.held.wait(60)
    for number in range(1, 1000):  # returns although the upload hangs: else this test would not end
        log.add(request(number))
        if number == 500:
            _flush(log)
    stats = log.stats()
    assert stats.accepted + stats.dropped["memory"] == 1000
    assert stats.dropped["memory"] > 0
    assert stats.waiting_bytes > 0
    store.open.set()
    log.close()
    assert len(rows_of(store)) == stats.accepted
    assert log.stats().waiting_bytes == 0


def _flush(log: PredictionLog) -> None:
    log._flush_now.set()
    _until(lambda: log.stats().pending == 0)


def test_store_that_was_down_gets_everything_once_when_it_is_back(store: FaultyStore, folder: Path) -> None:
    store.down = True
    log = started(store, folder)
    for number in range(5):
        log.add(request(number))
        _flush(log)
    _until(lambda: log.stats().upload_failures > 0)
    store.down = False
    log.close()
    assert rows_of(store)["request_id"].tolist() == [f"r-{number}" for number in range(5)]
    stats = log.stats()
    assert (stats.accepted, sum(stats.dropped.values()), stats.waiting_bytes) == (5, 0, 0)


def test_upload_is_tried_again_without_anything_new_to_write(store: FaultyStore, folder: Path) -> None:
    store.down = True
    log = started(store, folder)
    log.add(request(1))
    _flush(log)
    _until(lambda: log.stats().upload_failures > 0)
    store.down = False
    _until(lambda: log.stats().waiting_bytes == 0)
    log.close()
    assert len(rows_of(store)) == 1


def test_file_that_the_store_refuses_keeps_no_other_back(store: FaultyStore, folder: Path) -> None:
    store.refused = "version=3"
    log = started(store, folder)
    log.add(request(1))
    log.add(request(2, version="4"))
    log.close()
    assert len(rows_of(store, "4")) == 1
    assert (rows_of(store).empty, log.stats().waiting_bytes > 0) == (True, True)


def test_folder_that_somebody_removed_is_made_again(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    folder.rmdir()
    assert log.stats().waiting_bytes == 0
    log.add(request(1))
    log.close()
    assert len(rows_of(store)) == 1


def test_log_that_was_never_started_can_be_closed(store: FaultyStore, folder: Path) -> None:
    PredictionLog(store, ROOT, {}, folder, replica="r").close()


def test_what_a_stopped_service_could_not_upload_is_uploaded_by_the_next(store: FaultyStore, folder: Path) -> None:
    store.down = True
    log = started(store, folder)
    log.add(request(1))
    log.close()
    assert log.stats().waiting_bytes > 0
    store.down = False
    after = started(store, folder)
    _until(lambda: after.stats().waiting_bytes == 0)
    after.add(request(2))
    after.close()
    assert rows_of(store)["request_id"].tolist() == ["r-1", "r-2"]


KILLED = """
import sys, time
from pathlib import Path
from tests.unit.core.serving.logged import FaultyStore, request, started
store = FaultyStore(Path(sys.argv[1]))
store.down = True
log = started(store, Path(sys.argv[2]), flush_interval_s=0.2)
for number in range(100):
    log.add(request(number))
while log.stats().pending:
    time.sleep(0.01)
print("flushed", flush=True)
time.sleep(600)
"""


def test_killed_service_loses_nothing_of_before_its_last_flush_even_with_the_store_down(
    store: FaultyStore, folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s3"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "flushed\n"
        child.send_signal(signal.SIGKILL)
    assert rows_of(store).empty
    after = started(store, folder)
    _until(lambda: after.stats().waiting_bytes == 0)
    after.close()
    assert len(rows_of(store)) == 100
    assert rows_of(store)["request_id"].is_unique


def test_upload_that_died_before_its_file_was_removed_makes_no_second_object(store: FaultyStore, folder: Path) -> None:
    store.down = True
    log = started(store, folder)
    log.add(request(1))
    log.close()
    (left,) = folder.iterdir()
    content = left.read_bytes()
    store.down = False
    for _ in range(2):
        left.write_bytes(content)
        started(store, folder).close()
    assert len(rows_of(store)) == 1


def test_full_disk_drops_and_counts_and_goes_on(store: FaultyStore, folder: Path) -> None:
    store.down = True
    log = started(store, folder, max_disk_bytes=10_000)
    for number in range(20):
        log.add(request(number))
        _flush(log)
    stats = log.stats()
    assert 0 < stats.dropped["disk"] < 20
    assert stats.waiting_bytes <= 10_000
    store.down = False
    _until(lambda: log.stats().waiting_bytes == 0)
    log.add(request(20))
    log.close()
    assert len(rows_of(store)) == 21 - stats.dropped["disk"]


def test_folder_that_cannot_be_written_to_is_told_at_the_start(store: FaultyStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TerminalError, match="cannot write to"):
        started(store, tmp_path / "file" / "below")


def test_sample_is_the_same_for_champion_and_shadow_and_about_as_large_as_asked(
    store: FaultyStore, folder: Path
) -> None:
    log = started(store, folder, Log(percent=20.0))
    for number in range(2000):
        log.add(request(number))
        log.add(request(number, version="4", role=Role.SHADOW))
    log.close()
    kept = rows_of(store)["request_id"].tolist()
    assert kept == rows_of(store, version="4")["request_id"].tolist()
    assert len(kept) == pytest.approx(400, abs=90)  # 5 standard deviations
    assert log.stats().accepted == 2 * len(kept)


def test_excluded_columns_are_written_nowhere(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder, Log(exclude=("plan",)))
    log.add(request(1))
    log.close()
    assert [name for name in rows_of(store).columns if name not in OWN_COLUMNS] == ["age"]


@pytest.mark.parametrize(("policy", "model"), [(None, "churn"), (Log(), "other")])
def test_model_without_a_log_leaves_no_trace(store: FaultyStore, folder: Path, policy: Log | None, model: str) -> None:
    log = started(store, folder, policy)
    log.add(request(1, model=model))
    log.close()
    assert list(store.list(f"{ROOT}/")) == []
    assert log.stats().accepted == 0


def test_feature_with_a_name_of_the_logs_own_is_kept_beside_it(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    log.add(request(1, features={"row": [17], "label": ["x"], "age": [1]}))
    log.close()
    frame = rows_of(store)
    assert (frame["row"][0], frame["feature_row"][0], frame["feature_label"][0]) == (0, 17, "x")


def test_request_that_cannot_be_written_costs_no_other(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    for number in range(9):
        log.add(request(number))
    log.add(request(9, predictions=[[0.5, 0.5], [0.5, 0.5]]))
    log.add(request(10, rows=2, features={"age": [1]}))
    log.add(request(11, request_id="\ud800"))
    log.close()
    assert len(rows_of(store)) == 9
    assert log.stats().dropped == {"memory": 0, "disk": 0, "encoding": 4}


def test_values_of_several_types_in_a_column_become_texts(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    for number, value in enumerate([1, "a", None, 10**30]):
        log.add(request(number, features={"any": [value]}))
    log.close()
    assert rows_of(store)["any"].tolist()[:2] == ["1", "a"]
    assert rows_of(store)["any"].tolist()[3] == str(10**30)


def test_files_whose_columns_differ_are_read_as_one_frame(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    values = [1, 2.5, "a", None]
    for number, value in enumerate(values):
        log.add(request(number, features={"any": [value], "whole": [number if number else None]}))
        _flush(log)
    log.add(request(4, predictions=None, error="it raised", features={}))
    log.close()
    frame = rows_of(store)
    assert frame["any"].tolist()[:3] == ["1", "2.5", "a"]
    assert frame["any"].isna().tolist() == [False, False, False, True, True]
    assert frame["whole"].tolist()[1:4] == [1, 2, 3]
    assert list(frame["prediction"][0]) == [0.75, 0.25]


def test_prediction_that_is_nan_is_told_from_one_that_is_missing(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    log.add(request(1, predictions=[math.nan]))
    log.add(request(2, predictions=[0.5]))
    log.close()
    assert math.isnan(rows_of(store)["prediction"][0])
    assert rows_of(store)["error"].isna().all()


def test_many_threads_lose_and_double_nothing(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder, flush_interval_s=0.05)
    requests = [[request(1000 * part + number) for number in range(500)] for part in range(4)]
    threads = [threading.Thread(target=lambda part=part: [log.add(each) for each in part]) for part in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(rows_of(store)) == 2000
    assert rows_of(store)["request_id"].is_unique


def test_large_requests_are_flushed_before_the_memory_is_full(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder, max_memory_bytes=1_000_000)
    for number in range(5):
        log.add(request(number, rows=1000))
        _until(lambda: log.stats().pending == 0)  # without being told to, and the interval is an hour
    log.close()
    assert len(rows_of(store)) == 5000


def test_size_of_texts_counts_against_the_memory(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder, max_memory_bytes=100_000)
    log.add(request(1, features={"note": ["x" * 200_000]}))
    log.add(request(2, features={"note": [None]}))
    log.close()
    assert rows_of(store)["request_id"].tolist() == ["r-2"]
    assert log.stats().dropped["memory"] == 1


def test_close_without_a_request_writes_nothing(store: FaultyStore, folder: Path) -> None:
    started(store, folder).close()
    assert list(store.list(f"{ROOT}/")) == []


def test_interval_of_reading_spans_days(store: FaultyStore, folder: Path) -> None:
    log = started(store, folder)
    for number, day in enumerate([-3, -2, -1, 0, 1, 2]):
        log.add(replace(request(number), at=NOON + timedelta(days=day)))
    log.close()
    assert sorted(read_predictions(store, ROOT, "churn", DAYS, version="3")["request_id"]) == [
        "r-1",
        "r-2",
        "r-3",
        "r-4",
    ]


def test_text_of_an_error_is_left_out_where_it_could_quote_an_excluded_column(store: FaultyStore, folder: Path) -> None:
    for policy, told in ((Log(exclude=("plan",)), "request"), (Log(), "request: got the text 'basic'")):
        log = started(store, folder, policy)
        log.add(request(1, features={}, predictions=None, error="request: got the text 'basic'", version=told[-1]))
        log.close()
        assert rows_of(store, version=told[-1])["error"].tolist() == [told]


@pytest.mark.parametrize(
    "large",
    [{"features": {"any": [1, "x" * 10_000]}}, {"predictions": [[0.5] * 200] * 2}, {"error": "x" * 10_000}],
)
def test_all_that_is_large_in_a_request_counts_for_the_memory(store: FaultyStore, folder: Path, large: Any) -> None:
    log = started(store, folder, max_memory_bytes=10_000)
    log.add(request(1, rows=2, **large))
    assert log.stats().dropped["memory"] == 2
    log.close()
