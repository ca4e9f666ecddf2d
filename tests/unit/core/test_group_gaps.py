"""Gaps between groups against a plain loop over rows; a group that says nothing leaves no gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from perennial.domain.bootstrap import cluster_draws
from perennial.domain.group_gaps import GroupGaps, Positions, group_gaps
from perennial.domain.intervals import cluster_interval
from perennial.domain.metrics import Floats

CLUSTERS = 10


def _data() -> tuple[Floats, Floats, Floats, np.ndarray, dict[str, Positions]]:
    generator = np.random.default_rng(0)
    n = 900
    labels = (generator.random(n) < 0.4).astype(float)
    group = generator.integers(0, 3, n)
    codes = generator.integers(0, CLUSTERS, n)
    mine = np.clip(0.3 * labels * (1 + 0.5 * group) + generator.random(n) * 0.6, 0, 1)
    theirs = np.clip(0.3 * labels + generator.random(n) * 0.6, 0, 1)
    return labels, mine, theirs, codes, {name: np.flatnonzero(group == i) for i, name in enumerate("abc")}


def _run(groups: dict[str, Positions], champion: bool = True, name: str = "roc_auc", **given: object) -> GroupGaps:
    labels, mine, theirs, codes, _ = _data()
    return group_gaps(
        name,
        groups,
        labels,
        given.get("mine", mine),  # type: ignore[arg-type]
        theirs if champion else None,
        codes if given.get("clustered", True) else None,
        replicates=200,
        seed=5,
    )


def test_gaps_and_their_increase_equal_a_plain_loop_over_the_same_draws() -> None:
    labels, mine, theirs, codes, groups = _data()

    def gap(scores: Floats, counts: Floats) -> float:
        weights = counts[codes]
        each = [roc_auc_score(labels[r], scores[r], sample_weight=weights[r]) for r in groups.values()]
        return float(max(each) - min(each))

    def increase(counts: Floats) -> float:
        return gap(mine, counts) - gap(theirs, counts)

    found = _run(groups)
    assert found.increase is not None
    assert found.champion is not None
    assert found.champion_gap is not None
    ones = np.ones(CLUSTERS)
    assert found.challenger == pytest.approx({g: roc_auc_score(labels[r], mine[r]) for g, r in groups.items()})
    assert found.champion == pytest.approx({g: roc_auc_score(labels[r], theirs[r]) for g, r in groups.items()})
    assert found.challenger_gap.value == pytest.approx(gap(mine, ones))
    assert found.champion_gap.value == pytest.approx(gap(theirs, ones))
    assert found.increase.value == pytest.approx(increase(ones))
    draws = cluster_draws(CLUSTERS, 200, np.random.default_rng(5))
    expected = cluster_interval(
        np.array([increase(row) for row in draws]),
        increase(ones),
        np.array([increase(row) for row in 1 - np.eye(CLUSTERS)]),
        confidence=0.9,
        clusters=CLUSTERS,
    )
    assert found.increase.interval(0.9) == pytest.approx(expected)


def test_group_without_rows_leaves_no_gap() -> None:
    groups = _data()[4]
    found = _run({**groups, "d": np.empty(0, dtype=np.intp)})
    assert math.isnan(found.challenger["d"])
    assert math.isfinite(found.challenger["a"])
    for statistic in (found.challenger_gap, found.champion_gap, found.increase):
        assert statistic is not None
        assert statistic.estimate(0.9).value is None
        assert statistic.estimate(0.9).low is None


def test_no_rows_at_all_leave_nothing() -> None:
    empty = np.empty(0, dtype=np.intp)
    assert _run({"a": empty, "b": empty}).challenger_gap.estimate(0.9).value is None


def test_group_of_one_class_leaves_no_gap() -> None:
    labels = _data()[0]
    groups = {"a": np.flatnonzero(labels == 1)[:50], "b": np.flatnonzero(labels == 0)}
    assert _run(groups).challenger_gap.estimate(0.9).value is None


def test_score_that_is_not_finite_leaves_the_challengers_gap_undefined() -> None:
    labels, mine, _, _, groups = _data()
    mine[groups["b"][0]] = math.nan
    found = _run(groups, mine=mine)
    assert found.challenger_gap.estimate(0.9).value is None
    assert found.champion_gap is not None
    assert found.champion_gap.estimate(0.9).value is not None
    assert found.increase is not None
    assert found.increase.estimate(0.9).value is None
    assert len(labels) == 900


def test_without_champion_there_is_no_increase() -> None:
    found = _run(_data()[4], champion=False)
    assert (found.champion, found.champion_gap, found.increase) == (None, None, None)
    assert found.challenger_gap.interval(0.9) is not None


def test_identical_models_have_no_increase() -> None:
    _, _, theirs, _, groups = _data()
    found = _run(groups, mine=theirs)
    assert found.increase is not None
    assert (found.increase.value, found.increase.interval(0.9)) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("name", ["brier", "roc_auc"])
def test_independent_rows_are_drawn_one_by_one(name: str) -> None:
    found = _run(_data()[4], clustered=False, name=name)
    ends = found.challenger_gap.interval(0.9)
    assert ends is not None
    assert 0 <= ends.low < found.challenger_gap.value < ends.high


@pytest.mark.parametrize("clustered", [True, False])
def test_group_with_too_few_rows_of_a_class_leaves_no_interval_and_is_named(clustered: bool) -> None:
    labels = _data()[0]
    few = np.concatenate([np.flatnonzero(labels == 1)[:9], np.flatnonzero(labels == 0)[:100]])
    found = _run({"a": np.flatnonzero(labels == 1)[9:], "few": few}, clustered=clustered)
    assert found.why_no_interval is not None
    rest = np.setdiff1d(np.arange(len(labels)), few)
    found = _run({"a": rest, "few": few}, clustered=clustered)
    assert found.why_no_interval == (
        "few has 9 rows of the positive class, and an interval of roc_auc takes at least 10: 1 more is needed"
    )
    for statistic in (found.challenger_gap, found.champion_gap, found.increase):
        assert statistic is not None
        assert math.isfinite(statistic.value)
        assert statistic.interval(0.9) is None


def test_gap_of_a_mean_needs_no_class_in_particular() -> None:
    labels = _data()[0]
    found = _run({"a": np.flatnonzero(labels == 1), "b": np.flatnonzero(labels == 0)}, name="brier")
    assert found.why_no_interval is None
    assert found.challenger_gap.interval(0.9) is not None
