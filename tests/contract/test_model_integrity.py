"""Nothing is loaded that is not, file by file, what was recorded (invariant 8); one suite for fake and MLflow."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model
from sklearn.linear_model import LogisticRegression
from tests.contract.registries import Mlflow, Place, Registry, training

from perennial.adapters.mlflow_models import files_in
from perennial.adapters.mlflow_tags import DIGEST, FILES, TRUSTED_TYPES
from perennial.domain.artifact import ArtifactFile, digest_of_artifact, files_on_record, record_of
from perennial.domain.references import ModelRef
from perennial.errors import IntegrityError, NotFoundError

FRAME = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0]})
LABEL = np.array([0, 0, 1, 1])


def test_load_with_another_digest_is_refused(registry: Registry, model: str) -> None:
    logged = registry.log_training(training(model))
    with pytest.raises(IntegrityError, match=f"digest {logged.digest}, recorded at training was {'0' * 64}"):
        registry.load(replace(logged, digest="0" * 64))


def test_model_that_does_not_exist_is_not_found(registry: Registry, model: str) -> None:
    logged = registry.log_training(training(model))
    with pytest.raises(NotFoundError):
        registry.open_model(replace(logged, model_uri="models:/m-0123456789abcdef0123456789abcdef"))


def test_changed_byte_is_refused_with_file_and_both_digests(place: Place, model: str) -> None:
    logged = place.registry.log_training(training(model))
    before = place.files(logged.model_uri)[place.estimator_file]
    after = bytearray(before)
    after[len(after) // 2] ^= 1
    place.write(logged.model_uri, place.estimator_file, bytes(after))
    with pytest.raises(IntegrityError) as caught:
        place.registry.open_model(logged)
    message = str(caught.value)
    recorded, found = ArtifactFile.of(before), ArtifactFile.of(bytes(after))
    assert f"{place.estimator_file} was changed (recorded {recorded}; found {found})" in message
    assert "MLmodel" not in message
    assert f"delete MLflow run {logged.run_id}" in message
    place.write(logged.model_uri, place.estimator_file, before)
    assert place.registry.open_model(logged).estimator is not None


def test_missing_and_added_files_are_refused_by_name(place: Place, model: str) -> None:
    logged = place.registry.log_training(training(model))
    before = place.files(logged.model_uri)[place.estimator_file]
    place.write(logged.model_uri, place.estimator_file, None)
    place.write(logged.model_uri, "code/extra.py", b"import os")
    with pytest.raises(IntegrityError) as caught:
        place.registry.load(logged)
    assert f"{place.estimator_file} is missing (recorded {ArtifactFile.of(before)})" in str(caught.value)
    assert f"code/extra.py was added (found {ArtifactFile.of(b'import os')})" in str(caught.value)


def test_every_file_is_on_record_with_digest_and_size(mlflow_place: Mlflow, model: str) -> None:
    logged = mlflow_place.registry.log_training(training(model))
    tags = mlflow_place.client.get_logged_model(logged.model_uri.removeprefix("models:/")).tags
    found = {path: ArtifactFile.of(content) for path, content in mlflow_place.files(logged.model_uri).items()}
    assert files_on_record(tags[FILES], logged.digest) == found
    assert {"MLmodel", "model.skops", "input_example.json"} <= set(found)


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", "null", '{"MLmodel": "x"}', '{"MLmodel": {"sha256": 1}}'])
def test_damaged_record_of_files_still_refuses_a_changed_byte_and_loads_an_intact_model(
    mlflow_place: Mlflow, model: str, record: str
) -> None:
    logged = mlflow_place.registry.log_training(training(model))
    mlflow_place.client.set_logged_model_tags(logged.model_uri.removeprefix("models:/"), {FILES: record})
    assert mlflow_place.registry.open_model(logged).size_bytes > 0
    mlflow_place.write(logged.model_uri, "conda.yaml", b"name: other\n")
    with pytest.raises(IntegrityError, match="which file it is cannot be told"):
        mlflow_place.registry.load(logged)


def test_record_rewritten_to_fit_changed_files_vouches_for_nothing(mlflow_place: Mlflow, model: str) -> None:
    logged = mlflow_place.registry.log_training(training(model))
    mlflow_place.write(logged.model_uri, "conda.yaml", b"name: other\n")
    forged = record_of(files_in(mlflow_place.folder(logged.model_uri)))
    mlflow_place.client.set_logged_model_tags(logged.model_uri.removeprefix("models:/"), {FILES: forged})
    with pytest.raises(IntegrityError, match="recorded at training"):
        mlflow_place.registry.load(logged)


def test_model_without_any_file_is_refused(place: Place, model: str) -> None:
    logged = place.registry.log_training(training(model))
    for path in sorted(place.files(logged.model_uri), key=lambda path: path == "MLmodel"):
        place.write(logged.model_uri, path, None)
    with pytest.raises(IntegrityError, match="MLmodel is missing"):
        place.registry.load(logged)


class OwnType:
    """What a user's estimator may hold, vouched for in the spec."""

    def __init__(self) -> None:
        self.note = "mine"


def test_type_that_the_spec_names_is_recorded_and_loaded(mlflow_place: Mlflow, model: str) -> None:
    name = f"{OwnType.__module__}.{OwnType.__qualname__}"
    given = training(model, trusted_types=(name,))
    given.estimator.note = OwnType()
    logged = mlflow_place.registry.log_training(given)
    tags = mlflow_place.client.get_logged_model(logged.model_uri.removeprefix("models:/")).tags
    assert name in json.loads(tags[TRUSTED_TYPES])
    assert mlflow_place.registry.load(logged).note.note == "mine"


