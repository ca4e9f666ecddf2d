"""Which landing files make up a run's data: a pure function of what was found in them.

Time decides what concerns a run. A file that starts after `as_of`, or ends before the training window, is none of its
business, whatever its columns are; so an old schema stops nothing once it has left the windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from perennial.domain.manifest import PENDING, UnusableFile
from perennial.domain.times import Interval, format_time
from perennial.domain.windows import DataWindows, watermark_at, windows_at
from perennial.errors import NoDataError
from perennial.spec.model import ModelSpec

_TIMESTAMP: Final = "timestamp"
_UNKNOWN: Final = "null"
"""Arrow's type of a column in which a file has no value at all."""
_TOLD: Final = 5
"""So many files are named in a message; the manifest names all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedFile:
    """What is known of one landing file."""

    key: str
    """Landing key, below the landing zone's prefix."""
    size_bytes: int
    sha256: str | None = None
    """Of its bytes; None as long as no run needed a copy."""
    rows: int = 0
    first_row: datetime | None = None
    """None if the file has no usable time column, or no rows."""
    last_row: datetime | None = None
    rows_without_time: int = 0
    schema: Mapping[str, str]
    """Canonical type by column (`perennial.stages.parquet_footer`)."""

    @property
    def span(self) -> tuple[datetime, datetime]:
        """Times of its oldest and its newest row.

        Raises:
            ValueError: it has none.
        """
        if self.first_row is None or self.last_row is None:
            raise ValueError(f"{self.key} has no rows with a time")
        return self.first_row, self.last_row


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPlan:
    """What a snapshot is made of."""

    watermark: datetime
    windows: DataWindows
    schema: Mapping[str, str]
    """Canonical type by needed column; that of the oldest file in which the column has values."""
    files: tuple[LandedFile, ...]
    """By key; each overlaps the windows."""
    unusable: tuple[UnusableFile, ...]
    """By key."""


def straddling(spec: ModelSpec, as_of: datetime, landed: Iterable[LandedFile]) -> list[LandedFile]:
    """Usable files with rows on both sides of `as_of`: which is their newest row up to it has to be read."""
    sound = (f for f in landed if _unplaceable(spec, f) is None and not _lacking(spec, f))
    return [file for file in sound if file.span[0] < as_of < file.span[1]]


