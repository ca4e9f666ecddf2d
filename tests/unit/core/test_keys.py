"""Key hashes: the same key hashes alike, whatever type a file carries it in, or an overlap would go unseen."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from perennial.stages.keys import key_hashes, read_training_keys, training_keys_uri
from tests.unit.core.judging import ROOT, Bench, Column


@pytest.mark.parametrize(
    "same",
    [
        pd.Series([7, 8], dtype="int32"),
        pd.Series([7, 8], dtype="uint64"),
        pd.Series([7.0, 8.0]),
        pd.Series([7, 8], dtype="Int64"),
        pd.Series([7, 8], dtype="category"),
    ],
)
def test_same_number_in_another_type_has_the_same_key_hash(same: pd.Series) -> None:
    expected = key_hashes(pd.DataFrame({"k": [7, 8]}), ["k"])
    assert (key_hashes(pd.DataFrame({"k": same}), ["k"]) == expected).all()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_same_time_in_another_unit_or_zone_has_the_same_key_hash(unit: str) -> None:
    times = pd.Series(pd.to_datetime(["2013-03-01T10:00:00Z", None, "2013-03-02T00:00:00Z"]))
    expected = key_hashes(pd.DataFrame({"k": times}), ["k"])
    for other in (times.dt.as_unit(unit), times.dt.as_unit(unit).dt.tz_convert("America/New_York")):
        assert (key_hashes(pd.DataFrame({"k": other}), ["k"]) == expected).all()


def test_same_text_in_another_type_has_the_same_key_hash_and_columns_do_not_swap() -> None:
    texts = pd.DataFrame({"a": ["x", "y"], "b": ["y", "x"]})
    expected = key_hashes(texts, ["a", "b"])
    assert (key_hashes(texts.astype(object), ["a", "b"]) == expected).all()
    assert (key_hashes(texts.astype("category"), ["a", "b"]) == expected).all()
    assert expected[0] != expected[1]
    assert (key_hashes(texts, ["a"]) != expected).all()


def test_keys_on_record_are_those_of_the_training(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.train(Column("good"), name="new", keys=[3, 1, 2])
    found = read_training_keys(bench.store, training_keys_uri(ROOT, bench.spec.name, "new"))
    assert set(found) == set(key_hashes(pd.DataFrame({"id": [1, 2, 3]}), ["id"]))
