"""A ModelRegistry in memory. It passes the same contract suite as the MLflow one."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from perennial.domain.fingerprint import sha256_of
from perennial.domain.references import ModelRef
from perennial.errors import IntegrityError, NotFoundError
from perennial.ports import FittedTraining, RegisteredVersion


class MemoryRegistry:
    """Keeps pickled estimators, versions and aliases in dictionaries. Share one object to share the state."""

    def __init__(self) -> None:
        self.trainings: list[FittedTraining] = []
        """Everything that was logged, oldest first."""
        self.annotations: dict[str, dict[str, Any]] = {}
        """Metrics and tags by run id."""
        self._files: dict[str, bytes] = {}
        self._by_fingerprint: dict[tuple[str, str], ModelRef] = {}
        self._versions: dict[str, list[ModelRef]] = {}
        self._aliases: dict[tuple[str, str], str] = {}

    def find_training(self, model: str, fingerprint: str) -> ModelRef | None:
        """The first training logged with this fingerprint."""
        return self._by_fingerprint.get((model, fingerprint))

    def log_training(self, training: FittedTraining) -> ModelRef:
        """Keep it."""
        self.trainings.append(training)
        number = len(self.trainings)
        content = pickle.dumps(training.estimator)
        uri = f"models:/m-{number}"
        self._files[uri] = content
        reference = ModelRef(
            model_uri=uri,
            run_id=f"run-{number}",
            digest=sha256_of(content + str(number).encode()),
            fingerprint=training.fingerprint,
            snapshot_sha256=training.dataset_sha256,
            training_start=training.training_start,
            training_end=training.training_end,
        )
        return self._by_fingerprint.setdefault((training.model, training.fingerprint), reference)

    def load(self, model: ModelRef) -> Any:
        """The estimator, if its bytes are the recorded ones."""
        if model.model_uri not in self._files:
            raise NotFoundError(f"no model {model.model_uri}")
        content = self._files[model.model_uri]
        number = model.model_uri.removeprefix("models:/m-")
        if sha256_of(content + number.encode()) != model.digest:
            raise IntegrityError(f"the bytes of {model.model_uri} differ from the recorded digest {model.digest}")
        return pickle.loads(content)  # noqa: S301 - this process pickled it

    def corrupt(self, model_uri: str) -> None:
        """Change a byte of the stored model, for tests."""
        self._files[model_uri] += b"?"

    def champion(self, model: str) -> RegisteredVersion | None:
        """The version behind the alias `champion`."""
        version = self._aliases.get((model, "champion"))
        if version is None:
            return None
        return RegisteredVersion(name=model, version=version, model=self._versions[model][int(version) - 1])

    def champion_version(self, model: str) -> str | None:
        """The version behind the alias `champion`."""
        return self._aliases.get((model, "champion"))

    def register(self, model: str, trained: ModelRef, tags: Mapping[str, str]) -> str:  # noqa: ARG002 - kept nowhere
        """Idempotent on the digest."""
        versions = self._versions.setdefault(model, [])
        for number, known in enumerate(versions, start=1):
            if known.digest == trained.digest:
                return str(number)
        versions.append(replace(trained))
        return str(len(versions))

    def versions(self, model: str) -> list[ModelRef]:
        """All registered versions, oldest first."""
        return list(self._versions.get(model, ()))

    def point_alias(self, model: str, alias: str, version: str) -> None:
        """Last writer wins, as in MLflow."""
        if not 1 <= int(version) <= len(self._versions.get(model, ())):
            raise NotFoundError(f"{model} has no version {version}")
        self._aliases[(model, alias)] = version

    def annotate(self, run_id: str, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Keep metrics and tags."""
        self.annotations.setdefault(run_id, {}).update({**metrics, **tags})

    def run_url(self, run_id: str) -> str:
        """A made-up page."""
        return f"memory://runs/{run_id}"
