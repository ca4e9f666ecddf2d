"""A model's files fetched now and opened later, without the server; one suite for fake and MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.contract.registries import Mlflow, Place, Registry, training

from perennial.adapters.mlflow_registry import MlflowRegistry
from perennial.domain.signature import InputColumn
from perennial.errors import IntegrityError, NotFoundError, RegistryUnavailableError


def test_fetched_model_is_the_one_that_was_logged(registry: Registry, model: str, tmp_path: Path) -> None:
    given = training(model)
    logged = registry.log_training(given)
    opened = registry.open_fetched(logged, tmp_path, registry.fetch(logged, tmp_path))
    np.testing.assert_array_equal(opened.estimator.predict_proba(given.input_example), given.output_example)
    pd.testing.assert_frame_equal(opened.input_example, given.input_example)
    assert opened.columns == (InputColumn(name="a", type="double"), InputColumn(name="b", type="long"))
    assert opened.method == "predict_proba"
    assert opened.size_bytes == registry.open_model(logged).size_bytes


def test_signature_tells_each_columns_type_and_whether_it_may_be_left_out(registry: Registry, model: str) -> None:
    example = pd.DataFrame(
        {
            "text": pd.Series(["a", "b"], dtype="str"),
            "gaps": pd.Series(["a", None], dtype="str"),
            "flag": [True, False],
            "small": np.array([1, 2], dtype=np.int32),
            "single": np.array([1, 2], dtype=np.float32),
            "missing": [1.5, np.nan],
            "seats": pd.Series([1, None], dtype="Int64"),
            "at": pd.to_datetime(["2013-03-01", "2013-03-02"]),
            "empty": pd.Series([None, None], dtype=object),
        }
    )
    logged = registry.log_training(replace(training(model), task="regression", input_example=example))
    opened = registry.open_model(logged)
    assert [(column.name, column.type, column.required) for column in opened.columns] == [
        ("text", "string", True),
        ("gaps", "string", False),
        ("flag", "boolean", True),
        ("small", "integer", True),
        ("single", "float", True),
        ("missing", "double", False),
        ("seats", "long", False),
        ("at", "datetime", True),
        ("empty", "any", False),
    ]
    assert opened.method == "predict"


def test_copy_that_was_changed_is_refused_by_file(place: Place, model: str, tmp_path: Path) -> None:
    logged = place.registry.log_training(training(model))
    records = place.registry.fetch(logged, tmp_path)
    file = tmp_path / place.estimator_file
    file.write_bytes(file.read_bytes() + b"?")
    with pytest.raises(IntegrityError, match=f"{place.estimator_file} was changed"):
        place.registry.open_fetched(logged, tmp_path, records)


def test_files_that_are_damaged_in_the_registry_are_fetched_and_then_refused(
    place: Place, model: str, tmp_path: Path
) -> None:
    logged = place.registry.log_training(training(model))
    place.write(logged.model_uri, "extra.py", b"x = 1")
    records = place.registry.fetch(logged, tmp_path)
    with pytest.raises(IntegrityError, match=r"extra\.py was added"):
        place.registry.open_fetched(logged, tmp_path, records)


def test_model_that_does_not_exist_cannot_be_fetched(registry: Registry, model: str, tmp_path: Path) -> None:
    logged = registry.log_training(training(model))
    with pytest.raises(NotFoundError):
        registry.fetch(replace(logged, model_uri="models:/m-0123456789abcdef0123456789abcdef"), tmp_path)


def test_copy_is_opened_while_mlflow_is_down(mlflow_place: Mlflow, model: str, tmp_path: Path) -> None:
    logged = mlflow_place.registry.log_training(training(model))
    records = mlflow_place.registry.fetch(logged, tmp_path)
    down = MlflowRegistry("http://127.0.0.1:9")
    assert down.open_fetched(logged, tmp_path, records).estimator is not None
    with pytest.raises(RegistryUnavailableError):
        down.fetch(logged, tmp_path)


def test_records_say_whether_the_registry_knows_the_digest(mlflow_place: Mlflow, model: str, tmp_path: Path) -> None:
    logged = mlflow_place.registry.log_training(training(model))
    assert mlflow_place.registry.fetch(logged, tmp_path).digest_on_record
    (tmp_path / "again").mkdir()
    assert not mlflow_place.registry.fetch(replace(logged, digest="0" * 64), tmp_path / "again").digest_on_record
