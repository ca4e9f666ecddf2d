"""The rows at fault as a Parquet file, each with the names of the expectations that it broke."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from perennial.ports import ExpectationResult
from perennial.reports.expectation_words import label
from perennial.stages.frames import arrow_table

if TYPE_CHECKING:
    import pandas as pd

FAULTS_COLUMN: Final = "perennial_faults"


def rows_by_fault(failed: Iterable[ExpectationResult]) -> dict[int, list[str]]:
    """Names of the broken expectations by position of the row, positions ascending."""
    faults: dict[int, list[str]] = {}
    for outcome in failed:
        name = label(outcome)
        for row in outcome.rows:
            faults.setdefault(row, []).append(name)
    return dict(sorted(faults.items()))


def quarantine_bytes(frame: pd.DataFrame, faults: Mapping[int, Sequence[str]]) -> bytes:
    """All columns of the rows at fault, and `perennial_faults`; the same bytes for the same rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = frame.iloc[list(faults)].assign(**{FAULTS_COLUMN: ["; ".join(names) for names in faults.values()]})
    sink = pa.BufferOutputStream()
    pq.write_table(arrow_table(rows), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content
