"""What the ledger and the newest decision tell the gate of the past."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from perennial.domain.fingerprint import sha256_of
from perennial.domain.gate_history import GateHistory, LostEvidence, Reign
from perennial.domain.ledger_entry import MOVES, ROLLOUT, LedgerEntry
from perennial.domain.run_request import RunRequest
from perennial.domain.sequential import EvidenceState, after_loss
from perennial.domain.times import format_time, parse_time
from perennial.errors import NotFoundError
from perennial.ledger import Anchor, Ledger
from perennial.ports import ObjectStore
from perennial.spec.model import ModelSpec


def gate_history(
    spec: ModelSpec, request: RunRequest, *, store: ObjectStore, ledger: Ledger, anchors: Sequence[Anchor] = ()
) -> GateHistory:
    """The past of the model, as of the request. Entries of the run itself are left out: it may be a retry.

    Every entry is read and compared with its hash: one that is left out here must not go unnoticed.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    moves = ledger.moves(spec.name, except_run=request.run_id)
    decisions = ledger.newest(spec.name, "decision", except_run=request.run_id)
    evidence, lost = _evidence(store, ledger, decisions[-1], request) if decisions else (None, None)
    if lost is not None and _too_old(spec, request, lost):
        evidence, lost = after_loss(lost.as_of), None
    return GateHistory(
        as_of=request.as_of,
        reigns=tuple(reigns(moves)),
        quarantined=ledger.quarantine(spec.name, except_run=request.run_id),
        evidence=evidence,
        lost=lost,
        damage=_damage(spec.name, ledger, anchors),
        is_overridden=bool(request.break_glass),
    )


def newest_fact(ledger: Ledger, request: RunRequest) -> str:
    """Key of the newest entry that a decision of this run rests on: another run's decision, rollout or move, or ""."""
    found = ledger.newest(request.model, "decision", ROLLOUT, *MOVES, except_run=request.run_id)
    return found[-1].key if found else ""


def reigns(moves: Sequence[LedgerEntry]) -> list[Reign]:
    """Who was champion since when, oldest first."""
    return [
        Reign(version=move.champion_after, since=move.as_of, how=move.kind, sequence=move.sequence)
        for move in moves
        if move.moved
    ]


def history_facts(history: GateHistory) -> dict[str, Any]:
    """JSON-ready: what of the past the decision rests on, for `decision.json`."""
    lost = history.lost
    return {
        "reigns": [
            {"version": reign.version, "since": format_time(reign.since), "how": reign.how} for reign in history.reigns
        ],
        "quarantined": dict(history.quarantined),
        "lost_evidence": None
        if lost is None
        else {"uri": lost.uri, "sha256": lost.sha256, "as_of": format_time(lost.as_of)},
        "damage": list(history.damage),
    }


def _damage(model: str, ledger: Ledger, anchors: Sequence[Anchor]) -> tuple[str, ...]:
    damages = ledger.verify(model, anchors).damages
    if not damages:
        return ()
    more = f", and {len(damages) - 1:,} more" if len(damages) > 1 else ""
    return (
        f"The ledger of {model} is damaged ({damages[0].detail.rstrip('.')}{more}), so a version that was taken back "
        f"may be missing from it. `perennial history {model} --verify` tells what is wrong, and the way out.",
    )


def _evidence(
    store: ObjectStore, ledger: Ledger, newest: LedgerEntry, request: RunRequest
) -> tuple[EvidenceState | None, LostEvidence | None]:
    """The evidence as the newest decision has it; or, if that one could not read it, as the decision it looked for has.

    So an object that is brought back is found again, and one that is gone never gives a fresh budget.
    """
    reference: Mapping[str, Any] = newest.references.get("decision") or {}
    uri, sha256, as_of = str(reference.get("uri", "")), str(reference.get("sha256", "")), None
    while True:
        try:
            said = _read(store, uri, sha256)
            if said.get("evidence") is not None:
                return EvidenceState.from_dict(said["evidence"]), None
            pointer = said.get("history", {}).get("lost_evidence")
            if pointer is None:
                return None, None
            earlier = str(pointer["uri"]), str(pointer["sha256"]), parse_time(str(pointer["as_of"]))
        except (NotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            where = uri or "the newest decision"
            problem = f"The evidence of earlier nights cannot be read from {where} ({type(error).__name__}: {error})."
            as_of = as_of or _latest(ledger, request)
            return None, LostEvidence(uri=uri, sha256=sha256, as_of=as_of, problem=problem)
        uri, sha256, as_of = earlier


def _latest(ledger: Ledger, request: RunRequest) -> datetime:
    """The latest `as_of` of all decisions: the newest one may be a replay of the past."""
    decisions = ledger.newest(request.model, "decision", count=sys.maxsize, except_run=request.run_id)
    return max(entry.as_of for entry in decisions)


def _read(store: ObjectStore, uri: str, sha256: str) -> dict[str, Any]:
    if not uri:
        raise ValueError("the ledger's entry does not name it")
    content = store.read(uri)
    if sha256_of(content) != sha256:
        raise ValueError(f"its sha256 is {sha256_of(content)}, the ledger says {sha256}")
    said = json.loads(content)
    if not isinstance(said, dict):
        raise ValueError("it is no decision")
    return said


def _too_old(spec: ModelSpec, request: RunRequest, lost: LostEvidence) -> bool:
    """Once the period is over since all the runs that may have left evidence there, none of it counts any more."""
    policy = spec.gate.false_promotions
    return policy is not None and request.as_of >= lost.as_of + timedelta(days=policy.period_days)
