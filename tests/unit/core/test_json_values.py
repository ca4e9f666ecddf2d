from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perennial.domain.faulty_values import faulty_values
from perennial.domain.json_values import MAX_ITEMS, MAX_TEXT, json_ready


@pytest.mark.parametrize(
    ("value", "ready"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (float("nan"), None),
        (float("-inf"), "-inf"),
        (np.float64(1.5), 1.5),
        (np.float32("nan"), None),
        (np.int8(3), 3),
        (np.bool_(True), True),
        (pd.NA, None),
        (pd.NaT, None),
        (pd.Timestamp("2013-01-01", tz="America/New_York"), "2013-01-01T05:00:00Z"),
        (datetime(2013, 1, 1, tzinfo=UTC), "2013-01-01T00:00:00Z"),
        (datetime(2013, 1, 1), "2013-01-01T00:00:00"),  # noqa: DTZ001 - a naive time is a value too
        (date(2013, 1, 1), "2013-01-01"),
        (Decimal("1.50"), "1.50"),
        (b"\xff", "\\xff"),
        ({2, 1}, [1, 2]),
        ((1, np.nan), [1, None]),
        (np.array([1.0, np.nan]), [1.0, None]),
        ({1: {"a": np.int64(2)}}, {"1": {"a": 2}}),
    ],
)
def test_value_becomes_json(value: Any, ready: Any) -> None:
    assert json_ready(value) == ready
    assert json.loads(json.dumps(json_ready(value), allow_nan=False)) == ready


def test_long_text_and_long_list_are_cut() -> None:
    assert len(json_ready("x" * 1000)) == MAX_TEXT
    cut = json_ready(list(range(MAX_ITEMS + 3)))
    assert len(cut) == MAX_ITEMS + 1
    assert cut[-1].endswith("and 3 more")


def test_values_of_one_column_are_counted_without_missing_ones() -> None:
    frame = pd.DataFrame({"x": [5.0, -1.0, -2.0, -1.0, None]})
    assert faulty_values(frame, ["x"], [1, 2, 3, 4]) == (
        [-1.0, -2.0],
        {"example_counts": [2, 1], "lowest": -2.0, "highest": -1.0},
    )


def test_values_that_cannot_be_counted_are_listed() -> None:
    frame = pd.DataFrame({"x": [[1], [2]]})
    assert faulty_values(frame, ["x"], [0, 1]) == ([[1], [2]], {})


def test_several_columns_give_rows() -> None:
    frame = pd.DataFrame({"x": [1, 2], "y": ["a", None], "z": [0, 0]})
    assert faulty_values(frame, ["x", "y"], [1]) == ([{"x": 2, "y": None}], {})
