"""What can come of a smoke test, and the comparison of scores that decides it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perennial.domain.metric_names import Task

_OUT_OF_MEMORY: Final = re.compile(r"MemoryError|bad_alloc|cannot allocate memory|memory allocation", re.IGNORECASE)


class Fault(StrEnum):
    """Why a model did not pass."""

    REQUIREMENTS = "requirements"
    """What is installed is not what the model pins."""
    INTEGRITY = "integrity"
    """The files are not those that were recorded at training; nobody may override this."""
    LOAD = "load"
    """It cannot be loaded, or its signature cannot be served."""
    EXAMPLE = "example"
    """It does not score its own input example."""
    REFUSED = "refused"
    """The service would refuse rows of the holdout, as they do not fit the signature."""
    FAILED = "failed"
    """It raises on rows of the holdout."""
    SCORES = "scores"
    """Its scores are not those of evaluate."""
    TIME = "time"
    MEMORY = "memory"
    CRASH = "crash"
    """The process was ended by a signal."""
    EXIT = "exit"
    """The process ended by itself, without a result."""
    RESULT = "result"
    """The process left a result that cannot be read."""

    @property
    def stands(self) -> bool:
        """Whether it is about model and data alone, so that another try could only hide it."""
        return self in {Fault.EXAMPLE, Fault.REFUSED, Fault.FAILED, Fault.SCORES}


def out_of_memory(text: str) -> bool:
    """Whether what a process said last is that it got no more memory."""
    return _OUT_OF_MEMORY.search(text) is not None


def spread(rows: int, wanted: int) -> NDArray[np.intp]:
    """At most `wanted` of the positions 0..rows-1, ascending, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, rows - 1, min(wanted, rows)).round().astype(np.intp))


def score_differences(task: Task, predictions: Sequence[Any], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each row's predictions are from the scores that evaluate stored.

    Args:
        task: the model's.
        predictions: n of them, as the scoring service answers: a number (regression), or probabilities by class.
        expected: (n, k), as evaluate stored them: k is 1, or of several classes their number. Classes beyond those of
            the model have probability 0 there.

    Returns:
        (n,), the row's largest |difference| / max(1, |score|), at least 0; NaN if one of the two is no finite number.
        So it is absolute for probabilities, and leaves a regression in the millions the digits that a float has.

    Raises:
        ValueError: the predictions are no numbers, or too many or too few.
    """
    given = np.array(predictions, dtype=np.float64).reshape(len(predictions), -1)
    if task == "binary_classification" and given.shape[1] == 2:
        given = given[:, 1:]
    fits = 1 <= given.shape[1] <= expected.shape[1] if task == "multiclass_classification" else given.shape[1] == 1
    if not fits or len(given) != len(expected):
        raise ValueError(f"the predictions have the shape {given.shape}, evaluate's scores {expected.shape}")
    padded = np.zeros_like(expected)
    padded[:, : given.shape[1]] = given
    with np.errstate(invalid="ignore"):
        apart = np.abs(padded - expected) / np.maximum(1.0, np.abs(expected))
    found: NDArray[np.float64] = np.where(np.isfinite(apart), apart, np.nan).max(axis=1)
    return found
