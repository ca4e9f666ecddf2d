"""promote: the one door to production. Carries a decision out and records what came of it.

Order of effects: register, move the alias, record. A crash between any two is completed by the retry: registering is
idempotent on the digest, an alias that already names the challenger counts as moved, and the ledger's key is the same.
"""

from __future__ import annotations

import json
import logging
from typing import Final

from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import DecisionRef, EvaluationRef, ModelRef, PromotionRef, SnapshotRef, Verdict
from perennial.domain.run_request import RunRequest
from perennial.errors import FenceError, IntegrityError, LedgerConflictError
from perennial.ledger import Ledger
from perennial.ports import Clock, ModelRegistry, ObjectStore
from perennial.spec.model import ModelSpec

_log = logging.getLogger(__name__)
CHAMPION: Final = "champion"


def carry_out(
    spec: ModelSpec,
    request: RunRequest,
    *,
    snapshot: SnapshotRef,
    model: ModelRef,
    evaluation: EvaluationRef,
    decision: DecisionRef,
    store: ObjectStore,
    registry: ModelRegistry,
    ledger: Ledger,
    clock: Clock,
    policy: str,
) -> PromotionRef:
    """Promote if the verdict says so, and append the outcome to the ledger in any case.

    Raises:
        IntegrityError: the stored decision is not the one that the reference names.
        FenceError: the champion is no longer the one that the decision judged; nothing was moved.
    """
    reasons = _verified_reasons(store, decision, model)
    promoted = decision.verdict == Verdict.PROMOTE
    # If nothing is moved, not the judged one counts: another run, or a person, may have moved the alias since.
    before = decision.champion_version if promoted else registry.champion_version(spec.name)
    after = _move_alias(spec, model, decision, registry) if promoted else before
    entry = LedgerEntry(
        kind="decision",
        model=spec.name,
        recorded_at=clock.now(),
        request=request.to_dict(),
        evidence_sha256=decision.sha256,
        summary=decision.summary,
        champion_before=before,
        champion_after=after,
        verdict=decision.verdict,
        promoted=promoted,
        reasons=reasons,
        fingerprint=model.fingerprint,
        policy=policy,
        page_uri=decision.page_uri,
        references={ref.kind: ref.to_dict() for ref in (snapshot, model, evaluation, decision)},
    )
    uri = _record(entry, ledger)
    _log.info("%s %s promote: %s, champion is version %s", spec.name, request.run_id, decision.verdict, after)
    return PromotionRef(ledger_uri=uri, promoted=promoted, champion_before=before, champion_after=after)


def _record(entry: LedgerEntry, ledger: Ledger) -> str:
    try:
        return ledger.append(entry)
    except LedgerConflictError:
        if entry.promoted:
            raise
        # Only the champion can differ, if another run promoted between two tries: the first try's record stands.
        _log.warning("%s %s promote: this was recorded under another champion", entry.model, entry.run_id)
        return ledger.uri_of(entry)


def _verified_reasons(store: ObjectStore, decision: DecisionRef, model: ModelRef) -> list[str]:
    content = store.read(decision.uri)
    if sha256_of(content) != decision.sha256:
        raise IntegrityError(f"{decision.uri} was changed after the decision; run the cycle again, nothing was moved")
    stored = json.loads(content)
    if stored["verdict"] != decision.verdict or stored["challenger"]["digest"] != model.digest:
        raise IntegrityError(
            f"{decision.uri} says {stored['verdict']} on model {stored['challenger']['digest']}, asked was to carry "
            f"out {decision.verdict} on {model.digest}; nothing was moved"
        )
    return [str(reason) for reason in stored["reasons"]]


def _move_alias(spec: ModelSpec, model: ModelRef, decision: DecisionRef, registry: ModelRegistry) -> str:
    """Fenced: only if the champion is still the judged one, or already the challenger (a retry after a crash)."""
    current = registry.champion_version(spec.name)
    if current is not None and current != decision.champion_version:
        champion = registry.champion(spec.name)
        if champion is not None and champion.model.digest == model.digest:
            return champion.version
    if current != decision.champion_version:
        raise FenceError(
            f"{spec.name}: the decision judged champion version {decision.champion_version}, but the alias now names "
            f"version {current}; somebody moved it. Nothing was changed; start a new run to judge against {current}"
        )
    version = registry.register(spec.name, model, {"perennial.decision_uri": decision.uri})
    registry.point_alias(spec.name, CHAMPION, version)
    found = registry.champion_version(spec.name)
    if found != version:
        raise FenceError(f"{spec.name}: moved the alias to version {version}, but it names {found} right afterwards")
    return version
