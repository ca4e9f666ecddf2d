"""MLflow as tracking server and model registry.

A model is saved to a local folder first and its digest taken there, before a byte travels: what the registry is told
is what was trained, not what arrived. Loading downloads the folder, compares the digest, and only then deserialises
(invariant 8; MLflow's own loader trusts the artifact's list of types).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final

import mlflow.sklearn
import requests
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.tracking import MlflowClient

from perennial.domain.fingerprint import digest_of_files
from perennial.domain.references import ModelRef
from perennial.errors import (
    ChampionUnusableError,
    IntegrityError,
    NotFoundError,
    RegistryUnavailableError,
    TerminalError,
)
from perennial.ports import FittedTraining, RegisteredVersion

CHAMPION_ALIAS: Final = "champion"
_TAG: Final = "perennial."
_REQUIREMENTS: Final = ("scikit-learn", "skops", "numpy", "pandas", "scipy", "mlflow")
_TRANSIENT_CODES: Final = frozenset({"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"})
_LIBRARY_TYPES: Final = ("sklearn.", "numpy.", "scipy.", "pandas.")
# scikit-learn itself makes partials (categorical features); skops looks at the function inside each on its own.
_HARMLESS_TYPES: Final = frozenset({"functools.partial"})
# MLflow's defaults retry for minutes; a task that is retried by Airflow gives up sooner and says why.
_DEFAULTS: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class MlflowRegistry:
    """`perennial.ports.ModelRegistry` on one MLflow server."""

    def __init__(self, tracking_uri: str) -> None:
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        self._uri = tracking_uri.rstrip("/")
        self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def find_training(self, model: str, fingerprint: str) -> ModelRef | None:
        """The oldest finished run with this fingerprint, so that two racing trainings agree afterwards."""
        with _answers("find the training"):
            experiment = self._client.get_experiment_by_name(_experiment_name(model))
            if experiment is None:
                return None
            runs = self._client.search_runs(
                [experiment.experiment_id],
                filter_string=f"attributes.status = 'FINISHED' and tags.`{_TAG}fingerprint` = '{fingerprint}'",
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
        return _reference_from(runs[0].data.tags) if runs else None

    def log_training(self, training: FittedTraining) -> ModelRef:
        """One run with everything in it; only a run that got that far is `FINISHED` and can be found again."""
        with _answers("log the training"), tempfile.TemporaryDirectory(prefix="perennial-model-") as folder:
            experiment_id = self._experiment(training.model)
            run_id = self._client.create_run(experiment_id, run_name=training.run_name).info.run_id
            try:
                reference = self._log_all(training, experiment_id, run_id, Path(folder) / "model")
            except Exception:
                # Best effort: the error that counts is the one that brought us here.
                with suppress(Exception):
                    self._client.set_terminated(run_id, "FAILED")
                raise
            self._client.set_terminated(run_id, "FINISHED")
        return reference

    def _log_all(self, training: FittedTraining, experiment_id: str, run_id: str, path: Path) -> ModelRef:
        logged = self._client.create_logged_model(
            experiment_id, name=training.model, source_run_id=run_id, model_type=training.task
        )
        _save(training, path, run_id=run_id, model_id=logged.model_id)
        reference = ModelRef(
            model_uri=f"models:/{logged.model_id}",
            run_id=run_id,
            digest=digest_of_folder(path),
            fingerprint=training.fingerprint,
            snapshot_sha256=training.dataset_sha256,
            training_start=training.training_start,
            training_end=training.training_end,
        )
        self._client.log_model_artifacts(logged.model_id, str(path))
        self._client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        self._log_facts(training, run_id, logged.model_id, _tags_of(reference))
        return reference

    def load(self, model: ModelRef) -> Any:
        """Download, compare the digest, then deserialise."""
        with tempfile.TemporaryDirectory(prefix="perennial-load-") as folder:
            with _answers(f"download {model.model_uri}"):
                # By location: MLflow resolves a models:/ uri against the process's global server, not this client's.
                logged = self._client.get_logged_model(model.model_uri.removeprefix("models:/"))
                path = Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=logged.artifact_location, dst_path=folder, tracking_uri=self._uri
                    )
                )
            found = digest_of_folder(path)
            if found != model.digest:
                raise IntegrityError(
                    f"the files of {model.model_uri} have digest {found}, recorded at training was {model.digest}; "
                    f"they were changed afterwards and are not loaded. Restore them, or delete MLflow run "
                    f"{model.run_id} and start a new run, which trains anew"
                )
            return mlflow.sklearn.load_model(str(path))

    def champion(self, model: str) -> RegisteredVersion | None:
        """The version behind the alias `champion`."""
        found = self._behind_alias(model)
        if found is None:
            return None
        try:
            trained = _reference_from(found.tags)
        except KeyError as error:
            raise ChampionUnusableError(
                f"version {found.version} of {model} is champion, but Perennial did not register it (no tag {error}); "
                f"its training window is unknown, so no fair comparison is possible. Move the alias `champion` to a "
                f"version that Perennial registered, or delete the alias to start over"
            ) from error
        return RegisteredVersion(name=model, version=str(found.version), model=trained)

    def champion_version(self, model: str) -> str | None:
        """The version's number; its tags do not matter."""
        found = self._behind_alias(model)
        return None if found is None else str(found.version)

    def _behind_alias(self, model: str) -> ModelVersion | None:
        with _answers(f"look up the champion of {model}"):
            try:
                return self._client.get_model_version_by_alias(model, CHAMPION_ALIAS)
            except MlflowException as error:
                if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                    return None
                raise

    def register(self, model: str, trained: ModelRef, tags: Mapping[str, str]) -> str:
        """Idempotent on the digest."""
        with _answers(f"register a version of {model}"):
            self._ensure_registered_model(model)
            found = self._client.search_model_versions(
                f"name = '{model}' and tag.`{_TAG}digest` = '{trained.digest}'", max_results=100
            )
            if found:
                return str(min(int(version.version) for version in found))
            created = self._client.create_model_version(
                name=model,
                source=trained.model_uri,
                run_id=trained.run_id,
                model_id=trained.model_uri.removeprefix("models:/"),
                tags={**_tags_of(trained), **tags},
            )
            return str(created.version)

    def point_alias(self, model: str, alias: str, version: str) -> None:
        """Last writer wins."""
        with _answers(f"move the alias {alias} of {model}"):
            self._client.set_registered_model_alias(model, alias, version)

    def annotate(self, run_id: str, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Add metrics and tags to a run that is finished already."""
        with _answers(f"annotate run {run_id}"):
            self._client.log_batch(run_id, metrics=_metrics(metrics), tags=[RunTag(k, v) for k, v in tags.items()])

    def run_url(self, run_id: str) -> str:
        """Page of the run in MLflow's UI, without credentials; empty if the server is not reached by HTTP."""
        if not self._uri.startswith(("http://", "https://")):
            return ""
        with _answers(f"find run {run_id}"):
            experiment_id = self._client.get_run(run_id).info.experiment_id
        return f"{_without_credentials(self._uri)}/#/experiments/{experiment_id}/runs/{run_id}"

    def _experiment(self, model: str) -> str:
        name = _experiment_name(model)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(self._client.get_experiment_by_name(name).experiment_id)

    def _ensure_registered_model(self, model: str) -> None:
        try:
            self._client.get_registered_model(model)
        except MlflowException as missing:
            if missing.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            try:
                self._client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

    def _log_facts(self, training: FittedTraining, run_id: str, model_id: str, tags: Mapping[str, str]) -> None:
        all_tags = {**training.tags, **tags}
        self._client.log_batch(
            run_id,
            metrics=_metrics(training.metrics),
            params=[Param(name, str(value)) for name, value in training.params.items()],
            tags=[RunTag(name, value) for name, value in all_tags.items()],
        )
        dataset = Dataset(
            name=training.model,
            digest=training.dataset_sha256[:36],
            source_type="s3",
            source=json.dumps({"uri": training.dataset_uri}),
            profile=json.dumps({"num_rows": training.dataset_rows}),
        )
        self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def digest_of_folder(folder: Path) -> str:
    """One digest over the folder's files: `digest_of_files` of each file's sha256 by its relative path."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest_of_files(digests)


@contextmanager
def _answers(action: str) -> Iterator[None]:
    """MLflow's errors as Perennial's: what may pass, what will not."""
    try:
        yield
    except requests.RequestException as error:
        raise RegistryUnavailableError(f"could not {action}: MLflow did not answer ({type(error).__name__})") from error
    except MlflowException as error:
        message = _without_credentials(f"could not {action}: {str(error)[:500]}")
        if error.error_code in _TRANSIENT_CODES or isinstance(error.__cause__, requests.RequestException):
            raise RegistryUnavailableError(message) from error
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFoundError(message) from error
        raise TerminalError(message) from error


def _without_credentials(text: str) -> str:
    """Without user and password of any address in it (invariant 12)."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def _save(training: FittedTraining, path: Path, *, run_id: str, model_id: str) -> None:
    mlflow.sklearn.save_model(
        training.estimator,
        path=str(path),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        serialization_format="skops",
        signature=infer_signature(training.input_example, training.output_example),
        input_example=training.input_example,
        pip_requirements=[f"{name}=={installed_version(name)}" for name in _REQUIREMENTS],
        pyfunc_predict_fn="predict" if training.task == "regression" else "predict_proba",
        skops_trusted_types=_trusted_types(training),
    )


def _trusted_types(training: FittedTraining) -> list[str]:
    """Types in the model that skops does not trust by itself: libraries' own, and those that the spec names.

    Raises:
        TerminalError: the model holds a type that nobody vouched for.
    """
    import skops.io

    found = skops.io.get_untrusted_types(data=skops.io.dumps(training.estimator))
    trusted = _HARMLESS_TYPES.union(training.trusted_types)
    strangers = [name for name in found if not name.startswith(_LIBRARY_TYPES) and name not in trusted]
    if strangers:
        raise TerminalError(
            f"the trained model of {training.model} holds types that may not be loaded unseen: {', '.join(strangers)}. "
            f"If they are your own, list them in the spec under training.trusted_types"
        )
    return [str(name) for name in found]


def _experiment_name(model: str) -> str:
    return f"perennial/{model}"


def _metrics(values: Mapping[str, float]) -> list[Metric]:
    import time

    now_ms = int(time.time() * 1000)
    return [Metric(name, value, now_ms, 0) for name, value in values.items()]


def _tags_of(reference: ModelRef) -> dict[str, str]:
    return {f"{_TAG}{name}": str(value) for name, value in reference.to_dict().items() if name != "kind"}


def _reference_from(tags: Mapping[str, str]) -> ModelRef:
    fields = [name for name in ModelRef.__dataclass_fields__ if name != "kind"]
    return ModelRef.from_dict({"kind": ModelRef.kind, **{name: tags[f"{_TAG}{name}"] for name in fields}})
