"""Whatever is sent, it is refused with a reason or fits the signature; nothing else is raised."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.domain.signature import ColumnType, InputColumn
from perennial.serving.columns import Columns
from perennial.serving.errors import BadRequestError
from perennial.serving.payload import FORMATS, parse

COLUMNS = Columns(
    [InputColumn(name=f"{kind}_{must}", type=kind, required=must) for kind in ColumnType for must in (True, False)]
)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.datetimes().map(str)
_NAMES = st.text(max_size=4)
_ANYTHING = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3), max_leaves=8
)
_TIMES = st.datetimes(datetime.fromisoformat("1678-01-01"), datetime.fromisoformat("2261-12-31"))
_VALUES = {
    ColumnType.BOOLEAN: st.booleans(),
    ColumnType.INTEGER: st.integers(-(2**31), 2**31 - 1),
    ColumnType.LONG: st.integers(-(2**63), 2**63 - 1),
    ColumnType.FLOAT: st.none() | st.floats(width=32),
    ColumnType.DOUBLE: st.none() | st.floats() | st.integers(-(2**60), 2**60),
    ColumnType.STRING: st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    ColumnType.DATETIME: st.none()
    | st.datetimes().filter(lambda t: 1678 <= t.year < 2262).map(lambda t: t.isoformat()),
    ColumnType.ANY: st.none() | st.booleans() | st.floats(),
}
_ROW = st.fixed_dictionaries({column.name: _VALUES[ColumnType(column.type)] for column in COLUMNS.all})


def _survives(body: bytes, content_type: str) -> None:
    refusal = ""
    try:
        rows = len(COLUMNS.frame([parse(body, content_type, COLUMNS)]))
    except BadRequestError as error:
        refusal, rows = json.dumps([str(error), error.detail]), 0
    assert refusal or rows


@settings(deadline=None)
@given(body=st.binary(max_size=200), content_type=st.sampled_from(["application/json", "text/csv"]))
def test_any_bytes_are_refused_with_a_reason_or_read(body: bytes, content_type: str) -> None:
    _survives(body, content_type)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(FORMATS), content=_ANYTHING)
def test_any_json_in_any_format_is_refused_with_a_reason_or_read(name: str, content: Any) -> None:
    _survives(json.dumps({name: content}).encode(), "application/json")


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(_ROW, min_size=1, max_size=3), spoilt=st.none() | st.sampled_from(COLUMNS.names), value=_ANYTHING)
def test_one_value_of_any_kind_among_good_ones_is_refused_or_read(
    rows: list[dict[str, Any]], spoilt: str | None, value: Any
) -> None:
    if spoilt is not None:
        rows[-1][spoilt] = value
    _survives(json.dumps({"dataframe_records": rows}).encode(), "application/json")


@settings(deadline=None)
@given(rows=st.lists(_ROW, min_size=1, max_size=3))
def test_good_rows_are_read_the_same_in_every_json_format(rows: list[dict[str, Any]]) -> None:
    by_column = {name: [row[name] for row in rows] for name in COLUMNS.names}
    bodies = [
        {"dataframe_records": rows},
        {"instances": rows},
        {"inputs": by_column},
        {"dataframe_split": {"columns": list(by_column), "data": [[row[name] for name in by_column] for row in rows]}},
    ]
    found = [parse(json.dumps(body).encode(), "application/json", COLUMNS) for body in bodies]
    assert {batch.rows for batch in found} == {len(rows)}
    for batch in found[1:]:
        for name, values in batch.values.items():
            assert all(map(_same, values, found[0].values[name]))


def _same(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or one == other
