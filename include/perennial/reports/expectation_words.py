"""Expectations and their outcomes in plain words, for pages, the ledger and error messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from perennial.ports import ExpectationResult
from perennial.reports.page import count, percent

_SENTENCES: Final[Mapping[str, str]] = {
    "expect_column_to_exist": "there is a column {column}",
    "expect_column_values_to_not_be_null": "{column} is never empty",
    "expect_column_values_to_be_null": "{column} is always empty",
    "expect_column_values_to_be_unique": "{column} holds no value twice",
    "expect_compound_columns_to_be_unique": "no two rows have the same {column}",
    "expect_select_column_values_to_be_unique_within_record": "{column} differ from each other within each row",
    "expect_column_values_to_be_in_set": "{column} is one of {value_set}",
    "expect_column_values_to_not_be_in_set": "{column} is none of {value_set}",
    "expect_column_values_to_be_between": "{column} is {range}",
    "expect_column_values_to_be_finite": "{column} is a finite number",
    "expect_column_values_to_be_increasing": "{column} never decreases",
    "expect_column_values_to_be_decreasing": "{column} never increases",
    "expect_column_values_to_be_of_type": "{column} has the type {type_}",
    "expect_column_values_to_be_in_type_list": "{column} has one of the types {type_list}",
    "expect_column_values_to_match_regex": "{column} matches the pattern {regex}",
    "expect_column_values_to_not_match_regex": "{column} does not match the pattern {regex}",
    "expect_column_values_to_match_strftime_format": "{column} is a time written as {strftime_format}",
    "expect_column_value_lengths_to_be_between": "the length of {column} is {range}",
    "expect_column_value_lengths_to_equal": "the length of {column} is {value}",
    "expect_column_value_z_scores_to_be_less_than": "{column} is within {threshold} standard deviations of its mean",
    "expect_column_min_to_be_between": "the lowest {column} is {range}",
    "expect_column_max_to_be_between": "the highest {column} is {range}",
    "expect_column_mean_to_be_between": "the mean of {column} is {range}",
    "expect_column_median_to_be_between": "the median of {column} is {range}",
    "expect_column_stdev_to_be_between": "the standard deviation of {column} is {range}",
    "expect_column_sum_to_be_between": "the sum of {column} is {range}",
    "expect_column_unique_value_count_to_be_between": "the number of different values of {column} is {range}",
    "expect_column_proportion_of_unique_values_to_be_between": "the share of different values of {column} is {range}",
    "expect_column_proportion_of_non_null_values_to_be_between": "the share of rows with a {column} is {range}",
    "expect_column_distinct_values_to_be_in_set": "{column} holds no other values than {value_set}",
    "expect_column_distinct_values_to_equal_set": "{column} holds all of {value_set} and nothing else",
    "expect_column_distinct_values_to_contain_set": "{column} holds all of {value_set}",
    "expect_column_most_common_value_to_be_in_set": "the most frequent {column} is one of {value_set}",
    "expect_column_pair_values_a_to_be_greater_than_b": "{column_A} is greater than {column_B}",
    "expect_column_pair_values_to_be_equal": "{column_A} equals {column_B}",
    "expect_multicolumn_sum_to_equal": "the sum of {column} is {sum_total} in each row",
    "expect_table_row_count_to_be_between": "the number of rows is {range}",
    "expect_table_row_count_to_equal": "the number of rows is {value}",
    "expect_table_column_count_to_be_between": "the number of columns is {range}",
    "expect_table_column_count_to_equal": "the number of columns is {value}",
    "expect_table_columns_to_match_set": "the columns are {column_set}",
    "expect_landing_files_to_be_usable": "every landing file is Parquet and has the schema of the others",
    "expect_windows_to_have_rows": "the training window and the holdout window both hold rows",
}
_SHOWN_ITEMS: Final = 12


def label(result: ExpectationResult) -> str:
    """The expectation's short name, such as `expect_column_values_to_be_in_set(origin)`."""
    return f"{result.expectation}({result.column})" if result.column else result.expectation