@pytest.mark.parametrize("record", ["[]", "{", '{"a": 1}', "7", '"sklearn"'])
def test_type_that_is_not_on_record_is_refused_by_name_whatever_the_artifact_says(
    mlflow_place: Mlflow, model: str, record: str
) -> None:
    logged = mlflow_place.registry.log_training(training(model))
    # The artifact itself vouches for them; if it did not, this would show nothing.
    trusted = Model.load(str(mlflow_place.folder(logged.model_uri))).flavors["sklearn"]["skops_trusted_types"]
    mlflow_place.client.set_logged_model_tags(logged.model_uri.removeprefix("models:/"), {TRUSTED_TYPES: record})
    with pytest.raises(IntegrityError, match=f"not on record as trusted: .*{trusted[0]}"):
        mlflow_place.registry.load(logged)


class Marked:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (_unpickled, (str(self.marker),))


def _unpickled(marker: str) -> LogisticRegression:
    Path(marker).write_text("ran", encoding="utf-8")
    return LogisticRegression().fit(FRAME, LABEL)


def _logged_by_hand(place: Mlflow, model: str, folder: Path, save: Any) -> ModelRef:
    """A model that somebody logged without Perennial, and a reference that fits its bytes."""
    client = place.client
    experiment_id = client.create_experiment(f"by hand/{model}")
    run_id = client.create_run(experiment_id).info.run_id
    model_id = client.create_logged_model(experiment_id, name=model, source_run_id=run_id).model_id
    save(folder, Model(run_id=run_id, model_id=model_id))
    client.log_model_artifacts(model_id, str(folder))
    return ModelRef(
        model_uri=f"models:/{model_id}",
        run_id=run_id,
        digest=digest_of_artifact(files_in(folder)),
        fingerprint="f",
        snapshot_sha256="s",
        training_start=datetime(2013, 1, 1, tzinfo=UTC),
        training_end=datetime(2013, 3, 1, tzinfo=UTC),
        keys_sha256="k",
    )


def _pickled(place: Mlflow, model: str, folder: Path, serialization_format: str = "pickle") -> tuple[ModelRef, Path]:
    marker = folder.with_suffix(".ran")

    def save(path: Path, described: Model) -> None:
        estimator = LogisticRegression().fit(FRAME, LABEL)
        mlflow.sklearn.save_model(
            estimator,
            str(path),
            mlflow_model=described,
            serialization_format=serialization_format,
            pip_requirements=[],
        )
        (path / "model.pkl").write_bytes(pickle.dumps(Marked(marker)))

    return _logged_by_hand(place, model, folder, save), marker


@pytest.mark.parametrize("serialization_format", ["pickle", "cloudpickle"])
def test_pickle_whose_digest_is_not_on_record_is_refused_unread(
    mlflow_place: Mlflow, model: str, tmp_path: Path, serialization_format: str
) -> None:
    logged, marker = _pickled(mlflow_place, model, tmp_path / "model", serialization_format)
    mlflow_place.client.set_tag(logged.run_id, DIGEST, "0" * 64)
    with pytest.raises(IntegrityError, match=f"not have its digest {logged.digest} on record.*perennial.digest"):
        mlflow_place.registry.open_model(logged)
    assert not marker.exists()


def test_pickle_with_another_digest_is_refused_unread_though_that_is_on_record(
    mlflow_place: Mlflow, model: str, tmp_path: Path
) -> None:
    logged, marker = _pickled(mlflow_place, model, tmp_path / "model")
    mlflow_place.client.set_tag(logged.run_id, DIGEST, "1" * 64)
    with pytest.raises(IntegrityError, match="recorded at training"):
        mlflow_place.registry.open_model(replace(logged, digest="1" * 64))
    assert not marker.exists()


def test_pickle_whose_digest_its_run_has_on_record_is_loaded(mlflow_place: Mlflow, model: str, tmp_path: Path) -> None:
    logged, marker = _pickled(mlflow_place, model, tmp_path / "model")
    mlflow_place.client.set_tag(logged.run_id, DIGEST, logged.digest)
    opened = mlflow_place.registry.open_model(logged)
    assert opened.estimator.predict_proba(FRAME).shape == (4, 2)
    assert opened.input_example is None
    assert marker.exists()


def test_pickle_whose_digest_a_version_has_on_record_is_loaded(
    mlflow_place: Mlflow, model: str, tmp_path: Path
) -> None:
    logged, _ = _pickled(mlflow_place, model, tmp_path / "model")
    mlflow_place.client.create_registered_model(model)
    mlflow_place.client.create_model_version(
        model,
        source=logged.model_uri,
        model_id=logged.model_uri.removeprefix("models:/"),
        tags={DIGEST: logged.digest},
    )
    assert mlflow_place.registry.load(logged).predict_proba(FRAME).shape == (4, 2)


class Doubling(mlflow.pyfunc.PythonModel):
    """A python_model, which MLflow keeps as a pickle."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> np.ndarray:
        return 2 * model_input["a"].to_numpy()


def test_pyfunc_is_loaded_only_if_its_digest_is_on_record(mlflow_place: Mlflow, model: str, tmp_path: Path) -> None:
    def save(path: Path, described: Model) -> None:
        mlflow.pyfunc.save_model(str(path), python_model=Doubling(), mlflow_model=described, pip_requirements=[])

    logged = _logged_by_hand(mlflow_place, model, tmp_path / "model", save)
    with pytest.raises(IntegrityError, match="on record"):
        mlflow_place.registry.load(logged)
    mlflow_place.client.set_tag(logged.run_id, DIGEST, logged.digest)
    assert mlflow_place.registry.load(logged).predict(FRAME).tolist() == [0, 2, 4, 6]
