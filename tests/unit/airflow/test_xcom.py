from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest
from airflow.sdk.exceptions import AirflowFailException

from perennial.domain.references import ModelRef
from perennial_airflow.xcom import MAX_XCOM_BYTES, ReferenceXComBackend

pytestmark = pytest.mark.airflow
MODEL = ModelRef(
    model_uri="models:/m-1",
    run_id="r",
    digest="d" * 64,
    fingerprint="f" * 64,
    snapshot_sha256="s" * 64,
    training_start=datetime(2013, 1, 1, tzinfo=UTC),
    training_end=datetime(2013, 3, 1, tzinfo=UTC),
    keys_sha256="k" * 64,
)


@pytest.mark.parametrize("value", [None, "text", 7, 0.5, True, {"skipped": ["a", "b"]}, MODEL.to_dict()])
def test_small_value_passes_unchanged(value: object) -> None:
    assert ReferenceXComBackend.serialize_value(value, key="k", task_id="t", dag_id="d") == value


def test_value_above_the_limit_is_refused_with_its_size_and_the_next_step() -> None:
    with pytest.raises(AirflowFailException) as caught:
        ReferenceXComBackend.serialize_value("x" * MAX_XCOM_BYTES, key="return_value", task_id="train", dag_id="mine")
    assert "mine.train" in str(caught.value)
    assert "2050 bytes" in str(caught.value)
    assert "return a reference" in str(caught.value)


def test_value_of_exactly_the_limit_passes() -> None:
    text = "x" * (MAX_XCOM_BYTES - 2)
    assert ReferenceXComBackend.serialize_value(text, key="k") == text


def test_frame_is_refused() -> None:
    with pytest.raises(AirflowFailException, match="DataFrame"):
        ReferenceXComBackend.serialize_value(pd.DataFrame({"x": range(10_000)}), key="return_value")
