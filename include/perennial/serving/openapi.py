"""The parts of the OpenAPI document that FastAPI cannot infer: bodies that are read raw, and every status.

Bodies are described by the columns of the champions in service when the document is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from perennial.domain.signature import ColumnType, InputColumn
from perennial.serving.payload import FORMATS

_WHOLE: Final = {ColumnType.INTEGER: 31, ColumnType.LONG: 63}
_TYPES: Final[dict[ColumnType, dict[str, Any]]] = {
    ColumnType.BOOLEAN: {"type": "boolean"},
    ColumnType.FLOAT: {"type": ["number", "null"], "minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38},
    ColumnType.DOUBLE: {"type": ["number", "null"]},
    ColumnType.STRING: {"type": ["string", "null"]},
    ColumnType.DATETIME: {"type": ["string", "null"], "description": "ISO 8601, from 1678 to 2261"},
    ColumnType.ANY: {"type": ["number", "string", "boolean", "null"]},
    **{kind: {"type": "integer", "minimum": -(2**bits), "maximum": 2**bits - 1} for kind, bits in _WHOLE.items()},
}
_ERROR: Final = {
    "type": "object",
    "required": ["error_code", "message"],
    "properties": {
        "error_code": {"type": "string"},
        "message": {"type": "string"},
        "request_id": {"type": "string"},
        "detail": {"type": "array", "items": {"type": "object"}},
    },
}
_WORDS: Final = {
    400: "The body is not what the model takes; the message names column, row, what came and what is expected.",
    404: "There is no such model.",
    408: "The body did not come within the time limit.",
    413: "The body is too large.",
    415: "Neither application/json nor text/csv, or not UTF-8.",
    422: "The rows fit the signature, and the model refuses them.",
    429: "Too many rows wait, or too many bytes; Retry-After says when to come again.",
    500: "The model failed, or the service did.",
    503: "No model can score now.",
    504: "No prediction within the time limit.",
}
_IDS: Final = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
        "description": text,
    }
    for name, text in (
        ("X-Request-Id", "Names the request in the answer, the log and for labels; made up if left out."),
        ("X-Perennial-Key", "Requests with the same key go to the same version; the request id if left out."),
    )
]


def scoring() -> dict[str, Any]:
    """Of a route that scores: arguments of FastAPI's decorator."""
    prediction = {"predictions": {"type": "array", "items": {}}}
    answer = {"type": "object", "required": ["predictions"], "properties": prediction}
    failures = errors(400, 404, 408, 413, 415, 422, 429, 500, 503, 504)
    return {
        "openapi_extra": {"requestBody": rows_of(()), "parameters": _IDS},
        "responses": {200: _json("A prediction a row.", answer), **failures},
    }


def rows_of(models: Sequence[Sequence[InputColumn]]) -> dict[str, Any]:
    """The body of a request for predictions, by the columns of the models that may be asked; none are known: any."""
    formats = [schema for columns in models for schema in _formats(columns)]
    if not formats:
        formats = [_format(name, {"type": ["array", "object"]}) for name in FORMATS]
    content = {
        "application/json": {"schema": {"anyOf": formats}},
        "text/csv": {"schema": {"type": "string", "minLength": 1}},
    }
    return {"required": True, "content": content}


def _formats(columns: Sequence[InputColumn]) -> list[dict[str, Any]]:
    cells = {column.name: _cell(column) for column in columns}
    row = {"type": "object", "required": [c.name for c in columns if c.required], "properties": cells}
    rows = {"type": "array", "minItems": 1, "items": row}
    line = {"type": "array", "prefixItems": list(cells.values()), "minItems": len(cells), "maxItems": len(cells)}
    split = {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {"columns": {"const": list(cells)}, "data": {"type": "array", "minItems": 1, "items": line}},
        "additionalProperties": False,
    }
    by_format: dict[str, dict[str, Any]] = {
        "dataframe_split": split,
        "dataframe_records": rows,
        "instances": rows,
        "inputs": {**row, "additionalProperties": _TYPES[ColumnType.ANY]},  # a column that is none of the model's
    }
    return [_format(name, schema) for name, schema in by_format.items()]


def _format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Exactly one format; what is beside it (`params`, unknown fields) is ignored, as by MLflow."""
    others: dict[str, Any] = {other: {"not": {}} for other in FORMATS if other != name}
    return {"type": "object", "required": [name], "properties": {name: schema, **others}}


def _cell(column: InputColumn) -> dict[str, Any]:
    cell = _TYPES[ColumnType(column.type)]
    return cell if column.required or "null" in cell["type"] else {"anyOf": [cell, {"type": "null"}]}


def labels() -> dict[str, Any]:
    """Of a route that takes labels."""
    lists = [_labels({"type": ["number", "boolean"]}), _labels({"type": "string", "minLength": 1, "maxLength": 200})]
    body = {
        "type": "object",
        "required": ["labels"],
        "properties": {"labels": {"anyOf": lists}},
        "additionalProperties": False,
    }
    answer = {"type": "object", "required": ["labels"], "properties": {"labels": {"type": "integer"}}}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}},
        "responses": {200: _json("How many were kept.", answer), **errors(400, 404, 408, 413, 429, 500, 503, 504)},
    }


def _labels(value: dict[str, Any]) -> dict[str, Any]:
    label = {
        "type": "object",
        "required": ["request_id", "label"],
        "properties": {
            "request_id": {"type": "string", "minLength": 1, "maxLength": 200},
            "row": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
            "label": value,
        },
        "additionalProperties": False,
    }
    return {"type": "array", "minItems": 1, "maxItems": 10_000, "items": label}


def errors(*statuses: int) -> dict[int | str, Any]:
    """Responses of these statuses."""
    return {status: _json(_WORDS[status], _ERROR) for status in statuses}


def _json(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
