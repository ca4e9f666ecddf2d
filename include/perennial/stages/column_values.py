"""Columns of tables as what profiles count: numbers, or codes of categories. The same for training and served rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perennial.domain.counting import Codes, Floats, category_text, count_categories, count_numbers
from perennial.domain.metric_names import Task
from perennial.domain.profile import CategoryProfile, ColumnCounts, ColumnProfile, NumberProfile

if TYPE_CHECKING:
    import pyarrow as pa

_MICROSECONDS: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Categories:
    """A column of categories."""

    codes: Codes
    """(n,), each row's place in `texts`, -1 where it is missing."""
    texts: tuple[str, ...]
    """By `category_text`; one may be there twice."""


Values = Floats | Categories


def rows_of(values: Values, places: Codes) -> Values:
    """The rows at these places."""
    return replace(values, codes=values.codes[places]) if isinstance(values, Categories) else values[places]


def count(profile: ColumnProfile, values: Values) -> ColumnCounts:
    """Count the rows of one column as its profile says.

    Raises:
        TypeError: the values are not of the profile's kind.
    """
    if isinstance(profile, CategoryProfile) and isinstance(values, Categories):
        return count_categories(profile, values.codes, values.texts)
    if isinstance(profile, NumberProfile) and not isinstance(values, Categories):
        return count_numbers(profile, values)
    raise TypeError(f"{profile.column}: a {type(profile).__name__} cannot count {type(values).__name__}")


def is_number(given: pa.DataType) -> bool:
    """Whether a column of this type is one of numbers: integers, floats, decimals, and times, in seconds since 1970.

    Booleans are categories.
    """
    from pyarrow import types

    return bool(
        types.is_integer(given)
        or types.is_floating(given)
        or types.is_decimal(given)
        or types.is_timestamp(given)
        or types.is_date(given)
    )


def numbers_of(column: pa.ChunkedArray) -> Floats:
    """The column as (n,) numbers: NaN where it is missing, infinite where there is something else than a number."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind):
        return _read_numbers(column)
    if types.is_timestamp(kind) or types.is_date(kind):
        return _floats(column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())) / (
            _MICROSECONDS
        )
    if types.is_null(kind) or types.is_boolean(kind) or is_number(kind):
        return _floats(column)
    return np.where(column.is_null().to_numpy(), np.nan, np.inf)


def categories_of(column: pa.ChunkedArray) -> Categories:
    """The column's values as texts, by code."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = column.type
    if types.is_nested(kind):
        column = pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())])
    elif types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Categories(codes=codes, texts=tuple(category_text(value) for value in encoded.dictionary.to_pylist()))


def scores_of_column(task: Task, predictions: pa.ChunkedArray, classes: int) -> Floats:
    """The log's predictions as (n,) scores, of several classes (n, `classes`); NaN for what is none.

    Of a binary classification the probability of the second class.

    Args:
        task: the model's.
        predictions: the column `prediction` of the log.
        classes: of a multiclass classification, the first ones of the model's. It may know more: those that it never
            gave a probability to on the holdout come last.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if task == "regression":
        return _finite(predictions)
    positions = range(1, 2) if task == "binary_classification" else range(classes)
    found = np.full((len(predictions), len(positions)), np.nan)
    if types.is_list(predictions.type):
        lists = predictions.combine_chunks()
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        fitting = lengths == positions.stop if task == "binary_classification" else lengths >= positions.stop
        whole = lists.filter(pa.array(fitting))
        for place, position in enumerate(positions):
            found[fitting, place] = _finite(pa.chunked_array([pc.list_element(whole, position)]))
    return found[:, 0] if task == "binary_classification" else found


def _finite(column: pa.ChunkedArray) -> Floats:
    numbers = numbers_of(column)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _floats(column: pa.ChunkedArray) -> Floats:
    """Of a type that casts to numbers; null as NaN."""
    import pyarrow as pa

    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())


def _read_numbers(column: pa.ChunkedArray) -> Floats:
    encoded = column.combine_chunks()
    if not hasattr(encoded, "dictionary"):
        encoded = encoded.dictionary_encode()
    numbers = np.array([*(_number_in(value) for value in encoded.dictionary.to_pylist()), np.nan])
    return np.asarray(numbers[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)])


def _number_in(value: Any) -> float:
    """Infinite for what is none: the log keeps a column of mixed types as texts, its numbers among them."""
    try:
        return float(value) if "_" not in str(value) else np.inf
    except (TypeError, ValueError):
        return np.inf
