"""What the gate has to know of the past: champions, promotions, versions taken back, evidence of earlier nights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from perennial.domain.sequential import EvidenceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Reign:
    """A stretch of time in which one version was champion."""

    version: str | None
    """None: the model had no champion."""
    since: datetime
    """`as_of` of the run that made it so; of a move outside Perennial, the time when it was found."""
    how: str
    """`promotion`, `rollback` or `outside`."""
    sequence: int = 0
    """Position in the ledger of the entry that tells of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostEvidence:
    """The decision that holds the evidence of earlier nights, and cannot be read."""

    uri: str
    sha256: str
    """What its bytes should have."""
    as_of: datetime
    """The latest of all runs up to that decision: the evidence may reach as far."""
    problem: str
    """A sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateHistory:
    """The past as the ledger tells it, at the moment of a decision."""

    as_of: datetime
    """Of the run that is being decided."""
    reigns: tuple[Reign, ...] = ()
    """Oldest first; the last one is the present champion's. Empty: nothing is on record."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """By model digest: a sentence that says when and why this model was taken back."""
    evidence: EvidenceState | None = None
    """Of the newest decision on this model that has one."""
    lost: LostEvidence | None = None
    """Set where there is evidence on record that cannot be read; `evidence` is None then."""
    damage: tuple[str, ...] = ()
    """What else of the past cannot be read, so that `reigns` or `quarantined` may lack something; a sentence each."""
    is_overridden: bool = False
    """Whether the run breaks the glass. What it measures may be unfair, so it is not kept as evidence."""

    @property
    def reign(self) -> int:
        """`Reign.sequence` of the present champion; 0 if nothing is on record."""
        return self.reigns[-1].sequence if self.reigns else 0
