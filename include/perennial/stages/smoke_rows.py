"""What the smoke test asks, and the answers it expects: holdout rows as a client sends them, and evaluate's scores."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perennial.domain.fingerprint import sha256_of
from perennial.domain.references import EvaluationRef, SnapshotRef
from perennial.domain.smoke_test import spread
from perennial.errors import IntegrityError
from perennial.ports import ObjectStore
from perennial.spec.model import ModelSpec
from perennial.stages.frames import load_manifest
from perennial.stages.holdout import load_holdout
from perennial.stages.keys import key_hashes

if TYPE_CHECKING:
    import pandas as pd

_SCORE = "challenger_score"


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeRows:
    """Rows of the holdout."""

    keys: Sequence[str]
    """Each row's key, for people."""
    body: bytes
    """The rows' features as the body of a request, `dataframe_split`."""
    expected: NDArray[np.float64]
    """(n, k): evaluate's scores of the challenger; k is 1, or of several classes their number."""


def smoke_rows(
    spec: ModelSpec, wanted: int, snapshot: SnapshotRef, evaluation: EvaluationRef, *, store: ObjectStore
) -> SmokeRows:
    """At most `wanted` rows, evenly spread over the holdout's time.

    Raises:
        IntegrityError: manifest, holdout, evaluation or scores are not those that the decision rests on.
        NoDataError, NotFoundError, StoreUnavailableError: as the stage evaluate.
    """
    data = spec.data
    names = tuple(dict.fromkeys((*data.key_columns, data.label_column, *data.feature_columns)))
    holdout = load_holdout(spec, load_manifest(store, snapshot), names, store=store)
    found = sha256_of(store.read(evaluation.uri))
    if (found, holdout.sha256) != (evaluation.sha256, evaluation.holdout_sha256):
        raise IntegrityError(
            f"{spec.name}: {evaluation.uri} has sha256 {found} and the holdout {holdout.sha256}; at evaluation they "
            f"were {evaluation.sha256} and {evaluation.holdout_sha256}. They were changed afterwards; start a new run"
        )
    keys, scores = _stored_scores(spec, evaluation.scores_uri, store)
    if not np.array_equal(keys, holdout.keys):
        raise IntegrityError(
            f"{evaluation.scores_uri} has the scores of {len(keys):,} other rows than the {len(holdout.keys):,} of the "
            f"holdout; it was changed after the evaluation. Start a new run"
        )
    positions = spread(len(keys), wanted)
    taken = holdout.frame.iloc[positions]
    named = taken[list(data.key_columns)].astype(object).itertuples(index=False)
    return SmokeRows(
        keys=["/".join(str(value) for value in row) for row in named],
        body=request_body(taken[list(data.feature_columns)]),
        expected=scores[positions],
    )


def request_body(frame: pd.DataFrame) -> bytes:
    """The rows as a client would send them: ISO 8601 times, null for what is missing, a category's value."""
    columns = [_as_sent(frame[name]) for name in frame.columns]
    split = {"columns": [str(name) for name in frame.columns], "data": list(zip(*columns, strict=True))}
    return json.dumps({"dataframe_split": split}).encode()


def _as_sent(column: pd.Series) -> list[Any]:
    missing = column.isna().to_numpy()
    values = column.astype(object).tolist()
    return [None if gone else _plain(value) for value, gone in zip(values, missing, strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, date):  # a datetime, and pandas' timestamp, too
        return value.isoformat()
    return (
        float(value) if isinstance(value, Decimal) else value if isinstance(value, bool | int | float) else str(value)
    )


def _stored_scores(spec: ModelSpec, uri: str, store: ObjectStore) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Key hashes (n,) and the challenger's scores (n, k), in the file's order, which is the holdout's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(io.BytesIO(store.read(uri))).read()
        several = spec.task == "multiclass_classification"
        # By position: the classes 1 and "1" have columns of the same name.
        found = [
            column.to_numpy()
            for name, column in zip(table.column_names, table.columns, strict=True)
            if (name.startswith(f"{_SCORE}_") if several else name == _SCORE)
        ]
        scores = np.column_stack(found).astype(np.float64)
        return key_hashes(table.select(list(spec.data.key_columns)).to_pandas(), spec.data.key_columns), scores
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise IntegrityError(
            f"{uri} does not hold the scores that evaluate wrote there: {error}. Start a new run"
        ) from error
