"""A request's body in MLflow's scoring protocol, as rows that fit the model's signature.

| content type | body |
| --- | --- |
| application/json | an object with exactly one of `dataframe_split`, `dataframe_records`, `instances`, `inputs` |
| text/csv | a header and rows, in UTF-8 |

`dataframe_split`: `{"columns": [...], "data": [[...], ...]}`, an `index` is ignored. `dataframe_records`: a list of
objects. `instances` and `inputs`: a list of objects, or an object of columns (lists, or scalars for a single row); for
a model of one column also a list of its values. `params` and unknown fields are ignored, as MLflow does for models
without a schema of parameters.

Not by MLflow's own parsers: they build a frame for each request, which takes longer than the rest of the service
together, and cast what does not fit (see `perennial.serving.columns`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from perennial.serving.columns import Batch, Columns
from perennial.serving.errors import BadRequestError

FORMATS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")
JSON_TYPE: Final = "application/json"
CSV_TYPE: Final = "text/csv"

_Given = tuple[Mapping[str, Sequence[Any]], int]


def parse(body: bytes, content_type: str | None, columns: Columns) -> Batch:
    """The body's rows.

    Args:
        body: as it came.
        content_type: the header, if there was one.
        columns: what the model takes.

    Raises:
        BadRequestError: it is none of the formats (400, 415), or does not fit the signature (400).
    """
    if _media_type(content_type) == CSV_TYPE:
        given, rows = _csv(body, columns)
    else:
        given, rows = _json(body, columns)
    if rows == 0:
        raise BadRequestError("there are no rows in it; send at least one")
    return columns.check(given, rows)


def _media_type(content_type: str | None) -> str:
    media_type, *parameters = [part.strip() for part in (content_type or "").split(";")]
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "charset" or value.strip(' "').lower() not in ("utf-8", "utf8"):
            raise BadRequestError(f"content type parameter {parameter[:60]!r}: only charset=utf-8 is read", status=415)
    if media_type.lower() not in (JSON_TYPE, CSV_TYPE):
        got = f"{media_type[:60]!r}" if media_type else "none"
        raise BadRequestError(f"the content type must be {JSON_TYPE} or {CSV_TYPE}, got {got}", status=415)
    return media_type.lower()


def _json(body: bytes, columns: Columns) -> _Given:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise BadRequestError(f"the body must be JSON: {what}") from None
    if not isinstance(document, dict):
        raise BadRequestError(f"the body must be a JSON object with one of {', '.join(FORMATS)}, got {_a(document)}")
    found = [name for name in FORMATS if name in document]
    if len(found) != 1:
        got = " and ".join(found) or "none of them"
        raise BadRequestError(f"the body must have exactly one of {', '.join(FORMATS)}, got {got}")
    (name,) = found
    data = document[name]
    if name == "dataframe_split":
        return _split(data)
    if name == "dataframe_records":
        if not isinstance(data, list):
            raise BadRequestError(f"dataframe_records must be a list of objects, got {_a(data)}")
        return _records(data, name, columns)
    return _tensors(data, name, columns)


def _split(data: Any) -> _Given:
    if not isinstance(data, dict):
        raise BadRequestError(f"dataframe_split must be an object with columns and data, got {_a(data)}")
    strange = [key for key in data if key not in ("columns", "data", "index")]
    names, lines = data.get("columns"), data.get("data")
    if strange or not isinstance(names, list) or not isinstance(lines, list):
        raise BadRequestError(
            f"dataframe_split must have the lists columns and data, and may have index; got "
            f"{', '.join(f'{str(key)[:60]} ({_a(value)})' for key, value in list(data.items())[:10]) or 'nothing'}"
        )
    if not all(isinstance(name, str) for name in names):
        raise BadRequestError("dataframe_split.columns must be the columns' names, as texts")
    _require_unique(names)
    return _transposed(names, lines, "dataframe_split.data")


def _transposed(names: Sequence[str], lines: Sequence[Any], where: str) -> _Given:
    width = len(names)
    for number, line in enumerate(lines):
        if not isinstance(line, list) or len(line) != width:
            got = f"{len(line)} of them" if isinstance(line, list) else _a(line)
            raise BadRequestError(f"{where}, row {number}: must be a list of {width} values, got {got}")
    return dict(zip(names, zip(*lines, strict=True), strict=True)) if lines else {}, len(lines)


def _records(data: Sequence[Any], where: str, columns: Columns) -> _Given:
    for number, record in enumerate(data):
        if not isinstance(record, dict):
            raise BadRequestError(f"{where}, row {number}: must be an object of values by column, got {_a(record)}")
    given: dict[str, Sequence[Any]] = dict.fromkeys(data[0], ()) if data else {}
    for column in columns.all:
        having = sum(column.name in record for record in data)
        if having == 0:
            given.pop(column.name, None)
        elif having < len(data) and column.required:
            row = next(number for number, record in enumerate(data) if column.name not in record)
            fault = {"column": column.name, "row": row, "expected": "a value", "got": "no such column"}
            raise BadRequestError(f"{where}, row {row}: column {column.name!r} is missing", detail=[fault])
        else:
            given[column.name] = [record.get(column.name) for record in data]
    return given, len(data)


def _tensors(data: Any, where: str, columns: Columns) -> _Given:
    """`instances` or `inputs`."""
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return _records(data, where, columns)
    if isinstance(data, dict):
        return _by_column(data, where)
    if isinstance(data, list) and len(columns.names) == 1:
        return {columns.names[0]: data}, len(data)
    raise BadRequestError(
        f"{where} must be a list of objects, or an object of columns, as this model's {len(columns.names)} columns "
        f"have names; got {'a list of something else' if isinstance(data, list) and data else _a(data)}"
    )


def _by_column(data: Mapping[str, Any], where: str) -> _Given:
    lists = {name: value for name, value in data.items() if isinstance(value, list)}
    if not lists:
        return {name: (value,) for name, value in data.items()}, 1 if data else 0
    name, first = next(iter(lists.items()))
    for other, value in data.items():
        if not isinstance(value, list) or len(value) != len(first):
            got = f"{len(value)} values" if isinstance(value, list) else _a(value)
            raise BadRequestError(
                f"{where}: all columns must be lists of the same length; {name[:60]!r} has {len(first)} values, "
                f"{other[:60]!r} {got}"
            )
    return lists, len(first)


def _csv(body: bytes, columns: Columns) -> _Given:
    try:
        text = body.decode("utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except UnicodeDecodeError as error:
        raise BadRequestError(f"the CSV file must be UTF-8: byte {error.start} is not") from None
    except csv.Error as error:
        raise BadRequestError(f"the body must be a CSV file: {error}") from None
    if not lines:
        raise BadRequestError("the CSV file is empty; its first line must name the columns")
    names, *rows = lines
    _require_unique([name for name in names if name in columns.names])
    given, count = _transposed(names, rows, "CSV file, after the header")
    return (columns.from_texts(given) | {name: () for name in given if name not in columns.names}), count


def _require_unique(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadRequestError(f"column {name[:60]!r} is there twice; which one counts?")
        seen.add(name)


def _a(value: Any) -> str:
    """The value's JSON type, for people."""
    if value is None:
        return "null"
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names[type(value)]
