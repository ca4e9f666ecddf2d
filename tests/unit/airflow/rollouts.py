"""What tests of shadow and canary share: references, a platform that tells what it was asked, and looks by script."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perennial import cycle
from perennial.domain.references import DecisionRef, EvaluationRef, ModelRef, RolloutRef, SnapshotRef
from perennial.domain.rollout import rollout_id
from perennial.domain.run_request import RunRequest
from perennial.ports import DeploymentStatus, RegisteredVersion
from perennial.stages.rollout import Look

AT = datetime(2026, 1, 1, tzinfo=UTC)
SHA = "0123456789abcdef" * 4
REQUEST = RunRequest(model="toy", run_id="manual__1", as_of=AT, trigger="manual", params={"depth": 3})
FOLDER = "s3://perennial/store/prod/rollouts/flights_delay/0123456789abcdef"
LEDGER = "s3://perennial/store/prod/ledger/flights_delay"


def make_model(digest: str = "d-challenger") -> ModelRef:
    return ModelRef(
        model_uri="models:/m-1",
        run_id="run-1",
        digest=digest,
        fingerprint=SHA,
        snapshot_sha256=SHA,
        training_start=AT,
        training_end=AT,
        keys_sha256=SHA,
    )


def make_snapshot() -> SnapshotRef:
    return SnapshotRef(
        uri="s3://bucket/store/snapshots/toy/1.json",
        sha256=SHA,
        data_sha256=SHA,
        rows=100,
        files=1,
        watermark=AT,
        pending_files=0,
        refused_files=0,
    )


def make_evaluation() -> EvaluationRef:
    return EvaluationRef(
        uri="s3://bucket/store/evaluations/toy/1.json",
        sha256=SHA,
        scores_uri="s3://bucket/store/evaluations/toy/1.parquet",
        holdout_sha256=SHA,
        rows=100,
        champion_version="1",
    )


def make_decision(**changes: Any) -> DecisionRef:
    given = {
        "uri": "s3://bucket/store/decisions/toy/1/decision.json",
        "sha256": SHA,
        "page_uri": "s3://bucket/store/decisions/toy/1/page.html",
        "verdict": "PROMOTE",
        "champion_version": "1",
        "summary": "The challenger is better.",
        "ledger_uri": f"{LEDGER}/1.json",
    }
    return DecisionRef(**{**given, **changes})


def make_rollout(*, passed: bool = True, **changes: Any) -> RolloutRef:
    given = {
        "phase": "canary",
        "uri": f"{FOLDER}/rollout.json",
        "sha256": SHA,
        "page_uri": f"{FOLDER}/page.html",
        "ledger_uri": f"{LEDGER}/00000012-rollout-0123456789abcdef-0123456789abcdef.json",
        "version": "7",
        "summary": "It passed." if passed else "It was taken back.",
    }
    return RolloutRef(passed=passed, **{**given, **changes})


MINE = rollout_id(REQUEST.run_id, make_decision(), make_model(), "canary")


def going_on(said: str = "Step 1 of 4.") -> Look:
    return Look(ended=None, wait=timedelta(0), said=said)


def over(*, passed: bool = True, **changes: Any) -> Look:
    return Look(ended=make_rollout(passed=passed, **changes), wait=timedelta(0), said="It is over.")


@dataclass
class Script:
    """Looks, one after the other; the last one is repeated. Stands for `cycle.roll_out`."""

    looks: Sequence[Look | BaseException]
    calls: list[dict[str, Any]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __call__(self, runtime: Any, spec: Any, request: Any, **how: Any) -> Look:
        self.calls.append({"runtime": runtime, "spec": spec.name, "request": request, **how})
        self.threads.add(threading.get_ident())
        look = self.looks[min(len(self.calls), len(self.looks)) - 1]
        if isinstance(look, BaseException):
            raise look
        return look


def play(monkeypatch: pytest.MonkeyPatch, *looks: Look | BaseException) -> Script:
    """Let the core give these looks, one after the other."""
    script = Script(looks)
    monkeypatch.setattr(cycle, "roll_out", script)
    return script


@dataclass
class Platform:
    """Where a model serves: knows whose split is in force, and keeps what it was asked."""

    split: str | None = MINE
    fails: Exception | None = None
    rolled_back_to: list[str] = field(default_factory=list)

    def status(self, model: str) -> DeploymentStatus:
        if self.fails is not None:
            raise self.fails
        return DeploymentStatus(champion="1", rollout_id=self.split)

    def roll_back(self, champion: RegisteredVersion) -> None:
        self.rolled_back_to.append(champion.version)
        self.split = None
