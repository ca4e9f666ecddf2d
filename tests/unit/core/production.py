"""One model's production on fakes: models that need no training, decisions that need no gate, and the real door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perennial.champion_door import QUARANTINE_TAG, ChampionDoor, anchors
from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.ledger_entry import MOVES, LedgerEntry
from perennial.domain.references import (
    ApprovalRef,
    DecisionRef,
    ModelRef,
    PromotionRef,
    RollbackRef,
    RolloutRef,
    SmokeTestRef,
)
from perennial.domain.run_request import RollbackRequest, RunRequest
from perennial.ledger import Ledger, Recorded
from perennial.ports import FittedTraining
from perennial.spec.model import ModelSpec
from perennial.stages.approve import record_answer
from perennial.stages.promote import carry_out
from perennial.stages.rollback import roll_back
from perennial.testing.clock import FixedClock
from perennial.testing.deployer import MemoryDeployer
from perennial.testing.registry import MemoryRegistry
from perennial.testing.store import FolderStore
from tests.unit.core.test_spec_loader import VALID

NOW = datetime(2013, 4, 1, 2, tzinfo=UTC)
ROOT = "s3://bucket/store"
MODEL = "churn"


class Constant:
    """A classifier that says the same of everybody; what it says may be no prediction at all."""

    def __init__(self, says: Sequence[Any] = (0.5, 0.5)) -> None:
        self.classes_ = [0, 1]
        self.says = says

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        return np.asarray([self.says] * len(frame))

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.predict_proba(frame)[:, 1]


class Broken(Constant):
    """Fails when it is asked."""

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        raise ZeroDivisionError("a user's mistake")


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate({**VALID, **changes})


@dataclass
class Production:
    """What a promotion and a rollback touch. `store` and `registry` may be replaced by faulty ones."""

    folder: Path
    spec: ModelSpec = field(default_factory=spec)
    registry: Any = field(default_factory=MemoryRegistry)
    store: Any = None
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    deployer: Any = field(default_factory=MemoryDeployer)

    def __post_init__(self) -> None:
        (self.folder / "bucket").mkdir(parents=True, exist_ok=True)
        self.store = self.store or FolderStore(self.folder)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, ROOT, self.clock)

    @property
    def door(self) -> ChampionDoor:
        return ChampionDoor(store=self.store, root=ROOT, registry=self.registry, ledger=self.ledger, clock=self.clock)

    @property
    def champion(self) -> str | None:
        version: str | None = self.registry.champion_version(MODEL)
        return version

    def trained(self, name: str, estimator: Any = None) -> ModelRef:
        """A model on record in MLflow, not registered yet."""
        example = pd.DataFrame({"age": [1.0, 2.0]})
        training = FittedTraining(
            model=MODEL,
            task=self.spec.task,
            estimator=estimator or Constant(),
            params={},
            metrics={},
            tags={},
            input_example=example,
            output_example=None,
            dataset_uri=f"{ROOT}/d",
            dataset_sha256="d" * 64,
            dataset_rows=2,
            fingerprint=sha256_of(name.encode()),
            keys_sha256="k" * 64,
            training_start=datetime(2013, 1, 1, tzinfo=UTC),
            training_end=datetime(2013, 3, 1, tzinfo=UTC),
            trusted_types=(),
            run_name=name,
        )
        reference: ModelRef = self.registry.log_training(training)
        return reference

    def request(self, run_id: str, **changes: Any) -> RunRequest:
        return RunRequest(model=MODEL, run_id=run_id, as_of=self.clock.now(), trigger="manual", **changes)

    def decided(
        self, model: ModelRef, request: RunRequest, *, verdict: str = "PROMOTE", judged: str | None = None
    ) -> DecisionRef:
        """A decision as the decide stage leaves it: stored, and on record. `judged` is the champion's version."""
        glass = bool(request.break_glass)
        facts: Mapping[str, Any] = {
            "verdict": verdict,
            "reasons": ["because"],
            "challenger": model.to_dict(),
            "champion_version": judged,
            "run_id": request.run_id,
        }
        content = canonical_json(facts)
        uri = f"{ROOT}/decisions/{MODEL}/{sha256_of(content)[:32]}/decision.json"
        self.store.write(uri, content, content_type="application/json")
        entry = LedgerEntry(
            kind="decision",
            model=MODEL,
            recorded_at=self.clock.now(),
            request=request.to_dict(),
            evidence_sha256=sha256_of(content),
            summary="Said in one sentence.",
            champion_before=judged,
            champion_after=judged,
            verdict=verdict,
            fingerprint=model.fingerprint,
            policy="p",
            break_glass=glass,
            actor=request.requested_by if glass else None,
        )
        return DecisionRef(
            uri=uri,
            sha256=sha256_of(content),
            page_uri=f"{uri}.html",
            verdict=verdict,
            champion_version=judged,
            summary=entry.summary,
            ledger_uri=self.ledger.append(entry).uri,
            break_glass=glass,
        )

    def answered(
        self, request: RunRequest, decision: DecisionRef, *, approved: bool = True, by: str | None = "ada"
    ) -> ApprovalRef:
        return record_answer(
            self.spec,
            request,
            decision,
            approved=approved,
            by=by,
            at=NOW,
            registry=self.registry,
            ledger=self.ledger,
            clock=self.clock,
        )

    def carry_out(
        self,
        request: RunRequest,
        model: ModelRef,
        decision: DecisionRef,
        approval: ApprovalRef | None = None,
        smoke: SmokeTestRef | None = None,
        rollouts: Sequence[RolloutRef] = (),
    ) -> PromotionRef:
        return carry_out(
            self.spec,
            request,
            model=model,
            decision=decision,
            approval=approval,
            smoke=smoke,
            rollouts=rollouts,
            references={"model": model, "decision": decision},
            policy="p",
            door=self.door,
            deployer=self.deployer,
            model_card=lambda: "# Card",
            decision_url="https://airflow/decision",
        )

    def promoted(self, name: str) -> ModelRef:
        """A whole promotion: the challenger is judged against whoever is champion now, and replaces it."""
        request, model = self.request(f"run-{name}"), self.trained(name)
        self.carry_out(request, model, self.decided(model, request, judged=self.champion))
        self.pass_time(timedelta(days=1))
        return model

    def roll_back(self, run_id: str = "back", to: str | None = None, **changes: Any) -> RollbackRef:
        request = self.rollback_request(run_id, to, **changes)
        return roll_back(self.spec, request, door=self.door, deployer=self.deployer)

    def rollback_request(self, run_id: str = "back", to: str | None = None, **changes: Any) -> RollbackRequest:
        given = {"requested_by": "grace", "reason": "it is late", **changes}
        return RollbackRequest(model=MODEL, run_id=run_id, as_of=self.clock.now(), trigger="manual", to=to, **given)

    def moved_by_hand(self, version: str | None) -> None:
        """What a person does in MLflow's UI."""
        if version is None:
            self.registry._aliases.pop((MODEL, "champion"), None)
        else:
            self.registry.point_alias(MODEL, "champion", version)

    def deleted_by_hand(self, version: str) -> None:
        """As MLflow does it: aliases go with the version."""
        del self.registry._versions[MODEL][version]
        if self.champion == version:
            self.moved_by_hand(None)

    def pass_time(self, by: timedelta) -> None:
        self.clock = FixedClock(self.clock.now() + by)

    def move_of(self, before: str | None, after: str | None) -> LedgerEntry:
        """An entry that no stage has made."""
        return LedgerEntry(
            kind="promotion",
            model=MODEL,
            recorded_at=self.clock.now(),
            request=self.request("interrupted").to_dict(),
            evidence_sha256="e" * 64,
            summary="A move.",
            champion_before=before,
            champion_after=after,
            verdict="PROMOTE",
        )

    def intend(self, entry: LedgerEntry) -> None:
        """What a move that was interrupted leaves."""
        uri = f"{ROOT}/ledger-intents/{MODEL}.json"
        self.store.write(uri, canonical_json(entry.to_dict()), content_type="application/json")

    def move(self, entry: LedgerEntry) -> Recorded:
        with self.ledger.lock(MODEL, owner="test") as lease:
            return self.door.move(entry, lease)

    def moves(self) -> list[tuple[str, str | None, str | None]]:
        return [
            (entry.kind, entry.champion_before, entry.champion_after)
            for entry in self.ledger.entries(MODEL)
            if entry.kind in MOVES
        ]

    def settle(self) -> str | None:
        return self.door.settle(MODEL, owner="look")

    def assert_in_step(self) -> None:
        """The ledger is sound, its moves are one chain, and it ends where the alias is. Nothing is half done.

        The versions' tags say what is in quarantine.
        """
        verification = self.ledger.verify(MODEL, anchors(self.registry, MODEL))
        assert verification.sound, verification.damages
        moves = self.moves()
        chain = [None, *(after for _, _, after in moves)]
        assert [before for _, before, _ in moves] == chain[:-1]
        assert chain[-1] == self.champion
        assert self.store.head(f"{ROOT}/ledger-intents/{MODEL}.json") is None
        there = {tags.get("perennial.digest"): tags for tags in self.registry.version_tags(MODEL).values()}
        held = self.ledger.quarantine(MODEL)
        tagged = {digest: tags[QUARANTINE_TAG] for digest, tags in there.items() if QUARANTINE_TAG in tags}
        assert tagged == {digest: why for digest, why in held.items() if digest in there}
