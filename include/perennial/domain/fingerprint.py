"""Digests and fingerprints: the same inputs give the same text, on every machine and in every process."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from perennial.spec.model import ModelSpec


def canonical_json(value: Any) -> bytes:
    """JSON bytes with sorted keys, UTF-8, no spaces, a newline at the end.

    Raises:
        ValueError: a NaN or an infinity, which JSON cannot carry.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8") + b"\n"


def finite_or_none(value: float) -> float | None:
    """JSON's stand-in for NaN and infinities: null."""
    return value if math.isfinite(value) else None


def sha256_of(content: bytes) -> str:
    """sha256 in lower-case hex."""
    return hashlib.sha256(content).hexdigest()


def digest_of(value: Any) -> str:
    """sha256 over `canonical_json(value)`."""
    return sha256_of(canonical_json(value))


def digest_of_files(digests: Mapping[str, str]) -> str:
    """One digest for a folder, from the sha256 of each file by its relative path with `/`."""
    return digest_of(dict(digests))


def training_fingerprint(spec: ModelSpec, *, snapshot_sha256: str, params: Mapping[str, Any], code_version: str) -> str:
    """What makes two trainings the same: data, the spec's training side, parameters, code and seed."""
    return digest_of(
        {
            "model": spec.name,
            "task": spec.task,
            "data": spec.data.model_dump(mode="json", exclude={"settle", "on_refused_file", "landing"}),
            "training": spec.training.model_dump(mode="json", exclude={"params"}),
            "params": dict(params),
            "snapshot": snapshot_sha256,
            "code": code_version,
        }
    )


def policy_digest(spec: ModelSpec, suite: Mapping[str, Any]) -> str:
    """What makes two judgements of one training the same: evaluation, gate, and the checks of the data."""
    return digest_of(
        {
            "evaluation": spec.evaluation.model_dump(mode="json"),
            "gate": spec.gate.model_dump(mode="json"),
            "on_refused_file": spec.data.on_refused_file,
            "suite": dict(suite),
        }
    )
