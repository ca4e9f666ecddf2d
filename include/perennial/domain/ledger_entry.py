"""One thing that happened to a model, as the ledger keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Self

from perennial.domain.fingerprint import canonical_json, digest_of
from perennial.domain.times import format_time, parse_time

OUTCOMES: Final = ("decision", "nothing_new", "refused")
"""What a run came to: exactly one of them a run that comes to an end."""
MOVES: Final = ("promotion", "rollback", "outside")
"""Changes of the champion. `outside`: the alias was found moved by something that is not Perennial."""
ROLLOUT: Final = "rollout"
"""A challenger's shadow or canary came to its end."""
KINDS: Final = (*OUTCOMES, "approval", ROLLOUT, *MOVES)
SCHEMA_VERSION: Final = 2
_POSITION: Final = frozenset({"recorded_at", "sequence", "previous_sha256"})
_CHAMPION: Final = frozenset({"champion_before", "champion_after"})
_MAY_DIFFER: Final[Mapping[str, frozenset[str]]] = {
    "decision": _CHAMPION,
    "refused": _CHAMPION,
    "nothing_new": _CHAMPION | {"summary", "page_uri"},
}
"""Fields that another run may change between two tries of one run: who is champion, which judgement is the newest."""


def training_mark(fingerprint: str | None) -> str:
    """Part of an entry's key: the beginning of the training's fingerprint, or nothing."""
    return f"-{fingerprint[:16]}" if fingerprint else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One fact. See `OUTCOMES`, `MOVES`; `approval`: a person's answer, or that none came."""

    kind: str
    model: str
    recorded_at: datetime
    request: Mapping[str, Any]
    """`RunRequest.to_dict()` or `RollbackRequest.to_dict()`; of a move outside Perennial, run_id `outside__<time>`."""
    evidence_sha256: str
    """Digest of what the entry rests on: the decision, the validation result, the snapshot, the answer."""
    summary: str
    """One sentence for people."""
    champion_before: str | None
    champion_after: str | None
    """The same as before unless `kind` is one of `MOVES`."""
    verdict: str | None = None
    """A `Verdict`'s value; None unless `kind` is `decision` (or `promotion`: what was carried out)."""
    reasons: Sequence[str] = ()
    fingerprint: str | None = None
    """The training's; a later run with the same one has nothing new to judge."""
    policy: str | None = None
    """Digest of how it was judged (`policy_digest`); a changed policy is something new to judge by."""
    page_uri: str | None = None
    """The page to read first: the decision's, or the refused data's."""
    references: Mapping[str, Any] = field(default_factory=dict)
    """References (`Reference.to_dict()`) of the stages that ran, by their kind. A `rollout` has its own (`RolloutRef`,
    with an empty `ledger_uri`), which tells phase and version."""
    actor: str | None = None
    """Who approved, declined, rolled back or broke the glass; None if nobody did."""
    approved: bool | None = None
    """Of an `approval`: the answer. Of a `rollout`: whether the challenger passed."""
    break_glass: bool = False
    """Whether the gate's verdict, or an approval, was overridden."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Of a `rollback` or `rollout`: digest of each model that must not be promoted again, and a sentence why."""
    digest: str | None = None
    """Of a move: digest of the model that is champion afterwards."""
    sequence: int = 0
    """Position in the model's ledger, from 1; 0 until it is appended."""
    previous_sha256: str | None = None
    """sha256 of the bytes of the entry before; None for the first one."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"ledger entry kind {self.kind!r} is not one of {', '.join(KINDS)}")

    @property
    def run_id(self) -> str:
        """The run that wrote this entry."""
        return str(self.request["run_id"])

    @property
    def as_of(self) -> datetime:
        """The time at which the run stood."""
        return parse_time(str(self.request["as_of"]))

    @property
    def moved(self) -> bool:
        """Whether the champion changed."""
        return self.kind in MOVES and self.champion_before != self.champion_after

    @property
    def phase(self) -> str:
        """Of a `rollout`: `shadow` or `canary`."""
        return str(self.references.get(ROLLOUT, {}).get("phase", ROLLOUT))

    @property
    def taken_back(self) -> str | None:
        """Of an entry that quarantines: the version that it is about."""
        return self.references.get(ROLLOUT, {}).get("version") if self.kind == ROLLOUT else self.champion_before

    @property
    def entry_id(self) -> str:
        """The same for a retried run with the same evidence, so that a retry cannot record twice."""
        return digest_of([self.model, self.run_id, self.kind, self.evidence_sha256])[:16]

    @property
    def key(self) -> str:
        """Name of the entry's object: sorts by sequence, and tells kind and training without opening it."""
        return f"{self.sequence:08d}-{self.kind}{training_mark(self.fingerprint)}-{self.entry_id}.json"

    def restates(self, recorded: LedgerEntry) -> bool:
        """Whether a retry may take `recorded`, which has the same `entry_id`, for its own.

        When it was recorded and where does not count; nor, of an outcome, what other runs did between the two tries.
        """
        allowed = _POSITION | _MAY_DIFFER.get(self.kind, frozenset())
        mine, theirs = (
            {name: value for name, value in entry.to_dict().items() if name not in allowed}
            for entry in (self, recorded)
        )
        return canonical_json(mine) == canonical_json(theirs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "recorded_at": format_time(self.recorded_at), "entry_id": self.entry_id}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; unknown fields of later versions are left out."""
        known = {name: values[name] for name in (f.name for f in fields(cls)) if name in values}
        reasons = tuple(values.get("reasons", ()))
        return cls(**{**known, "recorded_at": parse_time(str(values["recorded_at"])), "reasons": reasons})


def quarantined(entries: Iterable[LedgerEntry]) -> dict[str, str]:
    """Models that were taken back and must not be promoted: why, by digest.

    What is in quarantine can become champion only on purpose (by a rollback to it, broken glass, or by hand); that
    releases it.

    Args:
        entries: every change of the champion and every end of a rollout, in the order of the ledger; others say
            nothing here.
    """
    held: dict[str, str] = {}
    for entry in entries:
        held.update(entry.quarantined)
        if entry.kind in MOVES and entry.digest is not None:
            held.pop(entry.digest, None)
    return held
