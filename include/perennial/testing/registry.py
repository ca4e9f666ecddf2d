"""A ModelRegistry in memory. It passes the same contract suite as the MLflow one."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perennial.domain.artifact import ArtifactFile, check_files, digest_of_artifact, record_of, size_of_artifact
from perennial.domain.references import ModelRef
from perennial.domain.signature import ColumnType, InputColumn
from perennial.errors import ChampionUnusableError, NotFoundError
from perennial.ports import FittedTraining, LoadedModel, ModelRecords, RegisteredVersion

if TYPE_CHECKING:
    import pandas as pd

MODEL_FILE: Final = "model.pkl"
_EXAMPLE_FILE: Final = "input_example.pkl"
_TASK_FILE: Final = "task"
_LOCK: Final = threading.Lock()  # of the module, so that a registry can be copied


@dataclass(slots=True)
class _Version:
    model: ModelRef | None
    """None: registered by hand."""
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""


class MemoryRegistry:
    """Keeps pickled estimators, versions and aliases in dictionaries. Share one object to share the state."""

    def __init__(self) -> None:
        self.trainings: list[FittedTraining] = []
        """Everything that was logged, oldest first."""
        self.annotations: dict[str, dict[str, Any]] = {}
        """Metrics and tags by run id."""
        self.texts: dict[str, dict[str, str]] = {}
        """Text files by run id and path."""
        self.monitoring: dict[str, dict[int, dict[str, float]]] = {}
        """Metrics by monitoring run's name and step."""
        self.files: dict[str, dict[str, bytes]] = {}
        """Files of each model by uri and path; a test may change them."""
        self._records: dict[str, str] = {}
        self._by_fingerprint: dict[tuple[str, str], ModelRef] = {}
        self._versions: dict[str, dict[str, _Version]] = {}
        self._aliases: dict[tuple[str, str], str] = {}

    def find_training(self, model: str, fingerprint: str) -> ModelRef | None:
        """The first training logged with this fingerprint."""
        return self._by_fingerprint.get((model, fingerprint))

    def log_training(self, training: FittedTraining) -> ModelRef:
        """Keep it."""
        with _LOCK:
            self.trainings.append(training)
            number = len(self.trainings)
        uri = f"models:/m-{number}"
        self.files[uri] = {
            "MLmodel": f"model_id: m-{number}".encode(),  # as MLflow: two trainings never have the same digest
            MODEL_FILE: pickle.dumps(training.estimator),
            _EXAMPLE_FILE: pickle.dumps(training.input_example),
            _TASK_FILE: training.task.encode(),
        }
        files = {path: ArtifactFile.of(content) for path, content in self.files[uri].items()}
        self._records[uri] = record_of(files)
        reference = ModelRef(
            model_uri=uri,
            run_id=f"run-{number}",
            digest=digest_of_artifact(files),
            fingerprint=training.fingerprint,
            snapshot_sha256=training.dataset_sha256,
            training_start=training.training_start,
            training_end=training.training_end,
            keys_sha256=training.keys_sha256,
        )
        return self._by_fingerprint.setdefault((training.model, training.fingerprint), reference)

    def load(self, model: ModelRef) -> Any:
        """The fitted estimator alone."""
        return self.open_model(model).estimator

    def open_model(self, model: ModelRef) -> LoadedModel:
        """The model, if its bytes are the recorded ones."""
        return _opened(model, self._contents(model), self._records[model.model_uri])

    def fetch(self, model: ModelRef, folder: Path) -> ModelRecords:
        """Write its files out."""
        for path, content in self._contents(model).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return ModelRecords(files=self._records[model.model_uri], trusted_types=None, digest_on_record=True)

    def open_fetched(self, model: ModelRef, folder: Path, records: ModelRecords) -> LoadedModel:
        """The model, if the folder's bytes are the recorded ones."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return _opened(model, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, records.files)

    def _contents(self, model: ModelRef) -> dict[str, bytes]:
        if model.model_uri not in self.files:
            raise NotFoundError(f"no model {model.model_uri}")
        return self.files[model.model_uri]

    def corrupt(self, model_uri: str) -> None:
        """Add a byte to the stored estimator, for tests."""
        self.files[model_uri][MODEL_FILE] += b"?"

    def champion(self, model: str) -> RegisteredVersion | None:
        """The version behind the alias `champion`."""
        version = self.champion_version(model)
        return None if version is None else self.version(model, version)

    def champion_version(self, model: str) -> str | None:
        """The version behind the alias `champion`."""
        return self._aliases.get((model, "champion"))

    def register(self, model: str, trained: ModelRef, tags: Mapping[str, str], *, description: str = "") -> str:
        """Idempotent on the digest."""
        fields = {f"perennial.{name}": str(value) for name, value in trained.to_dict().items() if name != "kind"}
        with _LOCK:
            for number, known in self._versions.get(model, {}).items():
                if known.model is not None and known.model.digest == trained.digest:
                    known.description = known.description or description
                    return number
            return self._append(model, _Version(trained, {**fields, **tags}, description))

    def register_by_hand(self, model: str) -> str:
        """A version as somebody makes it in MLflow's UI, without anything that Perennial knows of it; for tests."""
        with _LOCK:
            return self._append(model, _Version(None))

    def _append(self, model: str, version: _Version) -> str:
        versions = self._versions.setdefault(model, {})
        number = str(len(versions) + 1)
        versions[number] = version
        return number

    def version(self, model: str, version: str) -> RegisteredVersion:
        """One version."""
        found = self._version(model, version)
        if found.model is None:
            raise ChampionUnusableError(f"version {version} of {model} cannot be used: Perennial did not register it")
        return RegisteredVersion(name=model, version=version, model=found.model)

    def versions(self, model: str) -> list[ModelRef]:
        """What Perennial registered, oldest first."""
        return [version.model for version in self._versions.get(model, {}).values() if version.model is not None]

    def version_tags(self, model: str) -> Mapping[str, Mapping[str, str]]:
        """By version, oldest first."""
        return {number: dict(version.tags) for number, version in self._versions.get(model, {}).items()}

    def tag_version(self, model: str, version: str, tags: Mapping[str, str | None]) -> None:
        """Set tags, or take them away."""
        kept = {**self._version(model, version).tags, **tags}
        self._version(model, version).tags = {name: value for name, value in kept.items() if value is not None}

    def description(self, model: str, version: str) -> str:
        """What was registered with the version."""
        return self._version(model, version).description

    def _version(self, model: str, version: str) -> _Version:
        try:
            return self._versions[model][version]
        except KeyError as error:
            raise NotFoundError(f"{model} has no version {version}") from error

    def point_alias(self, model: str, alias: str, version: str) -> None:
        """Last writer wins, as in MLflow."""
        self._version(model, version)
        self._aliases[(model, alias)] = version

    def annotate(self, run_id: str, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Keep metrics and tags."""
        self.annotations.setdefault(run_id, {}).update({**metrics, **tags})

    def log_text(self, run_id: str, path: str, text: str) -> None:
        """Keep it; the same path again replaces it."""
        self.texts.setdefault(run_id, {})[path] = text

    def run_url(self, run_id: str) -> str:
        """A made-up page."""
        return f"memory://runs/{run_id}"

    def log_monitoring(self, model: str, *, at: datetime, step: int, metrics: Mapping[str, float]) -> str:
        """Keep it; the same again replaces it."""
        name = f"monitoring {model} {at.astimezone(UTC):%Y-%m}"
        self.monitoring.setdefault(name, {}).setdefault(step, {}).update(metrics)
        return name


def _opened(model: ModelRef, contents: Mapping[str, bytes], record: str | None) -> LoadedModel:
    found = {path: ArtifactFile.of(content) for path, content in contents.items()}
    check_files(model, found, record)
    example = pickle.loads(contents[_EXAMPLE_FILE])  # noqa: S301 - this process pickled it
    return LoadedModel(
        estimator=pickle.loads(contents[MODEL_FILE]),  # noqa: S301 - as above
        input_example=example,
        size_bytes=size_of_artifact(found),
        columns=tuple(_column(str(name), example[name]) for name in example.columns),
        method="predict" if contents[_TASK_FILE] == b"regression" else "predict_proba",
    )


def _column(name: str, values: pd.Series) -> InputColumn:
    """As MLflow infers it."""
    import pandas as pd

    kind = values.dtype
    types = pd.api.types
    if values.isna().all() and not types.is_numeric_dtype(kind):
        return InputColumn(name=name, type=ColumnType.ANY, required=False)
    if types.is_bool_dtype(kind):
        found = ColumnType.BOOLEAN
    elif types.is_integer_dtype(kind):
        found = ColumnType.INTEGER if getattr(kind, "itemsize", 8) <= 4 else ColumnType.LONG
    elif types.is_float_dtype(kind):
        found = ColumnType.FLOAT if getattr(kind, "itemsize", 8) <= 4 else ColumnType.DOUBLE
    elif types.is_datetime64_any_dtype(kind):
        found = ColumnType.DATETIME
    else:
        found = ColumnType.STRING
    return InputColumn(name=name, type=found, required=not values.isna().any())
