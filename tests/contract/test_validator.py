"""One suite for the port `Validator`: the fake and Great Expectations pass the same tests, for what they share."""

from __future__ import annotations

import gc
import json
import logging
import warnings
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from perennial.adapters.great_expectations import GreatExpectationsValidator
from perennial.errors import SpecError
from perennial.ports import ExpectationResult, Validator
from perennial.testing.validator import FakeValidator

PARAMETERS = {
    "window_start": datetime(2013, 1, 1, tzinfo=UTC),
    "window_end": datetime(2013, 1, 5, tzinfo=UTC),
    "window_days": 4,
}


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "id": ["a", "b", "c", "d", "d"],
            "origin": ["EWR", "JFK", "XXX", None, "XXX"],
            "distance": [100.0, -1.0, -1.0, np.nan, -2.5],
            "time": pd.date_range("2013-01-01", periods=5, freq="D", tz="UTC").astype("datetime64[us, UTC]"),
        }
    )
    rows.index = pd.Index([7, 7, 8, 100, 3])  # positions count, not labels
    return rows


@pytest.fixture(params=["fake", "great_expectations"])
def validator(request: pytest.FixtureRequest) -> Validator:
    return FakeValidator() if request.param == "fake" else GreatExpectationsValidator()


@pytest.fixture
def real() -> Validator:
    return GreatExpectationsValidator()


def check(validator: Validator, frame: pd.DataFrame, expectation: str, **kwargs: object) -> ExpectationResult:
    suite = {"name": "s.json", "expectations": [{"type": expectation, "kwargs": kwargs, "notes": "why"}]}
    result = validator.validate(frame, suite, PARAMETERS)
    assert result.success == result.results[0].success
    json.dumps([result.results[0].detail, result.results[0].examples], allow_nan=False)
    return result.results[0]


def test_null_in_column_fails_with_its_position(validator: Validator, frame: pd.DataFrame) -> None:
    result = check(validator, frame, "expect_column_values_to_not_be_null", column="origin")
    assert (result.success, result.column, result.unexpected_count) == (False, "origin", 1)
    assert list(result.rows) == [3]
    assert result.examples == []
    assert result.notes == "why"
    assert result.detail["observed"]["element_count"] == 5


def test_nulls_within_mostly_pass(validator: Validator, frame: pd.DataFrame) -> None:
    result = check(validator, frame, "expect_column_values_to_not_be_null", column="origin", mostly=0.8)
    assert result.success
    assert result.unexpected_count == 1


def test_values_outside_range_fail_with_examples_by_frequency(validator: Validator, frame: pd.DataFrame) -> None:
    result = check(validator, frame, "expect_column_values_to_be_between", column="distance", min_value=0.0)
    assert list(result.rows) == [1, 2, 4]
    assert result.examples == [-1.0, -2.5]
    observed = result.detail["observed"]
    assert (observed["lowest"], observed["highest"], observed["example_counts"]) == (-2.5, -1.0, [2, 1])


def test_values_outside_set_fail(validator: Validator, frame: pd.DataFrame) -> None:
    result = check(validator, frame, "expect_column_values_to_be_in_set", column="origin", value_set=["EWR", "JFK"])
    assert list(result.rows) == [2, 4]
    assert result.examples == ["XXX"]
    assert result.detail["kwargs"]["value_set"] == ["EWR", "JFK"]


def test_repeated_values_fail_with_all_their_rows(validator: Validator, frame: pd.DataFrame) -> None:
    result = check(validator, frame, "expect_column_values_to_be_unique", column="id")
    assert list(result.rows) == [3, 4]


def test_repeated_pairs_fail_and_examples_are_rows(validator: Validator, frame: pd.DataFrame) -> None:
    twice = frame.assign(hour=[1, 2, 3, 4, 4])
    result = check(validator, twice, "expect_compound_columns_to_be_unique", column_list=["id", "hour"])
    assert list(result.rows) == [3, 4]
    assert result.column == "id, hour"
    assert result.examples[0] == {"id": "d", "hour": 4}


def test_row_count_outside_range_fails_without_rows(validator: Validator, frame: pd.DataFrame) -> None:
    result = check(validator, frame, "expect_table_row_count_to_be_between", min_value=10)
    assert not result.success
    assert result.column is None
    assert len(result.rows) == 0
    assert result.detail["observed"]["observed_value"] == 5


def test_parameters_fill_times_and_numbers(validator: Validator, frame: pd.DataFrame) -> None:
    suite = {
        "expectations": [
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {
                    "column": "time",
                    "min_value": {"$PARAMETER": "window_start"},
                    "max_value": {"$PARAMETER": "window_end"},
                    "strict_max": True,
                },
            },
            {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": {"$PARAMETER": "window_days"}}},
        ]
    }
    result = validator.validate(frame, suite, PARAMETERS)
    times, rows = result.results
    assert list(times.rows) == list(result.faulty_rows) == [4]
    assert times.examples == ["2013-01-05T00:00:00Z"]
    assert times.detail["kwargs"]["max_value"] == "2013-01-05T00:00:00Z"
    assert rows.success


def test_missing_column_fails_with_an_error_and_the_rest_is_checked(validator: Validator, frame: pd.DataFrame) -> None:
    suite = {
        "expectations": [
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "nope"}},
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}},
        ]
    }
    result = validator.validate(frame, suite, {})
    missing, present = result.results
    assert not result.success
    assert not missing.success
    assert missing.error == 'The column "nope" in BatchData does not exist.'
    assert present.success
    assert present.error == ""


