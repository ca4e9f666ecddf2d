"""Counts the prediction log of a window, version by version, in one pass and without ever holding much of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from perennial.domain.latencies import Latencies
from perennial.domain.profile import ColumnCounts, HoldoutProfile, Profile
from perennial.domain.times import Interval
from perennial.errors import UndecodableError
from perennial.ports import ObjectInfo, ObjectStore
from perennial.prediction_objects import prediction_objects
from perennial.spec.model import ModelSpec
from perennial.stages.frames import WHOLE_BYTES, groups_within, opened
from perennial.stages.log_tally import Tally

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
Reference = tuple[Profile | None, HoldoutProfile | None]

_WORKERS: Final = 8
_BATCH_ROWS: Final = 32_768
"""Small objects' rows are put together up to this, so that the cost of a call is spread over many rows."""
_LARGE_AT_ONCE: Final = 2
"""Of objects that are not fetched whole: their row groups may be of any size."""
_OWN: Final = ("row", "at", "role", "latency_ms", "error", "prediction")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceCounts:
    """Rows that share one value."""

    rows: int
    columns: Mapping[str, ColumnCounts]
    """By column, as the `SliceProfile` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCounts:
    """What one version was asked, and what it answered, within a window.

    Shadow copies are left out of everything but `roles`, `newest` and `scores`: whoever answered the request has them.
    """

    version: str
    rows: int
    """That it gave a prediction for."""
    roles: Mapping[str, int]
    """Rows by role, failed ones among them."""
    requests: int
    failed: int
    """Requests that it could not score; the log has no features of those."""
    errors: Mapping[str, int]
    """Failed requests by kind, the most frequent first."""
    latency: Latencies
    """Of requests, failed ones among them."""
    newest: datetime | None
    """Time of the newest row, UTC; None: no row."""
    columns: Mapping[str, ColumnCounts]
    """By feature, as the version's own profile says. Features that the spec keeps out of the log are not there; others
    that nobody sent are, missing in all rows. Empty without a profile."""
    slices: Mapping[tuple[str, str], SliceCounts]
    """By (column, level) of the profile's slices."""
    scores: Mapping[str, ColumnCounts]
    """By name of the holdout's scores; empty without a holdout profile."""
    unreadable: tuple[str, ...]
    """Uris of objects that were left out: half of one, or something else than a log."""


def count_window(
    spec: ModelSpec,
    during: Interval,
    *,
    store: ObjectStore,
    root: str,
    reference_of: Callable[[str], Reference],
) -> tuple[VersionCounts, ...]:
    """Count the rows with `at` in [start, end): a version each, the one with the most rows first; empty without rows.

    Each object is read once, in batches, by several threads: memory does not grow with the log.

    Args:
        spec: the model's.
        during: the window.
        store: where the log lies.
        root: `s3://bucket/prefix`.
        reference_of: the profiles of a version; asked once for each that has objects.

    Raises:
        StoreUnavailableError: the store does not answer.
        TerminalError: it may not be read by us.
    """
    objects = sorted(prediction_objects(store, root, spec.name, during), key=lambda given: given[0])
    references = {version: reference_of(version) for version in dict.fromkeys(version for version, _ in objects)}
    exclude = () if spec.deployment is None or spec.deployment.log is None else spec.deployment.log.exclude

    def new_tallies() -> dict[str, Tally]:
        return {version: Tally(spec.task, *given, exclude) for version, given in references.items()}

    whole, reader = new_tallies(), _Reader(store, during, objects)
    with ThreadPoolExecutor(_WORKERS) as pool:
        for tallies in pool.map(lambda _: reader.count(new_tallies()), range(min(_WORKERS, len(objects)))):
            for version, tally in tallies.items():
                whole[version].merge(tally)
    found = [_counts(version, tally) for version, tally in whole.items() if tally.newest or tally.left_out]
    return tuple(sorted(found, key=lambda counts: (-counts.rows, counts.version)))


