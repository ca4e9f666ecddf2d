"""What breaking the glass lets pass in evaluate, and says; and what nobody may override: changed bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.fingerprint import canonical_json
from perennial.domain.references import EvaluationRef, ModelRef
from perennial.errors import ChampionUnusableError, IntegrityError, TerminalError, UnfairComparisonError
from perennial.ports import LoadedModel
from perennial.stages.evaluate import evaluate_models
from perennial.stages.keys import training_keys_uri
from perennial.testing.registry import MemoryRegistry
from tests.unit.core.judging import DAY, HOLDOUT, ROOT, Bench, Column, NotFinite, Predicting, Raising, holdout_rows

LATE = HOLDOUT.start - DAY + timedelta(seconds=1)
SEEN = np.arange(11, 19)


class NoFlights(MemoryRegistry):
    """The champion needs a package that is gone."""

    def open_model(self, model: ModelRef) -> LoadedModel:
        if model.fingerprint == "old":
            raise ModuleNotFoundError("No module named 'flights'")
        return super().open_model(model)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _evaluate(
    bench: Bench, challenger: ModelRef, frame: pd.DataFrame | None = None, *, broken: bool = True
) -> EvaluationRef:
    bench.request = replace(bench.request, break_glass="the champion is worse than nothing" if broken else "")
    snapshot = bench.snapshot(holdout_rows() if frame is None else frame)
    return evaluate_models(
        bench.spec, bench.request, snapshot, challenger, store=bench.store, root=ROOT, registry=bench.registry
    )


def _result(bench: Bench, reference: EvaluationRef) -> EvaluationResult:
    return EvaluationResult.from_dict(json.loads(bench.store.read(reference.uri)))


def _trained_too_late(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old", end=LATE))


def _has_seen_the_holdout(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old", keys=SEEN))


def _keys_not_on_record(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old", keys=None))


def _lacks_a_column(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor", features=("gone",)), name="old"))


def _cannot_score(bench: Bench) -> None:
    bench.enthrone(bench.train(Raising("poor"), name="old"))


def _scores_no_numbers(bench: Bench) -> None:
    bench.enthrone(bench.train(NotFinite("poor"), name="old"))


def _package_gone(bench: Bench) -> None:
    bench.registry = NoFlights()
    bench.enthrone(bench.train(Column("poor"), name="old"))


def _registered_by_hand(bench: Bench) -> None:
    version = bench.registry.register_by_hand(bench.spec.name)
    bench.registry.point_alias(bench.spec.name, "champion", version)


PROBLEMS = [
    (_trained_too_late, "trained on data up to"),
    (_has_seen_the_holdout, "8 of 840 holdout rows"),
    (_keys_not_on_record, "nothing proves"),
    (_lacks_a_column, "needs the column gone"),
    (_cannot_score, "3 are expected"),
    (_scores_no_numbers, "not a finite number in 1 of 840 rows"),
    (_package_gone, "needs a package that is not installed here (ModuleNotFoundError: No module named 'flights')"),
    (_registered_by_hand, "Perennial did not register it"),
]


@pytest.mark.parametrize(("problem", "why"), PROBLEMS, ids=[case[0].__name__ for case in PROBLEMS])
def test_broken_glass_leaves_out_a_champion_that_cannot_be_compared_and_says_so(
    bench: Bench, problem: Callable[[Bench], None], why: str
) -> None:
    problem(bench)
    challenger = bench.train(Column("good"), name="new")
    with pytest.raises((UnfairComparisonError, ChampionUnusableError)):
        _evaluate(bench, challenger, broken=False)
    bench.request = replace(bench.request, run_id="manual__2")
    reference = _evaluate(bench, challenger)
    result = _result(bench, reference)
    assert "The glass was broken: the challenger was NOT compared with the champion." in result.notes[0]
    assert why in result.notes[0]
    assert (reference.champion_version, result.champion_version) == ("1", "1")
    found = result.comparisons["roc_auc"]
    assert found.challenger.low is not None
    assert (found.champion, found.difference, result.units) == (None, None, None)
    assert all(part.champion is None and part.difference is None for part in result.slices)
    assert set(result.curves) == {"challenger"}
    assert _evaluate(bench, challenger) == reference


def test_broken_glass_with_a_champion_in_order_compares_as_ever(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    result = _result(bench, _evaluate(bench, bench.train(Column("good"), name="new")))
    assert result.notes == ()
    assert result.comparisons["roc_auc"].difference is not None
    assert result.units is not None


@pytest.mark.parametrize("fault", ["late", "seen", "unknown", "twice"])
def test_broken_glass_lets_an_unfair_holdout_of_the_challenger_pass_and_says_so(bench: Bench, fault: str) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old"))
    rows = holdout_rows()
    if fault == "twice":
        rows.loc[5, "id"] = 4
    keys = {"seen": SEEN, "unknown": None}.get(fault, [-1])
    challenger = bench.train(
        Column("good"), name="new", end=LATE if fault == "late" else HOLDOUT.start - DAY, keys=keys
    )
    with pytest.raises(UnfairComparisonError):
        _evaluate(bench, challenger, rows, broken=False)
    result = _result(bench, _evaluate(bench, challenger, rows))
    assert "the figures of the challenger itself are NOT a fair test" in result.notes[0]
    assert result.comparisons["roc_auc"].difference is not None


def test_challenger_that_cannot_score_stops_the_run_also_with_broken_glass(bench: Bench) -> None:
    with pytest.raises(TerminalError, match="challenger cannot score"):
        _evaluate(bench, bench.train(Predicting("good"), name="new"))


@pytest.mark.parametrize("who", ["old", "new"])
@pytest.mark.parametrize("broken", [True, False])
def test_changed_model_is_never_overridden(bench: Bench, who: str, broken: bool) -> None:
    models = {name: bench.train(Column("good"), name=name) for name in ("old", "new")}
    bench.enthrone(models["old"])
    bench.registry.corrupt(models[who].model_uri)
    with pytest.raises(IntegrityError) as error:
        _evaluate(bench, models["new"], broken=broken)
    if who == "old":
        assert "champion version 1 was changed after its training" in str(error.value)
        assert "perennial rollback flights_delay" in str(error.value)


@pytest.mark.parametrize("broken", [True, False])
def test_changed_training_keys_are_never_overridden(bench: Bench, broken: bool) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old", keys=SEEN))
    other = bench.train(Column("poor"), name="other", keys=[-1])
    harmless = bench.store.read(training_keys_uri(ROOT, bench.spec.name, other.fingerprint))
    bench.store.write(
        training_keys_uri(ROOT, bench.spec.name, "old"), harmless, content_type="application/octet-stream"
    )
    with pytest.raises(IntegrityError, match="training keys of the champion version 1"):
        _evaluate(bench, bench.train(Column("good"), name="new"), broken=broken)


@pytest.mark.parametrize("column", ["id", "late"])
def test_holdout_changed_in_place_is_an_integrity_error_with_both_digests(bench: Bench, column: str) -> None:
    challenger = bench.train(Column("good"), name="new")
    rows = holdout_rows()
    snapshot = bench.snapshot(rows)

    def judge() -> EvaluationRef:
        return evaluate_models(
            bench.spec, bench.request, snapshot, challenger, store=bench.store, root=ROOT, registry=bench.registry
        )

    first = judge()
    [file] = json.loads(bench.store.read(snapshot.uri))["files"]
    changed = rows.assign(**{column: 1 - rows[column] if column == "late" else rows[column] + 5000})
    changed.to_parquet(bench.folder / file["object_uri"].removeprefix("s3://"), index=False)
    with pytest.raises(IntegrityError) as error:
        judge()
    assert first.holdout_sha256 in str(error.value)
    assert "Files of the snapshot were changed in place" in str(error.value)


def test_stored_evaluation_of_another_holdout_is_an_integrity_error_with_both_digests(bench: Bench) -> None:
    challenger = bench.train(Column("good"), name="new")
    reference = _evaluate(bench, challenger, broken=False)
    content = json.loads(bench.store.read(reference.uri))
    forged = canonical_json({**content, "holdout_sha256": "0" * 64})
    bench.store.write(reference.uri, forged, content_type="application/json")
    with pytest.raises(IntegrityError) as error:
        _evaluate(bench, challenger, broken=False)
    assert "0" * 64 in str(error.value)
    assert reference.holdout_sha256 in str(error.value)
