"""One version of a model, loaded and ready to score."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from perennial.errors import SmokeTestError
from perennial.ports import LoadedModel
from perennial.serving.columns import Batch, Columns
from perennial.serving.errors import ModelFailedError, ServingError, UnscorableRowsError

log = logging.getLogger(__name__)
_TELL_EVERY_S: Final = 10.0
_THREAD = threading.local()
_ABOUT_THE_ROWS = (ValueError, TypeError, LookupError, ArithmeticError)
"""What scikit-learn and its like raise for rows that they cannot take, such as a NaN for a linear model."""


class Scorer:
    """A model's predictions as pyfunc gives them: `predict_proba` of a classifier, `predict` of a regressor."""

    def __init__(self, version: str, digest: str, loaded: LoadedModel) -> None:
        """Raises: TerminalError: its signature cannot be served."""
        self.version = version
        self.digest = digest
        self.columns = Columns(loaded.columns)
        self._predict = getattr(loaded.estimator, loaded.method)
        self._example = loaded.input_example
        self._tell_again_at = 0.0

    def score(self, batches: Sequence[Batch]) -> list[list[Any]]:
        """Predictions by batch and row, JSON-ready: a number or label, or a list of them; null if not finite.

        Raises:
            UnscorableRowsError: the model refuses the rows of some batch.
            ModelFailedError: it raises something else, or gives too few or too many predictions.
        """
        rows = [batch.rows for batch in batches]
        _limit_threads()
        try:
            predictions = json_predictions(self._predict(self.columns.frame(batches)))
        except _ABOUT_THE_ROWS as error:
            raise UnscorableRowsError(f"the model cannot score these rows: {_said(error)}") from error
        except BaseException as error:  # a model that calls sys.exit must not end the thread it is called in
            self._tell(error)
            raise ModelFailedError(f"the model failed: {type(error).__name__}") from error
        if len(predictions) != sum(rows):
            raise ModelFailedError(f"the model gave {len(predictions)} predictions for {sum(rows)} rows")
        ends = np.cumsum(rows).tolist()
        return [predictions[end - count : end] for end, count in zip(ends, rows, strict=True)]

    def _tell(self, error: BaseException) -> None:
        """Log what a client does not get to see; not at each request of a model that fails at each."""
        now = time.monotonic()
        if now >= self._tell_again_at:
            self._tell_again_at = now + _TELL_EVERY_S
            log.error("version %s failed in its prediction", self.version, exc_info=error)

    def warm_up(self) -> None:
        """Score the logged input example, whole and row by row, the way that requests are.

        The first prediction of a process imports, compiles and allocates; no request should wait for that.

        Raises:
            SmokeTestError: there is no example, or the model does not score it.
        """
        example = self._example
        if example is None or example.empty:
            raise SmokeTestError(f"version {self.version} was logged without an input example and cannot be tried out")
        # As JSON has them: numpy's scalars are none of its types.
        values = {str(name): example[name].astype(object).tolist() for name in example.columns}
        try:
            whole = self.columns.check({name: _plain(column) for name, column in values.items()}, len(example))
            single = [Batch({name: column[:1] for name, column in whole.values.items()}, 1)]
            encode_predictions(self.score([whole])[0])
            self.score(single * 2)
        except ServingError as error:
            raise SmokeTestError(f"version {self.version} does not score its own input example: {error}") from error


def encode_predictions(predictions: Sequence[Any]) -> bytes:
    """The body of an answer, as MLflow's scoring server gives it.

    Raises:
        ModelFailedError: a prediction is nothing that JSON has.
    """
    try:
        return json.dumps({"predictions": predictions}, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFailedError("the model gave predictions that JSON does not have") from error


def json_predictions(given: Any) -> list[Any]:
    """What an estimator returned, as a list with an element a row; infinite and missing numbers become None."""
    values = given.to_dict(orient="records") if hasattr(given, "to_dict") and hasattr(given, "columns") else given
    array = values if isinstance(values, np.ndarray) else None
    if array is None and hasattr(values, "to_numpy"):
        array = values.to_numpy()
    if array is not None:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            finite = np.isfinite(array)
            array = array.astype(object)
            array[~finite] = None
        values = array.tolist()
    return values if isinstance(values, list) else list(values)


def _plain(values: list[Any]) -> list[Any]:
    """Timestamps as ISO 8601 text, pandas' missing values as None."""
    import pandas as pd

    return [
        None if pd.isna(value) else value.isoformat() if isinstance(value, pd.Timestamp) else value for value in values
    ]


def _limit_threads() -> None:
    """Let OpenMP and BLAS use one thread for what this thread calls.

    Batches are small, and on cores shared with the event loop their idle threads spin: a pipeline with gradient
    boosting took 8 times as long with two threads on two busy cores.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no stubs

    if not getattr(_THREAD, "limited", False):
        threadpool_limits(limits=1)
        _THREAD.limited = True


def _said(error: BaseException) -> str:
    """First line of its text, shortened: a client gets to see it."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
