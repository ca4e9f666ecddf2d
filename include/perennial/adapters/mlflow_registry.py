"""MLflow as tracking server and model registry."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

from perennial.adapters.mlflow_errors import mlflow_answers, without_credentials
from perennial.adapters.mlflow_models import files_in, open_folder, save_model
from perennial.adapters.mlflow_tags import (
    DIGEST,
    FILES,
    FINGERPRINT,
    MONITORING,
    TRUSTED_TYPES,
    reference_from,
    registered_version,
    tags_of,
    version_number,
)
from perennial.domain.artifact import digest_of_artifact, record_of
from perennial.domain.references import ModelRef
from perennial.errors import NotFoundError
from perennial.ports import FittedTraining, LoadedModel, ModelRecords, RegisteredVersion

CHAMPION_ALIAS: Final = "champion"
# MLflow's defaults retry for minutes; a task that is retried by Airflow gives up sooner and says why.
_DEFAULTS: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_ALIAS_ENDPOINT: Final = "/api/2.0/mlflow/registered-models/alias"
_ALIAS_TIMEOUT_S: Final = 5
"""For the connection, and again for the answer: within the 5 s that `perennial.lock` keeps of a lease and the 10 s that
others then wait."""
_MOST_METRICS: Final = 1000
"""In one request; MLflow refuses more."""
_log = logging.getLogger(__name__)


class MlflowRegistry:
    """`perennial.ports.ModelRegistry` on one MLflow server."""

    def __init__(self, tracking_uri: str) -> None:
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        self._uri = tracking_uri.rstrip("/")
        self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def find_training(self, model: str, fingerprint: str) -> ModelRef | None:
        """The oldest finished run with this fingerprint, so that two racing trainings agree afterwards.

        A run whose tags were damaged is passed over: training anew is always safe.
        """
        with mlflow_answers("find the training"):
            experiment = self._client.get_experiment_by_name(_experiment_name(model))
            if experiment is None:
                return None
            runs = self._client.search_runs(
                [experiment.experiment_id],
                filter_string=f"attributes.status = 'FINISHED' and tags.`{FINGERPRINT}` = '{fingerprint}'",
                order_by=["attributes.start_time ASC"],
                max_results=100,
            )
        for run in runs:
            try:
                return reference_from(run.data.tags)
            except ValueError as error:
                _log.warning("%s: MLflow run %s is not used again: %s", model, run.info.run_id, error)
        return None

    def log_training(self, training: FittedTraining) -> ModelRef:
        """One run with everything in it; only a run that got that far is `FINISHED` and can be found again."""
        with mlflow_answers("log the training"), tempfile.TemporaryDirectory(prefix="perennial-model-") as folder:
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
        model_id = self._client.create_logged_model(
            experiment_id, name=training.model, source_run_id=run_id, model_type=training.task
        ).model_id
        trusted_types = save_model(training, path, run_id=run_id, model_id=model_id)
        files = files_in(path)
        reference = ModelRef(
            model_uri=f"models:/{model_id}",
            run_id=run_id,
            digest=digest_of_artifact(files),
            fingerprint=training.fingerprint,
            snapshot_sha256=training.dataset_sha256,
            training_start=training.training_start,
            training_end=training.training_end,
            keys_sha256=training.keys_sha256,
        )
        # Tags of the logged model, not of the run: MLflow silently cuts a run's tag after 8,000 characters.
        records = {FILES: record_of(files), TRUSTED_TYPES: json.dumps(trusted_types)}
        self._client.set_logged_model_tags(model_id, records)
        self._client.log_model_artifacts(model_id, str(path))
        self._client.finalize_logged_model(model_id, LoggedModelStatus.READY)
        self._log_facts(training, run_id, model_id, tags_of(reference))
        return reference

    def load(self, model: ModelRef) -> Any:
        """The fitted estimator alone."""
        return self.open_model(model).estimator

    def open_model(self, model: ModelRef) -> LoadedModel:
        """Download, compare the files, then deserialise."""
        with tempfile.TemporaryDirectory(prefix="perennial-load-") as folder:
            logged = self._download(model, Path(folder))
            return open_folder(
                model,
                Path(folder),
                files_record=logged.tags.get(FILES),
                types_record=logged.tags.get(TRUSTED_TYPES),
                is_on_record=lambda: self._is_on_record(logged, model.digest),
            )

    def fetch(self, model: ModelRef, folder: Path) -> ModelRecords:
        """Files, and the tags of the logged model that go with them."""
        logged = self._download(model, folder)
        return ModelRecords(
            files=logged.tags.get(FILES),
            trusted_types=logged.tags.get(TRUSTED_TYPES),
            digest_on_record=self._is_on_record(logged, model.digest),
        )

    def open_fetched(self, model: ModelRef, folder: Path, records: ModelRecords) -> LoadedModel:
        """Compare the files, then deserialise."""
        return open_folder(
            model,
            folder,
            files_record=records.files,
            types_record=records.trusted_types,
            is_on_record=lambda: records.digest_on_record,
        )

    def _download(self, model: ModelRef, folder: Path) -> LoggedModel:
        with mlflow_answers(f"download {model.model_uri}"):
            # By location: MLflow resolves a models:/ uri against the process's global server, not this client's.
            logged = self._client.get_logged_model(model.model_uri.removeprefix("models:/"))
            files = get_artifact_repository(logged.artifact_location, tracking_uri=self._uri)
            files.download_artifacts("", dst_path=str(folder))
        return logged

    def _is_on_record(self, logged: LoggedModel, digest: str) -> bool:
        """Whether the model's run, or any registered version, carries the digest."""
        with mlflow_answers(f"look up the digest of {logged.model_id}"):
            if self._client.search_model_versions(f"tag.`{DIGEST}` = '{digest}'", max_results=1):
                return True
            run_id = logged.source_run_id
            return bool(run_id) and self._client.get_run(run_id).data.tags.get(DIGEST) == digest

    def champion(self, model: str) -> RegisteredVersion | None:
        """The version behind the alias `champion`."""
        found = self._behind_alias(model)
        return None if found is None else registered_version(found)

    def champion_version(self, model: str) -> str | None:
        """The version's number; its tags do not matter."""
        found = self._behind_alias(model)
        return None if found is None else str(version_number(found))

    def _behind_alias(self, model: str) -> ModelVersion | None:
        with mlflow_answers(f"look up the champion of {model}"):
            try:
                return self._client.get_model_version_by_alias(model, CHAMPION_ALIAS)
            except MlflowException as error:
                if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                    return None
                raise

    def register(self, model: str, trained: ModelRef, tags: Mapping[str, str], *, description: str = "") -> str:
        """Idempotent on the digest.

        MLflow knows no uniqueness of tags: two callers at the same moment may make a version each. Both are then told
        the smaller number, and the other version stays without an alias.
        """
        with mlflow_answers(f"register a version of {model}"):
            known = self._version_of_digest(model, trained.digest)
            if known is None:
                self._ensure_registered_model(model)
                self._client.create_model_version(
                    name=model,
                    source=trained.model_uri,
                    run_id=trained.run_id,
                    model_id=trained.model_uri.removeprefix("models:/"),
                    tags={**tags_of(trained), **tags},
                    description=description or None,
                )
                known = self._version_of_digest(model, trained.digest)
            if known is None:
                raise MlflowException(f"the version of {model} that was just created is not found")
            if description and not known.description:
                self._client.update_model_version(model, str(known.version), description)
            return str(version_number(known))

    def _version_of_digest(self, model: str, digest: str) -> ModelVersion | None:
        found = list(self._versions(f"name = '{model}' and tag.`{DIGEST}` = '{digest}'"))
        return min(found, key=version_number, default=None)

    def version(self, model: str, version: str) -> RegisteredVersion:
        """One version."""
        _require_number(model, version)
        with mlflow_answers(f"look up version {version} of {model}"):
            found = self._client.get_model_version(model, version)
        return registered_version(found)

    def version_tags(self, model: str) -> Mapping[str, Mapping[str, str]]:
        """By version, in the order of their numbers."""
        with mlflow_answers(f"list the versions of {model}"):
            found = sorted(self._versions(f"name = '{model}'"), key=version_number)
        return {str(version_number(version)): dict(version.tags) for version in found}

    def _versions(self, filter_string: str) -> Iterator[ModelVersion]:
        token = None
        while True:
            page = self._client.search_model_versions(filter_string, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def tag_version(self, model: str, version: str, tags: Mapping[str, str | None]) -> None:
        """One request a tag."""
        _require_number(model, version)
        with mlflow_answers(f"tag version {version} of {model}"):
            for name, value in tags.items():
                if value is None:
                    self._client.delete_model_version_tag(model, version, name)
                else:
                    self._client.set_model_version_tag(model, version, name, value)

    def point_alias(self, model: str, alias: str, version: str) -> None:
        """Last writer wins. Asked once, and not for long: a caller whose lock has run out must not move it any more."""
        _require_number(model, version)
        with mlflow_answers(f"move the alias {alias} of {model}"):
            if not self._uri.startswith(("http://", "https://")):
                self._client.set_registered_model_alias(model, alias, version)
                return
            # Not by the client: its time-out and retries are the process's, and it takes none for one call.
            answer = http_request(
                get_default_host_creds(self._uri),
                _ALIAS_ENDPOINT,
                "POST",
                max_retries=0,
                timeout=_ALIAS_TIMEOUT_S,
                json={"name": model, "alias": alias, "version": version},
            )
            verify_rest_response(answer, _ALIAS_ENDPOINT)

    def annotate(self, run_id: str, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Add metrics and tags to a run that is finished already."""
        with mlflow_answers(f"annotate run {run_id}"):
            self._client.log_batch(run_id, metrics=_metrics(metrics), tags=[RunTag(k, v) for k, v in tags.items()])

    def log_text(self, run_id: str, path: str, text: str) -> None:
        """An artifact of the run; a logged model's files lie elsewhere."""
        with mlflow_answers(f"log {path} of run {run_id}"):
            self._client.log_text(run_id, text, path)

    def run_url(self, run_id: str) -> str:
        """Page of the run in MLflow's UI, without credentials; empty if the server is not reached by HTTP."""
        if not self._uri.startswith(("http://", "https://")):
            return ""
        with mlflow_answers(f"find run {run_id}"):
            experiment_id = self._client.get_run(run_id).info.experiment_id
        return f"{without_credentials(self._uri)}/#/experiments/{experiment_id}/runs/{run_id}"

    def log_monitoring(self, model: str, *, at: datetime, step: int, metrics: Mapping[str, float]) -> str:
        """The month's oldest run, so that two that were made at once agree afterwards.

        MLflow's tracking store leaves a metric out that it has already, with this step, time and value.
        """
        moment = at.astimezone(UTC)
        with mlflow_answers(f"log the monitoring of {model}"):
            run_id = self._monitoring_run(model, f"{moment:%Y-%m}")
            points = [Metric(name, value, int(moment.timestamp() * 1000), step) for name, value in metrics.items()]
            for start in range(0, len(points), _MOST_METRICS):
                self._client.log_batch(run_id, metrics=points[start : start + _MOST_METRICS])
        return run_id

    def _monitoring_run(self, model: str, month: str) -> str:
        experiment_id = self._experiment(model)

        def oldest() -> str | None:
            found = self._client.search_runs(
                [experiment_id],
                filter_string=f"tags.`{MONITORING}` = '{month}'",
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
            return str(found[0].info.run_id) if found else None

        if (known := oldest()) is not None:
            return known
        made = self._client.create_run(experiment_id, run_name=f"monitoring {model} {month}", tags={MONITORING: month})
        self._client.set_terminated(made.info.run_id, "FINISHED")  # nobody ends it later; it still takes metrics
        return oldest() or str(made.info.run_id)

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


def _require_number(model: str, version: str) -> None:
    if not (version.isascii() and version.isdecimal()):
        raise NotFoundError(f"{model} has no version {version!r}; versions are whole numbers from 1")


def _experiment_name(model: str) -> str:
    return f"perennial/{model}"


def _metrics(values: Mapping[str, float]) -> list[Metric]:
    now_ms = int(time.time() * 1000)
    return [Metric(name, value, now_ms, 0) for name, value in values.items()]
