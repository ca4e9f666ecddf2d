"""A model's signature, enforced: values by column in, a frame with the signature's types out.

Stricter than MLflow's own scoring server, which casts: there `1.7` for a whole number silently becomes 1 and any text
passes for `true`. Here a value passes if it says the same in the column's type, and is refused otherwise:

| type | passes | a missing value (null, NaN, an empty CSV field) |
| --- | --- | --- |
| boolean | true, false | only if the column is optional |
| integer, long | whole numbers in range, also as `3.0` | only if the column is optional |
| float, double | numbers | passes, as NaN |
| string | texts that UTF-8 can hold | passes, as None |
| datetime | ISO 8601; an offset is turned into UTC, the result has none (as MLflow's) | passes, as NaT |
| any (empty in the logged example) | any scalar | passes, as None |

A required column has to be there in each row; an optional one that is not counts as missing. Other columns are ignored.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perennial.domain.signature import ColumnType, InputColumn
from perennial.errors import TerminalError
from perennial.serving.errors import BadRequestError

if TYPE_CHECKING:
    import pandas as pd

Values = list[Any]
_NUMBERS: Final = {ColumnType.FLOAT: np.float32, ColumnType.DOUBLE: np.float64}
_WHOLE: Final[Mapping[ColumnType, Any]] = {ColumnType.INTEGER: np.iinfo(np.int32), ColumnType.LONG: np.iinfo(np.int64)}
_PLAIN: Final = {ColumnType.BOOLEAN: np.bool_, ColumnType.INTEGER: np.int32, ColumnType.LONG: np.int64}
_NULLABLE: Final = {
    ColumnType.BOOLEAN: "boolean",
    ColumnType.INTEGER: "Int32",
    ColumnType.LONG: "Int64",
    ColumnType.STRING: "str",
}
_EXPECTED: Final = {
    ColumnType.BOOLEAN: "true or false",
    ColumnType.INTEGER: "a whole number of 32 bits",
    ColumnType.LONG: "a whole number of 64 bits",
    ColumnType.FLOAT: "a number",
    ColumnType.DOUBLE: "a number",
    ColumnType.STRING: "a text",
    ColumnType.DATETIME: "an ISO 8601 time from 1678 to 2261, as text",
    ColumnType.ANY: "a number, a text, true or false",
}
_LARGEST_FLOAT: Final = float(np.finfo(np.float32).max)
_YEARS: Final = range(1678, 2262)
"""Whole years that 64 bits of nanoseconds hold."""
_WHOLE_TEXT: Final = re.compile(r"[+-]?\d+(\.0*)?")
_SHOWN: Final = 10
"""Columns at fault that a message names."""


class _UnfitError(Exception):
    """A value is none of the column's type."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that fit the signature: values by column, in the signature's order."""

    values: Mapping[str, Values]
    rows: int


class Columns:
    """The columns of one model's signature."""

    def __init__(self, columns: Sequence[InputColumn]) -> None:
        """Raises: TerminalError: there are none, or one is of a type that is not served."""
        known = set(ColumnType)
        strange = [f"{column.name} is of type {column.type}" for column in columns if column.type not in known]
        if strange or not columns:
            raise TerminalError(
                f"its signature cannot be served: {'; '.join(strange) or 'it names no columns'}. Columns of the types "
                f"{', '.join(known)} are"
            )
        self.all = tuple(columns)
        self.names = tuple(column.name for column in columns)
        self._checks = [(column, ColumnType(column.type), _CHECKS[ColumnType(column.type)]) for column in columns]

    def check(self, given: Mapping[str, Sequence[Any]], rows: int) -> Batch:
        """The given values in the signature's types.

        Args:
            given: each column's values as JSON has them, `rows` of them.
            rows: how many, at least 1.

        Raises:
            BadRequestError: with every column at fault, and its first value that is.
        """
        values: dict[str, Values] = {}
        faults: list[dict[str, Any]] = []
        for column, kind, check in self._checks:
            found = given.get(column.name)
            if found is None:
                if column.required:
                    faults.append({"column": column.name, "expected": _EXPECTED[kind], "got": "no such column"})
                    continue
                found = [None] * rows
            try:
                values[column.name] = check(found, column)
            except _UnfitError as unfit:
                faults.append(_fault(column, kind, unfit.value, found))
        if faults:
            raise BadRequestError(_message(faults, given, self.names), detail=faults)
        return Batch(values, rows)

    def from_texts(self, given: Mapping[str, Sequence[str]]) -> dict[str, Values]:
        """Columns of a CSV file as JSON would have them; an empty field is null. What is no number stays text."""
        return {
            column.name: [_from_text(text, kind) for text in given[column.name]]
            for column, kind, _ in self._checks
            if column.name in given
        }

    def frame(self, batches: Sequence[Batch]) -> pd.DataFrame:
        """All rows of the batches, one batch after the other, shape (rows, columns), index 0..rows-1."""
        import pandas as pd

        single = batches[0].values if len(batches) == 1 else None
        built = {}
        for column, kind, _ in self._checks:
            name = column.name
            values = single[name] if single else [value for batch in batches for value in batch.values[name]]
            built[name] = _array(values, kind, column.required)
        return pd.DataFrame(built, copy=False)


