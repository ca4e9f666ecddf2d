"""What is on record of a model's files, and the comparison at each load (invariant 8)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perennial.domain.fingerprint import canonical_json, digest_of_files, sha256_of
from perennial.domain.references import ModelRef
from perennial.errors import IntegrityError


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file of a model."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, content: bytes) -> ArtifactFile:
        """Of a file's bytes."""
        return cls(sha256=sha256_of(content), size_bytes=len(content))

    def __str__(self) -> str:
        return f"sha256 {self.sha256}, {self.size_bytes:,} bytes"


Files = Mapping[str, ArtifactFile]
"""By path relative to the model's folder, with `/`."""


def digest_of_artifact(files: Files) -> str:
    """`ModelRef.digest` of these files."""
    return digest_of_files({path: file.sha256 for path, file in files.items()})


def size_of_artifact(files: Files) -> int:
    """Bytes of all files together."""
    return sum(file.size_bytes for file in files.values())


def record_of(files: Files) -> str:
    """The files as one line of JSON, to be kept where the files are not."""
    entries = {path: {"sha256": file.sha256, "size_bytes": file.size_bytes} for path, file in files.items()}
    return canonical_json(entries).decode().rstrip("\n")


def files_on_record(record: str | None, digest: str) -> dict[str, ArtifactFile] | None:
    """Inverse of `record_of`; None if there is no record, or one that does not belong to this digest.

    The record vouches for nothing by itself: its own digest must be the one that the model's reference carries.
    """
    try:
        entries: Any = json.loads(record or "")
        files = {
            str(path): ArtifactFile(sha256=str(entry["sha256"]), size_bytes=int(entry["size_bytes"]))
            for path, entry in entries.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return files if digest_of_artifact(files) == digest else None


def check_files(model: ModelRef, found: Files, record: str | None) -> None:
    """The files found are those that the model was saved with.

    Args:
        model: the reference, with the digest of all files.
        found: what was downloaded.
        record: `record_of` the files at training; only needed to say which file is at fault.

    Raises:
        IntegrityError: they are not; it names each file that is changed, missing or added, with both digests.
    """
    digest = digest_of_artifact(found)
    if digest == model.digest:
        return
    recorded = files_on_record(record, model.digest)
    if recorded is None:
        which = "which file it is cannot be told, as no intact record of the single files goes with that digest"
    else:
        which = "; ".join(_differences(recorded, found))
    raise IntegrityError(
        f"the files of {model.model_uri} have digest {digest}, recorded at training was {model.digest}: {which}. "
        f"They were changed afterwards and are not loaded. Restore them, or delete MLflow run {model.run_id} and start "
        f"a new run, which trains anew"
    )


def _differences(recorded: Files, found: Files) -> Iterator[str]:
    for path in sorted({*recorded, *found}):
        before, now = recorded.get(path), found.get(path)
        if before is None:
            yield f"{path} was added (found {now})"
        elif now is None:
            yield f"{path} is missing (recorded {before})"
        elif now.sha256 != before.sha256:
            yield f"{path} was changed (recorded {before}; found {now})"
