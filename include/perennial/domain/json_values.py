"""Any value as something JSON can carry. Works on numpy's and pandas' values without importing either."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from datetime import date, datetime, time
from typing import Any, Final

from perennial.domain.times import format_time

MAX_TEXT: Final = 200
MAX_ITEMS: Final = 50
_MISSING: Final = ("<NA>", "NaT")
"""How pandas writes its two missing values; neither can be asked `value != value` safely."""


def json_ready(value: Any) -> Any:
    """`value` with only JSON's types: NaN and other missing values become None, times ISO 8601, infinities text.

    Texts longer than `MAX_TEXT` characters are cut, and of lists longer than `MAX_ITEMS` the first are kept, followed
    by a text with the number of the rest: this is for evidence that people read; `finite` is for data.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "\N{HORIZONTAL ELLIPSIS}"
    if isinstance(value, Mapping | Set | list | tuple):
        return _collection(value)
    return _number(value) if isinstance(value, float) else _foreign(value)


def finite(value: Any) -> Any:
    """JSON's values, whole, with null in place of numbers that are not finite; of tuples lists, of keys texts."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else str(float(value))


def _collection(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): json_ready(inner) for key, inner in value.items()}
    items = sorted(value, key=str) if isinstance(value, Set) else value
    kept = [json_ready(inner) for inner in items[:MAX_ITEMS]]
    more = len(items) - MAX_ITEMS
    return [*kept, f"\N{HORIZONTAL ELLIPSIS} and {more} more"] if more > 0 else kept


def _foreign(value: Any) -> Any:
    if isinstance(value, bytes):
        return json_ready(value.decode("utf-8", errors="backslashreplace"))
    if str(value) in _MISSING:
        return None
    if isinstance(value, datetime):
        return format_time(value) if value.tzinfo is not None else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, pandas' series
        return json_ready(value.tolist())
    return json_ready(str(value))
