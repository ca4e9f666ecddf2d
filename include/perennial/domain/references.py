"""What passes from stage to stage: small frozen references, never frames, models or reports (invariant 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Self

from perennial.domain.times import format_time, parse_time


class Verdict(StrEnum):
    """What the gate says of a challenger."""

    PROMOTE = "PROMOTE"
    REJECT = "REJECT"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Base: to and from the JSON object that goes into XCom."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; times as ISO 8601 with `Z`; `kind` tells the classes apart."""
        values = {key: format_time(v) if isinstance(v, datetime) else v for key, v in asdict(self).items()}
        return {"kind": self.kind, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: another kind of reference, or fields missing or unknown.
        """
        given = dict(values)
        kind = given.pop("kind", None)
        names = {field.name: field for field in fields(cls)}
        if kind != cls.kind or set(given) != set(names):
            raise ValueError(
                f"expected a {cls.kind} reference with fields {sorted(names)}, got kind={kind!r} with {sorted(given)}"
            )
        return cls(
            **{
                name: parse_time(value) if "datetime" in str(names[name].type) and value is not None else value
                for name, value in given.items()
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRef(Reference):
    """An immutable manifest of content-addressed Parquet files."""

    kind: ClassVar[str] = "snapshot"
    uri: str
    sha256: str
    """Digest of the manifest's bytes; it names the snapshot."""
    data_sha256: str
    """Digest of the usable data and the windows; part of the training's fingerprint."""
    rows: int
    files: int
    watermark: datetime
    pending_files: int
    """Landing files that are not complete yet (being written, empty); a later run takes them."""
    refused_files: int
    """Landing files that somebody has to look at (not Parquet, schema changed)."""
    nothing_new_since: str | None = None
    """Id of the ledger entry that already judged exactly this training; None if there is something to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRef(Reference):
    """The published result of the data checks."""

    kind: ClassVar[str] = "validation"
    uri: str
    sha256: str
    page_uri: str
    success: bool
    expectations: int
    failed: int
    quarantine_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef(Reference):
    """A trained, logged, not yet registered model."""

    kind: ClassVar[str] = "model"
    model_uri: str
    """`models:/m-…`, MLflow's logged model."""
    run_id: str
    digest: str
    """sha256 over the artifact's files, as `perennial.domain.fingerprint.digest_of_files` makes it."""
    fingerprint: str
    snapshot_sha256: str
    training_start: datetime
    training_end: datetime
    """Cut-off: the training window is [training_start, training_end)."""
    keys_sha256: str
    """Digest of the hashed keys of the training's rows, see `perennial.stages.keys.digest_of_keys`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRef(Reference):
    """Scores and metrics of challenger and champion on one holdout."""

    kind: ClassVar[str] = "evaluation"
    uri: str
    sha256: str
    scores_uri: str
    holdout_sha256: str
    rows: int
    champion_version: str | None
    """Registry version that was judged; None when there was no champion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRef(Reference):
    """The verdict with its evidence."""

    kind: ClassVar[str] = "decision"
    uri: str
    sha256: str
    page_uri: str
    verdict: str
    """A `Verdict`'s value."""
    champion_version: str | None
    summary: str
    """One sentence."""
    ledger_uri: str
    """The decision's entry."""
    break_glass: bool = False
    """Whether the verdict is a person's, against the gate's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRef(Reference):
    """A person's answer to a decision, or that none came in time."""

    kind: ClassVar[str] = "approval"
    ledger_uri: str
    decision_sha256: str
    """Digest of the decision that was answered."""
    approved: bool
    by: str | None
    """User name; None if nobody answered."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeTestRef(Reference):
    """What the challenger did in a clean process, before any traffic."""

    kind: ClassVar[str] = "smoke_test"
    uri: str
    sha256: str
    digest: str
    """Of the model that was tried out."""
    passed: bool
    """False only where the glass was broken: else a failure ends the run."""
    rows: int
    """Of the holdout, whose scores were compared with those of evaluate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRef(Reference):
    """How a challenger's shadow or canary ended."""

    kind: ClassVar[str] = "rollout"
    phase: str
    """`shadow` or `canary`."""
    uri: str
    """The record, with every step's readings."""
    sha256: str
    page_uri: str
    ledger_uri: str
    passed: bool
    version: str
    """The challenger's, in the registry."""
    summary: str
    """One sentence, at most 500 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringRef(Reference):
    """What one look at the windows that have ended found."""

    kind: ClassVar[str] = "monitoring"
    uri: str | None
    """Report of the newest window; None if none has ended since the last look."""
    sha256: str | None
    page_uri: str | None
    window_start: datetime | None
    window_end: datetime | None
    windows: int
    """How many were looked at for the first time."""
    rows: int
    """Of the newest window."""
    open_alerts: int
    """After it."""
    summary: str
    """One sentence, at most 500 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRef(Reference):
    """What production serves after the decision was carried out."""

    kind: ClassVar[str] = "promotion"
    ledger_uri: str
    """The promotion's entry; if nothing was promoted, the decision's."""
    promoted: bool
    champion_before: str | None
    champion_after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRef(Reference):
    """What production serves after a version was taken back."""

    kind: ClassVar[str] = "rollback"
    ledger_uri: str
    champion_before: str | None
    champion_after: str
    quarantined: int
    """How many models must not be promoted again because of this."""
