"""One version: predictions as pyfunc gives them, a warm-up that finds what is broken, errors without the inside."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from perennial.domain.signature import InputColumn
from perennial.errors import SmokeTestError
from perennial.ports import LoadedModel
from perennial.serving.errors import ModelFailedError, UnscorableRowsError
from perennial.serving.payload import parse
from perennial.serving.scorer import Scorer, encode_predictions, json_predictions
from tests.unit.core.serving.served import EXAMPLE, ROW, Adding

COLUMNS = (
    InputColumn(name="x", type="double"),
    InputColumn(name="n", type="long"),
    InputColumn(name="carrier", type="string"),
)


def _scorer(estimator: Any, example: pd.DataFrame | None = EXAMPLE, **more: Any) -> Scorer:
    fields = {"columns": COLUMNS, "method": "predict", **more}
    return Scorer("3", "d" * 64, LoadedModel(estimator=estimator, input_example=example, size_bytes=1, **fields))


def _rows(scorer: Scorer, *carriers: str) -> Any:
    body = json.dumps({"inputs": [{**ROW, "carrier": carrier} for carrier in carriers]}).encode()
    return parse(body, "application/json", scorer.columns)


def test_several_batches_are_one_prediction_each_with_its_own_rows() -> None:
    scorer = _scorer(Adding(1.0))
    assert scorer.score([_rows(scorer, "AA", "UA"), _rows(scorer, "DL")]) == [[3.5, 3.5], [3.5]]


def test_classifier_gives_the_probabilities_of_all_classes() -> None:
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})
    fitted = LogisticRegression().fit(frame, [0, 0, 1, 1])
    scorer = _scorer(fitted, frame, columns=COLUMNS[:1], method="predict_proba")
    batch = parse(b'{"inputs": {"x": [0.5, 2.5]}}', "application/json", scorer.columns)
    np.testing.assert_array_equal(scorer.score([batch])[0], fitted.predict_proba(pd.DataFrame({"x": [0.5, 2.5]})))


def test_prediction_that_is_not_finite_is_null() -> None:
    scorer = _scorer(Adding())
    assert scorer.score([_rows(scorer, "AA", "nan")]) == [[2.5, None]]
    assert json_predictions(np.array([[0.5, np.inf], [np.nan, 1.0]])) == [[0.5, None], [None, 1.0]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([1, 2]), [1, 2]),
        (np.array(["a", "b"]), ["a", "b"]),
        (pd.Series([1.5, 2.5]), [1.5, 2.5]),
        (pd.DataFrame({"low": [1.0], "high": [2.0]}), [{"low": 1.0, "high": 2.0}]),
        ((1, 2), [1, 2]),
    ],
)
def test_whatever_estimators_return_has_an_element_a_row(given: Any, expected: list[Any]) -> None:
    assert json_predictions(given) == expected


def test_rows_that_the_model_refuses_are_told_apart_from_a_model_that_fails() -> None:
    scorer = _scorer(Adding())
    with pytest.raises(UnscorableRowsError, match="ValueError: cannot take that carrier"):
        scorer.score([_rows(scorer, "refuse")])
    for carrier in ("crash", "exit", "few"):
        with pytest.raises(ModelFailedError) as caught:
            scorer.score([_rows(scorer, carrier)])
        assert "secret" not in str(caught.value)


def test_what_a_client_does_not_get_to_see_is_logged_and_not_each_time(caplog: pytest.LogCaptureFixture) -> None:
    scorer = _scorer(Adding())
    for _ in range(3):
        with pytest.raises(ModelFailedError):
            scorer.score([_rows(scorer, "crash")])
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "secret of the inside" in str(record.exc_info[1])


def test_predictions_that_json_does_not_have_are_the_models_fault() -> None:
    with pytest.raises(ModelFailedError):
        encode_predictions([{1, 2}])
    with pytest.raises(ModelFailedError):
        encode_predictions([float("nan")])


def test_warm_up_passes_on_the_logged_example_of_every_kind_of_column() -> None:
    example = pd.DataFrame(
        {
            "t": pd.Series(["a", None], dtype="str"),
            "n": pd.Series([1, None], dtype="Int64"),
            "x": [1.0, np.nan],
            "when": pd.to_datetime(["2026-01-01", None]),
            "b": [True, False],
            "empty": [None, None],
        }
    )
    kinds = {"t": "string", "n": "long", "x": "double", "when": "datetime", "b": "boolean", "empty": "any"}
    columns = tuple(InputColumn(name=name, type=kind, required=name != "n") for name, kind in kinds.items())

    class Counting:
        def predict(self, frame: pd.DataFrame) -> np.ndarray:
            assert list(frame.columns) == list(kinds)
            return frame.isna().sum(axis=1).to_numpy()

    _scorer(Counting(), example, columns=columns).warm_up()


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        (_scorer(Adding(), None), "without an input example"),
        (_scorer(Adding(), EXAMPLE.head(0)), "without an input example"),
        (_scorer(Adding(broken="refuse")), "cannot take that carrier"),
        (_scorer(Adding(broken="crash")), "RuntimeError"),
        (_scorer(Adding(broken="few")), "0 predictions for 2 rows"),
        (_scorer(Adding(), EXAMPLE.drop(columns="n")), "column 'n' is missing"),
    ],
)
def test_warm_up_finds_a_model_that_does_not_score(scorer: Scorer, words: str) -> None:
    with pytest.raises(SmokeTestError, match=words):
        scorer.warm_up()
