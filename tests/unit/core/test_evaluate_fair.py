"""evaluate: fair or not at all; a champion that cannot be compared with is told, with the way out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perennial.domain.references import ModelRef
from perennial.errors import ChampionUnusableError, RegistryUnavailableError, UnfairComparisonError
from perennial.ports import LoadedModel
from perennial.stages.keys import training_keys_uri
from perennial.testing.registry import MemoryRegistry
from tests.unit.core.evaluating import evaluate
from tests.unit.core.judging import (
    DAY,
    HOLDOUT,
    ROOT,
    Bench,
    Classes,
    Column,
    NotFinite,
    Predicting,
    Raising,
    Stretched,
    Unsummed,
    holdout_rows,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("who", ["challenger", "champion version 1"])
def test_holdout_within_the_embargo_of_a_training_is_unfair(bench: Bench, who: str) -> None:
    late = HOLDOUT.start - DAY + timedelta(seconds=1)
    bench.enthrone(bench.train(Column("poor"), name="old", end=late if "champion" in who else HOLDOUT.start - DAY))
    challenger = bench.train(Column("good"), name="new", end=late if who == "challenger" else HOLDOUT.start - DAY)
    with pytest.raises(UnfairComparisonError) as error:
        evaluate(bench, challenger)
    message = str(error.value)
    assert who in message
    assert "2013-03-01T00:00:00Z" in message
    assert "2013-02-28T00:00:01Z" in message
    assert "as_of" in message


def test_holdout_right_after_the_embargo_is_fair(bench: Bench) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old", end=HOLDOUT.start - DAY))
    assert evaluate(bench, bench.train(Column("good"), name="new", end=HOLDOUT.start - DAY)).rows == 840


@pytest.mark.parametrize("who", ["challenger", "champion version 1"])
def test_row_in_common_with_a_training_is_unfair(bench: Bench, who: str) -> None:
    seen = np.arange(11, 19).astype(float)  # the same keys, as floats
    bench.enthrone(bench.train(Column("poor"), name="old", keys=seen if "champion" in who else [-1]))
    challenger = bench.train(Column("good"), name="new", keys=seen if who == "challenger" else [-1])
    with pytest.raises(UnfairComparisonError) as error:
        evaluate(bench, challenger)
    assert f"8 of 840 holdout rows have keys that the {who} was trained on" in str(error.value)
    assert "such as 11, 12, 13, 14, 15." in str(error.value)


@pytest.mark.parametrize("who", ["challenger", "champion version 1"])
def test_training_without_keys_on_record_is_unfair(bench: Bench, who: str) -> None:
    bench.enthrone(bench.train(Column("poor"), name="old", keys=None if "champion" in who else [-1]))
    challenger = bench.train(Column("good"), name="new", keys=None if who == "challenger" else [-1])
    with pytest.raises(UnfairComparisonError, match=f"nothing proves that the {who} was not trained on the holdout"):
        evaluate(bench, challenger)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_damaged_keys_are_unfair(bench: Bench, content: bytes) -> None:
    challenger = bench.train(Column("good"), name="new")
    uri = training_keys_uri(ROOT, bench.spec.name, "new")
    bench.store.write(uri, content, content_type="application/octet-stream")
    with pytest.raises(UnfairComparisonError, match="key"):
        evaluate(bench, challenger)


def test_empty_keys_prove_nothing(bench: Bench) -> None:
    challenger = bench.train(Column("good"), name="new", keys=np.array([], dtype="int64"))
    with pytest.raises(UnfairComparisonError, match="0 key hashes"):
        evaluate(bench, challenger)


def test_row_in_common_is_found_whatever_the_columns_other_keys_are(bench: Bench) -> None:
    """4.0 among whole numbers in the training, among halves in the holdout."""
    rows = holdout_rows()
    rows["id"] = rows["id"] + 0.5
    rows.loc[3, "id"] = 4.0
    challenger = bench.train(Column("good"), name="new", keys=np.array([4.0, -1.0]))
    with pytest.raises(UnfairComparisonError, match=r"1 of 840 holdout rows .* such as 4\.0"):
        evaluate(bench, challenger, rows)


def test_duplicate_keys_in_the_holdout_are_unfair(bench: Bench) -> None:
    rows = holdout_rows()
    rows.loc[5, "id"] = 4
    with pytest.raises(UnfairComparisonError, match=r"1 keys occur more than once .* such as 4;"):
        evaluate(bench, bench.train(Column("good"), name="new"), rows)


@pytest.mark.parametrize(
    ("champion", "why"),
    [
        (Raising("poor"), "3 are expected"),
        (Column("poor", features=("gone", "good")), "needs the column gone"),
        (Column("poor", classes=("no", "yes")), "its classes are"),
        (Column("poor", classes=(0, 1, 2)), "2 classes"),
        (Predicting("poor"), "predict_proba"),
        (object(), "predict_proba"),
        (NotFinite("poor"), "gives a score that is not a finite number in 1 of 840 rows"),
        (Stretched("poor", 1.5), "gives scores that are not probabilities"),
        (Stretched("poor", -1.0), "gives scores that are not probabilities"),
    ],
)
def test_champion_that_cannot_score_is_unusable_with_the_way_out(bench: Bench, champion: Any, why: str) -> None:
    bench.enthrone(bench.train(champion, name="old"))
    with pytest.raises(ChampionUnusableError) as error:
        evaluate(bench, bench.train(Column("good"), name="new"))
    assert why in str(error.value)
    assert "champion version 1" in str(error.value)
    assert "perennial rollback flights_delay --to VERSION" in str(error.value)
    assert "approval.break_glass" in str(error.value)


class FailingLoad(MemoryRegistry):
    """Cannot load the champion, for the reason given."""

    error: Exception = ModuleNotFoundError("No module named 'flights'")

    def open_model(self, model: ModelRef) -> LoadedModel:
        if model.fingerprint == "old":
            raise self.error
        return super().open_model(model)


def test_champion_that_cannot_be_loaded_is_unusable(tmp_path: Path) -> None:
    bench = Bench(tmp_path, registry=FailingLoad())
    bench.enthrone(bench.train(Column("poor"), name="old"))
    with pytest.raises(ChampionUnusableError, match="No module named 'flights'"):
        evaluate(bench, bench.train(Column("good"), name="new"))


def test_registry_that_does_not_answer_stays_transient(tmp_path: Path) -> None:
    registry = FailingLoad()
    registry.error = RegistryUnavailableError("no answer")
    bench = Bench(tmp_path, registry=registry)
    bench.enthrone(bench.train(Column("poor"), name="old"))
    with pytest.raises(RegistryUnavailableError):
        evaluate(bench, bench.train(Column("good"), name="new"))


def test_champion_whose_classes_do_not_sum_to_one_is_unusable(bench: Bench) -> None:
    bench.respec(
        task="multiclass_classification",
        evaluation={"primary": "log_loss", "metrics": [], "slices": []},
        gate={**bench.spec.gate.model_dump(mode="json"), "floors": {}},
    )
    rows = holdout_rows()
    rows["late"] = np.where(rows["good"] > 0.5, "b", "a")
    bench.enthrone(bench.train(Unsummed(("a", "b"), 0.5), name="old"))
    with pytest.raises(ChampionUnusableError, match=r"champion version 1 cannot score .* not summing to 1"):
        evaluate(bench, bench.train(Classes(("a", "b"), 0.5), name="new"), rows)
