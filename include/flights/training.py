"""The estimator of `flights_delay`, as the model's owner writes it. Nothing here but scikit-learn."""

from __future__ import annotations

from typing import Any, Final

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

CATEGORICAL_COLUMNS: Final = ["carrier", "origin", "dest"]


def build_estimator(
    *,
    max_iter: int = 120,
    learning_rate: float = 0.06,
    max_leaf_nodes: int = 15,
    min_samples_leaf: int = 100,
    l2_regularization: float = 0.0,
    random_state: int | None = None,
) -> Pipeline:
    """An unfitted pipeline for a DataFrame of feature columns: text columns encoded, all others as they are.

    Gaps in the weather and categories never seen in training count as missing, which the trees handle themselves.
    All trees are grown: early stopping would hold back a random part of the newest, most telling rows.
    """
    unknown = float("nan")
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=unknown, encoded_missing_value=unknown)
    columns = ColumnTransformer(
        [("categories", encoder, CATEGORICAL_COLUMNS)], remainder="passthrough", verbose_feature_names_out=False
    )
    classifier = HistGradientBoostingClassifier(
        max_iter=max_iter,
        learning_rate=learning_rate,
        max_leaf_nodes=max_leaf_nodes,
        min_samples_leaf=min_samples_leaf,
        l2_regularization=l2_regularization,
        categorical_features=list(range(len(CATEGORICAL_COLUMNS))),
        early_stopping=False,
        random_state=random_state,
    )
    steps: list[tuple[str, Any]] = [("columns", columns), ("classifier", classifier)]
    return Pipeline(steps)
