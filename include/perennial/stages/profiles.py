"""Profiles that train and evaluate leave for the monitor, which then needs no training data.

profiles/<model>/<fingerprint>/training.json, holdout.json
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from perennial.domain.comparison import compare
from perennial.domain.counting import (
    BINS,
    Codes,
    Floats,
    build_category_profile,
    build_number_profile,
    rows_by_part,
)
from perennial.domain.drift import MIN_STRETCHES, least_effect, least_missing_change, rarely_exceeded
from perennial.domain.evaluation import EvaluationResult
from perennial.domain.fingerprint import canonical_json
from perennial.domain.metric_names import METRICS
from perennial.domain.profile import (
    Calibration,
    CategoryProfile,
    ColumnProfile,
    HoldoutProfile,
    MetricValue,
    NumberProfile,
    Profile,
    SliceProfile,
)
from perennial.errors import IntegrityError
from perennial.json_objects import put_once, stored_object
from perennial.ports import ObjectStore
from perennial.spec.model import ModelSpec
from perennial.spec.monitoring import Monitoring
from perennial.stages.column_values import Categories, Values, categories_of, count, is_number, numbers_of, rows_of
from perennial.stages.frames import arrow_table
from perennial.stages.scoring import Scores

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

AnyColumn = TypeVar("AnyColumn", NumberProfile, CategoryProfile)
AnyProfile = TypeVar("AnyProfile", Profile, HoldoutProfile)

MAX_SLICE_LEVELS: Final = 20
"""Of one slice column: those with the most rows."""
_SLICE_BINS: Final = 20
_MAX_STRETCHES: Final = 200
_MIN_STRETCH_ROWS: Final = 20
"""Of a slice, or with labels."""
_CONFIDENCE: Final = 0.95
_REPLICATES: Final = 500
"""Where the metric's interval has no closed form."""


def write_training_profile(
    store: ObjectStore, root: str, spec: ModelSpec, fingerprint: str, frame: pd.DataFrame
) -> None:
    """Keep the profile of the rows a model is fitted on, unless there is one.

    Args:
        store: where to.
        root: `s3://bucket/prefix`.
        spec: the model's. Features that it keeps out of the prediction log are not profiled either: nothing served can
            be compared with them.
        fingerprint: of the training.
        frame: its rows, with the features and the time column.
    """
    log = None if spec.deployment is None else spec.deployment.log
    excluded = () if log is None else log.exclude
    table = arrow_table(frame[[name for name in spec.data.feature_columns if name not in excluded]])
    values = {name: _values(table[name]) for name in table.column_names}
    stretches = _stretches(spec, frame)
    profile = Profile(
        model=spec.name,
        fingerprint=fingerprint,
        rows=len(frame),
        columns=_profiles(values, stretches),
        slices=tuple(_slices(spec, table, values, stretches)),
        stretch_s=stretch_of(spec.monitoring or Monitoring()).total_seconds(),
        slice_columns=() if spec.monitoring is None else spec.monitoring.slices,
    )
    _put(store, _uri(root, spec.name, fingerprint, "training"), profile)


def write_holdout_profile(
    store: ObjectStore,
    root: str,
    spec: ModelSpec,
    fingerprint: str,
    frame: pd.DataFrame,
    scores: Scores,
    result: EvaluationResult,
) -> None:
    """Keep how a challenger scored on its holdout, unless it is known.

    Args:
        store: where to.
        root: `s3://bucket/prefix`.
        spec: the model's.
        fingerprint: of the challenger's training.
        frame: the holdout, with the time column.
        scores: of its rows.
        result: what was measured with them.
    """
    stretches = _stretches(spec, frame)
    columns = _score_columns(spec, scores)
    own = {name: pair.challenger for name, pair in result.comparisons.items()}
    profile = HoldoutProfile(
        model=spec.name,
        fingerprint=fingerprint,
        rows=result.rows,
        holdout_sha256=result.holdout_sha256,
        scores=tuple(_varied(build_number_profile(name, given), given, stretches) for name, given in columns.items()),
        performance=tuple(
            MetricValue(
                metric=name,
                value=found.value,
                low=found.low,
                high=found.high,
                varies_by=_losses(spec, scores, stretches, found.value) if name == spec.evaluation.primary else 0.0,
            )
            for name, found in own.items()
            if found.value is not None
        ),
        confidence=result.confidence,
        calibration=()
        if spec.task == "regression"
        else tuple(
            _calibration(given, scores.labels, float(position))
            for position, given in enumerate(columns.values(), start=spec.task == "binary_classification")
        ),
        classes=_classes(spec, scores, len(columns)),
        stretch_s=stretch_of(spec.monitoring or Monitoring()).total_seconds(),
    )
    _put(store, _uri(root, spec.name, fingerprint, "holdout"), profile)


