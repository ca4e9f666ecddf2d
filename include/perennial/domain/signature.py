"""What a model takes: its columns, by name, in order, with their types in MLflow's words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ColumnType(StrEnum):
    """MLflow's scalar column types, and `any` for a column that was empty in the logged example."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    """32 bits."""
    LONG = "long"
    """64 bits."""
    FLOAT = "float"
    """32 bits."""
    DOUBLE = "double"
    """64 bits."""
    STRING = "string"
    DATETIME = "datetime"
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputColumn:
    """One column of a signature."""

    name: str
    type: str
    """A `ColumnType`'s value, or what else the signature says (`Array(double)`), which is not served."""
    required: bool = True
    """Whether it has to be given. A missing value in it is another matter, see `perennial.serving.columns`."""
