"""A production with live traffic: a champion, a challenger that is to be tried out, and what both log."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import (
    ApprovalRef,
    DecisionRef,
    ModelRef,
    PromotionRef,
    RolloutRef,
    SmokeTestRef,
)
from perennial.domain.rollout import RolloutState, rollout_id
from perennial.domain.run_request import RunRequest
from perennial.domain.traffic import Role
from perennial.ports import ObjectStore
from perennial.prediction_objects import predictions_path
from perennial.spec.model import ModelSpec
from perennial.stages.rollout import Look, look, stop
from perennial.stages.rollout_objects import RolloutObjects
from tests.unit.core.production import MODEL, ROOT, Production, spec

MINUTE = timedelta(minutes=1)
RAILS: dict[str, Any] = {
    name: {"min_samples": 4} for name in ("error_rate", "latency_p95_ratio", "prediction_distance")
}
CANARY: dict[str, Any] = {"steps": [50, 100], "every": "10m", "max_extend": "20m", "guardrails": RAILS}
SHADOW: dict[str, Any] = {"every": "10m", "max_extend": "20m", "guardrails": RAILS}


def spec_with(**rollouts: Any) -> ModelSpec:
    """None given: a canary."""
    return spec(deployment={"kind": "scoring_service", **(rollouts or {"canary": CANARY})})


def log_requests(
    store: ObjectStore,
    model: str,
    version: str,
    now: datetime,
    name: str,
    requests: int,
    *,
    failed: int = 0,
    role: Role = Role.CHAMPION,
) -> None:
    """One file of the prediction log, of what was asked right before now."""
    rows = [
        {
            "request_id": f"{name}-{number}",
            "row": 0,
            "at": now - timedelta(microseconds=number + 1),
            "model_version": version,
            "role": str(role),
            "latency_ms": 5.0,
            "error": "model: it raised" if number < failed else None,
            "prediction": None if number < failed else [0.6, 0.4],
        }
        for number in range(requests)
    ]
    if rows:
        sink = io.BytesIO()
        pd.DataFrame(rows).astype({"error": "string"}).to_parquet(sink, index=False)
        uri = f"{ROOT}/{predictions_path(model, now, version)}{name}.parquet"
        store.write(uri, sink.getvalue(), content_type="application/octet-stream")


@dataclass
class Case:
    """A PROMOTE that is to be carried out."""

    request: RunRequest
    model: ModelRef
    decision: DecisionRef


@dataclass
class Live(Production):
    """The champion is version 1; `case` makes a challenger, which becomes version 2."""

    spec: ModelSpec = field(default_factory=spec_with)
    logs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ledger.entries(MODEL):
            self.promoted("first")
            self.deployer.changes.clear()

    def tested(self, model: ModelRef, *, passed: bool = True) -> SmokeTestRef:
        """What a smoke test leaves."""
        content = canonical_json({"digest": model.digest, "passed": passed})
        uri = f"{ROOT}/smoke/{sha256_of(content)[:16]}.json"
        self.store.write(uri, content, content_type="application/json")
        return SmokeTestRef(uri=uri, sha256=sha256_of(content), digest=model.digest, passed=passed, rows=100)

    def carry_out(
        self,
        request: RunRequest,
        model: ModelRef,
        decision: DecisionRef,
        approval: ApprovalRef | None = None,
        smoke: SmokeTestRef | None = None,
        rollouts: Sequence[RolloutRef] = (),
    ) -> PromotionRef:
        """With a smoke test that was passed, unless another one is given."""
        return super().carry_out(request, model, decision, approval, smoke or self.tested(model), rollouts)

    def case(self, run_id: str = "the-run", **changes: Any) -> Case:
        """A challenger with a PROMOTE over whoever is champion now."""
        request, model = self.request(run_id, **changes), self.trained(run_id)
        return Case(request, model, self.decided(model, request, judged=self.champion))

    def look(self, case: Case, phase: str = "canary") -> Look:
        return look(
            self.spec,
            case.request,
            phase=phase,
            decision=case.decision,
            model=case.model,
            deployer=self.deployer,
            door=self.door,
        )

    def stop(self, run_id: str = "stop", **changes: Any) -> RolloutRef:
        request = self.rollback_request(run_id, **changes)
        return stop(self.spec, request, door=self.door, deployer=self.deployer)

    def promote(self, case: Case, *rollouts: RolloutRef) -> PromotionRef:
        return self.carry_out(case.request, case.model, case.decision, rollouts=rollouts)

    def traffic(self, requests: int = 8, *, failed: int = 0, challenger: str = "2") -> None:
        """Now: to each of the two; of the challenger's, so many fail."""
        self.log("1", requests)
        self.log(challenger, requests, failed=failed, role=Role.CANARY)

    def log(self, version: str, requests: int, *, failed: int = 0, role: Role = Role.CHAMPION) -> None:
        self.logs += 1
        name = f"replica-{self.logs}"
        log_requests(self.store, MODEL, version, self.clock.now(), name, requests, failed=failed, role=role)

    def walk(self, case: Case, phase: str = "canary", **traffic: Any) -> RolloutRef:
        """To its end, with traffic and a look each five minutes."""
        for _ in range(40):
            seen = self.look(case, phase)
            if seen.ended is not None:
                return seen.ended
            self.pass_time(5 * MINUTE)
            self.traffic(**traffic)
        raise AssertionError("it does not end")

    def under_way(self, case: Case, minutes: float = 6, phase: str = "canary") -> Look:
        """In the middle of the first step."""
        self.look(case, phase)
        self.look(case, phase)
        self.pass_time(minutes * MINUTE)
        self.traffic()
        return self.look(case, phase)

    def state(self, case: Case, phase: str = "canary") -> RolloutState:
        name = rollout_id(case.request.run_id, case.decision, case.model, phase)
        found = RolloutObjects(store=self.store, root=ROOT, model=MODEL).state(name)
        assert found is not None
        return found

    def ends(self, run_id: str = "the-run") -> list[LedgerEntry]:
        """What the ledger says of the run's rollouts."""
        return [entry for entry in self.ledger.entries(MODEL) if (entry.kind, entry.run_id) == ("rollout", run_id)]

    @property
    def share(self) -> float:
        """Of the challenger, in force now."""
        share: float = self.deployer.status(MODEL).share
        return share
