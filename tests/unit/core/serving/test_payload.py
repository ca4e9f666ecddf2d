"""Bodies: every format that MLflow's clients send, and what is said of those that do not fit."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.utils.proto_json_utils import dump_input_data

from perennial.domain.signature import InputColumn
from perennial.errors import TerminalError
from perennial.serving.columns import Batch, Columns
from perennial.serving.errors import BadRequestError
from perennial.serving.payload import parse

COLUMNS = Columns(
    [
        InputColumn(name="x", type="double"),
        InputColumn(name="n", type="long"),
        InputColumn(name="carrier", type="string"),
        InputColumn(name="seats", type="integer", required=False),
    ]
)
JSON = "application/json"
ROW = {"x": 1.5, "n": 2, "carrier": "AA", "seats": 7}
FRAME = pd.DataFrame([ROW, {"x": math.nan, "n": 3, "carrier": None, "seats": None}])


def _json(document: Any, columns: Columns = COLUMNS) -> Batch:
    return parse(json.dumps(document).encode(), JSON, columns)


def _refusal(body: bytes, content_type: str | None = JSON, columns: Columns = COLUMNS) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        parse(body, content_type, columns)
    return caught.value


def _column_refusal(kind: str, value: Any, *, required: bool = True) -> str:
    columns = Columns([InputColumn(name="c", type=kind, required=required)])
    return str(_refusal(json.dumps({"inputs": {"c": [value]}}).encode(), columns=columns))


def _accepted(kind: str, value: Any, *, required: bool = True) -> Any:
    columns = Columns([InputColumn(name="c", type=kind, required=required)])
    return _json({"inputs": {"c": [value]}}, columns).values["c"][0]


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}},
        {"dataframe_split": {"columns": ["extra", *ROW], "index": [9], "data": [[1, *ROW.values()]]}},
        {"dataframe_split": {"columns": list(reversed(ROW)), "data": [list(reversed(ROW.values()))]}},
        {"dataframe_records": [ROW]},
        {"instances": [ROW]},
        {"inputs": [ROW]},
        {"inputs": {name: [value] for name, value in ROW.items()}},
        {"instances": {name: [value] for name, value in ROW.items()}},
        {"inputs": ROW},
        {"inputs": ROW, "params": {"temperature": 1}, "client_request_id": "c"},
    ],
)
def test_each_json_format_gives_the_same_row(document: dict[str, Any]) -> None:
    assert _json(document) == Batch({name: [value] for name, value in ROW.items()}, 1)


@pytest.mark.parametrize("data", [FRAME, FRAME.to_dict("records"), FRAME.assign(n=[2.0, 3.0])])
def test_what_mlflows_own_client_sends_is_read_with_its_missing_values(data: Any) -> None:
    batch = parse(dump_input_data(data).encode(), JSON, COLUMNS)
    assert batch.rows == 2
    assert (batch.values["n"], batch.values["carrier"], batch.values["seats"]) == ([2, 3], ["AA", None], [7, None])
    assert batch.values["x"][0] == 1.5
    assert math.isnan(batch.values["x"][1])


@pytest.mark.parametrize("content_type", ["text/csv", "text/csv; charset=utf-8", 'Text/CSV;charset="UTF-8"'])
def test_csv_of_pandas_is_read_with_its_index_and_missing_values(content_type: str) -> None:
    batch = parse(FRAME.astype({"seats": "Int64"}).to_csv().encode(), content_type, COLUMNS)
    assert (batch.values["n"], batch.values["carrier"], batch.values["seats"]) == ([2, 3], ["AA", None], [7, None])
    assert math.isnan(batch.values["x"][1])


def test_frame_has_the_signatures_types_and_order() -> None:
    batch = _json({"dataframe_records": [dict(reversed(ROW.items()))]})
    frame = COLUMNS.frame([batch, batch])
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "x": "float64",
        "n": "int64",
        "carrier": "str",
        "seats": "Int32",
    }
    assert frame.to_dict("records") == [ROW, ROW]


def test_frame_equals_what_mlflows_own_parser_makes() -> None:
    from mlflow.pyfunc.scoring_server import infer_and_parse_data
    from mlflow.types import ColSpec, Schema

    rows = {"x": [1.5, None], "n": [2, 3], "carrier": ["AA", None], "when": ["2026-01-01T10:00:00", None]}
    kinds = {"x": "double", "n": "long", "carrier": "string", "when": "datetime"}
    columns = Columns([InputColumn(name=name, type=kind) for name, kind in kinds.items()])
    document = {
        "dataframe_split": {"columns": list(rows), "data": [list(line) for line in zip(*rows.values(), strict=True)]}
    }
    theirs = infer_and_parse_data(document, Schema([ColSpec(kind, name) for name, kind in kinds.items()]))
    pd.testing.assert_frame_equal(columns.frame([_json(document, columns)]), theirs)


def test_optional_column_that_is_not_given_counts_as_missing() -> None:
    assert _json({"inputs": {"x": [1], "n": [1], "carrier": ["AA"]}}).values["seats"] == [None]
    records = [{"x": 1, "n": 1, "carrier": "AA"}, ROW]
    assert _json({"dataframe_records": records}).values["seats"] == [None, 7]


def test_one_column_models_take_a_plain_list() -> None:
    columns = Columns([InputColumn(name="x", type="double")])
    assert _json({"inputs": [1, 2.5]}, columns).values == {"x": [1.0, 2.5]}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("double", 3, 3.0),
        ("double", 2**60, float(2**60)),
        ("float", 1e-3, 1e-3),
        ("long", 3.0, 3),
        ("long", -(2**63), -(2**63)),
        ("integer", 2**31 - 1, 2**31 - 1),
        ("boolean", True, True),
        ("string", "", ""),
        ("string", None, None),
        ("datetime", "2026-01-01T10:00:00+02:00", datetime.fromisoformat("2026-01-01T08:00:00")),
        ("datetime", "2026-01-01", datetime.fromisoformat("2026-01-01")),
        ("datetime", None, None),
        ("datetime", "NaT", None),
        ("any", "text", "text"),
        ("any", 1.5, 1.5),
    ],
)
def test_value_that_says_the_same_in_the_columns_type_passes(kind: str, value: Any, expected: Any) -> None:
    found = _accepted(kind, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "got"),
    [
        ("double", "1.5", "the text '1.5'"),
        ("double", True, "true"),
        ("double", [1], "a list"),
        ("double", 10**400, "a number of more than 30 digits"),
        ("float", 1e39, "1e+39"),
        ("long", 1.5, "1.5"),
        ("long", 2**63, str(2**63)),
        ("long", math.inf, "inf"),
        ("long", True, "true"),
        ("long", None, "a missing value"),
        ("integer", 2**31, str(2**31)),
        ("boolean", 1, "1"),
        ("boolean", "true", "the text 'true'"),
        ("boolean", None, "a missing value"),
        ("string", 1, "1"),
        ("string", "\ud800", r"the text '\ud800'"),
        ("string", "a" * 99 + "\udfff", "and 40 more characters"),
        ("datetime", "yesterday", "the text 'yesterday'"),
        ("datetime", "0001-01-01T00:00:00+14:00", "the text '0001-01-01T00:00:00+14:00'"),
        ("datetime", "2262-01-01", "the text '2262-01-01'"),
        ("datetime", 1735689600, "1735689600"),
        ("any", {"a": 1}, "an object"),
    ],
)
def test_value_of_another_type_is_refused_with_column_and_row_and_what_came(kind: str, value: Any, got: str) -> None:
    message = _column_refusal(kind, value)
    assert message.startswith("column 'c', row 0: got ")
    assert got in message
    assert "expected" in message


@pytest.mark.parametrize("kind", ["long", "integer", "boolean"])
def test_missing_value_passes_where_the_column_is_optional(kind: str) -> None:
    assert _accepted(kind, None, required=False) is None


def test_every_column_at_fault_is_named_at_once_with_the_row() -> None:
    error = _refusal(json.dumps({"dataframe_records": [ROW, {**ROW, "x": "a", "n": 0.5}]}).encode())
    assert error.status == 400
    assert [(fault["column"], fault["row"]) for fault in error.detail] == [("x", 1), ("n", 1)]
    assert "column 'x', row 1: got the text 'a', expected a number" in str(error)
    assert "column 'n', row 1: got 0.5, expected a whole number of 64 bits" in str(error)


def test_missing_column_is_named_with_the_one_that_may_be_meant() -> None:
    given = {("Carrier" if name == "carrier" else name): [value] for name, value in ROW.items()}
    error = _refusal(json.dumps({"inputs": given}).encode())
    assert "column 'carrier' is missing (got 'Carrier': is it that?)" in str(error)


def test_record_without_a_required_column_is_refused_though_others_have_it() -> None:
    partial = {name: value for name, value in ROW.items() if name != "x"}
    error = _refusal(json.dumps({"dataframe_records": [ROW, partial]}).encode())
    assert "row 1: column 'x' is missing" in str(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "must be JSON"),
        (b"\xff\xfe\x00", "must be JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "must be JSON"),
        (b"[1, 2]", "a JSON object with one of dataframe_split"),
        (b"null", "got null"),
        (b"{}", "exactly one of"),
        (b'{"inputs": [], "instances": []}', "got instances and inputs"),
        (b'{"inputs": []}', "a list"),
        (b'{"inputs": {}}', "no rows"),
        (b'{"inputs": 3}', "a number"),
        (b'{"inputs": [[1, 2, 3]]}', "a list of something else"),
        (b'{"inputs": [{"x": 1}, 2]}', "row 1"),
        (b'{"inputs": {"x": [1], "n": [1, 2]}}', "same length"),
        (b'{"inputs": {"x": [1], "n": 1}}', "same length"),
        (b'{"dataframe_records": {"x": 1}}', "a list of objects"),
        (b'{"dataframe_records": []}', "no rows"),
        (b'{"dataframe_split": []}', "an object with columns and data"),
        (b'{"dataframe_split": {"data": [[1]]}}', "lists columns and data"),
        (b'{"dataframe_split": {"columns": ["x"], "data": [[1]], "dtype": 1}}', "dtype"),
        (b'{"dataframe_split": {"columns": [["x"]], "data": [[1]]}}', "as texts"),
        (b'{"dataframe_split": {"columns": ["x", "x"], "data": [[1, 2]]}}', "twice"),
        (b'{"dataframe_split": {"columns": ["x"], "data": [[1], [1, 2]]}}', "row 1"),
        (b'{"dataframe_split": {"columns": ["x"], "data": []}}', "no rows"),
    ],
)
def test_body_of_another_shape_is_refused_with_what_is_expected(body: bytes, words: str) -> None:
    error = _refusal(body)
    assert error.status == 400
    assert words in str(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b"\xff", "UTF-8"),
        (b'x,n,carrier\n"1', "must be a CSV file"),
        (b"x,n,carrier\n1,2\n", "row 0"),
        (b"x,n,carrier\n", "no rows"),
        (b"x,x,n,carrier\n1,1,1,AA\n", "twice"),
        (b"x,n,carrier\n1_000,1,AA\n", "the text '1_000'"),
        (b"x,n,carrier\n1,1e3,AA\n", "the text '1e3'"),
        (b"x,n,carrier\n1,,AA\n", "a missing value"),
    ],
)
def test_csv_that_does_not_fit_is_refused(body: bytes, words: str) -> None:
    assert words in str(_refusal(body, "text/csv"))


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "text/csv; x=1"],
)
def test_other_content_types_are_told_apart_from_bad_bodies(content_type: str | None) -> None:
    assert _refusal(b"{}", content_type).status == 415


@pytest.mark.parametrize("kind", ["Array(double)", "binary", "tensor"])
def test_signature_that_is_not_served_is_refused_when_it_is_loaded(kind: str) -> None:
    with pytest.raises(TerminalError, match="c is of type"):
        Columns([InputColumn(name="c", type=kind)])
    with pytest.raises(TerminalError, match="names no columns"):
        Columns([])


def test_text_is_the_same_whether_it_comes_as_csv_or_json() -> None:
    text = 'Zürich, "HB"\n'
    row = {**ROW, "carrier": text}
    csv_body = pd.DataFrame([row]).to_csv(index=False).encode()
    assert parse(csv_body, "text/csv", COLUMNS) == _json({"inputs": row})
    np.testing.assert_array_equal(COLUMNS.frame([_json({"inputs": row})])["carrier"].to_numpy(), [text])


def test_many_names_that_come_twice_are_refused_without_comparing_each_with_each() -> None:
    names = [f"c{number}" for number in range(300_000)]  # each with each would take half an hour
    body = json.dumps({"dataframe_split": {"columns": [*names, "c0"], "data": []}}).encode()
    with pytest.raises(BadRequestError, match="'c0' is there twice"):
        parse(body, "application/json", COLUMNS)


def test_values_of_an_untyped_column_are_of_one_type_whatever_is_scored_with_them() -> None:
    columns = Columns([InputColumn(name="a", type="any")])
    alone, other = Batch({"a": [1]}, 1), Batch({"a": [None]}, 1)
    assert columns.frame([alone])["a"].dtype == columns.frame([alone, other])["a"].dtype == object
