"""From raw labels and scores through evaluate's measurements to the verdict: nothing wrong with them promotes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, log_loss, roc_auc_score

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.gate import Decision, decide
from perennial.domain.metric_names import METRICS
from perennial.domain.metrics import RANK_METRICS
from perennial.domain.references import ModelRef, Verdict
from perennial.errors import ChampionUnusableError
from perennial.spec.model import ModelSpec
from perennial.stages.evaluate import measure
from perennial.stages.holdout import Holdout
from perennial.stages.judged_champion import JudgedChampion
from perennial.stages.match import Match
from perennial.stages.scoring import Loaded, score_models
from tests.unit.core.gating import history
from tests.unit.core.judging import DAY, HOLDOUT, SPEC, Column, holdout_rows

RULES: list[dict[str, Any]] = [
    {"kind": "superiority", "min_effect": 0.0},
    {"kind": "superiority", "min_effect": 0.002, "confidence": 0.8},
    {"kind": "non_inferiority", "margin": 0.01},
]
PRIMARIES = ("roc_auc", "average_precision", "log_loss", "brier", "accuracy")
FEATURES = ("good", "poor")


@dataclass(frozen=True)
class Night:
    """Rows with the challenger's scores as `good`, the champion's as `poor`, and what the gate asks."""

    rows: pd.DataFrame
    primary: str
    rule: dict[str, Any]
    champion: bool = True
    unmeasured: bool = False

    def judged(self) -> Decision | None:
        """None: the run stops, because the champion cannot score."""
        spec = self._spec()
        try:
            result = self._measured(spec)
        except ChampionUnusableError:
            return None
        if self.unmeasured:
            others = {name: found for name, found in result.comparisons.items() if name != self.primary}
            result = replace(result, comparisons=others)
        return decide(spec.gate, result, primary=self.primary, history=history(), slice_columns=("origin",))

    @property
    def promoted(self) -> bool:
        decision = self.judged()
        return decision is not None and decision.verdict is Verdict.PROMOTE

    def _spec(self) -> ModelSpec:
        others = [name for name in PRIMARIES if name != self.primary]
        worst = 0.0 if METRICS[self.primary].higher_is_better else 9.0
        policy = {
            "rule": self.rule,
            "floors": {self.primary: worst},
            "min_rows": 100,
            "cluster_by": "day",
            "replicates": 200,
            "slices": {"margin": 0.05, "floor": worst, "min_rows": 60, "required": {"origin": ["JFK"]}},
        }
        evaluation = {"primary": self.primary, "metrics": others, "slices": ["origin"]}
        return ModelSpec.model_validate({**SPEC, "evaluation": evaluation, "gate": policy})

    def _measured(self, spec: ModelSpec) -> EvaluationResult:
        mine, theirs = (Loaded(estimator=Column(name), features=FEATURES, size_bytes=1) for name in FEATURES)
        champion = JudgedChampion(version="1", model=_model("old", 40)) if self.champion else None
        scores = score_models(spec, self.rows, mine, theirs if self.champion else None, "1" if self.champion else None)
        holdout = Holdout(frame=self.rows, interval=HOLDOUT, keys=np.empty(0, dtype=np.uint64), sha256="h")
        match = Match(holdout=holdout, challenger=mine, champion=theirs if self.champion else None)
        return measure(spec, match, scores, _model("new", 1), champion, notes=[])


def _model(name: str, days: int) -> ModelRef:
    end: datetime = HOLDOUT.start - days * DAY
    return ModelRef(
        model_uri=f"models:/{name}",
        run_id=name,
        digest=name,
        fingerprint=name,
        snapshot_sha256="s",
        training_start=end - timedelta(days=30),
        training_end=end,
        keys_sha256="k",
    )


@st.composite
def good_nights(draw: st.DrawFn) -> Night:
    """A challenger that is far better, everywhere."""
    rows = holdout_rows(rows_a_day=draw(st.sampled_from([40, 60])), seed=draw(st.integers(0, 9)))
    rows["late"] = rows["late"].astype("float64")
    return Night(
        rows=rows,
        primary=draw(st.sampled_from(PRIMARIES)),
        rule=draw(st.sampled_from(RULES)),
        champion=draw(st.integers(0, 4)) > 0,
    )


@settings(max_examples=25, deadline=None)
@given(good_nights())
def test_challenger_that_is_far_better_is_promoted(night: Night) -> None:
    """Without this, the tests below could not fail."""
    assert night.promoted


Fault = Callable[[Night, int], Night]


def _put(column: str, odd: float | str | None, share: float = 0.0) -> Fault:
    """One value, or a share of them, is odd."""

    def fault(night: Night, at: int) -> Night:
        rows = night.rows.copy()
        count = max(1, int(share * len(rows)))
        rows.loc[(at + np.arange(count)) % len(rows), column] = odd
        return replace(night, rows=rows)

    return fault


def _kept(chosen: Callable[[pd.DataFrame, int], Any]) -> Fault:
    def fault(night: Night, at: int) -> Night:
        return replace(night, rows=night.rows[chosen(night.rows, at)].reset_index(drop=True))

    return fault


def _few_of(label: int) -> Fault:
    """At most nine rows of a class, which the challenger ranks as they should be."""
    return _kept(lambda rows, at: (rows["late"] != label) | ((rows["late"] == label).cumsum() <= at % 10))


def _rescored(change: Callable[[pd.DataFrame], Any]) -> Fault:
    return lambda night, _at: replace(night, rows=night.rows.assign(good=change(night.rows)))


def _swapped(night: Night, _at: int) -> Night:
    return replace(night, rows=night.rows.rename(columns={"good": "poor", "poor": "good"}))


ODD = (math.nan, math.inf, -math.inf)
WORSE: list[Fault] = [_swapped]
"""Before all others: it would make a ruined challenger the champion."""
EQUAL: list[Fault] = [_rescored(lambda rows: rows["poor"])]
"""Wrong only where better is asked for."""
COMPARED: list[Fault] = [
    *(_put("poor", odd) for odd in ODD),
    _put("poor", 7.0),
    _rescored(lambda rows: np.where(rows["origin"] == "JFK", 1 - rows["good"], rows["good"])),
    *WORSE,
]
"""Of these only a champion makes something wrong."""
RANKED: list[Fault] = [_few_of(1), _few_of(0)]
"""Of these only a metric of the order of scores."""
ALWAYS: list[Fault] = [
    *(_put("good", odd) for odd in ODD),
    _put("good", math.nan, share=1.0),
    _put("good", 7.0),
    _put("good", -0.001),
    _put("late", math.nan),
    _put("late", 2.0),
    _put("late", 0.0, share=1.0),
    _put("late", 1.0, share=1.0),
    _put("origin", "LGA", share=1.0),
    _put("origin", None, share=1.0),
    _put("day", "2013-03-01", share=1.0),
    _rescored(lambda rows: np.full(len(rows), 0.3)),
    _kept(lambda rows, at: rows.index < 1 + at % 99),
    _kept(lambda rows, at: rows["day"].isin(sorted(set(rows["day"]))[: 1 + at % 4])),
    _kept(lambda rows, at: rows["origin"] != "JFK"),
    _kept(lambda rows, at: (rows["origin"] != "JFK") | ((rows["origin"] == "JFK").cumsum() <= at % 60)),
    lambda night, _at: replace(night, unmeasured=True),
]


@settings(max_examples=100, deadline=None)
@given(good_nights(), st.data())
def test_one_fault_of_scores_labels_or_size_or_several_never_promote(night: Night, data: st.DataObject) -> None:
    faults = [
        *(COMPARED if night.champion else ()),
        *(EQUAL if night.champion and night.rule["kind"] == "superiority" else ()),
        *(RANKED if night.primary in RANK_METRICS else ()),
        *ALWAYS,
    ]
    chosen = data.draw(st.lists(st.sampled_from(range(len(faults))), min_size=1, max_size=3, unique=True))
    wrong = night
    for fault in sorted((faults[place] for place in chosen), key=lambda fault: fault not in WORSE):
        if len(wrong.rows):
            wrong = fault(wrong, data.draw(st.integers(0, 10_000)))
    if len(wrong.rows):
        assert not wrong.promoted


@pytest.mark.parametrize("rule", RULES, ids=["superiority", "superiority by 0.002", "non-inferiority"])
@pytest.mark.parametrize("champion", [True, False])
@pytest.mark.parametrize("fault", range(len(ALWAYS) + len(RANKED)))
def test_each_fault_alone_never_promotes(fault: int, champion: bool, rule: dict[str, Any]) -> None:
    night = Night(rows=holdout_rows().astype({"late": "float64"}), primary="roc_auc", rule=rule, champion=champion)
    assert not [*ALWAYS, *RANKED][fault](night, 3).promoted


ORACLES: dict[str, Callable[[Any, Any], float]] = {
    "roc_auc": roc_auc_score,
    "average_precision": average_precision_score,
    "log_loss": lambda labels, scores: log_loss(labels, scores, labels=[0, 1]),
    "brier": brier_score_loss,
    "accuracy": lambda labels, scores: accuracy_score(labels, scores > 0.5),
}


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    days=st.integers(1, 14),
    rows_a_day=st.integers(1, 60),
    rate=st.floats(0.0, 1.0),
    skill=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    night=good_nights(),
)
def test_whatever_is_promoted_is_better_by_scikit_learns_account(
    seed: int, days: int, rows_a_day: int, rate: float, skill: tuple[float, float], night: Night
) -> None:
    generator = np.random.default_rng(seed)
    rows = holdout_rows(rows_a_day=rows_a_day, days=days)
    rows["late"] = (generator.random(len(rows)) < rate).astype(float)
    for name, effect in zip(FEATURES, skill, strict=True):
        noise = generator.random(len(rows))
        rows[name] = np.clip(0.5 + effect * (rows["late"] - 0.5) + 0.5 * (noise - 0.5), 0, 1)
    night = replace(night, rows=rows)
    if not night.promoted:
        return
    assert len(rows) >= 100
    assert rows["day"].nunique() >= 5
    if night.primary in RANK_METRICS:
        assert 10 <= rows["late"].sum() <= len(rows) - 10
    sign = 1 if METRICS[night.primary].higher_is_better else -1
    mine, theirs = (sign * ORACLES[night.primary](rows["late"], rows[name]) for name in FEATURES)
    assert math.isfinite(mine)
    if night.champion:
        assert mine - theirs > night.rule.get("min_effect", -night.rule.get("margin", 0.0))
