"""evaluate: the same inputs give the same reference; what cannot be measured is None, with a note or a defect."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.references import EvaluationRef
from perennial.errors import IntegrityError, NoDataError, TerminalError
from perennial.stages.evaluate import evaluate_models
from tests.unit.core.evaluating import evaluate
from tests.unit.core.judging import (
    ROOT,
    Bench,
    Classes,
    Column,
    Constant,
    NotFinite,
    Predicting,
    Raising,
    holdout_rows,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _result(bench: Bench, reference: EvaluationRef) -> EvaluationResult:
    content = bench.store.read(reference.uri)
    assert sha256_of(content) == reference.sha256
    return EvaluationResult.from_dict(json.loads(content))


def test_both_models_are_measured_on_the_same_rows(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    reference = evaluate(bench, bench.train(Column("good"), name="new"))
    result = _result(bench, reference)
    rows = holdout_rows()
    found = result.comparisons["roc_auc"]
    assert found.challenger.value == pytest.approx(roc_auc_score(rows["late"], rows["good"]))
    assert found.champion is not None
    assert found.champion.value == pytest.approx(roc_auc_score(rows["late"], rows["poor"]))
    assert found.difference is not None
    assert found.difference.low is not None
    assert found.difference.low > 0.1
    assert (result.rows, result.clusters, result.champion_version) == (840, 14, "1")
    assert result.confidence == pytest.approx(0.9)
    assert (reference.rows, reference.champion_version) == (840, "1")
    assert reference.holdout_sha256 == result.holdout_sha256
    assert set(result.comparisons) == {"roc_auc", "log_loss", "brier"}
    assert (result.defects, result.notes) == ((), ())


def test_no_champion_is_a_case_of_its_own(bench: Bench) -> None:
    result = _result(bench, evaluate(bench, bench.train(Column("good"), name="new")))
    assert (result.champion_version, result.champion) == (None, None)
    assert result.comparisons["roc_auc"].difference is None
    assert result.comparisons["roc_auc"].challenger.low is not None


def test_running_again_gives_the_same_reference_and_the_same_bytes(bench: Bench, tmp_path: Path) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    challenger = bench.train(Column("good"), name="new")
    first = evaluate(bench, challenger)
    assert evaluate(bench, challenger) == first
    elsewhere = Bench(tmp_path / "elsewhere")
    elsewhere.enthrone(elsewhere.train(Column("poor"), name="old"))
    again = evaluate(elsewhere, elsewhere.train(Column("good"), name="new"))
    assert elsewhere.store.read(again.uri) == bench.store.read(first.uri)
    assert elsewhere.store.read(again.scores_uri) == bench.store.read(first.scores_uri)


def test_evaluation_survives_its_json(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    reference = evaluate(bench, bench.train(NotFinite("good"), name="new"))
    result = _result(bench, reference)
    assert canonical_json(asdict(result)) == bench.store.read(reference.uri)


@pytest.mark.parametrize("change", [{"gate": {"min_rows": 501}}, {"training": {"seed": 8}}])
def test_another_policy_or_seed_is_another_evaluation(bench: Bench, change: dict[str, Any]) -> None:
    challenger = bench.train(Column("good"), name="new")
    first = evaluate(bench, challenger)
    bench.respec(**change)
    assert evaluate(bench, challenger).uri != first.uri


def test_scores_of_each_row_are_kept(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    reference = evaluate(bench, bench.train(Column("good"), name="new"))
    scores = pd.read_parquet(io.BytesIO(bench.store.read(reference.scores_uri)))
    rows = holdout_rows()
    assert list(scores) == ["id", "at", "day", "origin", "late", "challenger_score", "champion_score"]
    assert np.allclose(scores["challenger_score"], rows["good"])
    assert np.allclose(scores["champion_score"], rows["poor"])


def test_slices_hold_the_primary_metric_of_both(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    rows = holdout_rows()
    rows.loc[rows.index[:3], "origin"] = None
    result = _result(bench, evaluate(bench, bench.train(Column("good"), name="new"), rows))
    by_value = {part.value: part for part in result.slices}
    assert set(by_value) == {"EWR", "JFK", "(missing)"}
    here = rows[rows["origin"] == "JFK"]
    assert by_value["JFK"].rows == len(here)
    assert by_value["JFK"].challenger == pytest.approx(roc_auc_score(here["late"], here["good"]))
    assert by_value["JFK"].champion == pytest.approx(roc_auc_score(here["late"], here["poor"]))


def test_empty_holdout_is_no_data(bench: Bench) -> None:
    rows = holdout_rows()
    rows["at"] -= timedelta(days=300)
    with pytest.raises(NoDataError, match="holdout window"):
        evaluate(bench, bench.train(Column("good"), name="new"), rows)


@pytest.mark.parametrize("who", ["old", "new"])
def test_changed_model_files_are_an_integrity_error(bench: Bench, who: str) -> None:
    models = {name: bench.train(Column("good"), name=name) for name in ("old", "new")}
    bench.enthrone(models["old"])
    bench.registry.corrupt(models[who].model_uri)
    with pytest.raises(IntegrityError):
        evaluate(bench, models["new"])


def test_changed_manifest_is_an_integrity_error(bench: Bench) -> None:
    snapshot = replace(bench.snapshot(holdout_rows()), sha256="0" * 64)
    with pytest.raises(IntegrityError):
        evaluate_models(
            bench.spec,
            bench.request,
            snapshot,
            bench.train(Column("good"), name="new"),
            store=bench.store,
            root=ROOT,
            registry=bench.registry,
        )


def test_champion_is_scored_on_the_columns_it_was_trained_on(bench: Bench) -> None:
    rows = holdout_rows()
    rows["retired"] = rows["poor"]
    bench.enthrone(bench.train(Column("retired", features=("retired",)), name="old"))
    result = _result(bench, evaluate(bench, bench.train(Column("good"), name="new"), rows))
    found = result.comparisons["roc_auc"].champion
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(rows["late"], rows["poor"]))


def test_champion_with_the_classes_in_the_other_order_is_scored_right(bench: Bench) -> None:
    rows = holdout_rows()
    rows["flipped"] = 1 - rows["poor"]
    bench.enthrone(bench.train(Column("flipped", classes=(1, 0), features=("flipped",)), name="old"))
    found = _result(bench, evaluate(bench, bench.train(Column("good"), name="new"), rows)).comparisons["roc_auc"]
    assert found.champion is not None
    assert found.champion.value == pytest.approx(roc_auc_score(rows["late"], rows["poor"]))


def test_challenger_that_cannot_score_is_terminal(bench: Bench) -> None:
    with pytest.raises(TerminalError, match="challenger cannot score"):
        evaluate(bench, bench.train(Raising("good"), name="new"))


def test_challenger_score_that_is_not_finite_is_a_defect_without_metrics(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    result = _result(bench, evaluate(bench, bench.train(NotFinite("good"), name="new")))
    assert result.defects == ("The challenger gives a score that is not a finite number in 1 of 840 rows.",)
    assert all(found.challenger.value is None for found in result.comparisons.values())
    assert all(found.difference is not None and found.difference.low is None for found in result.comparisons.values())


def test_champion_with_one_score_for_all_rows_is_judged_and_noted(bench: Bench) -> None:
    bench.enthrone(bench.train(Constant("poor"), name="old"))
    result = _result(bench, evaluate(bench, bench.train(Column("good"), name="new")))
    assert result.defects == ()
    assert result.notes == ("The champion gives all 840 rows the same score: it tells nothing apart.",)
    assert result.comparisons["roc_auc"].difference is not None
    assert result.comparisons["roc_auc"].difference.value is not None


def _ends(result: EvaluationResult) -> list[float | None]:
    gap = result.comparisons["roc_auc"].difference
    assert gap is not None
    return [gap.low, gap.high]


def test_setting_of_the_gate_does_not_draw_the_intervals_anew(bench: Bench) -> None:
    """Otherwise whoever dislikes a verdict tries the next seed."""
    bench.enthrone(bench.train(Column("poor"), name="old"))
    challenger = bench.train(Column("good"), name="new")
    first = _result(bench, evaluate(bench, challenger))
    bench.respec(gate={"min_rows": 501, "floors": {"roc_auc": 0.6}}, training={"seed": 8})
    assert _ends(_result(bench, evaluate(bench, challenger))) == _ends(first)


def test_other_rows_draw_the_intervals_anew(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    challenger, rows = bench.train(Column("good"), name="new"), holdout_rows()
    first = _result(bench, evaluate(bench, challenger, rows))
    rows["id"] += 1_000_000
    assert _ends(_result(bench, evaluate(bench, challenger, rows))) != _ends(first)


def test_challenger_with_one_score_for_all_rows_is_a_defect(bench: Bench) -> None:
    result = _result(bench, evaluate(bench, bench.train(Constant("good"), name="new")))
    assert "same score" in result.defects[0]
    assert result.comparisons["roc_auc"].challenger.value == 0.5


@pytest.mark.parametrize(("label", "why"), [(None, "late is missing in 2 of 840"), (7, "none of the model's classes")])
def test_label_that_cannot_be_used_leaves_no_metric_and_a_note(bench: Bench, label: int | None, why: str) -> None:
    rows = holdout_rows()
    rows["late"] = rows["late"].astype("Int64")
    rows.loc[[3, 4], "late"] = label
    result = _result(bench, evaluate(bench, bench.train(Column("good"), name="new"), rows))
    assert result.comparisons["roc_auc"].challenger.value is None
    assert why in result.notes[0]


@pytest.mark.parametrize("kind", ["bool", "float64", "Int64", "boolean"])
def test_labels_of_another_type_than_in_training_are_the_same_classes(bench: Bench, kind: str) -> None:
    rows = holdout_rows()
    expected = roc_auc_score(rows["late"], rows["good"])
    rows["late"] = rows["late"].astype(kind)
    result = _result(bench, evaluate(bench, bench.train(Column("good"), name="new"), rows))
    assert result.comparisons["roc_auc"].challenger.value == pytest.approx(expected)


def test_challenger_that_is_the_champion_is_noted(bench: Bench) -> None:
    model = bench.train(Column("good"), name="new")
    bench.enthrone(model)
    result = _result(bench, evaluate(bench, model))
    assert result.notes == ("The challenger is champion version 1 itself: the same bytes.",)
    gap = result.comparisons["roc_auc"].difference
    assert gap is not None
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_regression_is_measured_in_the_labels_unit(bench: Bench) -> None:
    bench.respec(
        task="regression",
        evaluation={"primary": "mae", "metrics": ["rmse", "r2"], "slices": []},
        gate={"floors": {}},
    )
    bench.enthrone(bench.train(Predicting("poor"), name="old"))
    rows = holdout_rows()
    result = _result(bench, evaluate(bench, bench.train(Predicting("good"), name="new"), rows))
    assert result.comparisons["mae"].challenger.value == pytest.approx((rows["late"] - rows["good"]).abs().mean())
    gap = result.comparisons["mae"].difference
    assert gap is not None
    assert gap.high is not None
    assert gap.high < 0


def test_multiclass_models_with_other_classes_are_compared_on_all_of_them(bench: Bench) -> None:
    bench.respec(
        task="multiclass_classification",
        evaluation={"primary": "log_loss", "metrics": ["accuracy"], "slices": []},
        gate={"floors": {}},
    )
    rows = holdout_rows()
    names = np.array(["a", "b", "c"])
    rows["late"] = names[(rows["good"] * 3).astype(int)]
    bench.enthrone(bench.train(Classes(("a", "b"), 0.5), name="old"))
    reference = evaluate(bench, bench.train(Classes(("a", "b", "c"), 0.9), name="new"), rows)
    result = _result(bench, reference)
    assert result.comparisons["accuracy"].challenger.value == 1.0
    found = result.comparisons["log_loss"]
    assert found.champion is not None
    assert found.champion.value is not None
    assert found.challenger.value == pytest.approx(-np.log(0.9 + 0.1 / 3))
    assert found.champion.value > 1
    scores = pd.read_parquet(io.BytesIO(bench.store.read(reference.scores_uri)))
    assert [name for name in scores if name.startswith("ch")] == [
        *(f"challenger_score_{name}" for name in names),
        *(f"champion_score_{name}" for name in names),
    ]
    assert (scores["champion_score_c"] == 0).all()