class _Reader:
    """Hands the objects out to whoever is free, and counts their rows."""

    def __init__(self, store: ObjectStore, during: Interval, objects: Sequence[tuple[str, ObjectInfo]]) -> None:
        self._store, self._during = store, during
        self._lock = threading.Lock()  # of the next one
        self._objects = iter(objects)
        self._large = threading.BoundedSemaphore(_LARGE_AT_ONCE)

    def count(self, tallies: dict[str, Tally]) -> dict[str, Tally]:
        """Count objects into the tallies, by version, until there are no more."""
        waiting: dict[str, list[pa.Table]] = {}
        try:
            while (given := self._next()) is not None:
                version, info = given
                tally, tables = tallies[version], waiting.setdefault(version, [])
                for table in self._tables(info, tally):
                    tables.append(table)
                    if sum(one.num_rows for one in tables) >= _BATCH_ROWS:
                        _add(tally, tables)
                        tables.clear()
        except Exception:
            with self._lock:
                self._objects = iter(())  # the others need not go on
            raise
        for version, tables in waiting.items():
            _add(tallies[version], tables)
        return tallies

    def _tables(self, info: ObjectInfo, tally: Tally) -> Iterator[pa.Table]:
        columns = (*_OWN, *tally.features.values())
        try:
            with self._large if info.size_bytes > WHOLE_BYTES else nullcontext():
                yield from log_rows(self._store, info, self._during, columns, dictionaries=tally.categories)
        except UndecodableError as error:  # a store without atomic puts keeps half of what a crash cut off
            _log.warning("left out: %s", error)
            tally.left_out.append(info.uri)

    def _next(self) -> tuple[str, ObjectInfo] | None:
        with self._lock:
            return next(self._objects, None)


def log_rows(
    store: ObjectStore,
    info: ObjectInfo,
    during: Interval,
    columns: Iterable[str],
    *,
    dictionaries: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """Rows of one object of the log with `at` in [start, end), a batch in a table.

    Args:
        store: where it lies.
        info: as it was listed.
        during: by the requests' time.
        columns: `at` among them; those that the object lacks are left out.
        dictionaries: those whose texts are wanted as codes.

    Raises:
        UndecodableError: it is no object of a log.
        NotFoundError, StoreUnavailableError, TerminalError: as `perennial.stages.frames.opened`.
    """
    import pyarrow as pa

    with opened(store, info.uri, info.size_bytes, dictionaries=dictionaries) as file:
        known = set(file.schema_arrow.names)  # the schema is made anew each time
        if lacking := [name for name in _OWN if name not in known]:
            raise UndecodableError(f"{info.uri} is no prediction log: it has no column {', '.join(lacking)}")
        there = [name for name in columns if name in known]
        groups = groups_within(file.metadata, during, "at")
        for batch in file.iter_batches(_BATCH_ROWS, groups, there, use_threads=False):
            yield _within(pa.Table.from_batches([batch]), during)


def _within(table: pa.Table, during: Interval) -> pa.Table:
    import pyarrow.compute as pc

    inside = pc.and_(pc.greater_equal(table["at"], during.start), pc.less(table["at"], during.end))
    return table if pc.all(inside).as_py() else table.filter(inside)


def _add(tally: Tally, tables: Sequence[pa.Table]) -> None:
    """Count tables of one version, all at once unless the types of a column do not fit together."""
    import pyarrow as pa

    try:
        together = [pa.concat_tables(tables, promote_options="permissive")] if tables else []
    except pa.ArrowException:
        together = list(tables)
    for table in together:
        tally.add(table)


def _counts(version: str, tally: Tally) -> VersionCounts:
    newest = tally.newest
    return VersionCounts(
        version=version,
        rows=tally.columns.rows,
        roles=dict(tally.roles),
        requests=tally.requests,
        failed=tally.failed,
        errors=dict(tally.errors.most_common()),
        latency=tally.latency,
        newest=None if newest is None else newest.astimezone(UTC),
        columns=tally.columns.counts,
        slices={name: SliceCounts(rows=sums.rows, columns=sums.counts) for name, sums in tally.slices.items()},
        scores=tally.scores.counts,
        unreadable=tuple(sorted(tally.left_out)),
    )
