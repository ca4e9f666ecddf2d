"""Row keys as hashes: how evaluate proves that no holdout row was in a training (invariant 3)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from perennial.domain.fingerprint import sha256_of
from perennial.errors import UnfairComparisonError
from perennial.ports import ObjectStore
from perennial.spec.model import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

Hashes = NDArray[np.uint64]
COLUMN: Final = "key_hash"


def key_hashes(frame: pd.DataFrame, key_columns: Sequence[str]) -> Hashes:
    """One 64-bit hash a row over its key columns: (n,), in row order.

    The same key gives the same hash whatever type a file happens to carry it in, and whatever else is in the column:
    7, int32 7, 7.0 and True/1 agree, as do a timestamp in milliseconds and in nanoseconds, and a text and a category of
    texts.
    Two of 10^5 holdout and 10^6 training rows collide by chance with probability 5e-9.
    """
    import pandas as pd

    keys = pd.DataFrame({name: _canonical(frame[name]) for name in key_columns})
    return np.asarray(pd.util.hash_pandas_object(keys, index=False), dtype=np.uint64)


def digest_of_keys(hashes: Hashes) -> str:
    """sha256 over the sorted hashes as little-endian 64-bit integers: (n,) in any order.

    Of the hashes, not of their file: another release of the Parquet writer may give other bytes for the same keys.
    """
    return sha256_of(np.sort(hashes).astype("<u8").tobytes())


def training_keys_uri(root: str, model: str, fingerprint: str) -> str:
    """Where the hashed keys of a training's rows lie."""
    return f"{root}/trainings/{model}/{fingerprint}.keys.parquet"


def write_training_keys(
    store: ObjectStore, root: str, spec: ModelSpec, fingerprint: str, frame: pd.DataFrame
) -> tuple[str, str]:
    """Keep the hashed keys of the rows a model is fitted on, sorted; returns the file's uri and `digest_of_keys`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hashes = np.sort(key_hashes(frame, spec.data.key_columns))
    sink = io.BytesIO()
    pq.write_table(pa.table({COLUMN: pa.array(hashes, type=pa.uint64())}), sink, compression="zstd")
    uri = training_keys_uri(root, spec.name, fingerprint)
    store.write(uri, sink.getvalue(), content_type="application/vnd.apache.parquet")
    return uri, digest_of_keys(hashes)


def read_training_keys(store: ObjectStore, uri: str) -> Hashes:
    """Inverse of `write_training_keys`: (n,), n >= 1.

    Raises:
        NotFoundError: nothing there.
        UnfairComparisonError: what is there holds no key hashes, so that nothing can be proven with it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = store.read(uri)
    try:
        column = pq.read_table(io.BytesIO(content), columns=[COLUMN]).column(COLUMN).cast(pa.uint64())
    except (pa.ArrowException, KeyError, OSError) as error:
        raise UnfairComparisonError(f"{uri} holds no column {COLUMN} of key hashes: {error}") from error
    if len(column) == 0 or column.null_count:
        raise UnfairComparisonError(f"{uri} has {len(column)} key hashes, {column.null_count} of them null")
    return np.asarray(column.to_numpy(), dtype=np.uint64)


def _canonical(column: pd.Series) -> pd.Series:
    """The column as integers (signed or not: both hash alike), microseconds of UTC, or objects; value by value."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return pd.to_datetime(column, utc=True).dt.tz_convert(None).astype("datetime64[us]")
    if pd.api.types.is_unsigned_integer_dtype(column.dtype):
        return column.astype("UInt64")
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_integer_dtype(column.dtype):
        return column.astype("Int64")
    if pd.api.types.is_float_dtype(column.dtype):
        return pd.Series(_number_bits(column), index=column.index)
    return column.astype(object)


def _number_bits(column: pd.Series) -> pd.arrays.IntegerArray:
    """Floats as 64 bits each: of a whole number those of the integer, so that 7.0 is 7 beside 8.5 too; else its own."""
    import pandas as pd

    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    bits = values.view(np.uint64).copy()
    whole = np.isfinite(values) & (np.floor(values) == values)
    for kind, least, limit in ((np.int64, -(2.0**63), 2.0**63), (np.uint64, 2.0**63, 2.0**64)):
        here = whole & (values >= least) & (values < limit)
        bits[here] = values[here].astype(kind).view(np.uint64)
    return pd.arrays.IntegerArray(bits, np.isnan(values))
