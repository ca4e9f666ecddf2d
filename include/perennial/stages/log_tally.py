"""What is counted of one version's rows in the prediction log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from perennial.domain.counting import Codes, add, no_counts, rows_by_part
from perennial.domain.latencies import Latencies
from perennial.domain.metric_names import Task
from perennial.domain.profile import CategoryProfile, ColumnCounts, ColumnProfile, HoldoutProfile, Profile
from perennial.domain.traffic import Role
from perennial.prediction_objects import feature_column
from perennial.stages.column_values import (
    Categories,
    Values,
    categories_of,
    count,
    numbers_of,
    rows_of,
    scores_of_column,
)

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(slots=True)
class ColumnSums:
    """Rows so far, and the counts of their columns."""

    profiles: tuple[ColumnProfile, ...]
    rows: int = 0
    counts: dict[str, ColumnCounts] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {profile.column: no_counts(profile) for profile in self.profiles}

    def add(self, values: Mapping[str, Values], rows: int) -> None:
        """Count so many rows, by column."""
        self.rows += rows
        for profile in self.profiles:
            counts = count(profile, values[profile.column])
            self.counts[profile.column] = add(self.counts[profile.column], counts)

    def merge(self, other: ColumnSums) -> None:
        """Add what was counted elsewhere."""
        self.rows += other.rows
        self.counts = {name: add(counts, other.counts[name]) for name, counts in self.counts.items()}


class Tally:
    """Counts tables of the log of one version; several of them, of different rows, can be put together.

    Args:
        task: the model's.
        profile: of the version's training; None: columns are not counted.
        holdout: of the version; None: scores are not counted.
        exclude: features that are not in the log.
    """

    def __init__(
        self, task: Task, profile: Profile | None, holdout: HoldoutProfile | None, exclude: Sequence[str]
    ) -> None:
        def logged(columns: Sequence[ColumnProfile]) -> tuple[ColumnProfile, ...]:
            return tuple(column for column in columns if column.column not in exclude)

        slices = [] if profile is None else [one for one in profile.slices if one.column not in exclude]
        self.columns = ColumnSums(() if profile is None else logged(profile.columns))
        self.slices = {(one.column, one.level): ColumnSums(logged(one.columns)) for one in slices}
        self.scores = ColumnSums(() if holdout is None else holdout.scores)
        self.roles: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.requests, self.failed = 0, 0
        self.latency = Latencies()
        self.newest: datetime | None = None
        self.left_out: list[str] = []
        """Uris of objects that could not be read."""
        self._task = task
        self.features = {profile.column: feature_column(profile.column) for profile in self.columns.profiles}
        """The log's column by feature."""
        self.categories = [
            feature_column(one.column) for one in self.columns.profiles if isinstance(one, CategoryProfile)
        ]
        """The log's columns of categories."""

    def add(self, table: pa.Table) -> None:
        """Count rows of the log: its own columns, and those of `features` that it has."""
        import pyarrow.compute as pc

        if not table.num_rows:
            return
        self.roles.update({one["values"]: one["counts"] for one in pc.value_counts(table["role"]).to_pylist()})
        newest = pc.max(table["at"]).as_py()
        self.newest = newest if self.newest is None else max(self.newest, newest)
        answered = pc.is_null(table["error"])
        asked = pc.not_equal(table["role"], str(Role.SHADOW))
        self._add_requests(table.select(["latency_ms", "error"]).filter(pc.and_(asked, pc.equal(table["row"], 0))))
        if self.scores.profiles:
            self._add_scores(table["prediction"].filter(answered))
        if self.columns.profiles:
            self._add_columns(_filtered(table, pc.and_(asked, answered)))
        else:
            self.columns.rows += int(pc.sum(pc.and_(asked, answered)).as_py() or 0)

    def merge(self, other: Tally) -> None:
        """Add what was counted elsewhere."""
        self.columns.merge(other.columns)
        for name, sums in self.slices.items():
            sums.merge(other.slices[name])
        self.scores.merge(other.scores)
        self.roles += other.roles
        self.errors += other.errors
        self.requests += other.requests
        self.failed += other.failed
        self.latency += other.latency
        self.left_out += other.left_out
        self.newest = max((time for time in (self.newest, other.newest) if time is not None), default=None)

    def _add_requests(self, requests: pa.Table) -> None:
        import pyarrow.compute as pc

        self.requests += requests.num_rows
        self.latency.add(requests["latency_ms"].to_numpy())
        told = pc.drop_null(requests["error"]).to_pylist()
        self.failed += len(told)
        self.errors.update(error.partition(":")[0] for error in told)

    def _add_scores(self, predictions: pa.ChunkedArray) -> None:
        profiles = self.scores.profiles
        matrix = scores_of_column(self._task, predictions, len(profiles)).reshape(len(predictions), len(profiles))
        values: dict[str, Values] = {profile.column: matrix[:, place] for place, profile in enumerate(profiles)}
        self.scores.add(values, len(predictions))

    def _add_columns(self, table: pa.Table) -> None:
        values = {profile.column: self._values(table, profile) for profile in self.columns.profiles}
        self.columns.add(values, table.num_rows)
        by_column: dict[str, list[str]] = {}
        for column, level in self.slices:
            by_column.setdefault(column, []).append(level)
        for column, levels in by_column.items():
            name = self.features[column]
            if name not in table.column_names:
                continue
            for level, rows in _rows_by_level(categories_of(table[name]), levels):
                inside = {feature: rows_of(given, rows) for feature, given in values.items()}
                self.slices[column, level].add(inside, len(rows))

    def _values(self, table: pa.Table, profile: ColumnProfile) -> Values:
        name = self.features[profile.column]
        there = name in table.column_names
        if isinstance(profile, CategoryProfile):
            nowhere = Categories(codes=np.full(table.num_rows, -1), texts=())
            return categories_of(table[name]) if there else nowhere
        return numbers_of(table[name]) if there else np.full(table.num_rows, np.nan)


def _filtered(table: pa.Table, kept: Any) -> pa.Table:
    import pyarrow.compute as pc

    return table if pc.all(kept).as_py() else table.filter(kept)


def _rows_by_level(column: Categories, levels: Sequence[str]) -> Iterator[tuple[str, Codes]]:
    """Places of each level's rows."""
    place = {level: number for number, level in enumerate(levels)}
    parts = np.array([*(place.get(text, -1) for text in column.texts), -1])[column.codes]
    return zip(levels, rows_by_part(parts, len(levels)), strict=True)
