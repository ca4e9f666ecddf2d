"""How many more rows would settle an undecided comparison."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.rows_needed import RowsNeeded, rows_needed


def test_twice_as_far_as_the_limit_needs_four_times_the_data() -> None:
    found = rows_needed(0.02, -0.02, 0.06, limit=0.0, rows=1000, clusters=14)
    assert found == RowsNeeded(rows=3000, clusters=42)


def test_below_the_limit_the_upper_end_decides() -> None:
    found = rows_needed(-0.02, -0.9, 0.01, limit=0.0, rows=1000, clusters=None)
    assert found == RowsNeeded(rows=1300, clusters=None)  # 1,250 rounded up: (0.03 / 0.02)**2 = 2.25 times


def test_more_than_a_hundred_times_the_data_is_no_answer() -> None:
    found = rows_needed(0.001, -0.02, 0.02, limit=0.0, rows=1000, clusters=14)
    assert found == RowsNeeded(rows=None, clusters=None)
    assert "not settled with less than 100 times the data" in found.sentence("day")


def test_end_at_the_limit_needs_one_more_row() -> None:
    found = rows_needed(0.02, 0.0, 0.04, limit=0.0, rows=1000, clusters=14)
    assert found == RowsNeeded(rows=1, clusters=1)
    assert found.sentence("day").endswith("about 1 more row, 1 more cluster of day, would settle it.")


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.5])
def test_nothing_is_said_of_what_cannot_be_told(odd: float) -> None:
    assert rows_needed(odd, 0.4, 0.6, limit=0.5, rows=1000, clusters=None) is None
    assert rows_needed(0.7, 0.6, 0.8, limit=0.5, rows=1000, clusters=None) is None
    assert rows_needed(0.7, 0.4, 0.8, limit=0.5, rows=0, clusters=None) is None


@given(st.floats(-1, 1), st.floats(0.001, 1), st.floats(-1, 1), st.integers(1, 10**7))
def test_that_many_rows_bring_the_end_to_the_limit(gain: float, reach: float, limit: float, rows: int) -> None:
    found = rows_needed(gain, gain - reach, gain + reach, limit=limit, rows=rows, clusters=None)
    if found is None or found.rows is None:
        return
    shrunk = reach * math.sqrt(rows / (rows + found.rows))
    assert shrunk <= abs(gain - limit) * (1 + 1e-6)
    assert len(str(found.rows).rstrip("0")) <= 2
