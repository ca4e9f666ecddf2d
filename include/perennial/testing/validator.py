"""A Validator without Great Expectations: the few expectations that tests need, written out on pandas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from perennial.domain.faulty_values import faulty_values
from perennial.domain.json_values import json_ready
from perennial.errors import SpecError, SpecProblem
from perennial.ports import ExpectationResult, SuiteResult

if TYPE_CHECKING:
    import pandas as pd

Rule = Callable[["pd.DataFrame", Mapping[str, Any]], "pd.Series[bool]"]
"""Frame and arguments to a mask of the rows at fault."""


def _null(frame: pd.DataFrame, kwargs: Mapping[str, Any]) -> pd.Series[bool]:
    wrong: pd.Series[bool] = frame[kwargs["column"]].isna()
    return wrong


def _outside_range(frame: pd.DataFrame, kwargs: Mapping[str, Any]) -> pd.Series[bool]:
    values, low, high = frame[kwargs["column"]], kwargs.get("min_value"), kwargs.get("max_value")
    wrong: pd.Series[bool] = values.isna() & False
    if low is not None:
        wrong |= (values <= low) if kwargs.get("strict_min") else (values < low)
    if high is not None:
        wrong |= (values >= high) if kwargs.get("strict_max") else (values > high)
    return wrong


def _outside_set(frame: pd.DataFrame, kwargs: Mapping[str, Any]) -> pd.Series[bool]:
    values = frame[kwargs["column"]]
    wrong: pd.Series[bool] = values.notna() & ~values.isin(kwargs["value_set"])
    return wrong


def _repeated(frame: pd.DataFrame, kwargs: Mapping[str, Any]) -> pd.Series[bool]:
    columns = _columns(kwargs)
    return frame.duplicated(subset=columns, keep=False) & frame[columns].notna().any(axis=1)


ROW_RULES: Final[Mapping[str, tuple[Rule, frozenset[str]]]] = {
    "expect_column_values_to_not_be_null": (_null, frozenset({"column"})),
    "expect_column_values_to_be_between": (
        _outside_range,
        frozenset({"column", "min_value", "max_value", "strict_min", "strict_max"}),
    ),
    "expect_column_values_to_be_in_set": (_outside_set, frozenset({"column", "value_set"})),
    "expect_column_values_to_be_unique": (_repeated, frozenset({"column"})),
    "expect_compound_columns_to_be_unique": (_repeated, frozenset({"column_list"})),
}
"""Rule and arguments, beside `mostly`, by expectation."""
_ROW_COUNT: Final = "expect_table_row_count_to_be_between"
_ROW_COUNT_ARGUMENTS: Final = frozenset({"min_value", "max_value"})


class FakeValidator:
    """Passes the contract suite that Great Expectations passes, for the expectations in `ROW_RULES` and row counts.

    Parameters are names only, not expressions.
    """

    def __init__(self) -> None:
        self.calls = 0
        """How often `validate` was called."""

    def validate(self, frame: pd.DataFrame, suite: Mapping[str, Any], parameters: Mapping[str, Any]) -> SuiteResult:
        """Check the frame."""
        self.calls += 1
        frame = frame.reset_index(drop=True)
        file = str(suite.get("name", "suite"))
        problems: list[SpecProblem] = []
        for position, entry in enumerate(suite["expectations"]):
            problems += _problems(file, f"expectations[{position}]", entry, parameters)
        if problems:
            raise SpecError(problems)
        results = [_outcome(frame, entry, _filled(entry["kwargs"], parameters)) for entry in suite["expectations"]]
        rows = sorted({row for result in results if not result.success for row in result.rows})
        return SuiteResult(success=all(result.success for result in results), results=results, faulty_rows=rows)


def _problems(file: str, where: str, entry: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[SpecProblem]:
    name, kwargs = entry["type"], entry.get("kwargs", {})
    if name not in ROW_RULES and name != _ROW_COUNT:
        known = ", ".join([*ROW_RULES, _ROW_COUNT])
        return [SpecProblem(file, f"{where}.type", repr(name), f"the fake knows {known}")]
    allowed = _ROW_COUNT_ARGUMENTS if name == _ROW_COUNT else ROW_RULES[name][1] | {"mostly"}
    unknown = [
        SpecProblem(file, f"{where}.kwargs.{argument}", repr(kwargs[argument]), f"allowed: {', '.join(allowed)}")
        for argument in sorted(set(kwargs) - allowed)
    ]
    named = {key: value["$PARAMETER"] for key, value in kwargs.items() if isinstance(value, dict)}
    missing = [
        SpecProblem(file, f"{where}.kwargs.{argument}", repr(parameter), f"there are {', '.join(sorted(parameters))}")
        for argument, parameter in named.items()
        if parameter not in parameters
    ]
    return unknown + missing


def _filled(kwargs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: parameters[value["$PARAMETER"]] if isinstance(value, dict) else value for name, value in kwargs.items()
    }


def _columns(kwargs: Mapping[str, Any]) -> list[str]:
    return [kwargs["column"]] if "column" in kwargs else list(kwargs.get("column_list", ()))


def _outcome(frame: pd.DataFrame, entry: Mapping[str, Any], kwargs: Mapping[str, Any]) -> ExpectationResult:
    columns = _columns(kwargs)
    missing = [column for column in columns if column not in frame]
    success, error, rows, facts = False, "", [], {}
    if missing:
        error = f'The column "{missing[0]}" in BatchData does not exist.'
    elif entry["type"] == _ROW_COUNT:
        low, high = kwargs.get("min_value"), kwargs.get("max_value")
        success = (low is None or len(frame) >= low) and (high is None or len(frame) <= high)
        facts = {"observed_value": len(frame)}
    else:
        wrong = ROW_RULES[entry["type"]][0](frame, kwargs)
        rows = [position for position, at_fault in enumerate(wrong) if at_fault]
        relevant = frame[columns].notna().any(axis=1).sum() if "not_be_null" not in entry["type"] else len(frame)
        success = relevant - len(rows) >= kwargs.get("mostly", 1.0) * relevant
        facts = {"element_count": len(frame)}
    examples, more = faulty_values(frame, columns, rows) if rows and not success else ([], {})
    return ExpectationResult(
        expectation=entry["type"],
        column=", ".join(columns) or None,
        success=bool(success),
        detail={"kwargs": json_ready(kwargs), "observed": {**facts, **more}},
        unexpected_count=len(rows),
        examples=examples,
        notes=str(entry.get("notes", "")),
        error=error,
        rows=rows,
    )
