"""Rows that a performance is computed from: which of them, whatever order and pieces they lie in."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perennial.domain.times import Interval
from perennial.domain.traffic import Role
from perennial.stages.monitor_reading import BLOCKS, LogSample
from tests.unit.core.monitored import CLASSES, DAY, FIRST, ROOT, Monitored

DAYS = Interval(FIRST, FIRST + 3 * DAY)


@pytest.fixture
def world(tmp_path: Path) -> Monitored:
    world = Monitored(tmp_path)
    for day in range(3):
        world.serve(day)
    return world


def _log(world: Monitored, version: str = "1") -> LogSample:
    return LogSample(world.spec, world.store, ROOT, version, CLASSES)


def test_all_rows_are_there_if_they_are_few(world: Monitored) -> None:
    rows = _log(world).scored(DAYS, most=10_000)
    assert rows.scores.shape == (3 * 960,)
    assert len(rows.labels) == 0
    assert _log(world).scored(Interval(FIRST, FIRST + DAY / 2), most=10_000).scores.shape == (480,)


def test_sample_is_the_same_each_time_and_smaller_ones_are_part_of_larger_ones(world: Monitored) -> None:
    first, again, smaller = (_log(world).scored(DAYS, most=most).scores for most in (800, 800, 200))
    np.testing.assert_array_equal(first, again)
    assert 200 < len(first) <= 800
    assert 25 < len(smaller) <= 200
    assert set(smaller) < set(first)


def test_sample_is_a_fair_one_of_a_single_request_too(tmp_path: Path) -> None:
    world = Monitored(tmp_path)
    world.serve(0, rows=2000)
    within = Interval(FIRST, FIRST + timedelta(hours=1))
    rows = _log(world).scored(within, most=600)
    assert 200 < len(rows.scores) <= 600
    assert abs(rows.scores.mean() - 0.5) < 0.1


def test_blocks_follow_time_and_are_of_one_size(world: Monitored) -> None:
    blocks = _log(world).scored(DAYS, most=10_000).blocks
    assert (np.diff(blocks) >= 0).all()
    assert set(np.bincount(blocks)) == {57, 58}
    assert len(np.bincount(blocks)) == BLOCKS


def test_shadows_errors_and_other_versions_are_left_out(world: Monitored) -> None:
    world.serve(3, version="2", role=Role.SHADOW)
    world.serve(4, version="2", failed=20)
    days = Interval(FIRST, FIRST + 5 * DAY)
    assert len(_log(world, "2").scored(days, most=10_000).scores) == 4 * 40
    assert len(_log(world).scored(days, most=10_000).scores) == 3 * 960


def test_labels_find_their_rows_in_a_sample(world: Monitored) -> None:
    log, known_at = _log(world), DAYS.end
    whole = log.labelled(DAYS, known_at=known_at, most=10_000)
    assert len(whole.labels) == len(whole.scores) == 3 * 960
    # Labels were drawn with the chances that the model predicts.
    high = whole.scores > 0.8
    assert whole.labels[high].mean() > 0.8
    sample = log.labelled(DAYS, known_at=known_at, most=500)
    assert len(sample.labels) == sample.drawn <= 500
    np.testing.assert_array_equal(sample.scores, log.scored(DAYS, most=500).scores)


def test_labels_of_later_are_left_out(world: Monitored) -> None:
    rows = _log(world).labelled(DAYS, known_at=FIRST + 2 * DAY, most=10_000)
    assert (rows.drawn, len(rows.labels)) == (3 * 960, 2 * 960)


def test_log_without_rows_gives_none(world: Monitored) -> None:
    rows = _log(world, "9").labelled(DAYS, known_at=DAYS.end, most=100)
    assert (rows.drawn, len(rows.scores), len(rows.labels), len(rows.blocks)) == (0, 0, 0, 0)


@pytest.mark.parametrize("folder", ["predictions/toy/day=2026-03-03/version=1", "labels/toy/day=2026-03-03"])
def test_object_that_is_broken_gives_no_rows_and_stops_nothing(world: Monitored, folder: str) -> None:
    uri = f"{ROOT}/{folder}/broken.parquet"
    world.store.write(uri, b"PAR1 half of it", content_type="application/vnd.apache.parquet")
    rows = _log(world).labelled(DAYS, known_at=DAYS.end, most=10_000)
    assert (len(rows.scores), len(rows.labels)) == (3 * 960, 3 * 960)


def test_object_of_something_else_gives_no_rows(world: Monitored) -> None:
    frame = pd.DataFrame({"at": pd.Series([FIRST + DAY]).dt.as_unit("us"), "request_id": ["1"]})
    uri = f"{ROOT}/predictions/toy/day=2026-03-03/version=1/other.parquet"
    world.store.write(uri, frame.to_parquet(index=False), content_type="application/vnd.apache.parquet")
    assert len(_log(world).scored(DAYS, most=10_000).scores) == 3 * 960