def expected(result: ExpectationResult) -> str:
    """What was expected, as a sentence without its full stop."""
    kwargs: Mapping[str, Any] = result.detail.get("kwargs", {})
    words = {name: _text(value) for name, value in kwargs.items()}
    words |= {"column": result.column or "", "range": _range(kwargs)}
    try:
        sentence = _SENTENCES[result.expectation].format_map(words)
    except KeyError:
        sentence = _unknown(result.expectation, kwargs)
    if result.expectation == "expect_column_pair_values_a_to_be_greater_than_b" and kwargs.get("or_equal"):
        sentence = sentence.replace(" is greater than ", " is greater than or equal to ", 1)
    if kwargs.get("row_condition"):
        sentence += f", where {_text(kwargs['row_condition'])}"
    mostly = kwargs.get("mostly")
    return (
        f"{sentence}, in at least {percent(mostly)} of rows" if isinstance(mostly, float) and mostly < 1 else sentence
    )


def found(result: ExpectationResult, *, examples: bool = True) -> str:
    """What was found instead, in one line: counts, share, examples. Empty for a success without a figure."""
    if result.error:
        return f"could not be checked: {result.error}"
    observed: Mapping[str, Any] = result.detail.get("observed", {})
    parts = []
    if result.unexpected_count and observed.get("element_count"):
        share = percent(share_at_fault(result))
        parts.append(f"{count(result.unexpected_count)} of {count(observed['element_count'])} rows ({share})")
    elif observed.get("observed_value") is not None:
        parts.append(f"found {_text(observed['observed_value'])}")
    if examples and not result.success and result.examples:
        parts.append(f"such as {'; '.join(example_texts(result)[:3])}")
    return ", ".join(parts)


def share_at_fault(result: ExpectationResult) -> float | None:
    """Rows at fault over all rows looked at, in [0, 1]; None for expectations on a whole column or table."""
    total = result.detail.get("observed", {}).get("element_count")
    return result.unexpected_count / total if total else None


def example_texts(result: ExpectationResult) -> list[str]:
    """Each example, with how often it occurs where that is more than once."""
    counts = result.detail.get("observed", {}).get("example_counts") or []
    counts = [*counts, *[1] * len(result.examples)]
    return [
        f"{_text(value, quote=True)} ({count(number)} times)" if number > 1 else _text(value, quote=True)
        for value, number in zip(result.examples, counts, strict=False)
    ]


def _text(value: Any, *, quote: bool = False) -> str:
    """A JSON-ready value for people. With `quote`, texts stand in quotes, so that '' and ' x' can be seen."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner, quote=True)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(_text(item) for item in value[:_SHOWN_ITEMS])
        more = len(value) - _SHOWN_ITEMS
        return f"{shown} and {more} more" if more > 0 else shown
    if value is None:
        return "nothing"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value) if abs(value) >= 10_000 else str(value)
    return repr(value) if quote and isinstance(value, str) else str(value)


def _range(kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    strict_low, strict_high = bool(kwargs.get("strict_min")), bool(kwargs.get("strict_max"))
    if low is not None and high is not None and not strict_low and not strict_high:
        return _text(low) if low == high else f"between {_text(low)} and {_text(high)}"
    parts = []
    if low is not None:
        parts.append(f"{'greater than' if strict_low else 'at least'} {_text(low)}")
    if high is not None:
        parts.append(f"{'less than' if strict_high else 'at most'} {_text(high)}")
    return " and ".join(parts)


def _unknown(expectation: str, kwargs: Mapping[str, Any]) -> str:
    words = expectation.removeprefix("expect_").replace("_", " ")
    given = "; ".join(f"{name}: {_text(value)}" for name, value in kwargs.items())
    return f"{words} ({given})" if given else words
