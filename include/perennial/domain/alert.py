"""What an alert is, and what can become of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from perennial.domain.fingerprint import digest_of

MAX_ID_LENGTH: Final = 200
MAX_SUMMARY_LENGTH: Final = 500
MAX_EVIDENCE_BYTES: Final = 8 * 1024
_MODEL: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A signal that a model may have to be retrained. The same in whatever form it came."""

    model: str
    alert_id: str
    """Who sends the same alert again, sends the same id. 1 to 200 printable characters."""
    source: str
    """`monitor`, `command`, `native`, `alertmanager`, `grafana`, `cloudevents`, `sns`, `mlflow`, or `queue`."""
    summary: str
    """One sentence, at most 500 characters: what was seen."""
    raised_at: datetime
    """When it was seen, by its sender's clock."""
    received_at: datetime
    """By ours."""
    sender: str = ""
    """Name of the key that vouched for it; never the key."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What else the sender says, JSON; at most 8 KiB as canonical JSON."""

    @property
    def key(self) -> str:
        """Names the alert in the store: 32 hexadecimal digits of model and id."""
        return digest_of({"model": self.model, "alert_id": self.alert_id})[:32]

    # __post_init__ (checks), to_dict and from_dict belong here.


class Fate(StrEnum):
    """What became of an alert."""

    STARTED = "started"
    """A run, `Outcome.run_id`."""
    COALESCED = "coalesced"
    """With a run that was queued or running, `Outcome.run_id`."""
    DEFERRED = "deferred"
    """Until `Outcome.until`, when it is looked at again."""
    REFUSED = "refused"
    """`Outcome.reason` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The governor's answer, as the sender gets it and the ledger keeps it."""

    fate: Fate
    reason: str
    """One sentence."""
    at: datetime
    run_id: str | None = None
    until: datetime | None = None
    rule: str = ""
    """Which rule of the governor: `active_run`, `paused`, `nothing_new`, `cooldown`, `max_runs_per_day`,
    `min_new_rows`, `stopped`, `gave_up`, `not_enabled`, or empty."""