def load_profiles(
    store: ObjectStore, root: str, model: str, fingerprint: str
) -> tuple[Profile | None, HoldoutProfile | None]:
    """What was kept of a training; None for what was not: it is older than profiles are.

    Raises:
        IntegrityError: an object is there and is no such profile.
    """
    training, holdout = (_uri(root, model, fingerprint, kind) for kind in ("training", "holdout"))
    return _load(store, training, Profile, model, fingerprint), _load(
        store, holdout, HoldoutProfile, model, fingerprint
    )


def stretch_of(monitoring: Monitoring) -> timedelta:
    """How long the stretches are whose differences the reference takes for natural."""
    return monitoring.reference_window or monitoring.window


def _values(column: pa.ChunkedArray) -> Values:
    return numbers_of(column) if is_number(column.type) else categories_of(column)


def _levels(column: Categories, *, least: int) -> Iterator[tuple[str, Codes]]:
    """Levels with enough rows and their rows' places: those with the most rows, of equally many the first by text."""
    texts, places = np.unique(np.array(column.texts, dtype=str), return_inverse=True)
    codes = np.append(places, -1)[column.codes]
    rows = np.bincount(codes[codes >= 0], minlength=len(texts))
    for place in np.argsort(-rows, kind="stable")[:MAX_SLICE_LEVELS]:
        if rows[place] >= least:
            yield str(texts[place]), np.flatnonzero(codes == place)


def _slices(spec: ModelSpec, table: pa.Table, values: Mapping[str, Values], stretches: Codes) -> Iterator[SliceProfile]:
    if spec.monitoring is None:
        return
    for column in spec.monitoring.slices:
        for level, rows in _levels(categories_of(table[column]), least=spec.monitoring.min_rows):
            inside = {name: rows_of(given, rows) for name, given in values.items()}
            columns = _profiles(inside, stretches[rows], _SLICE_BINS)
            yield SliceProfile(column=column, level=level, rows=len(rows), columns=columns)


