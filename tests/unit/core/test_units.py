"""Units of evidence from rows: what a unit is, when it counts, and what it says; from rows to evidence over nights."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.domain.comparison import pseudo_values
from perennial.domain.sequential import EvidenceState, next_state
from perennial.spec.model import ModelSpec
from perennial.spec.parts import FalsePromotions
from perennial.stages.scoring import Scores
from perennial.stages.slices import coded
from perennial.stages.units import units_of
from tests.unit.core.judging import SPEC

START = datetime(2013, 3, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
POLICY = FalsePromotions(budget=0.05, period_days=90)
BIG, SMALL = 0.3, 0.0
"""Gain of all days before 14 March, and of all from then on."""


def landed(days: int = 40, rows_a_day: int = 24, ahead: timedelta = timedelta(0)) -> pd.DataFrame:
    """Rows at even distances; `day` by a clock that is `ahead` of UTC."""
    at = pd.Series(pd.date_range(START, START + days * DAY, periods=days * rows_a_day, inclusive="left", tz=UTC))
    early = at < START + 13 * DAY
    return pd.DataFrame(
        {
            "at": at,
            "day": (at + ahead).dt.strftime("%Y-%m-%d"),
            "week": (at + ahead).dt.strftime("%G-%V"),
            "hour": at.dt.strftime("%d-%H"),
            "customer": np.arange(len(at)) % 12,
            "once": np.arange(len(at)),
            "gain": np.where(early, BIG, SMALL),
        }
    )


def measured(
    frame: pd.DataFrame, end: datetime, cluster_by: str | None = "day", days: int = 14, **scores: Any
) -> tuple[str, dict[str, float] | None]:
    """Units of the holdout that ends at `end`: the champion's errors exceed the challenger's by `gain`."""
    holdout = frame[(frame["at"] >= end - days * DAY) & (frame["at"] < end)]
    gate = {**SPEC["gate"], "cluster_by": cluster_by, "floors": {}}
    values = {**SPEC, "task": "regression", "gate": gate, "evaluation": {"primary": "mae"}}
    labels = np.zeros(len(holdout))
    given = Scores(
        labels=labels,
        challenger=labels,
        champion=scores.get("champion", -holdout["gain"].to_numpy()),
        classes=(),
        defects=(),
        notes=(),
    )
    clusters = None if cluster_by is None else coded(holdout[cluster_by])
    kind, units = units_of(ModelSpec.model_validate(values), holdout, given, clusters, end)
    return kind, None if units is None else {label: -gain for label, gain in units}


@pytest.mark.parametrize("cluster_by", ["day", None])
@pytest.mark.parametrize(("hour", "count", "newest"), [(0, 14, 19), (6, 14, 19), (12, 14, 19), (21, 13, 19)])
def test_day_counts_from_when_it_is_over(cluster_by: str | None, hour: int, count: int, newest: int) -> None:
    """From midnight: 14 days. Later: the newest is not over; of the oldest is left less and less."""
    kind, units = measured(landed(), START + 19 * DAY + hour * HOUR, cluster_by)
    assert kind == (cluster_by or "UTC day")
    assert units is not None
    assert max(units) == f"2013-03-{newest}"
    assert len(units) == count


def test_day_by_another_clock_counts_once_it_has_lasted_as_long_as_the_others() -> None:
    for hour, newest in ((18, "2013-03-19"), (19, "2013-03-20"), (23, "2013-03-20")):
        kind, units = measured(landed(ahead=5 * HOUR), START + 19 * DAY + hour * HOUR)
        assert kind == "day"
        assert units is not None
        assert max(units) == newest


def test_days_with_hours_of_business_count_in_the_night_after_them() -> None:
    frame = landed(rows_a_day=48)
    frame = frame[frame["at"].dt.hour.between(8, 17)]
    for hour, newest in ((12, "2013-03-19"), (17, "2013-03-19"), (18, "2013-03-20")):
        units = measured(frame, START + 19 * DAY + hour * HOUR)[1]
        assert units is not None
        assert max(units) == newest


@pytest.mark.parametrize("column", ["customer", "hour", "once"])
def test_clusters_that_are_no_stretches_of_a_day_or_more_make_utc_days_the_units(column: str) -> None:
    assert measured(landed(), START + 19 * DAY, column) == measured(landed(), START + 19 * DAY, None)


@pytest.mark.parametrize("kind", ["datetime64[us]", "datetime64[us, UTC]", "object", "int64"])
def test_column_of_days_that_changes_its_type_keeps_its_labels(kind: str) -> None:
    text, other = landed(), landed()
    days = pd.to_datetime(other["day"])
    columns = {"object": days.dt.date, "int64": days.dt.strftime("%Y%m%d").astype(int)}
    localised = days.dt.tz_localize("UTC") if kind.endswith("UTC]") else days
    other["day"] = columns.get(kind, localised.astype(kind) if kind not in columns else None)
    assert measured(other, START + 19 * DAY) == measured(text, START + 19 * DAY)


def test_weeks_are_units_of_their_own() -> None:
    kind, units = measured(landed(), START + 30 * DAY, "week", days=28)
    assert kind == "week"
    assert units is not None
    assert list(units) == ["2013-10", "2013-11", "2013-12"]  # week 9 is cut by the start, week 13 is not over


def test_of_two_long_stretches_the_newer_one_waits_for_a_third() -> None:
    frame = landed(days=60)
    frame["month"] = frame["at"].dt.strftime("%Y-%m")
    for day in (36, 40, 44, 58):
        kind, units = measured(frame, START + day * DAY, "month")
        assert kind == "month"
        assert units is not None
        assert list(units) == (["2013-03"] if day < 44 else [])


def test_rows_without_a_date_are_no_unit() -> None:
    frame = landed()
    frame.loc[frame["at"].dt.hour == 3, "day"] = None
    kind, units = measured(frame, START + 19 * DAY)
    assert kind == "day"
    assert units is not None
    assert list(units) == [f"2013-03-{day:02}" for day in range(6, 19)]  # the newest waits for tomorrow


def test_one_row_with_a_wrong_date_neither_changes_what_a_unit_is_nor_adds_one() -> None:
    frame = landed()
    sound = set(measured(frame, START + 19 * DAY)[1] or ())
    for wrong in ("2013-03-07", "2031-03-10", "1913-03-10"):
        frame.loc[24 * 9 + 3, "day"] = wrong
        kind, units = measured(frame, START + 19 * DAY)
        assert kind == "day"
        assert sound - {"2013-03-19"} <= set(units or ()) <= sound  # the newest may have to wait for tomorrow


def test_unit_of_few_rows_is_left_out() -> None:
    frame = landed()
    sunday = frame["day"] == "2013-03-10"
    kept = frame[~sunday | (frame["at"].dt.hour < 4)]
    units = measured(kept, START + 19 * DAY)[1]
    assert units is not None
    assert "2013-03-10" not in units
    assert len(units) == 13


@pytest.mark.parametrize("champion", [None, np.full(14 * 24, np.nan)])
def test_without_a_usable_champion_there_are_no_units(champion: Any) -> None:
    assert measured(landed(), START + 19 * DAY, champion=champion)[1] is None


@pytest.mark.parametrize("cluster_by", ["day", None])
@pytest.mark.parametrize("hour", [1, 12, 22])
def test_holdouts_that_end_within_a_day_use_each_day_once_and_whole(cluster_by: str | None, hour: int) -> None:
    """Days from 14 March on say nothing; a part of one must not repeat what the days before it said."""
    state: EvidenceState | None = None
    for night in range(14, 34):
        kind, units = measured(landed(), START + night * DAY + hour * HOUR, cluster_by)
        assert units is not None
        state = _after(state, list(units.items()), night, unit=kind)
    assert state is not None
    gains = dict(state.units)
    days = [(START + day * DAY).date().isoformat() for day in range(34)]
    later = [gains[day] for day in days[13:33]]
    assert later == pytest.approx([SMALL] * 20, abs=1e-12)
    assert set(gains) - set(days[13:33]) <= set(days[:13])
    assert days[33] not in gains


def _after(
    state: EvidenceState | None, units: list[tuple[str, float]], night: int, unit: str = "UTC day"
) -> EvidenceState:
    return next_state(
        state,
        champion="a",
        reign=1,
        metric="roc_auc",
        limit=0.0,
        unit=unit,
        policy=POLICY,
        as_of=START + night * DAY,
        units=units,
    )


def _night(seed: int, night: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores of challenger and champion, and days of one night's rows; days overlap with last night's."""
    rng = np.random.default_rng([seed, night])
    days = np.repeat(np.arange(12), rng.integers(20, 60, 12))
    labels = rng.integers(0, 2, len(days)).astype(float)
    scores = labels[:, None] * rng.uniform(0.2, 1.5, 2) + rng.normal(0, 1, (len(days), 2))
    return labels, scores[:, 0], scores[:, 1], days


