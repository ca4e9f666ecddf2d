"""Rows of the prediction log that a performance is computed from: a sample that fits in memory, and its labels.

A window may hold many millions of rows. Of more than it takes for a narrow interval some are drawn, by the hash of
request id and row: the same ones each time, whatever order they are read in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from perennial.domain.metrics import Floats
from perennial.domain.times import Interval
from perennial.domain.traffic import Role
from perennial.errors import UndecodableError
from perennial.ports import ObjectInfo, ObjectStore
from perennial.prediction_objects import joined, prediction_objects, read_labels
from perennial.spec.model import ModelSpec
from perennial.stages.canary_observation import label_positions
from perennial.stages.column_values import scores_of_column
from perennial.stages.window_counts import log_rows

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_log = logging.getLogger(__name__)
BLOCKS: Final = 50
"""Stretches of time that a bootstrap draws from."""
_COLUMNS: Final = ("request_id", "row", "at", "role", "error", "prediction")
_KEYS: Final = ["request_id", "row"]
_READERS: Final = 8
_TOGETHER: Final = 100
"""Objects' rows are put together so many at a time."""
_PIECE: Final = timedelta(hours=6)
"""Of the labels is read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRows:
    """Rows that a version scored, in the order of time, and their labels if they were asked for."""

    drawn: int
    """Rows of the sample, labelled or not."""
    scores: Floats
    """(n,) or (n, k), see `perennial.domain.metrics`; finite."""
    labels: Floats
    """(n,); empty if they were not asked for."""
    blocks: NDArray[np.intp]
    """(n,): the stretch of time that each row lies in, 0..k-1, of as many rows each: rows near each other are alike."""


class LogSample:
    """Reads what one version answered in a stretch of time.

    Args:
        spec: the model's.
        store: where log and labels lie.
        root: `s3://bucket/prefix`.
        version: the registry's.
        classes: what the labels' values are called, in the order of the model's probabilities; empty for a regression.
    """

    def __init__(self, spec: ModelSpec, store: ObjectStore, root: str, version: str, classes: Sequence[Any]) -> None:
        self._spec, self._store, self._root = spec, store, root
        self._version, self._classes = version, tuple(classes)

    def scored(self, during: Interval, *, most: int) -> ScoredRows:
        """Rows without labels.

        Args:
            during: by the requests' time.
            most: rows, at most.
        """
        sample = self._sample(during, most)
        return _rows(sample, len(sample))

    def labelled(self, during: Interval, *, known_at: datetime, most: int) -> ScoredRows:
        """Rows whose label was known at a time.

        Args:
            during: by the requests' time.
            known_at: labels that came later are left out, so that the same is found whenever it is looked at.
            most: rows in the sample, at most.
        """
        import pandas as pd

        sample = self._sample(during, most)
        log = None if self._spec.deployment is None else self._spec.deployment.log
        landing = None if log is None else log.labels
        ids, found = sample["request_id"].unique(), []
        for piece in _pieces(Interval(during.start, known_at)) if len(sample) else ():
            labels = read_labels(self._store, self._root, self._spec.name, piece, landing=landing)
            found.append(labels[labels["request_id"].isin(ids)])
        if not found:
            return _rows(sample.iloc[:0].assign(label=0.0), len(sample))
        rows = joined(sample, pd.concat(found, ignore_index=True))
        rows = rows.assign(label=label_positions(rows["label"], self._classes)).dropna(subset="label")
        return _rows(rows, len(sample))

    def _sample(self, during: Interval, most: int) -> pd.DataFrame:
        """At most `most` rows: keys, time, and scores as `score_0` and so on."""
        objects = prediction_objects(self._store, self._root, self._spec.name, during)
        infos = [info for version, info in objects if version == self._version]
        kept = [self._nothing()]
        with ThreadPoolExecutor(_READERS) as pool:
            for frame in pool.map(lambda info: self._read(info, during, most), infos):
                kept.append(frame)
                if len(kept) > _TOGETHER:
                    kept = [_lowest(kept, most)]
        return _lowest(kept, most).sort_values(["at", *_KEYS], ignore_index=True)

    def _read(self, info: ObjectInfo, during: Interval, most: int) -> pd.DataFrame:
        """Of one object those rows that may be in the sample; of one that is broken none."""
        kept = [self._nothing()]
        try:
            for table in log_rows(self._store, info, during, _COLUMNS):
                if table.num_rows and set(_COLUMNS) <= set(table.column_names):
                    kept = [_lowest([*kept, self._usable(table)], most)]
        except UndecodableError as error:  # a crash of its writer may have left half of it
            _log.warning("%s is left out: %s", info.uri, error)
        return kept[0]

    def _usable(self, table: pa.Table) -> pd.DataFrame:
        """Rows with a score, by a model that answered; each with its place in the order of sampling."""
        import pandas as pd

        keys = table.select(["request_id", "row", "at", "role", "error"]).to_pandas()
        places = pd.util.hash_pandas_object(keys[_KEYS], index=False).to_numpy(dtype=np.float64)
        scores = scores_of_column(self._spec.task, table["prediction"], len(self._classes))
        columns = scores.reshape(len(keys), -1).T
        usable = (keys["role"] != Role.SHADOW) & keys["error"].isna() & np.isfinite(columns).all(axis=0)
        named = {f"score_{place}": column for place, column in enumerate(columns)}
        rows: pd.DataFrame = keys[[*_KEYS, "at"]].assign(place=places, **named)[usable]
        return rows

    def _nothing(self) -> pd.DataFrame:
        import pandas as pd

        columns = len(self._classes) if self._spec.task == "multiclass_classification" else 1
        return pd.DataFrame(
            {
                "request_id": pd.Series(dtype="str"),
                "row": pd.Series(dtype="int32"),
                "at": pd.Series(dtype="datetime64[us, UTC]"),
                "place": pd.Series(dtype="float64"),
                **{f"score_{place}": pd.Series(dtype="float64") for place in range(columns)},
            }
        )


def _lowest(frames: list[pd.DataFrame], most: int) -> pd.DataFrame:
    """The rows whose place, a hash in [0, 2**64], is below the largest power of two that leaves at most `most`."""
    import pandas as pd

    below = 2.0**65
    while sum(map(len, frames)) > most:
        below /= 2
        frames = [frame[frame["place"] < below] for frame in frames]
    return pd.concat(frames, ignore_index=True)


def _rows(frame: pd.DataFrame, drawn: int) -> ScoredRows:
    named = [name for name in frame.columns if name.startswith("score_")]
    scores = frame[named].to_numpy(dtype=np.float64)
    return ScoredRows(
        drawn=drawn,
        scores=scores[:, 0] if len(named) == 1 else scores,
        labels=frame["label"].to_numpy(dtype=np.float64) if "label" in frame else np.empty(0),
        blocks=np.arange(len(frame), dtype=np.intp) * min(BLOCKS, len(frame)) // max(len(frame), 1),
    )


def _pieces(during: Interval) -> Iterator[Interval]:
    start = during.start
    while start < during.end:
        end = min(start + _PIECE, during.end)
        yield Interval(start, end)
        start = end
