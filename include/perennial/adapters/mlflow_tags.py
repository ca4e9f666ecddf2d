"""References as MLflow's tags, and back. Tags are what anybody may edit: nothing is taken from them unchecked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlflow.entities.model_registry import ModelVersion

from perennial.domain.references import ModelRef
from perennial.domain.times import parse_time
from perennial.errors import ChampionUnusableError, TerminalError
from perennial.ports import RegisteredVersion

PREFIX: Final = "perennial."
DIGEST: Final = f"{PREFIX}digest"
FINGERPRINT: Final = f"{PREFIX}fingerprint"
FILES: Final = f"{PREFIX}files"
"""Of a logged model: `perennial.domain.artifact.record_of` its files."""
TRUSTED_TYPES: Final = f"{PREFIX}trusted_types"
"""Of a logged model: JSON list of the types that skops may load."""
MONITORING: Final = f"{PREFIX}monitoring"
"""Of a run that holds what the monitor saw: the month, such as `2026-11`."""
_FIELDS: Final = tuple(ModelRef.__dataclass_fields__)
_TIMES: Final = ("training_start", "training_end")


def tags_of(reference: ModelRef) -> dict[str, str]:
    """A tag a field."""
    values = reference.to_dict()
    return {f"{PREFIX}{name}": str(values[name]) for name in _FIELDS}


def reference_from(tags: Mapping[str, str]) -> ModelRef:
    """Inverse of `tags_of`.

    Raises:
        ValueError: a tag is missing, empty or not a time; it says which.
    """
    missing = [f"{PREFIX}{name}" for name in _FIELDS if not tags.get(f"{PREFIX}{name}")]
    if missing:
        raise ValueError(f"it has no tag {', '.join(missing)}")
    for name in _TIMES:
        try:
            parse_time(tags[f"{PREFIX}{name}"])
        except ValueError as error:
            raise ValueError(f"its tag {PREFIX}{name} is {tags[f'{PREFIX}{name}']!r}, not a time") from error
    return ModelRef.from_dict({"kind": ModelRef.kind, **{name: tags[f"{PREFIX}{name}"] for name in _FIELDS}})


def registered_version(found: ModelVersion) -> RegisteredVersion:
    """The version, with the training that its tags tell of.

    Raises:
        ChampionUnusableError: Perennial did not register it, or its tags were damaged.
    """
    try:
        trained = reference_from(found.tags)
    except ValueError as error:
        raise ChampionUnusableError(
            f"version {found.version} of {found.name} cannot be used: {error}. Perennial did not register it, or its "
            f"tags were damaged; what it was trained on is unknown, so no fair comparison is possible. Restore the "
            f"tags from its MLflow run, or go back to a version that Perennial registered with `perennial rollback "
            f"{found.name} --to VERSION`"
        ) from error
    return RegisteredVersion(name=str(found.name), version=str(found.version), model=trained)


def version_number(found: ModelVersion) -> int:
    """Its number, from 1.

    Raises:
        TerminalError: MLflow answered something else.
    """
    text = str(found.version)
    if not (text.isascii() and text.isdecimal()):
        raise TerminalError(f"MLflow says that {found.name} has a version {text!r}; versions are whole numbers from 1")
    return int(text)
