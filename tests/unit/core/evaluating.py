"""How the tests of evaluate call it."""

from __future__ import annotations

import pandas as pd

from perennial.domain.references import EvaluationRef, ModelRef
from perennial.stages.evaluate import evaluate_models
from tests.unit.core.judging import ROOT, Bench, holdout_rows


def evaluate(bench: Bench, challenger: ModelRef, frame: pd.DataFrame | None = None) -> EvaluationRef:
    snapshot = bench.snapshot(holdout_rows() if frame is None else frame)
    return evaluate_models(
        bench.spec, bench.request, snapshot, challenger, store=bench.store, root=ROOT, registry=bench.registry
    )