def _stretches(spec: ModelSpec, frame: pd.DataFrame) -> Codes:
    """(n,), which stretch each row lies in, from 0; -1: in none.

    Stretches are as long as `monitoring.reference_window`, by default a monitoring window, and lie on its grid. Where
    those have fewer rows than it takes to judge a window, they are longer: else chance alone would make them vary. The
    first and the last one are left out, as the data's ends cut them off; and of more than `_MAX_STRETCHES` so many are
    taken, evenly spread.
    """
    monitoring = spec.monitoring or Monitoring()
    least = monitoring.min_rows
    times = frame[spec.data.time_column].dt.tz_convert("UTC").dt.tz_localize(None)
    micros = times.to_numpy().astype("datetime64[us]").astype(np.int64)
    length = stretch_of(monitoring) // timedelta(microseconds=1)
    cells, places, rows = np.unique(micros // length, return_inverse=True, return_counts=True)
    while np.median(rows) < least and len(cells) >= 2 * (MIN_STRETCHES + 2):
        length *= 2
        cells, places, rows = np.unique(micros // length, return_inverse=True, return_counts=True)
    inner = np.arange(1, len(cells) - 1)
    enough = inner[rows[inner] >= least / 2]
    taken = enough[np.linspace(0, len(enough) - 1, min(len(enough), _MAX_STRETCHES)).astype(np.intp)]
    number = np.full(len(cells), -1)
    number[taken] = np.arange(len(taken))
    return number[places]


def _parts(stretches: Codes) -> list[Codes]:
    """Places of each stretch's rows, where there are enough."""
    parts = rows_by_part(stretches, int(stretches.max(initial=-1)) + 1)
    return [rows for rows in parts if len(rows) >= _MIN_STRETCH_ROWS]


def _profiles(columns: Mapping[str, Values], stretches: Codes, bins: int = BINS) -> tuple[ColumnProfile, ...]:
    return tuple(
        _varied(build_category_profile(name, values.codes, values.texts), values, stretches)
        if isinstance(values, Categories)
        else _varied(build_number_profile(name, values, bins=bins), values, stretches)
        for name, values in columns.items()
    )


def _varied(profile: AnyColumn, values: Values, stretches: Codes) -> AnyColumn:
    """The profile with how much the column varies from stretch to stretch."""
    counts = [count(profile, rows_of(values, rows)) for rows in _parts(stretches)]
    effects = [least_effect(profile, one) for one in counts]
    return replace(
        profile,
        varies_by=rarely_exceeded([found for found in effects if found is not None and math.isfinite(found)]),
        missing_varies_by=rarely_exceeded([least_missing_change(profile, one) for one in counts]),
    )


def _losses(spec: ModelSpec, scores: Scores, stretches: Codes, value: float) -> float:
    """`MetricValue.varies_by` of the primary metric: `value` is that of the whole holdout."""
    name = spec.evaluation.primary
    sign = 1 if METRICS[name].higher_is_better else -1
    losses = []
    for rows in _parts(stretches):
        pair = compare([name], scores.labels[rows], scores.challenger[rows], None, None, replicates=_REPLICATES, seed=0)
        found = pair[name].challenger.estimate(_CONFIDENCE)
        best = found.high if sign > 0 else found.low
        if best is not None:
            losses.append(max(0.0, sign * (value - best)))
    return rarely_exceeded(losses)


def _score_columns(spec: ModelSpec, scores: Scores) -> dict[str, Floats]:
    """The challenger's scores by name, as `HoldoutProfile.scores` says."""
    given = scores.challenger
    if given.ndim == 1:
        return {"prediction" if spec.task == "regression" else "score": given}
    # Behind its own classes are those that only the champion or the labels know; it gives them 0 throughout.
    known = int(np.flatnonzero(given.any(axis=0)).max(initial=-1)) + 1
    return {str(name): given[:, position] for position, name in enumerate(scores.classes[:known])}


def _classes(spec: ModelSpec, scores: Scores, known: int) -> tuple[str | int | float | bool, ...]:
    own = scores.classes if spec.task == "binary_classification" else scores.classes[:known]
    return tuple(name if isinstance(name, str | int | float) else str(name) for name in own)


def _calibration(scores: Floats, labels: Floats, position: float) -> Calibration:
    """How often the class occurs at a score: isotonic regression (pool adjacent violators) of the holdout's labels.

    As in Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
    """
    from sklearn.isotonic import IsotonicRegression

    usable = np.isfinite(scores) & np.isfinite(labels)
    if not usable.any():
        return Calibration(scores=(), frequencies=())
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(scores[usable], labels[usable] == position)
    return Calibration(scores=tuple(fitted.X_thresholds_.tolist()), frequencies=tuple(fitted.y_thresholds_.tolist()))


def _uri(root: str, model: str, fingerprint: str, kind: str) -> str:
    return f"{root}/profiles/{model}/{fingerprint}/{kind}.json"


def _put(store: ObjectStore, uri: str, profile: Profile | HoldoutProfile) -> None:
    put_once(store, uri, canonical_json(profile.to_dict()))


def _load(store: ObjectStore, uri: str, kind: type[AnyProfile], model: str, fingerprint: str) -> AnyProfile | None:
    content = stored_object(store, uri)
    if content is None:
        return None
    try:
        profile = kind.from_dict(content)
        if (profile.model, profile.fingerprint) != (model, fingerprint):
            raise ValueError(f"it is of {profile.model}, training {profile.fingerprint}")
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{uri} is no profile of {model}, training {fingerprint}: {error}. It was changed after it was written; "
            f"delete it: the model is then monitored without it until its next training"
        ) from error
    return profile
