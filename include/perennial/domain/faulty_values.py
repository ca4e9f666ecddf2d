"""What is worth showing of the rows that broke an expectation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from perennial.domain.json_values import json_ready

if TYPE_CHECKING:
    import pandas as pd

MAX_EXAMPLES: Final = 10


def faulty_values(frame: pd.DataFrame, columns: Sequence[str], rows: Sequence[int]) -> tuple[list[Any], dict[str, Any]]:
    """Up to 10 examples, JSON-ready, and facts about all the values at fault.

    Args:
        frame: the checked rows.
        columns: the expectation's columns. For one column the examples are its most frequent values at fault; for
            several they are rows, as mappings of these columns.
        rows: positions of the rows at fault.

    Returns:
        Examples (missing values are none), and `example_counts` (of each example), `lowest` and `highest` (numbers
        and times only).
    """
    if len(columns) != 1:
        found = frame[list(columns)].iloc[list(rows[:MAX_EXAMPLES])].to_dict("records")
        return [json_ready(row) for row in found], {}
    values = frame[columns[0]].iloc[list(rows)].dropna()
    try:
        counts = Counter(values.tolist())
    except TypeError:  # lists and the like cannot be counted
        return [json_ready(value) for value in values.iloc[:MAX_EXAMPLES].tolist()], {}
    common = counts.most_common(MAX_EXAMPLES)
    facts: dict[str, Any] = {"example_counts": [number for _, number in common]} if common else {}
    if common and getattr(values.dtype, "kind", "O") in "iufM":
        facts |= {"lowest": json_ready(min(counts)), "highest": json_ready(max(counts))}
    return [json_ready(value) for value, _ in common], facts
