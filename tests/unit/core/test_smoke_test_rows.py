"""What the smoke test sends is what a client sends, and its figures are compared as they should be."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from perennial.domain.signature import ColumnType, InputColumn
from perennial.domain.smoke_test import out_of_memory, score_differences, spread
from perennial.serving.columns import Columns
from perennial.serving.payload import parse
from perennial.stages.smoke_rows import request_body


def test_each_kind_of_column_is_sent_as_json_has_it() -> None:
    frame = pd.DataFrame(
        {
            "number": [0.1, np.nan],
            "infinite": [np.inf, -1.0],
            "whole": [2**53 + 1, -1],
            "seats": pd.Series([1, None], dtype="Int64"),
            "gaps": pd.Series([3, None], dtype="float64"),
            "flag": [True, False],
            "maybe": pd.Series([True, None], dtype="boolean"),
            "text": pd.Series(["a", None], dtype="str"),
            "kind": pd.Categorical(["x", None]),
            "code": pd.Categorical([7, 8]),
            "at": pd.to_datetime(["2013-03-01 05:06:07.000008", None], utc=True),
            "local": pd.to_datetime(["2013-03-01", "2013-03-02"]),
            "day": [date(2013, 3, 1), None],
            "price": [Decimal("1.5"), None],
            "small": np.array([1, 2], dtype=np.int8),
        }
    )
    sent = json.loads(request_body(frame))["dataframe_split"]
    rows = [dict(zip(sent["columns"], row, strict=True)) for row in sent["data"]]
    assert rows[0] == {
        "number": 0.1,
        "infinite": float("inf"),
        "whole": 2**53 + 1,
        "seats": 1,
        "gaps": 3.0,
        "flag": True,
        "maybe": True,
        "text": "a",
        "kind": "x",
        "code": 7,
        "at": "2013-03-01T05:06:07.000008+00:00",
        "local": "2013-03-01T00:00:00",
        "day": "2013-03-01",
        "price": 1.5,
        "small": 1,
    }
    assert [name for name, value in rows[1].items() if value is None] == [
        "number",
        "seats",
        "gaps",
        "maybe",
        "text",
        "kind",
        "at",
        "day",
        "price",
    ]
    assert type(rows[0]["flag"]) is bool


def test_what_is_sent_comes_out_of_the_service_bit_by_bit() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=200) * 10.0 ** rng.integers(-300, 300, size=200),
            "single": rng.normal(size=200).astype(np.float32),
            "n": rng.integers(-(2**63), 2**63 - 1, size=200),
            "at": pd.to_datetime(rng.integers(0, 2**60, size=200) // 1000 * 1000),
        }
    )
    kinds = [ColumnType.DOUBLE, ColumnType.FLOAT, ColumnType.LONG, ColumnType.DATETIME]
    columns = Columns([InputColumn(name=name, type=kind) for name, kind in zip(frame.columns, kinds, strict=True)])
    pd.testing.assert_frame_equal(
        columns.frame([parse(request_body(frame), "application/json", columns)]), frame, check_exact=True
    )


@pytest.mark.parametrize(
    ("rows", "wanted", "expected"),
    [(5, 100, [0, 1, 2, 3, 4]), (5, 1, [0]), (1, 3, [0]), (101, 3, [0, 50, 100]), (10, 10, list(range(10)))],
)
def test_rows_are_spread_from_the_first_to_the_last(rows: int, wanted: int, expected: list[int]) -> None:
    assert spread(rows, wanted).tolist() == expected


def test_difference_is_absolute_for_probabilities_and_relative_for_large_numbers() -> None:
    expected = np.array([[0.25], [0.5]])
    assert score_differences("binary_classification", [[0.7, 0.3], [0.5, 0.5]], expected).tolist() == pytest.approx(
        [0.05, 0.0]
    )
    assert score_differences("regression", [2e6, 1.5], np.array([[1e6], [1.0]])).tolist() == [1.0, 0.5]
    assert score_differences("regression", [[2e6], [1.5]], np.array([[1e6], [1.0]])).tolist() == [1.0, 0.5]


def test_class_that_only_the_data_has_counts_as_probability_zero() -> None:
    expected = np.array([[0.4, 0.6, 0.0], [0.4, 0.5, 0.1]])
    found = score_differences("multiclass_classification", [[0.4, 0.6], [0.4, 0.5]], expected)
    assert found.tolist() == [0.0, 0.1]


@pytest.mark.parametrize("given", [[None], [float("inf")], [float("nan")]])
def test_score_that_is_not_finite_has_no_difference(given: list[float]) -> None:
    assert np.isnan(score_differences("regression", given, np.array([[1.0]]))).all()
    assert np.isnan(score_differences("regression", [1.0], np.array([[np.nan]]))).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.00 GiB", True),
        ("terminate called after throwing an instance of 'std::bad_alloc'", True),
        ("failed to map segment from shared object: Cannot allocate memory", True),
        ("ValueError: no", False),
    ],
)
def test_last_words_tell_whether_memory_ran_out(text: str, expected: bool) -> None:
    assert out_of_memory(text) is expected
