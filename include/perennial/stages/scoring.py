"""Both models' scores of the holdout, in the shapes that `perennial.domain.metrics` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perennial.domain.group_gaps import Positions
from perennial.domain.metric_names import Task
from perennial.domain.metrics import SUM_TOLERANCE, Floats
from perennial.domain.references import ModelRef
from perennial.domain.wording import counted
from perennial.errors import ChampionUnusableError, IntegrityError, TerminalError, TransientError
from perennial.ports import ModelRegistry
from perennial.spec.model import ModelSpec
from perennial.stages.judged_champion import JudgedChampion

if TYPE_CHECKING:
    import pandas as pd

WAY_OUT: Final = (
    "Go back to a version that works with `perennial rollback {model} --to VERSION`, or let somebody whom the spec "
    "names in approval.break_glass promote the challenger without this comparison"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A fitted estimator and the columns that it was fitted on."""

    estimator: Any
    features: tuple[str, ...]
    size_bytes: int
    """Of all the model's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Labels and scores as arrays, see `perennial.domain.metrics`; a label that cannot be used is NaN."""

    labels: Floats
    challenger: Floats
    champion: Floats | None
    classes: tuple[Any, ...]
    """What the positions 0..k-1 in `labels` stand for; empty for regression."""
    defects: tuple[str, ...]
    notes: tuple[str, ...]

    def of(self, rows: Positions) -> Scores:
        """Those of some rows, by position."""
        champion = None if self.champion is None else self.champion[rows]
        return replace(self, labels=self.labels[rows], challenger=self.challenger[rows], champion=champion)


def load_challenger(spec: ModelSpec, challenger: ModelRef, registry: ModelRegistry) -> Loaded:
    """The challenger, with the spec's columns.

    Raises:
        IntegrityError: its bytes are not those that were recorded.
    """
    opened = registry.open_model(challenger)
    return Loaded(estimator=opened.estimator, features=spec.data.feature_columns, size_bytes=opened.size_bytes)


def load_champion(spec: ModelSpec, champion: JudgedChampion, registry: ModelRegistry, columns: Sequence[str]) -> Loaded:
    """The champion, with the columns it was itself trained on.

    Args:
        spec: the model's.
        champion: the version that is judged.
        registry: holds it.
        columns: that the data has.

    Raises:
        ChampionUnusableError: Perennial does not know it, it cannot be loaded, or the data lacks a column of its own.
        IntegrityError: its bytes are not those that were recorded.
    """
    if champion.model is None:
        raise ChampionUnusableError(champion.problem)
    try:
        opened = registry.open_model(champion.model)
    except TransientError:
        raise
    except IntegrityError as error:
        raise IntegrityError(
            f"{spec.name}: champion version {champion.version} was changed after its training: {error}. Restore its "
            f"files, or go back to a version that is intact with `perennial rollback {spec.name}`; nobody may override "
            f"this"
        ) from error
    except ImportError as error:
        what = f"needs a package that is not installed here ({_said(error)}); install it"
        raise _unusable(spec, champion.version, what) from error
    except Exception as error:  # unpickling runs whatever the model's libraries do
        raise _unusable(spec, champion.version, f"cannot be loaded: {_said(error)}") from error
    named = getattr(opened.estimator, "feature_names_in_", None)
    features = spec.data.feature_columns if named is None else tuple(str(name) for name in named)
    missing = [name for name in features if name not in columns]
    if missing:
        raise _unusable(
            spec,
            champion.version,
            f"needs the column {', '.join(missing)}, and the data has {', '.join(sorted(columns))}",
        )
    return Loaded(estimator=opened.estimator, features=features, size_bytes=opened.size_bytes)


def score_models(
    spec: ModelSpec, frame: pd.DataFrame, challenger: Loaded, champion: Loaded | None, champion_version: str | None
) -> Scores:
    """Score every row with both models.

    Raises:
        ChampionUnusableError: the champion raises, or its scores or classes do not fit the task, or are no numbers.
        TerminalError: the challenger does.
    """
    try:
        mine, my_classes = _score(spec.task, challenger, frame)
    except Exception as error:  # predict runs the user's code
        raise TerminalError(f"{spec.name}: the challenger cannot score the holdout: {_said(error)}") from error
    theirs, their_classes = None, my_classes
    if champion is not None:
        try:
            theirs, their_classes = _score(spec.task, champion, frame)
            if spec.task == "binary_classification" and set(their_classes) != set(my_classes):
                raise ValueError(f"its classes are {their_classes}, the challenger's are {my_classes}")
        except Exception as error:  # predict runs the user's code of back then
            raise _unusable(spec, str(champion_version), f"cannot score the holdout: {_said(error)}") from error
    labels, classes, notes = _labels(spec.task, frame[spec.data.label_column], (*my_classes, *their_classes))
    if spec.task == "multiclass_classification":
        mine = _aligned(mine, my_classes, classes)
        theirs = None if theirs is None else _aligned(theirs, their_classes, classes)
    elif spec.task == "binary_classification" and theirs is not None and their_classes != my_classes:
        theirs = 1.0 - theirs  # the same two classes in the other order
    if theirs is not None:
        broken = list(_unusable_scores(spec.task, theirs))
        if broken:
            raise _unusable(spec, str(champion_version), f"cannot score the holdout: {'; '.join(broken)}")
        notes += [f"The champion {what}." for what in _constant_scores(theirs)]
    return Scores(
        labels=labels,
        challenger=mine,
        champion=theirs,
        classes=classes,
        defects=tuple(
            f"The challenger {what}." for what in (*_unusable_scores(spec.task, mine), *_constant_scores(mine))
        ),
        notes=tuple(notes),
    )