def _array(values: Values, kind: ColumnType, required: bool) -> Any:
    import pandas as pd

    if kind in _NUMBERS:
        return np.array(values, dtype=_NUMBERS[kind])
    if required and kind in _PLAIN:
        return np.array(values, dtype=_PLAIN[kind])
    if kind is ColumnType.DATETIME:
        return np.array(values, dtype="datetime64[us]").astype("datetime64[ns]")
    if kind is ColumnType.ANY:
        return pd.Series(values, dtype=object)  # of the same type, whatever rows are scored together
    return pd.array(values, dtype=_NULLABLE[kind])  # type: ignore[call-overload]  # a name of pandas 3 that stubs lack


def _missing(value: Any) -> bool:
    return value is None or (type(value) is float and math.isnan(value))


def _booleans(values: Sequence[Any], column: InputColumn) -> Values:
    if set(map(type, values)) == {bool}:
        return list(values)
    return [_null(value, column) if _missing(value) else _only(value, bool) for value in values]


def _whole_numbers(values: Sequence[Any], column: InputColumn) -> Values:
    limits = _WHOLE[ColumnType(column.type)]
    low, high = int(limits.min), int(limits.max)
    if set(map(type, values)) == {int} and low <= min(values) and max(values) <= high:
        return list(values)
    return [_null(value, column) if _missing(value) else _whole(value, low, high) for value in values]


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is int or (type(value) is float and value.is_integer()):
        number = int(value)
        if low <= number <= high:
            return number
    raise _UnfitError(value)


def _numbers(values: Sequence[Any], column: InputColumn) -> Values:
    kinds = set(map(type, values))
    if kinds == {float} and column.type == ColumnType.DOUBLE:
        return list(values)
    largest = _LARGEST_FLOAT if column.type == ColumnType.FLOAT else math.inf
    return [_number(value, largest) for value in values]


def _number(value: Any, largest: float) -> float:
    if value is None:
        return math.nan
    if type(value) not in (float, int):
        raise _UnfitError(value)
    try:
        number = float(value)
    except OverflowError:
        raise _UnfitError(value) from None
    if abs(number) > largest and math.isfinite(number):
        raise _UnfitError(value)
    return number


def _strings(values: Sequence[Any], _column: InputColumn) -> Values:
    found = [None if _missing(value) else _only(value, str) for value in values]
    for text in found:
        if text is not None and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:  # a lone surrogate, which JSON can carry and Parquet cannot
                raise _UnfitError(text) from None
    return found


def _times(values: Sequence[Any], _column: InputColumn) -> Values:
    return [None if _missing(value) or value == "NaT" else _time(value) for value in values]


def _time(value: Any) -> datetime:
    if type(value) is not str:
        raise _UnfitError(value)
    try:
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise _UnfitError(value) from None
    if moment.year not in _YEARS:
        raise _UnfitError(value)
    return moment


def _anything(values: Sequence[Any], column: InputColumn) -> Values:
    _strings([value for value in values if type(value) is str], column)  # refuses what UTF-8 cannot hold
    return [None if _missing(value) else _only(value, str, bool, int, float) for value in values]


def _only(value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise _UnfitError(value)
    return value


def _null(value: Any, column: InputColumn) -> Any:
    if column.required:
        raise _UnfitError(value)
    return None


_Check = Callable[[Sequence[Any], InputColumn], Values]
_CHECKS: Final[Mapping[ColumnType, _Check]] = {
    ColumnType.BOOLEAN: _booleans,
    ColumnType.INTEGER: _whole_numbers,
    ColumnType.LONG: _whole_numbers,
    ColumnType.FLOAT: _numbers,
    ColumnType.DOUBLE: _numbers,
    ColumnType.STRING: _strings,
    ColumnType.DATETIME: _times,
    ColumnType.ANY: _anything,
}


def _from_text(text: str, kind: ColumnType) -> Any:
    if text == "":
        return None
    if kind is ColumnType.BOOLEAN:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in _WHOLE:
        return int(text.partition(".")[0]) if len(text) <= 40 and _WHOLE_TEXT.fullmatch(text) else text
    if kind in _NUMBERS or kind is ColumnType.ANY:
        try:
            return text if "_" in text else float(text)
        except ValueError:
            return text
    return text


def _fault(column: InputColumn, kind: ColumnType, value: Any, found: Sequence[Any]) -> dict[str, Any]:
    row = next(number for number, other in enumerate(found) if other is value)
    expected = _EXPECTED[kind] + ("" if column.required else ", or null")
    return {"column": column.name, "row": row, "expected": expected, "got": _shown(value)}


def _shown(value: Any) -> str:
    """For an error's text: short, whatever was sent."""
    if _missing(value):
        return "a missing value"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:60]!a}" + (f" and {len(value) - 60} more characters" if len(value) > 60 else "")
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return repr(value)


def _message(faults: Sequence[Mapping[str, Any]], given: Mapping[str, Any], names: Sequence[str]) -> str:
    told = list(_told(faults[:_SHOWN], [name for name in given if name not in names]))
    more = len(faults) - len(told)
    return "; ".join(told) + (f"; and {more} more columns at fault" if more else "")


def _told(faults: Sequence[Mapping[str, Any]], others: Sequence[str]) -> Iterator[str]:
    for fault in faults:
        if "row" in fault:
            yield f"column {fault['column']!r}, row {fault['row']}: got {fault['got']}, expected {fault['expected']}"
            continue
        close = difflib.get_close_matches(fault["column"], [str(other)[:255] for other in others[:100]], n=1)
        hint = f" (got {close[0]!r}: is it that?)" if close else ""
        yield f"column {fault['column']!r} is missing{hint}: the model requires it, {fault['expected']}"
