"""What one run came to, as the ledger keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Self

from perennial.domain.fingerprint import digest_of
from perennial.domain.times import format_time, parse_time

KINDS: Final = ("decision", "nothing_new", "refused")
SCHEMA_VERSION: Final = 1


def training_mark(fingerprint: str | None) -> str:
    """Part of an entry's key: the beginning of the training's fingerprint, or nothing."""
    return f"-{fingerprint[:16]}" if fingerprint else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """The outcome of one run. `decision`: judged; `nothing_new`: nothing to judge; `refused`: bad data stopped it."""

    kind: str
    model: str
    recorded_at: datetime
    request: Mapping[str, Any]
    """`RunRequest.to_dict()`."""
    evidence_sha256: str
    """Digest of what the outcome rests on: the decision, the validation result, or the snapshot."""
    summary: str
    """One sentence for people."""
    champion_before: str | None
    champion_after: str | None
    verdict: str | None = None
    """A `Verdict`'s value; None unless `kind` is `decision`."""
    promoted: bool = False
    reasons: Sequence[str] = ()
    fingerprint: str | None = None
    """The training's; a later run with the same one has nothing new to judge."""
    policy: str | None = None
    """Digest of how it was judged (`policy_digest`); a changed policy is something new to judge by."""
    page_uri: str | None = None
    """The page to read first: the decision's, or the refused data's."""
    references: Mapping[str, Any] = field(default_factory=dict)
    """References (`Reference.to_dict()`) of the stages that ran, by stage name."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"ledger entry kind {self.kind!r} is not one of {', '.join(KINDS)}")

    @property
    def run_id(self) -> str:
        """The run that this entry is the outcome of."""
        return str(self.request["run_id"])

    @property
    def entry_id(self) -> str:
        """The same for a retried run with the same evidence, so that a retry cannot record twice."""
        return digest_of([self.model, self.run_id, self.kind, self.evidence_sha256])[:16]

    @property
    def key(self) -> str:
        """Name of the entry's object: sorts by as_of, and tells the training without opening it."""
        as_of = parse_time(str(self.request["as_of"]))
        return f"{as_of:%Y%m%dT%H%M%SZ}-{self.kind}{training_mark(self.fingerprint)}-{self.entry_id}.json"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "recorded_at": format_time(self.recorded_at), "entry_id": self.entry_id}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; unknown fields of later versions are left out."""
        known = {name: values[name] for name in (f.name for f in fields(cls)) if name in values}
        reasons = tuple(values.get("reasons", ()))
        return cls(**{**known, "recorded_at": parse_time(str(values["recorded_at"])), "reasons": reasons})