def _score(task: Task, model: Loaded, frame: pd.DataFrame) -> tuple[Floats, tuple[Any, ...]]:
    features = frame[list(model.features)]
    if task == "regression":
        predicted = np.asarray(model.estimator.predict(features), dtype=np.float64)
        return _shaped(predicted.reshape(len(predicted), -1), len(frame), 1)[:, 0], ()
    given = np.asarray(model.estimator.predict_proba(features), dtype=np.float64)
    known = getattr(model.estimator, "classes_", None)
    classes = tuple(range(given.shape[1])) if known is None else tuple(np.asarray(known).tolist())
    if task == "multiclass_classification":
        return _shaped(given, len(frame), len(classes)), classes
    if len(classes) != 2:
        raise ValueError(f"a binary classifier has 2 classes, this one {len(classes)}: {classes}")
    return _shaped(given, len(frame), 2)[:, 1], classes


def _shaped(scores: Floats, rows: int, columns: int) -> Floats:
    if scores.shape != (rows, columns):
        raise ValueError(f"its scores have the shape {scores.shape}, expected ({rows}, {columns})")
    return scores


def _labels(task: Task, column: pd.Series, classes: tuple[Any, ...]) -> tuple[Floats, tuple[Any, ...], list[str]]:
    """Labels as numbers, the classes they are positions in, and what is to be said about those that cannot be used."""
    import pandas as pd

    if task == "regression":
        labels = np.asarray(pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))
        return labels, (), _unusable_labels(column, labels, "not a number")
    codes, values = pd.factorize(column)
    found = np.asarray(values, dtype=object).tolist()
    known = tuple(dict.fromkeys(classes))
    if task == "multiclass_classification":
        known = tuple(dict.fromkeys((*known, *sorted(found, key=str))))
    position = {value: float(number) for number, value in enumerate(known)}
    lookup = np.array([*(position.get(value, np.nan) for value in found), np.nan])
    labels = lookup[codes]  # a missing label has code -1, the last element
    return labels, known, _unusable_labels(column, labels, f"none of the model's classes {known}")


def _unusable_labels(column: pd.Series, labels: Floats, why: str) -> list[str]:
    missing = int(column.isna().sum())
    other = int((~np.isfinite(labels)).sum()) - missing
    notes = []
    if missing:
        notes.append(f"{column.name} is missing in {missing:,} of {counted(len(labels), 'holdout row')}.")
    if other:
        notes.append(f"{column.name} is {why} in {other:,} of {counted(len(labels), 'holdout row')}.")
    return notes


def _aligned(scores: Floats, own: tuple[Any, ...], classes: tuple[Any, ...]) -> Floats:
    """Columns in the order of `classes`; a class that the model does not know has probability 0."""
    whole = np.zeros((len(scores), len(classes)))
    whole[:, [classes.index(name) for name in own]] = scores
    return whole


def _unusable_scores(task: Task, scores: Floats) -> Iterator[str]:
    """What makes the scores none at all; to be read after "the challenger"."""
    finite = np.isfinite(scores)
    if not finite.all():
        rows = int((~finite.reshape(len(scores), -1).all(axis=1)).sum())
        yield f"gives a score that is not a finite number in {rows:,} of {counted(len(scores), 'row')}"
    elif task != "regression":
        outside = (scores < 0) | (scores > 1)
        sums = np.abs(scores.sum(axis=1) - 1) > SUM_TOLERANCE if scores.ndim == 2 else np.zeros(1, dtype=bool)
        if outside.any() or sums.any():
            yield "gives scores that are not probabilities: outside [0, 1], or not summing to 1"


def _constant_scores(scores: Floats) -> Iterator[str]:
    """Bad, but scores: of a champion it is judged, of a challenger a defect."""
    if len(scores) > 1 and (scores == scores[0]).all():
        yield f"gives all {len(scores):,} rows the same score: it tells nothing apart"


def _unusable(spec: ModelSpec, version: str, what: str) -> ChampionUnusableError:
    return ChampionUnusableError(f"{spec.name}: champion version {version} {what}. {WAY_OUT.format(model=spec.name)}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
