"""Key hashes: the same key hashes alike, whatever type a file carries it in, or an overlap would go unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perennial.errors import IntegrityError
from perennial.stages.frames import load_manifest
from perennial.stages.holdout import Contender, check_unseen, load_holdout
from perennial.stages.keys import (
    COLUMN,
    digest_of_keys,
    key_hashes,
    read_training_keys,
    training_keys_uri,
    write_training_keys,
)
from tests.unit.core.judging import ROOT, Bench, Column, holdout_rows


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


def _hashes(values: object, dtype: str | None = None) -> list[int]:
    return key_hashes(pd.DataFrame({"k": pd.Series(values, dtype=dtype)}), ["k"]).tolist()


@pytest.mark.parametrize("other", [8.5, 9.0, None, float("inf"), float("nan"), 2.0**70, -0.5])
@pytest.mark.parametrize("kind", ["float64", "Float64", "float32"])
def test_number_hashes_alike_whatever_else_is_in_its_column(other: float | None, kind: str) -> None:
    """A leak must be found also where the holdout has a half in the same column, and the training has not."""
    assert _hashes([7.0, other], kind)[0] == _hashes([7, 8])[0]
    assert _hashes([-7.0, other], kind)[0] == _hashes([-7])[0]


@pytest.mark.parametrize("number", [0, 1, -1, 2**53, 2**62, -(2**63), 2**63, 2**64 - 2**11])
def test_whole_number_of_any_size_hashes_alike_as_float_and_as_integer(number: int) -> None:
    kind = "uint64" if number >= 2**63 else "int64"
    assert _hashes([float(number), 0.5], "float64")[0] == _hashes([number], kind)[0]


def test_different_numbers_hash_differently_and_nothing_is_one_key() -> None:
    numbers = [0.0, 7.0, 7.5, -7.0, 7.000000001, float("inf"), float("-inf"), 2.0**70, None]
    assert len(set(_hashes(numbers, "float64"))) == len(numbers)
    assert _hashes([-0.0, 0.5]) == _hashes([0.0, 0.5])
    assert _hashes([None, 7.0], "float64") == _hashes([None, 7], "Int64")


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


def test_digest_of_keys_hangs_on_the_keys_alone_and_on_each_of_them() -> None:
    hashes = key_hashes(pd.DataFrame({"k": range(100)}), ["k"]).copy()
    digest = digest_of_keys(hashes)
    assert digest == digest_of_keys(hashes[::-1]) == digest_of_keys(hashes.astype(">u8"))
    assert digest != digest_of_keys(hashes[1:])
    assert digest != digest_of_keys(np.append(hashes, hashes[0]))
    hashes[7] ^= np.uint64(1)
    assert digest != digest_of_keys(hashes)


def test_same_rows_in_another_order_give_the_same_file_and_digest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    contents, told = [], []
    for keys in ([1, 2, 3], [3, 1, 2]):
        frame = pd.DataFrame(dict.fromkeys(bench.spec.data.key_columns, keys))
        uri, digest = write_training_keys(bench.store, ROOT, bench.spec, "new", frame)
        assert digest == digest_of_keys(read_training_keys(bench.store, uri))
        contents.append(bench.store.read(uri))
        told.append((uri, digest))
    assert contents[0] == contents[1]
    assert told[0] == told[1]


@pytest.mark.parametrize("who", ["challenger", "champion version 1"])
def test_keys_that_are_not_those_of_the_training_are_refused_with_both_digests(tmp_path: Path, who: str) -> None:
    bench = Bench(tmp_path)
    trained = bench.train(Column("good"), name="new", keys=[-1, -2])
    manifest = load_manifest(bench.store, bench.snapshot(holdout_rows()))
    contender = Contender(title=who, model=trained)
    holdout = load_holdout(bench.spec, manifest, ("id", "at", "late"), store=bench.store)
    check_unseen(bench.spec, holdout, contender, store=bench.store, root=ROOT)
    # The proof of fairness is bent: the keys of the training are replaced by harmless ones.
    forged = pd.util.hash_pandas_object(pd.Series([-8, -9]), index=False).to_numpy()
    uri = training_keys_uri(ROOT, bench.spec.name, "new")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({COLUMN: pa.array(forged, type=pa.uint64())}), sink)
    bench.store.write(uri, sink.getvalue().to_pybytes(), content_type="application/octet-stream")
    with pytest.raises(IntegrityError) as caught:
        check_unseen(bench.spec, holdout, contender, store=bench.store, root=ROOT)
    message = str(caught.value)
    assert f"keys of the {who} in {uri} have digest {digest_of_keys(forged)}" in message
    assert f"recorded at training was {trained.keys_sha256}" in message
    assert f"delete MLflow run {trained.run_id}" in message