def test_results_keep_the_order_of_the_suite(validator: Validator, frame: pd.DataFrame) -> None:
    columns = ["time", "nope", "id", "time", "id", "distance"]
    suite = {
        "expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": c}} for c in columns]
    }
    assert [r.column for r in validator.validate(frame, suite, {}).results] == columns


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"type": "expect_nonsense", "kwargs": {}}, "expectations[0].type"),
        (
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id", "colour": 1}},
            "expectations[0].kwargs.colour",
        ),
        (
            {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": {"$PARAMETER": "window_dais"}}},
            "expectations[0].kwargs.min_value",
        ),
    ],
)
def test_invalid_suite_is_reported_by_field(
    validator: Validator, frame: pd.DataFrame, entry: dict[str, object], field: str
) -> None:
    with pytest.raises(SpecError) as caught:
        validator.validate(frame, {"name": "s.json", "expectations": [entry]}, PARAMETERS)
    assert [(problem.file, problem.field) for problem in caught.value.problems] == [("s.json", field)]


def test_frame_is_left_as_it_was(validator: Validator, frame: pd.DataFrame) -> None:
    before = frame.copy()
    check(validator, frame, "expect_column_values_to_be_unique", column="id")
    pd.testing.assert_frame_equal(frame, before)


# What only Great Expectations can do.


def test_all_problems_of_a_suite_are_reported_at_once(real: Validator, frame: pd.DataFrame) -> None:
    entries = [
        {"type": "expect_column_values_to_be_betwen", "kwargs": {}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "id"}},
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "id"}},
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}, "severity": "warning"},
        {"expectation_type": "expect_column_to_exist"},
        {"type": "expect_column_max_to_be_between", "kwargs": {"column": "id", "max_value": {"$PARAMETER": "now()"}}},
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "id", "value_set": [{"$PARAMETER": "x"}]}},
    ]
    with pytest.raises(SpecError) as caught:
        real.validate(frame, {"expectations": entries}, PARAMETERS)
    problems = [problem for problem in caught.value.problems if problem.field != "expectations[5].kwargs.max_value"]
    assert [problem.field for problem in problems] == [
        "expectations[0].type",
        "expectations[1].kwargs",
        "expectations[2].kwargs.value_set",
        "expectations[3].severity",
        "expectations[4]",
        "expectations[6].kwargs.value_set",
    ]
    assert "expect_column_values_to_be_between" in problems[0].allowed
    assert "wall clock" in str(caught.value)


def test_expressions_with_parameters_are_evaluated(real: Validator, frame: pd.DataFrame) -> None:
    rows = check(real, frame, "expect_table_row_count_to_be_between", min_value={"$PARAMETER": "2 * window_days"})
    assert rows.detail["kwargs"]["min_value"] == 8
    last = check(
        real,
        frame,
        "expect_column_max_to_be_between",
        column="time",
        min_value={"$PARAMETER": "window_end - timedelta(days=1)"},
    )
    assert last.success
    assert last.detail == {
        "kwargs": {"column": "time", "min_value": "2013-01-04T00:00:00Z"},
        "observed": {"observed_value": "2013-01-05T00:00:00Z"},
    }


def test_column_pairs_give_rows_of_both_columns(real: Validator, frame: pd.DataFrame) -> None:
    pairs = frame.assign(limit=[0.0, 0.0, -5.0, 0.0, 0.0])
    result = check(
        real,
        pairs,
        "expect_column_pair_values_a_to_be_greater_than_b",
        column_A="distance",
        column_B="limit",
        ignore_row_if="either_value_is_missing",
    )
    assert result.column == "distance, limit"
    assert list(result.rows) == [1, 4]
    assert result.examples[0] == {"distance": -1.0, "limit": 0.0}


def test_row_condition_keeps_positions_of_the_whole_frame(real: Validator, frame: pd.DataFrame) -> None:
    result = check(
        real,
        frame,
        "expect_column_values_to_be_in_set",
        column="origin",
        value_set=["EWR"],
        row_condition="distance < -2",
        condition_parser="pandas",
    )
    assert list(result.rows) == [4]


def test_more_rows_at_fault_than_great_expectations_lists_are_all_known(real: Validator) -> None:
    frame = pd.DataFrame({"x": [-1.0] * 1000 + [5.0] * 10})
    result = check(real, frame, "expect_column_values_to_be_between", column="x", min_value=0)
    assert list(result.rows) == list(range(1000))
    assert result.detail["observed"]["example_counts"] == [1000]


def test_exception_inside_great_expectations_gives_one_line(real: Validator, frame: pd.DataFrame) -> None:
    result = check(real, frame, "expect_column_max_to_be_between", column="time", max_value="2013-01-01")
    assert not result.success
    assert result.error
    assert "\n" not in result.error


def test_empty_frame_is_checked_without_a_crash(real: Validator, frame: pd.DataFrame) -> None:
    result = check(real, frame.iloc[:0], "expect_table_row_count_to_be_between", min_value=1)
    assert not result.success


def test_nothing_is_printed_logged_or_kept(
    real: Validator, frame: pd.DataFrame, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    level, show = logging.getLogger("great_expectations").level, warnings.showwarning
    caplog.set_level(logging.INFO)
    check(real, frame, "expect_column_values_to_be_unique", column="nope")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert logging.getLogger("great_expectations").level == level
    assert warnings.showwarning is show


def test_frame_is_not_held_after_validation(real: Validator) -> None:
    def frames_alive() -> int:
        gc.collect()
        return sum(isinstance(thing, pd.DataFrame) and len(thing) == 4321 for thing in gc.get_objects())

    check(real, pd.DataFrame({"x": [1] * 4321}), "expect_column_values_to_be_unique", column="x")
    assert frames_alive() == 0
