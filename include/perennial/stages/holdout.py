"""The holdout, and the proof that it is fair to both models (invariant 3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from perennial.domain.fingerprint import canonical_json, digest_of
from perennial.domain.manifest import Manifest
from perennial.domain.references import ModelRef, SnapshotRef
from perennial.domain.times import Interval, format_time
from perennial.errors import IntegrityError, NoDataError, NotFoundError, UnfairComparisonError
from perennial.json_objects import put_once
from perennial.ports import ObjectStore
from perennial.spec.fields import format_duration
from perennial.spec.model import ModelSpec
from perennial.stages.frames import read_frame
from perennial.stages.keys import Hashes, digest_of_keys, key_hashes, read_training_keys, training_keys_uri

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
    """Rows that both models are judged on."""

    frame: pd.DataFrame
    interval: Interval
    keys: Hashes
    """(n,), each row's key."""
    sha256: str
    """Of the data it was taken from, the window, and each row's key and label."""


def check_times(spec: ModelSpec, interval: Interval, contender: Contender) -> None:
    """The holdout starts after the training, plus the embargo.

    Raises:
        UnfairComparisonError: it does not.
    """
    embargo = spec.data.windows.embargo
    end = contender.model.training_end
    if interval.start < end + embargo:
        raise UnfairComparisonError(
            f"{spec.name}: the holdout starts at {format_time(interval.start)}, but the {contender.title} was "
            f"trained on data up to {format_time(end)}; with an embargo of {format_duration(embargo)} it may start "
            f"at {format_time(end + embargo)} at the earliest. Ask for a later as_of once newer data has landed, "
            f"or shorten data.windows.holdout so that the holdout starts later"
        )


def load_holdout(spec: ModelSpec, manifest: Manifest, columns: Sequence[str], *, store: ObjectStore) -> Holdout:
    """The snapshot's holdout rows. What makes them fair has yet to be checked.

    Raises:
        NoDataError: no row in the window.
    """
    interval = manifest.windows.holdout
    frame = read_frame(store, manifest, columns, interval, time_column=spec.data.time_column)
    if frame.empty:
        raise NoDataError(
            f"{spec.name}: no row in the holdout window {interval}; land the missing data, or ask for another as_of"
        )
    labelled = key_hashes(frame, (*spec.data.key_columns, spec.data.label_column))
    sha256 = digest_of(
        {
            "data": manifest.data_sha256,
            "holdout": [format_time(interval.start), format_time(interval.end)],
            "rows": len(frame),
            "keys_labels": digest_of_keys(labelled),
        }
    )
    return Holdout(frame=frame, interval=interval, keys=key_hashes(frame, spec.data.key_columns), sha256=sha256)


def check_unchanged(spec: ModelSpec, snapshot: SnapshotRef, holdout: Holdout, *, store: ObjectStore, root: str) -> None:
    """The snapshot gives the holdout that it gave when it was first judged.

    Raises:
        IntegrityError: it does not: files of the snapshot were changed.
    """
    data = spec.data
    key = digest_of([snapshot.sha256, list(data.key_columns), data.label_column, data.time_column])[:32]
    uri = f"{root}/evaluations/{spec.name}/holdouts/{key}.json"
    known = json.loads(put_once(store, uri, canonical_json({"sha256": holdout.sha256, "rows": len(holdout.frame)})))
    if known.get("sha256") != holdout.sha256:
        raise IntegrityError(
            f"{spec.name}: the holdout of {snapshot.uri} has sha256 {holdout.sha256} and {len(holdout.frame):,} rows; "
            f"when it was first judged it had {known.get('sha256')} and {known.get('rows')} rows ({uri}). Files of the "
            f"snapshot were changed in place, so no comparison on them can be trusted; find out by whom, and start a "
            f"new run once newer data has landed"
        )


def check_unique(spec: ModelSpec, holdout: Holdout) -> None:
    """Each key is there once.

    Raises:
        UnfairComparisonError: one occurs twice.
    """
    _, first, counts = np.unique(holdout.keys, return_index=True, return_counts=True)
    twice = first[counts > 1]
    if len(twice):
        raise UnfairComparisonError(
            f"{spec.name}: {len(twice):,} keys occur more than once among the {len(holdout.frame):,} holdout rows, "
            f"such as {_examples(spec, holdout.frame, twice)}; a row must count once. Remove the duplicates from the "
            f"landing zone, or name the columns in data.key_columns that tell such rows apart"
        )


def check_unseen(spec: ModelSpec, holdout: Holdout, contender: Contender, *, store: ObjectStore, root: str) -> None:
    """No key of the holdout was in the contender's training.

    Raises:
        UnfairComparisonError: one was, or the training's keys are not on record.
        IntegrityError: the keys on record are not those that the training wrote.
    """
    frame = holdout.frame
    uri = training_keys_uri(root, spec.name, contender.model.fingerprint)
    try:
        seen = read_training_keys(store, uri)
    except NotFoundError as error:
        raise UnfairComparisonError(
            f"{spec.name}: nothing proves that the {contender.title} was not trained on the holdout: there is no "
            f"{uri}. It was not trained by Perennial, or the file was deleted. Restore the file. If it is the "
            f"champion's: go back to a version that has one with `perennial rollback {spec.name}`, or let somebody "
            f"whom the spec names in approval.break_glass promote the challenger without this proof"
        ) from error
    found = digest_of_keys(seen)
    if found != contender.model.keys_sha256:
        raise IntegrityError(
            f"{spec.name}: the {len(seen):,} training keys of the {contender.title} in {uri} have digest {found}, "
            f"recorded at training was {contender.model.keys_sha256}; they were changed afterwards and prove nothing. "
            f"Restore the file; or delete MLflow run {contender.model.run_id} and start a new run, which trains anew"
        )
    common = np.flatnonzero(np.isin(holdout.keys, seen))
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
