"""The holdout, and the proof that it is fair to both models (invariant 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from perennial.domain.fingerprint import digest_of, sha256_of
from perennial.domain.manifest import Manifest
from perennial.domain.references import ModelRef
from perennial.domain.times import Interval, format_time
from perennial.errors import NoDataError, NotFoundError, UnfairComparisonError
from perennial.ports import ObjectStore
from perennial.spec.fields import format_duration
from perennial.spec.model import ModelSpec
from perennial.stages.frames import read_frame
from perennial.stages.keys import Hashes, key_hashes, read_training_keys, training_keys_uri

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A model that is judged, and how errors call it."""

    title: str
    """`challenger`, or `champion version 3`."""
    model: ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """Rows that neither model has seen."""

    frame: pd.DataFrame
    interval: Interval
    sha256: str


def check_times(spec: ModelSpec, interval: Interval, contenders: Sequence[Contender]) -> None:
    """The holdout starts after each training, plus the embargo.

    Raises:
        UnfairComparisonError: it does not.
    """
    embargo = spec.data.windows.embargo
    for contender in contenders:
        end = contender.model.training_end
        if interval.start < end + embargo:
            raise UnfairComparisonError(
                f"{spec.name}: the holdout starts at {format_time(interval.start)}, but the {contender.title} was "
                f"trained on data up to {format_time(end)}; with an embargo of {format_duration(embargo)} it may start "
                f"at {format_time(end + embargo)} at the earliest. Ask for a later as_of once newer data has landed, "
                f"or shorten data.windows.holdout so that the holdout starts later"
            )


def load_holdout(
    spec: ModelSpec,
    manifest: Manifest,
    columns: Sequence[str],
    contenders: Sequence[Contender],
    *,
    store: ObjectStore,
    root: str,
) -> Holdout:
    """The snapshot's holdout rows, after proof that each key is there once and in no contender's training.

    Raises:
        NoDataError: no row in the window.
        UnfairComparisonError: a key twice, a key that a training has seen, or a training whose keys are not on record.
    """
    interval = manifest.windows.holdout
    frame = read_frame(store, manifest, columns, interval, time_column=spec.data.time_column)
    if frame.empty:
        raise NoDataError(
            f"{spec.name}: no row in the holdout window {interval}; land the missing data, or ask for another as_of"
        )
    hashes = key_hashes(frame, spec.data.key_columns)
    _check_unique(spec, frame, hashes)
    for contender in contenders:
        _check_unseen(spec, frame, hashes, contender, store=store, root=root)
    sha256 = digest_of(
        {
            "data": manifest.data_sha256,
            "holdout": [format_time(interval.start), format_time(interval.end)],
            "rows": len(frame),
            "keys": sha256_of(np.sort(hashes).astype("<u8").tobytes()),
        }
    )
    return Holdout(frame=frame, interval=interval, sha256=sha256)


def _check_unique(spec: ModelSpec, frame: pd.DataFrame, hashes: Hashes) -> None:
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    twice = first[counts > 1]
    if len(twice):
        raise UnfairComparisonError(
            f"{spec.name}: {len(twice):,} keys occur more than once among the {len(frame):,} holdout rows, such as "
            f"{_examples(spec, frame, twice)}; a row must count once. Remove the duplicates from the landing zone, or "
            f"name the columns in data.key_columns that tell such rows apart"
        )


def _check_unseen(
    spec: ModelSpec, frame: pd.DataFrame, hashes: Hashes, contender: Contender, *, store: ObjectStore, root: str
) -> None:
    uri = training_keys_uri(root, spec.name, contender.model.fingerprint)
    try:
        seen = read_training_keys(store, uri)
    except NotFoundError as error:
        raise UnfairComparisonError(
            f"{spec.name}: nothing proves that the {contender.title} was not trained on the holdout: there is no "
            f"{uri}. It was not trained by Perennial, or the file was deleted. Restore the file; or take the alias "
            f"`champion` off that version, and the next challenger is judged by the gate's floors alone"
        ) from error
    common = np.flatnonzero(np.isin(hashes, seen))
    if len(common):
        raise UnfairComparisonError(
            f"{spec.name}: {len(common):,} of {len(frame):,} holdout rows have keys that the {contender.title} was "
            f"trained on (training up to {format_time(contender.model.training_end)}), limit 0, such as "
            f"{_examples(spec, frame, common)}. The same rows landed again with a later {spec.data.time_column}, or "
            f"data.key_columns "
            f"({', '.join(spec.data.key_columns)}) does not identify a row"
        )


def _examples(spec: ModelSpec, frame: pd.DataFrame, positions: Sequence[int] | np.ndarray) -> str:
    rows = frame[list(spec.data.key_columns)].iloc[np.sort(positions)[:EXAMPLES]]
    return ", ".join("/".join(str(value) for value in row) for row in rows.itertuples(index=False))