def plan_snapshot(
    spec: ModelSpec,
    as_of: datetime,
    landed: Iterable[LandedFile],
    known_unusable: Sequence[UnusableFile],
    newest_until_as_of: Mapping[str, datetime],
) -> SnapshotPlan:
    """Choose the files, and where the windows lie.

    Args:
        spec: the model's.
        as_of: rows after it do not count.
        landed: every readable landing file.
        known_unusable: files that are not readable.
        newest_until_as_of: by key, for each file of `straddling`, the time of its newest row at or before `as_of`.

    Raises:
        NoDataError: no usable rows in the training window or in the holdout; tells what there is instead.
    """
    unusable = list(known_unusable)
    placed: list[LandedFile] = []
    for file in landed:
        refused = _unplaceable(spec, file)
        if refused is not None:
            unusable.append(refused)
        elif file.span[0] <= as_of:
            placed.append(file)
    lacking = [file for file in placed if _lacking(spec, file)]
    candidates = sorted((f for f in placed if not _lacking(spec, f)), key=lambda f: (f.span[0], f.key))
    agreed = _agree(spec, as_of, candidates, newest_until_as_of)
    if agreed is None:
        unusable += [_missing_columns(spec, file) for file in lacking]
        raise NoDataError(_nothing_usable(spec, as_of, unusable))
    start = agreed.windows.training.start
    unusable += [_missing_columns(spec, file) for file in lacking if file.span[1] >= start] + agreed.differing
    files = [file for file in agreed.files if _overlaps(file, agreed.windows.whole)]
    for name, window in (("training", agreed.windows.training), ("holdout", agreed.windows.holdout)):
        if not any(_overlaps(file, window) for file in files):
            raise NoDataError(_empty_window(spec, name, window, agreed, unusable))
    return SnapshotPlan(
        watermark=agreed.watermark,
        windows=agreed.windows,
        schema=agreed.schema,
        files=tuple(sorted(files, key=lambda file: file.key)),
        unusable=tuple(sorted(unusable, key=lambda file: (file.key, file.why))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Agreement:
    watermark: datetime
    windows: DataWindows
    schema: Mapping[str, str]
    files: Sequence[LandedFile]
    differing: list[UnusableFile]


def _agree(
    spec: ModelSpec, as_of: datetime, candidates: Sequence[LandedFile], newest_until_as_of: Mapping[str, datetime]
) -> _Agreement | None:
    """Drop files whose types differ from the oldest one's in the windows; that one stays, so None means no files."""
    differing: list[UnusableFile] = []
    while candidates:
        newest = max(newest_until_as_of.get(file.key, min(file.span[1], as_of)) for file in candidates)
        watermark = watermark_at(newest, as_of)
        windows = windows_at(watermark, as_of, spec.data)
        recent = [file for file in candidates if file.span[1] >= windows.training.start]
        schema = _reference_types(spec, recent)
        dropped = [refused for file in recent if (refused := _differing(spec, schema, file))]
        if not dropped:
            return _Agreement(
                watermark=watermark, windows=windows, schema=schema, files=candidates, differing=differing
            )
        # Without them the newest row may be an older one, and the windows hang on it.
        differing += dropped
        keys = {refused.key for refused in dropped}
        candidates = [file for file in candidates if file.key not in keys]
    return None


def _unplaceable(spec: ModelSpec, file: LandedFile) -> UnusableFile | None:
    """Why the file's rows lie in no window at all."""
    column = spec.data.time_column
    if column not in file.schema:
        return _missing_columns(spec, file)
    if not file.schema[column].startswith(_TIMESTAMP):
        detail = f"time column {column} is {file.schema[column]}, must be a timestamp"
        return UnusableFile(key=file.key, why="schema_changed", detail=detail)
    if file.rows == 0:
        return UnusableFile(key=file.key, why="empty", detail="a Parquet file without rows")
    if file.rows_without_time:
        detail = f"time column {column} is null in {file.rows_without_time} of {file.rows} rows; every row needs a time"
        return UnusableFile(key=file.key, why="schema_changed", detail=detail)
    return None


def _lacking(spec: ModelSpec, file: LandedFile) -> list[str]:
    return [column for column in spec.needed_columns if column not in file.schema]


def _missing_columns(spec: ModelSpec, file: LandedFile) -> UnusableFile:
    detail = f"needed columns are missing: {', '.join(_lacking(spec, file))}"
    return UnusableFile(key=file.key, why="schema_changed", detail=detail)


def _reference_types(spec: ModelSpec, files: Sequence[LandedFile]) -> dict[str, str]:
    """Type by needed column: the oldest file's, a file without a single value having no say."""
    types: dict[str, str] = {}
    for column in spec.needed_columns:
        told = (file.schema[column] for file in files if file.schema[column] != _UNKNOWN)
        types[column] = next(told, _UNKNOWN)
    types[spec.data.time_column] = _TIMESTAMP + "[UTC]"
    return types


def _differing(spec: ModelSpec, schema: Mapping[str, str], file: LandedFile) -> UnusableFile | None:
    found = [
        f"{column} is {file.schema[column]}, was {expected}"
        for column, expected in schema.items()
        if column != spec.data.time_column and file.schema[column] not in (expected, _UNKNOWN)
    ]
    return UnusableFile(key=file.key, why="schema_changed", detail="; ".join(found)) if found else None


def _overlaps(file: LandedFile, window: Interval) -> bool:
    first, last = file.span
    return first < window.end and last >= window.start


def _nothing_usable(spec: ModelSpec, as_of: datetime, unusable: Sequence[UnusableFile]) -> str:
    windows = spec.data.windows
    needed = windows.training + windows.embargo + windows.holdout + spec.data.label_delay
    return (
        f"{spec.name}: no usable data in {spec.data.landing} as of {format_time(as_of)}; found {_told(unusable)}. "
        f"Needed: Parquet files with columns {', '.join(spec.needed_columns)} and rows from "
        f"{format_time(as_of - needed)} on. Land data there, or correct data.landing"
    )


def _empty_window(
    spec: ModelSpec, name: str, window: Interval, agreed: _Agreement, unusable: Sequence[UnusableFile]
) -> str:
    first = min(file.span[0] for file in agreed.files)
    return (
        f"{spec.name}: no data in the {name} window {window} of {spec.data.landing}; {len(agreed.files)} usable files "
        f"reach from {format_time(first)} to {format_time(agreed.watermark)}; left out: {_told(unusable)}. "
        f"Land data for that window, or shorten data.windows in the spec"
    )


def _told(unusable: Sequence[UnusableFile]) -> str:
    if not unusable:
        return "no files"
    by_why = Counter(file.why for file in unusable)
    counts = ", ".join(f"{count} {why}" for why, count in sorted(by_why.items()))
    order = sorted(unusable, key=lambda file: (file.why in PENDING, file.key))
    named = "; ".join(f"{file.key}: {file.detail}" for file in order[:_TOLD])
    return f"{counts} ({named}{'; …' if len(order) > _TOLD else ''})"
