"""A user's own module, as small as it gets."""

from __future__ import annotations

from sklearn.ensemble import RandomForestClassifier


def build(*, depth: int, random_state: int) -> RandomForestClassifier:
    """Random on purpose: only a seed makes two fits equal."""
    return RandomForestClassifier(n_estimators=10, max_depth=depth, random_state=random_state)


def broken(*, depth: int, random_state: int) -> object:
    """Returns something that is no estimator."""
    return object()


def failing(*, depth: int, random_state: int) -> RandomForestClassifier:
    """Fails while it is fitted."""
    return _Failing(max_depth=depth, random_state=random_state)


class _Failing(RandomForestClassifier):
    def fit(self, X, y, sample_weight=None):  # type: ignore[no-untyped-def, override]
        raise ZeroDivisionError("a user's mistake")
