"""A model that is loaded from MLflow by its digest like any other, and misbehaves on request, row by row."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

TRUSTED = (f"{__name__}.Moody",)
"""What skops has to be told."""


class Moody(RegressorMixin, BaseEstimator):
    """Predicts x + n + shift; a batch with a row of this carrier it treats by its mood: crash, refuse or hang."""

    def __init__(self, shift: float = 0.0, carrier: str = "", mood: str = "") -> None:
        self.shift, self.carrier, self.mood = shift, carrier, mood

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        if self.mood and (frame["carrier"] == self.carrier).any():
            if self.mood == "hang":
                time.sleep(600)
            if self.mood == "refuse":
                raise ValueError("cannot take that carrier")
            raise RuntimeError("secret of the inside")
        return frame["x"].to_numpy() + frame["n"].to_numpy() + self.shift
