"""decide: the verdict, kept with its evidence; a retry changes nothing; a changed evaluation decides nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import sha256_of
from perennial.domain.references import DecisionRef, EvaluationRef
from perennial.errors import IntegrityError, NotFoundError
from perennial.stages.decide import decide_promotion
from perennial.stages.evaluate import evaluate_models
from tests.unit.core.judging import ROOT, Bench, Column, Constant, NotFinite, holdout_rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _evaluated(bench: Bench, challenger: Any, champion: Any = None, rows_a_day: int = 60) -> EvaluationRef:
    if champion is not None:
        bench.enthrone(bench.train(champion, name="old"))
    return evaluate_models(
        bench.spec,
        bench.request,
        bench.snapshot(holdout_rows(rows_a_day)),
        bench.train(challenger, name="new"),
        store=bench.store,
        root=ROOT,
        registry=bench.registry,
    )


def _decide(bench: Bench, evaluation: EvaluationRef, run_url: str | None = None) -> DecisionRef:
    return decide_promotion(bench.spec, bench.request, evaluation, store=bench.store, root=ROOT, run_url=run_url)


def test_better_challenger_is_promoted_and_the_evidence_kept(bench: Bench) -> None:
    evaluation = _evaluated(bench, Column("good"), Column("poor"))
    decision = _decide(bench, evaluation)
    stored = bench.store.read(decision.uri)
    content = json.loads(stored)
    assert (decision.verdict, decision.champion_version) == ("PROMOTE", "1")
    assert decision.sha256 == sha256_of(stored)
    assert decision.summary == content["reasons"][0]
    assert decision.summary.startswith("Challenger's roc_auc is 0.9")
    assert content["evaluation"] == evaluation.to_dict()
    assert content["challenger"]["fingerprint"] == "new"
    assert content["champion"]["fingerprint"] == "old"
    assert content["request"]["requested_by"] == "ada"
    assert [rule["name"] for rule in content["rules"]] == ["rows", "clusters", "scores", "floor", "superiority"]
    assert bench.store.read(decision.page_uri).startswith(b"<!doctype html>")


def test_worse_challenger_is_a_recorded_rejection_not_an_error(bench: Bench) -> None:
    decision = _decide(bench, _evaluated(bench, Column("poor"), Column("good")))
    assert decision.verdict == "REJECT"
    assert "not more than the 0.002 asked for" in decision.summary


def test_first_challenger_that_reaches_the_floors_is_promoted(bench: Bench) -> None:
    decision = _decide(bench, _evaluated(bench, Column("good")))
    assert (decision.verdict, decision.champion_version) == ("PROMOTE", None)


def test_first_challenger_without_floors_is_inconclusive(bench: Bench) -> None:
    bench.respec(gate={"floors": {}})
    assert _decide(bench, _evaluated(bench, Column("good"))).verdict == "INCONCLUSIVE"


def test_too_few_rows_are_inconclusive(bench: Bench) -> None:
    decision = _decide(bench, _evaluated(bench, Column("good"), Column("poor"), rows_a_day=20))
    assert decision.verdict == "INCONCLUSIVE"
    assert "280 rows; 220 more are needed" in decision.summary


@pytest.mark.parametrize("broken", [NotFinite("good"), Constant("good")])
def test_broken_challenger_is_never_promoted(bench: Bench, broken: Any) -> None:
    bench.respec(gate={"rule": {"kind": "non_inferiority", "margin": 0.5}, "floors": {}})
    assert _decide(bench, _evaluated(bench, broken, Column("poor"))).verdict == "REJECT"


def test_champion_with_a_score_that_is_not_finite_leaves_the_decision_open(bench: Bench) -> None:
    decision = _decide(bench, _evaluated(bench, Column("good"), NotFinite("poor")))
    assert decision.verdict == "INCONCLUSIVE"
    assert "could not be computed for the champion" in decision.summary


def test_retry_gives_the_same_reference_and_leaves_the_page(bench: Bench) -> None:
    evaluation = _evaluated(bench, Column("good"), Column("poor"))
    first = _decide(bench, evaluation, run_url="https://mlflow/runs/1")
    page = bench.store.read(first.page_uri)
    assert _decide(bench, evaluation, run_url="https://moved/runs/1") == first
    assert bench.store.read(first.page_uri) == page


def test_another_run_on_the_same_evaluation_has_a_decision_of_its_own(bench: Bench) -> None:
    evaluation = _evaluated(bench, Column("good"), Column("poor"))
    first = _decide(bench, evaluation)
    bench.request = replace(bench.request, run_id="manual__2")
    second = _decide(bench, evaluation)
    assert second.uri != first.uri
    assert second.verdict == first.verdict


def test_changed_evaluation_is_an_integrity_error_and_decides_nothing(bench: Bench) -> None:
    evaluation = _evaluated(bench, Column("good"), Column("poor"))
    content = bench.store.read(evaluation.uri).replace(b'"rows":840', b'"rows":841', 1)
    bench.store.write(evaluation.uri, content, content_type="application/json")
    with pytest.raises(IntegrityError, match="changed after it was made"):
        _decide(bench, evaluation)
    assert list(bench.store.list(f"{ROOT}/decisions/")) == []


def test_evaluation_that_is_gone_is_not_found(bench: Bench) -> None:
    evaluation = replace(_evaluated(bench, Column("good")), uri=f"{ROOT}/gone.json")
    with pytest.raises(NotFoundError):
        _decide(bench, evaluation)


def test_reference_fits_into_xcom_with_room(bench: Bench) -> None:
    decision = _decide(bench, _evaluated(bench, Column("good"), Column("poor")))
    assert len(json.dumps(decision.to_dict())) < 1500
