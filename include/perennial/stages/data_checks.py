"""Checks that every model needs, whatever its suite says: without them a later stage would fail, or err in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from perennial.domain.faulty_values import MAX_EXAMPLES, faulty_values
from perennial.domain.manifest import Manifest
from perennial.ports import ExpectationResult
from perennial.spec.model import ModelSpec

if TYPE_CHECKING:
    import pandas as pd


def data_checks(spec: ModelSpec, manifest: Manifest, frame: pd.DataFrame) -> list[ExpectationResult]:
    """Landing files usable, columns there, rows in both windows, keys whole and unique, label known and valid.

    Args:
        spec: the model.
        manifest: the snapshot that `frame` was read from.
        frame: the rows of the manifest's windows, by position; columns that the snapshot lacks are left out.
    """
    data = spec.data
    checks = [_landing_files(spec, manifest), _windows(spec, manifest, frame)]
    checks += [_missing_column(column) for column in spec.needed_columns if column not in frame]
    for column in (*data.key_columns, data.label_column):
        if column in frame:
            checks.append(_rows_check(frame, "expect_column_values_to_not_be_null", (column,), frame[column].isna()))
    if all(column in frame for column in data.key_columns):
        checks.append(_unique_key(frame, data.key_columns))
    if data.label_column in frame:
        checks += _valid_label(spec, frame)
    return checks


def _landing_files(spec: ModelSpec, manifest: Manifest) -> ExpectationResult:
    refused = manifest.refused
    return ExpectationResult(
        expectation="expect_landing_files_to_be_usable",
        column=None,
        success=not refused or spec.data.on_refused_file == "skip",
        detail={
            "kwargs": {},
            "observed": {"observed_value": f"{len(refused)} that {'is' if len(refused) == 1 else 'are'} not"}
            if refused
            else {},
        },
        unexpected_count=len(refused),
        examples=[f"{file.key}: {file.why}: {file.detail}" for file in refused[:MAX_EXAMPLES]],
        notes="data.on_refused_file is skip: such files are left out." if spec.data.on_refused_file == "skip" else "",
    )


def _windows(spec: ModelSpec, manifest: Manifest, frame: pd.DataFrame) -> ExpectationResult:
    times = frame[spec.data.time_column]
    windows = {"training": manifest.windows.training, "holdout": manifest.windows.holdout}
    rows = {name: int(((times >= w.start) & (times < w.end)).sum()) for name, w in windows.items()}
    return ExpectationResult(
        expectation="expect_windows_to_have_rows",
        column=None,
        success=all(rows.values()),
        detail={"kwargs": {}, "observed": {"observed_value": [f"{name} {number}" for name, number in rows.items()]}},
    )


def _missing_column(column: str) -> ExpectationResult:
    return ExpectationResult(
        expectation="expect_column_to_exist",
        column=column,
        success=False,
        detail={"kwargs": {"column": column}, "observed": {}},
        error="the spec names this column, the landing files lack it",
    )


def _unique_key(frame: pd.DataFrame, keys: Sequence[str]) -> ExpectationResult:
    single = len(keys) == 1
    name = "expect_column_values_to_be_unique" if single else "expect_compound_columns_to_be_unique"
    repeated = frame.duplicated(subset=list(keys), keep=False) & frame[list(keys)].notna().all(axis=1)
    return _rows_check(frame, name, keys, repeated)


def _valid_label(spec: ModelSpec, frame: pd.DataFrame) -> Iterator[ExpectationResult]:
    column = spec.data.label_column
    label = frame[column]
    if spec.task == "binary_classification":
        wrong = label.notna() & ~label.isin([0, 1])
        yield _rows_check(frame, "expect_column_values_to_be_in_set", (column,), wrong, value_set=[0, 1])
    elif spec.task == "regression":
        import pandas as pd

        number = pd.to_numeric(label, errors="coerce").astype("float64")
        wrong = label.notna() & ~number.abs().lt(float("inf"))
        yield _rows_check(frame, "expect_column_values_to_be_finite", (column,), wrong)


def _rows_check(
    frame: pd.DataFrame, expectation: str, columns: Sequence[str], wrong: pd.Series[bool], **kwargs: Any
) -> ExpectationResult:
    """A result in the same shape as the validator's, from a mask of the rows at fault."""
    rows = [position for position, at_fault in enumerate(wrong.to_numpy(dtype=bool)) if at_fault]
    named = {"column": columns[0]} if len(columns) == 1 else {"column_list": list(columns)}
    examples, facts = faulty_values(frame, columns, rows)
    return ExpectationResult(
        expectation=expectation,
        column=", ".join(columns),
        success=not rows,
        detail={"kwargs": {**named, **kwargs}, "observed": {"element_count": len(frame), **facts}},
        unexpected_count=len(rows),
        examples=examples,
        rows=rows,
    )