def _evidence(state: EvidenceState | None, rows: tuple[np.ndarray, ...], night: int) -> EvidenceState:
    labels, mine, theirs, days = rows
    values = pseudo_values("roc_auc", labels, mine, theirs, days)
    return _after(state, [(f"{night + day:04d}", float(value)) for day, value in enumerate(values)], night)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    nights=st.integers(1, 5),
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
    data=st.data(),
)
def test_over_nights_of_rows_nothing_but_new_sound_days_changes_the_evidence(
    seed: int, nights: int, bad: float, data: st.DataObject
) -> None:
    state: EvidenceState | None = None
    for night in range(nights):
        rows = _night(seed, night)
        before, state = state, _evidence(state, rows, night)
        # The same night again: nothing.
        assert _evidence(state, rows, night) == state
        # Rows of a day in another order: nothing.
        order = np.random.default_rng(seed).permutation(len(rows[0]))
        shuffled = _evidence(before, tuple(part[order] for part in rows), night)
        assert shuffled.e_value == pytest.approx(state.e_value, rel=1e-9)
        # A number that is none, anywhere: never more evidence than before, nothing kept.
        which = data.draw(st.integers(0, 2))
        broken = [part.copy() for part in rows]
        broken[which][data.draw(st.integers(0, len(order) - 1))] = bad
        spoilt = _evidence(before, tuple(broken), night)
        assert spoilt.e_value <= (1.0 if before is None else before.e_value)
        assert spoilt.units == (() if before is None else before.units)
