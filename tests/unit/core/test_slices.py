"""Slices, fairness, units and independent rows, as evaluate measures them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, roc_auc_score

from perennial.domain.bootstrap import paired_bootstrap
from perennial.domain.evaluation import EvaluationResult, SliceResult
from perennial.domain.fingerprint import canonical_json
from perennial.domain.references import EvaluationRef
from perennial.stages import slices
from perennial.stages.evaluate import evaluate_models
from perennial.stages.slices import coded
from tests.unit.core.judging import ROOT, SPEC, Bench, Column, Predicting, holdout_rows

RULES = {"margin": 0.02, "min_rows": 50, "required": {"origin": ["EWR", "LGA"]}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.enthrone(bench.train(Column("poor"), name="old"))
    return bench


def _gate(**parts: Any) -> dict[str, Any]:
    return {**SPEC["gate"], **parts}


def _result(bench: Bench, rows: pd.DataFrame | None = None, estimator: Any = None) -> EvaluationResult:
    challenger = bench.train(estimator or Column("good"), name="new")
    snapshot = bench.snapshot(holdout_rows() if rows is None else rows)
    reference: EvaluationRef = evaluate_models(
        bench.spec, bench.request, snapshot, challenger, store=bench.store, root=ROOT, registry=bench.registry
    )
    return EvaluationResult.from_dict(json.loads(bench.store.read(reference.uri)))


def _by_value(result: EvaluationResult) -> dict[str, SliceResult]:
    return {part.value: part for part in result.slices}


def test_slice_has_a_difference_with_an_interval_from_its_own_clusters(bench: Bench) -> None:
    rows = holdout_rows()
    result = _result(bench, rows)
    here = rows[rows["origin"] == "EWR"]
    codes = np.unique(here["day"], return_inverse=True)[1]
    arrays = (here["late"].to_numpy(float), here["good"].to_numpy(), here["poor"].to_numpy())
    expected = paired_bootstrap(["roc_auc"], *arrays, codes, replicates=20_000, seed=1)["roc_auc"].comparison("", 0.9)
    found = _by_value(result)["EWR"].difference
    assert found is not None
    assert expected.difference is not None
    assert found.value == pytest.approx(
        roc_auc_score(here["late"], here["good"]) - roc_auc_score(here["late"], here["poor"])
    )
    assert found.low == pytest.approx(expected.difference.low, abs=0.03)
    assert found.high == pytest.approx(expected.difference.high, abs=0.03)
    assert (_by_value(result)["EWR"].p_safe, _by_value(result)["EWR"].p_harm) == (None, None)


def test_better_slice_is_shown_to_be_safe_and_a_worse_one_to_be_harmed(bench: Bench) -> None:
    bench.respec(gate=_gate(slices=RULES))
    rows = holdout_rows()
    ewr = rows["origin"] == "EWR"
    rows.loc[ewr, ["good", "poor"]] = rows.loc[ewr, ["poor", "good"]].to_numpy()
    found = _by_value(_result(bench, rows))
    better, worse = found["JFK"], found["EWR"]
    assert better.p_safe is not None
    assert better.p_harm is not None
    assert worse.p_safe is not None
    assert worse.p_harm is not None
    assert better.p_safe < 0.01 < 0.5 < better.p_harm
    assert worse.p_harm < 0.01 < 0.5 < worse.p_safe


def test_lower_is_better_turns_the_p_values_round(bench: Bench) -> None:
    bench.respec(
        task="regression",
        evaluation={"primary": "mae", "metrics": [], "slices": ["origin"]},
        gate=_gate(floors={}, slices=RULES),
    )
    bench.enthrone(bench.train(Predicting("poor"), name="old-regressor"))
    better = _by_value(_result(bench, estimator=Predicting("good")))["JFK"]
    assert better.difference is not None
    assert better.difference.high is not None
    assert better.difference.high < 0
    assert better.p_safe is not None
    assert better.p_harm is not None
    assert better.p_safe < 0.01 < 0.5 < better.p_harm


def test_required_value_that_does_not_occur_has_no_rows(bench: Bench) -> None:
    bench.respec(gate=_gate(slices=RULES))
    result = _result(bench)
    assert result.slices[-1] == SliceResult(column="origin", value="LGA", rows=0, challenger=None, champion=None)
    assert [part.value for part in result.slices].count("EWR") == 1


def test_missing_value_may_be_required(bench: Bench) -> None:
    bench.respec(gate=_gate(slices={**RULES, "required": {"origin": ["(missing)"]}}))
    rows = holdout_rows()
    assert _by_value(_result(bench, rows))["(missing)"].rows == 0
    rows.loc[:2, "origin"] = None
    assert _by_value(_result(bench, rows))["(missing)"].rows == 3


def test_slice_of_one_class_has_no_values(bench: Bench) -> None:
    bench.respec(gate=_gate(slices=RULES))
    rows = holdout_rows()
    rows.loc[(rows["origin"] == "EWR") & (rows["late"] == 1), "origin"] = "JFK"
    found = _by_value(_result(bench, rows))["EWR"]
    assert (found.challenger, found.champion, found.p_safe, found.p_harm) == (None, None, None, None)
    assert found.difference is not None
    assert (found.difference.value, found.difference.low, found.difference.high) == (None, None, None)


def test_small_slice_has_values_and_no_interval(bench: Bench) -> None:
    bench.respec(gate=_gate(slices={**RULES, "min_rows": 500}))
    found = _by_value(_result(bench))
    assert found["JFK"].difference is not None
    assert found["JFK"].difference.value is not None
    assert (found["JFK"].difference.low, found["JFK"].p_safe) == (None, None)
    assert found["EWR"].p_safe is not None, "required, so judged whatever its size"


def test_more_values_than_can_be_judged_forbid_a_promotion(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "MAX_SLICE_VALUES", 1)
    bench.respec(gate=_gate(slices={**RULES, "required": {}}))
    result = _result(bench)
    assert len(result.slices) == 1
    assert result.defects == (
        "origin has 2 values with at least 50 rows, more than the 1 that can be judged: raise gate.slices.min_rows.",
    )
    assert result.notes == ("Of 2 values of origin, the 1 with the most rows are shown.",)


def test_required_value_is_shown_beyond_the_largest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "MAX_SLICE_VALUES", 1)
    rows = holdout_rows()
    rows["origin"] = np.where(np.arange(len(rows)) < 60, "EWR", "JFK")
    bench.respec(gate=_gate(slices=RULES))
    result = _result(bench, rows)
    assert [part.value for part in result.slices] == ["JFK", "EWR", "LGA"]
    assert result.defects == ()


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["b", "a", None, "b"], ("(missing)", "a", "b")),
        ([7.0, 7.0, np.nan, 3.0], ("(missing)", "3", "7")),
        ([7, 7, 3, 3], ("3", "7")),
        ([1.5, 2.0, 2.0, 1.5], ("1.5", "2.0")),
        ([True, False, True, True], ("False", "True")),
        (pd.Categorical(["x", "y", "x", None], categories=["y", "x", "z"]), ("(missing)", "x", "y")),
        (pd.Series([1, "1", 2, "2"], dtype=object), ("1", "2")),
        (
            pd.to_datetime(["2013-03-02", "2013-03-01"] * 2, utc=True),
            ("2013-03-01 00:00:00+00:00", "2013-03-02 00:00:00+00:00"),
        ),
    ],
)
def test_values_are_compared_as_text(values: Any, texts: tuple[str, ...]) -> None:
    found = coded(pd.Series(values))
    assert found.texts == texts
    assert sorted(set(found.codes.tolist())) == list(range(len(texts)))
    rows = found.rows_by_text()
    assert sorted(np.concatenate(list(rows.values())).tolist()) == [0, 1, 2, 3]
    assert all((found.codes[where] == found.texts.index(text)).all() for text, where in rows.items())


def test_fairness_gap_is_measured_between_the_named_groups(bench: Bench) -> None:
    rule = {"column": "origin", "groups": ["JFK", "EWR"], "metric": "brier", "max_increase": 0.01}
    bench.respec(gate=_gate(fairness=[rule]))
    rows = holdout_rows()
    [found] = _result(bench, rows).fairness
    parts = {name: rows[rows["origin"] == name] for name in ("JFK", "EWR")}
    mine = {name: brier_score_loss(part["late"], part["good"]) for name, part in parts.items()}
    theirs = {name: brier_score_loss(part["late"], part["poor"]) for name, part in parts.items()}
    assert [group.group for group in found.groups] == ["JFK", "EWR"]
    assert [group.rows for group in found.groups] == [len(part) for part in parts.values()]
    assert {group.group: group.challenger for group in found.groups} == pytest.approx(mine)
    assert {group.group: group.champion for group in found.groups} == pytest.approx(theirs)
    assert found.increase is not None
    assert found.increase.value == pytest.approx(abs(mine["JFK"] - mine["EWR"]) - abs(theirs["JFK"] - theirs["EWR"]))
    assert found.increase.low is not None
    assert found.increase.low < found.increase.value


def test_fairness_group_without_rows_has_no_gap(bench: Bench) -> None:
    bench.respec(gate=_gate(fairness=[{"column": "origin", "groups": ["JFK", "LGA"], "max_gap": 0.1}]))
    [found] = _result(bench).fairness
    assert (found.groups[1].rows, found.groups[1].challenger) == (0, None)
    assert found.groups[0].challenger is not None
    assert found.metric == "roc_auc"
    for gap in (found.challenger_gap, found.champion_gap, found.increase):
        assert gap is not None
        assert (gap.value, gap.low, gap.high) == (None, None, None)


def test_unit_is_the_cluster_and_their_mean_is_about_the_difference(bench: Bench) -> None:
    rows = holdout_rows()
    result = _result(bench, rows)
    assert result.units is not None
    labels, values = zip(*result.units, strict=True)
    assert labels == tuple(sorted(rows["day"].unique()))
    gap = result.comparisons["roc_auc"].difference
    assert gap is not None
    assert np.mean(values) == pytest.approx(gap.value, abs=0.01)


@pytest.mark.parametrize("cluster", [None, "id"])
def test_unit_is_the_utc_day_where_clusters_are_none_or_many(bench: Bench, cluster: str | None) -> None:
    bench.respec(gate=_gate(cluster_by=cluster))
    rows = holdout_rows()
    rows["at"] = pd.to_datetime(rows["at"], utc=True).dt.tz_convert("America/New_York")
    units = _result(bench, rows).units
    assert units is not None
    assert [label for label, _ in units] == sorted(rows["day"].unique())


def test_units_are_none_where_one_is_undefined(bench: Bench) -> None:
    rows = holdout_rows()
    rows.loc[rows["day"] != "2013-03-05", "late"] = 0
    assert _result(bench, rows).units is None


def test_independent_rows_are_their_own_clusters(bench: Bench) -> None:
    bench.respec(gate=_gate(cluster_by=None), evaluation={**SPEC["evaluation"], "metrics": ["brier"]})
    rows = holdout_rows()
    result = _result(bench, rows)
    assert (result.rows, result.clusters) == (840, 840)
    mine, theirs = ((rows["late"] - rows[name]) ** 2 for name in ("good", "poor"))
    expected = stats.ttest_rel(mine, theirs).confidence_interval(0.9)
    gap = result.comparisons["brier"].difference
    assert gap is not None
    assert (gap.low, gap.high) == pytest.approx(tuple(expected))
    assert all(part.difference is not None and part.difference.low is not None for part in result.slices)


def test_curves_are_of_both_models(bench: Bench) -> None:
    rows = holdout_rows()
    curves = _result(bench, rows).curves
    assert set(curves) == {"challenger", "champion"}
    assert sum(size for _, _, size in curves["champion"].calibration) == 840
    assert curves["challenger"].roc[0] == (0.0, 0.0)
    assert curves["challenger"] != curves["champion"]


def test_regression_has_no_curves(bench: Bench) -> None:
    bench.respec(task="regression", evaluation={"primary": "mae", "metrics": [], "slices": []}, gate=_gate(floors={}))
    bench.enthrone(bench.train(Predicting("poor"), name="old-regressor"))
    assert _result(bench, estimator=Predicting("good")).curves == {}


def test_result_with_every_part_survives_its_json_and_a_retry(bench: Bench) -> None:
    """The latencies are measured once: a retry refers to them and does not measure again."""
    rule = {"column": "origin", "groups": ["JFK", "EWR"], "max_gap": 0.1}
    cost = {"max_size_mib": 10, "max_latency_p95_ms": 1000}
    bench.respec(gate=_gate(slices=RULES, fairness=[rule], cost=cost))
    challenger, snapshot = bench.train(Column("good"), name="new"), bench.snapshot(holdout_rows())
    first, again = (
        evaluate_models(
            bench.spec, bench.request, snapshot, challenger, store=bench.store, root=ROOT, registry=bench.registry
        )
        for _ in range(2)
    )
    assert first == again
    content = bench.store.read(first.uri)
    result = EvaluationResult.from_dict(json.loads(content))
    assert canonical_json(asdict(result)) == content
    assert set(result.costs) == {"challenger", "champion"}
    assert all(cost.latency_p95_ms is not None and cost.size_bytes is not None for cost in result.costs.values())
    assert result.units is not None
    assert len(result.fairness) == 1
