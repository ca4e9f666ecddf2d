"""A bench whose evaluations can be decided on, for the tests of decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import DecisionRef, EvaluationRef, ModelRef, SnapshotRef
from perennial.ledger import Ledger
from perennial.stages.decide import decide_promotion
from perennial.stages.evaluate import evaluate_models
from perennial.testing.clock import FixedClock
from tests.unit.core.judging import HOLDOUT, ROOT, Bench, holdout_rows


@dataclass
class Judging(Bench):
    """A bench whose evaluations can be decided on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.clock = FixedClock(HOLDOUT.end + timedelta(minutes=5))
        self.ledger = Ledger(self.store, ROOT, self.clock)
        self.judged: tuple[SnapshotRef, ModelRef] | None = None

    def evaluate(self, challenger: Any, champion: Any = None, rows_a_day: int = 60) -> EvaluationRef:
        if champion is not None:
            self.enthrone(self.train(champion, name="old"))
        self.judged = self.snapshot(holdout_rows(rows_a_day)), self.train(challenger, name="new")
        snapshot, model = self.judged
        return evaluate_models(
            self.spec, self.request, snapshot, model, store=self.store, root=ROOT, registry=self.registry
        )

    def decide(self, evaluation: EvaluationRef, run_url: str | None = None, **changes: Any) -> DecisionRef:
        assert self.judged is not None
        snapshot, model = self.judged
        ports: dict[str, Any] = {"store": self.store, "model": model, "run_url": run_url, **changes}
        return decide_promotion(
            self.spec,
            self.request,
            evaluation,
            snapshot=snapshot,
            root=ROOT,
            ledger=self.ledger,
            clock=self.clock,
            policy="p",
            **ports,
        )

    def entries(self) -> list[LedgerEntry]:
        return self.ledger.entries(self.spec.name)

    def content(self, decision: DecisionRef) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.store.read(decision.uri))
        return found
