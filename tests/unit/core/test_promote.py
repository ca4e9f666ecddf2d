"""promote: one door, fenced, and a crash between any two effects ends in the one right state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.references import DecisionRef, EvaluationRef, ModelRef, PromotionRef, SnapshotRef
from perennial.domain.run_request import RunRequest
from perennial.errors import FenceError, IntegrityError
from perennial.ledger import Ledger
from perennial.spec.model import ModelSpec
from perennial.stages.promote import carry_out
from perennial.testing.clock import FixedClock
from perennial.testing.registry import MemoryRegistry
from perennial.testing.store import FolderStore
from tests.unit.core.test_spec_loader import VALID

NOW = datetime(2013, 4, 1, 2, tzinfo=UTC)
ROOT = "s3://bucket/store"
SPEC = ModelSpec.model_validate(VALID)
REQUEST = RunRequest(model="churn", run_id="run-1", as_of=NOW, trigger="manual")
SNAPSHOT = SnapshotRef(
    uri=f"{ROOT}/snapshots/churn/s.json",
    sha256="s" * 64,
    data_sha256="d" * 64,
    rows=10,
    files=1,
    watermark=NOW,
    pending_files=0,
    refused_files=0,
)
EVALUATION = EvaluationRef(
    uri=f"{ROOT}/e.json", sha256="e", scores_uri=f"{ROOT}/s", holdout_sha256="h", rows=10, champion_version=None
)


def _model(name: str) -> ModelRef:
    return ModelRef(
        model_uri=f"models:/m-{name}",
        run_id=f"run-{name}",
        digest=name,
        fingerprint=f"fingerprint-{name}",
        snapshot_sha256="s" * 64,
        training_start=datetime(2013, 1, 1, tzinfo=UTC),
        training_end=datetime(2013, 3, 1, tzinfo=UTC),
    )


class CrashError(RuntimeError):
    """The process dies here."""


class CrashingRegistry(MemoryRegistry):
    """Dies right before or right after one of its effects."""

    def __init__(self, crash_at: str) -> None:
        super().__init__()
        self.crash_at = crash_at

    def register(self, model: str, trained: ModelRef, tags: Mapping[str, str]) -> str:
        self._die("before register")
        version = super().register(model, trained, tags)
        self._die("after register")
        return version

    def point_alias(self, model: str, alias: str, version: str) -> None:
        self._die("before alias")
        super().point_alias(model, alias, version)
        self._die("after alias")

    def _die(self, where: str) -> None:
        if self.crash_at == where:
            self.crash_at = ""
            raise CrashError(where)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    (tmp_path / "bucket").mkdir()
    return FolderStore(tmp_path)


def _decision(store: FolderStore, verdict: str, model: ModelRef, champion: str | None = None) -> DecisionRef:
    content = canonical_json({"verdict": verdict, "reasons": ["because"], "challenger": model.to_dict()})
    uri = f"{ROOT}/decisions/{sha256_of(content)}.json"
    store.write(uri, content, content_type="application/json")
    return DecisionRef(
        uri=uri,
        sha256=sha256_of(content),
        page_uri=f"{uri}.html",
        verdict=verdict,
        champion_version=champion,
        summary="Said in one sentence.",
    )


def _carry_out(store: FolderStore, registry: MemoryRegistry, decision: DecisionRef, **changes: Any) -> PromotionRef:
    arguments: dict[str, Any] = {
        "snapshot": SNAPSHOT,
        "model": _model("a"),
        "evaluation": EVALUATION,
        "decision": decision,
        "store": store,
        "registry": registry,
        "ledger": Ledger(store, ROOT),
        "clock": FixedClock(NOW),
        "policy": "p",
    }
    return carry_out(SPEC, REQUEST, **{**arguments, **changes})


def test_first_promotion_registers_moves_the_alias_and_records(store: FolderStore) -> None:
    registry = MemoryRegistry()
    result = _carry_out(store, registry, _decision(store, "PROMOTE", _model("a")))
    assert (result.promoted, result.champion_before, result.champion_after) == (True, None, "1")
    (entry,) = Ledger(store, ROOT).entries("churn")
    assert (entry.verdict, entry.promoted, entry.champion_after) == ("PROMOTE", True, "1")
    assert entry.reasons == ("because",)
    assert set(entry.references) == {"snapshot", "model", "evaluation", "decision"}


@pytest.mark.parametrize("verdict", ["REJECT", "INCONCLUSIVE"])
def test_other_verdicts_register_nothing_and_are_recorded(store: FolderStore, verdict: str) -> None:
    registry = MemoryRegistry()
    result = _carry_out(store, registry, _decision(store, verdict, _model("a")))
    assert (result.promoted, result.champion_after) == (False, None)
    assert registry.versions("churn") == []
    assert [entry.verdict for entry in Ledger(store, ROOT).entries("churn")] == [verdict]


@pytest.mark.parametrize("crash_at", ["before register", "after register", "before alias", "after alias"])
def test_crash_between_two_effects_is_completed_by_the_retry(store: FolderStore, crash_at: str) -> None:
    registry = CrashingRegistry(crash_at)
    decision = _decision(store, "PROMOTE", _model("a"))
    with pytest.raises(CrashError):
        _carry_out(store, registry, decision)
    assert Ledger(store, ROOT).entries("churn") == []
    result = _carry_out(store, registry, decision)
    again = _carry_out(store, registry, decision)
    assert result == again
    assert result.champion_after == "1"
    assert len(registry.versions("churn")) == 1
    assert len(Ledger(store, ROOT).entries("churn")) == 1


def test_champion_moved_since_the_decision_stops_the_promotion(store: FolderStore) -> None:
    registry = MemoryRegistry()
    registry.point_alias("churn", "champion", registry.register("churn", _model("other"), {}))
    with pytest.raises(FenceError, match="judged champion version None, but the alias now names version 1"):
        _carry_out(store, registry, _decision(store, "PROMOTE", _model("a")))
    champion = registry.champion("churn")
    assert champion is not None
    assert champion.model.digest == "other"
    assert Ledger(store, ROOT).entries("churn") == []


def test_changed_decision_file_is_refused(store: FolderStore) -> None:
    decision = _decision(store, "REJECT", _model("a"))
    store.write(decision.uri, b'{"verdict": "PROMOTE"}\n', content_type="application/json")
    registry = MemoryRegistry()
    with pytest.raises(IntegrityError, match="was changed after the decision"):
        _carry_out(store, registry, decision)
    assert registry.champion("churn") is None


def test_reference_that_claims_another_verdict_or_model_is_refused(store: FolderStore) -> None:
    rejected = _decision(store, "REJECT", _model("a"))
    registry = MemoryRegistry()
    with pytest.raises(IntegrityError, match="nothing was moved"):
        _carry_out(store, registry, replace(rejected, verdict="PROMOTE"))
    with pytest.raises(IntegrityError, match="nothing was moved"):
        _carry_out(store, registry, _decision(store, "PROMOTE", _model("a")), model=_model("b"))
    assert registry.champion("churn") is None


def test_rejection_records_the_champion_of_that_moment(store: FolderStore) -> None:
    registry = MemoryRegistry()
    registry.point_alias("churn", "champion", registry.register("churn", _model("judged"), {}))
    decision = _decision(store, "REJECT", _model("a"), champion="1")
    registry.point_alias("churn", "champion", registry.register("churn", _model("moved meanwhile"), {}))
    _carry_out(store, registry, decision)
    (entry,) = Ledger(store, ROOT).entries("churn")
    assert (entry.champion_before, entry.champion_after) == ("2", "2")


def test_half_written_entry_is_written_again_by_the_retry(store: FolderStore) -> None:
    registry = MemoryRegistry()
    decision = _decision(store, "PROMOTE", _model("a"))
    uri = _carry_out(store, registry, decision).ledger_uri
    store.write(uri, store.read(uri)[:40], content_type="application/json")
    _carry_out(store, registry, decision)
    assert [entry.promoted for entry in Ledger(store, ROOT).entries("churn")] == [True]
