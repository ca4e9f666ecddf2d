"""Ends of rollouts, for the tests of what is told of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from perennial.domain.canary import Reading, judge
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import DecisionRef, ModelRef, RolloutRef
from perennial.domain.rollout import RolloutRecord, Step, Trial
from perennial.domain.rules.outcome import RuleOutcome
from perennial.spec.deployment import Guardrails
from perennial.spec.model import ModelSpec
from tests.unit.core.judging import SPEC

BEGAN = datetime(2026, 1, 2, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ROOT = "s3://bucket/store"
GUARDRAILS = {"error_rate": {"max": 0.01}, "performance_loss": {"max": 0.02, "min_samples": 100}}
DEPLOYMENT = {
    "kind": "scoring_service",
    "shadow": {"every": "10m"},
    "canary": {"every": "10m", "guardrails": GUARDRAILS},
}
WELL = {
    "error_rate": Reading(value=0.002, samples=1204),
    "latency_p95_ratio": Reading(value=1.31, samples=1204),
    "prediction_distance": Reading(value=0.0412, samples=1204),
    "performance_loss": Reading(value=-0.0061, samples=610),
}


def spec_of(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate({**SPEC, "deployment": DEPLOYMENT, **changes})


def findings(**other: Reading | None) -> tuple[RuleOutcome, ...]:
    """Of a look at which all is well, but for what is given otherwise."""
    readings = {name: reading for name, reading in {**WELL, **other}.items() if reading is not None}
    return tuple(judge(Guardrails.model_validate(GUARDRAILS), readings))


def a_model(name: str) -> ModelRef:
    return ModelRef(
        model_uri=f"models:/m-{name}",
        run_id=f"run-{name}",
        digest=name * 64,
        fingerprint="f" * 64,
        snapshot_sha256="5" * 64,
        training_start=datetime(2013, 1, 1, tzinfo=UTC),
        training_end=datetime(2013, 2, 28, tzinfo=UTC),
        keys_sha256="k" * 64,
    )


def a_trial(**changes: Any) -> Trial:
    model = SPEC["name"]
    folder = f"{ROOT}/decisions/{model}/abc"
    decision = DecisionRef(
        uri=f"{folder}/decision.json",
        sha256="d" * 64,
        page_uri=f"{folder}/123/page.html",
        verdict="PROMOTE",
        champion_version="3",
        summary="Challenger's roc_auc is 0.012 above the champion's.",
        ledger_uri=f"{ROOT}/ledger/{model}/7.json",
    )
    given: dict[str, Any] = {
        "rollout_id": "0123456789abcdef",
        "model": model,
        "phase": "canary",
        "request": {
            "model": model,
            "run_id": "manual__2026-01-02",
            "as_of": "2026-01-02T03:00:00Z",
            "trigger": "manual",
            "requested_by": "ada",
        },
        "decision": decision,
        "champion": "3",
        "champion_model": a_model("3"),
        "challenger": "4",
        "challenger_model": a_model("4"),
        "asked_at": BEGAN,
    }
    return Trial(**{**given, **changes})


def walked(*shares: float, last: tuple[RuleOutcome, ...] | None = None) -> tuple[Step, ...]:
    """Steps of ten minutes, the first 40 s after the beginning; `last`: findings of the last one."""
    steps = []
    for number, share in enumerate(shares):
        began = BEGAN + timedelta(seconds=40) + 10 * number * MINUTE
        steps.append(Step(share=share, began_at=began, ended_at=began + 10 * MINUTE, findings=findings()))
    return (*steps[:-1], replace(steps[-1], findings=findings() if last is None else last))


def passed(**changes: Any) -> RolloutRecord:
    given: dict[str, Any] = {
        "trial": a_trial(),
        "ended_at": BEGAN + 41 * MINUTE,
        "champion_at_end": "3",
        "passed": True,
        "at_fault": False,
        "reason": "Every guardrail held at every step.",
        "steps": walked(5, 25, 50, 100),
    }
    return RolloutRecord(**{**given, **changes})


def taken_back(**changes: Any) -> RolloutRecord:
    """By the error rate, at 25 %, in the second minute of the step."""
    last = findings(error_rate=Reading(value=0.1167, samples=60))
    reason = next(finding.sentence for finding in last if finding.verdict == "FAIL")
    steps = walked(5, 25, last=last)
    ended = steps[-1].began_at + 2 * MINUTE
    steps = (steps[0], replace(steps[1], ended_at=ended))
    given = {"ended_at": ended, "passed": False, "at_fault": True, "reason": reason, "steps": steps}
    return passed(**{**given, **changes})


def stopped(**changes: Any) -> RolloutRecord:
    """By a person, before anything was read."""
    steps = (Step(share=5.0, began_at=BEGAN + MINUTE, ended_at=BEGAN + 2 * MINUTE, restarts=1),)
    given = {"ended_at": BEGAN + 2 * MINUTE, "reason": "grace took it back: too many complaints.", "steps": steps}
    return taken_back(**{**given, "stopped_by": "grace", **changes})


def entry_of_end(record: RolloutRecord) -> LedgerEntry:
    """As the ledger gets it."""
    trial = record.trial
    folder = f"{ROOT}/rollouts/{trial.model}/{trial.rollout_id}"
    reference = RolloutRef(
        phase=trial.phase,
        uri=f"{folder}/rollout.json",
        sha256="0" * 64,
        page_uri=f"{folder}/page.html",
        ledger_uri="",
        passed=record.passed,
        version=trial.challenger,
        summary=record.summary,
    )
    return record.entry(recorded_at=record.ended_at, reference=reference)
