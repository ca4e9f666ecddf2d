"""How large a holdout would have a fair chance to settle an undecided comparison."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.rows_needed import RowsNeeded, rows_needed


def test_twice_as_far_as_the_limit_needs_four_times_the_data() -> None:
    found = rows_needed(0.02, -0.02, 0.06, limit=0.0, rows=1000, days=14)
    assert found == RowsNeeded(rows=4000, days=56)
    assert found.sentence() == (
        "If the figures stay as they are, a holdout of about 56 days (4,000 rows) has even odds of settling it."
    )


def test_below_the_limit_the_upper_end_decides() -> None:
    found = rows_needed(-0.02, -0.9, 0.01, limit=0.0, rows=1000)
    assert found == RowsNeeded(rows=2300, days=None)  # 2,250 rounded up: (0.03 / 0.02)**2 = 2.25 times
    assert "a holdout of about 2,300 rows in it has even odds" in found.sentence(" in it")


def test_more_than_a_hundred_times_the_data_is_no_answer() -> None:
    found = rows_needed(0.001, -0.02, 0.02, limit=0.0, rows=1000, days=14)
    assert found == RowsNeeded(rows=None, days=None)
    assert "a holdout of 100 times the size would still leave it open" in found.sentence()


def test_end_at_the_limit_needs_more_than_there_is() -> None:
    found = rows_needed(0.02, 0.0, 0.04, limit=0.0, rows=60, days=14)
    assert found == RowsNeeded(rows=61, days=15)


@pytest.mark.parametrize("days", [math.nan, 0.0, -3.0])
def test_days_that_cannot_be_are_left_out(days: float) -> None:
    assert rows_needed(0.02, -0.02, 0.06, limit=0.0, rows=1000, days=days) == RowsNeeded(rows=4000, days=None)


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.5])
def test_nothing_is_said_of_what_cannot_be_told(odd: float) -> None:
    assert rows_needed(odd, 0.4, 0.6, limit=0.5, rows=1000) is None
    assert rows_needed(0.7, 0.6, 0.8, limit=0.5, rows=1000) is None
    assert rows_needed(0.7, 0.4, 0.8, limit=0.5, rows=0) is None


@given(st.floats(-1, 1), st.floats(0.001, 1), st.floats(-1, 1), st.integers(1, 10**7))
def test_that_many_rows_bring_the_end_to_the_limit(gain: float, reach: float, limit: float, rows: int) -> None:
    found = rows_needed(gain, gain - reach, gain + reach, limit=limit, rows=rows)
    if found is None or found.rows is None:
        return
    assert found.rows > rows
    shrunk = reach * math.sqrt(rows / found.rows)
    assert shrunk <= abs(gain - limit) * (1 + 1e-6)
    assert len(str(found.rows).rstrip("0")) <= 2 or found.rows <= 2 * rows
