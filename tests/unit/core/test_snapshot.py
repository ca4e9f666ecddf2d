"""The snapshot stage on a folder store: what is taken, what is copied once, nothing new."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import training_fingerprint
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import SnapshotRef
from perennial.errors import RequestError
from perennial.ledger import Ledger
from perennial.stages.frames import load_manifest, read_frame
from perennial.testing import FixedClock, FolderStore
from tests.unit.core.landed import (
    DAY,
    DAYS,
    LANDING,
    ROOT,
    ROWS,
    SPEC,
    START,
    CountingStore,
    day_table,
    keys_of,
    land,
    landed_store,
    make_spec,
    name_of,
    request_at,
    request_past,
    snap,
    to_bytes,
    unusable_of,
)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return landed_store(tmp_path / "s3")


# What is taken.


def test_snapshot_holds_the_files_that_overlap_the_windows(store: CountingStore) -> None:
    ref = snap(store)
    manifest = load_manifest(store, ref)
    # The newest row is of 23:00: complete until 23:01. So the windows begin at 23:01 of day 4, after its last row.
    assert ref.watermark == START + DAYS * DAY - timedelta(minutes=59)
    assert manifest.windows.training.start == START + 5 * DAY - timedelta(minutes=59)
    assert keys_of(manifest) == [name_of(day) for day in range(5, DAYS)]
    assert (ref.files, ref.rows) == (15, 15 * ROWS)
    assert (ref.pending_files, ref.refused_files, ref.nothing_new_since) == (0, 0, None)


def test_same_inputs_give_the_same_reference_and_bytes(store: CountingStore, tmp_path: Path) -> None:
    ref = snap(store)
    assert snap(store) == ref
    other = CountingStore(tmp_path / "other")
    other.add_bucket("bucket")
    for day in reversed(range(DAYS)):
        land(other, name_of(day), to_bytes(day_table(day)))
    assert snap(other, now=START + 999 * DAY) == ref
    assert other.read(ref.uri) == store.read(ref.uri)


def test_unchanged_files_are_neither_read_nor_copied_again(store: CountingStore) -> None:
    snap(store)
    store.calls.clear()
    store.touched.clear()
    land(store, name_of(DAYS), to_bytes(day_table(DAYS)))
    ref = snap(store, request_at(START + (DAYS + 1) * DAY))
    assert store.calls["download"] == store.calls["upload"] == 1
    assert [uri for uri in store.touched if uri.startswith(LANDING)] == [LANDING + name_of(DAYS)] * 2
    assert keys_of(load_manifest(store, ref))[-1] == name_of(DAYS)


def test_files_outside_the_windows_are_not_copied(store: CountingStore) -> None:
    ref = snap(store, request_past(8))
    copied = list(store.list(f"{ROOT}/objects/"))
    assert len(copied) == ref.files < DAYS


@pytest.mark.parametrize(
    "content", [None, b"{", b'{"version": 1}', b"[]", b'{"version":1,"time_column":"at","schemas":3}']
)
def test_lost_or_damaged_index_is_rebuilt(store: CountingStore, tmp_path: Path, content: bytes | None) -> None:
    ref = snap(store)
    uri = f"{ROOT}/snapshots/churn/index.json"
    whole = store.read(uri)
    if content is None:
        (tmp_path / "s3" / uri.removeprefix("s3://")).unlink()
    else:
        store.write(uri, content, content_type="")
    assert snap(store) == ref
    assert store.read(uri) == whole


def test_copy_that_was_deleted_is_made_again(store: CountingStore, tmp_path: Path) -> None:
    ref = snap(store)
    lost = load_manifest(store, ref).files[2]
    (tmp_path / "s3" / lost.object_uri.removeprefix("s3://")).unlink()
    assert snap(store, request_at(run_id="run-2")) == ref
    assert store.head(lost.object_uri) is not None


def test_damaged_manifest_is_written_again(store: CountingStore) -> None:
    ref = snap(store)
    store.write(ref.uri, b'{"model"', content_type="")
    assert snap(store) == ref
    assert load_manifest(store, ref).model == "churn"


def test_overwritten_landing_file_leaves_the_old_snapshot_as_it_was(store: CountingStore) -> None:
    before = snap(store)
    manifest = load_manifest(store, before)
    whole = manifest.windows.whole
    frame = read_frame(store, manifest, SPEC.needed_columns, whole, time_column="at")
    land(store, name_of(DAYS - 3), to_bytes(day_table(DAYS - 3, x=[7.5] * ROWS)))
    after = snap(store)
    assert after.sha256 != before.sha256
    assert after.data_sha256 != before.data_sha256
    again = read_frame(store, load_manifest(store, before), SPEC.needed_columns, whole, time_column="at")
    assert again.equals(frame)
    changed = read_frame(store, load_manifest(store, after), SPEC.needed_columns, whole, time_column="at")
    assert (changed["x"] == 7.5).sum() == ROWS


def test_file_replaced_between_listing_and_download_counts_as_downloaded(store: CountingStore) -> None:
    key = name_of(DAYS - 2)
    store.replace_before_download[LANDING + key] = to_bytes(day_table(DAYS - 2).slice(0, 5))
    files = {file.key: file for file in load_manifest(store, snap(store)).files}
    assert files[key].rows == 5
    assert files[key].last_row == START + (DAYS - 2) * DAY + timedelta(hours=4)


def test_file_cut_off_between_listing_and_download_is_still_being_written(store: CountingStore) -> None:
    key = name_of(DAYS - 1)
    store.replace_before_download[LANDING + key] = to_bytes(day_table(DAYS - 1))[:-100]
    ref = snap(store)
    assert unusable_of(store, ref)[key].why == "still_being_written"
    assert ref.watermark < START + (DAYS - 1) * DAY


# As of.


def test_as_of_in_the_past_cuts_the_data_there(store: CountingStore) -> None:
    as_of = START + 16 * DAY + timedelta(hours=5, minutes=30)
    ref = snap(store, request_at(as_of))
    assert ref.watermark == as_of.replace(minute=1)
    manifest = load_manifest(store, ref)
    assert keys_of(manifest)[-1] == name_of(16)
    assert manifest.windows.holdout.end == ref.watermark
    assert snap(store, request_at(as_of)) == ref


def test_later_files_do_not_change_a_run_in_the_past(store: CountingStore) -> None:
    ref = snap(store, request_past(16))
    land(store, name_of(DAYS), to_bytes(day_table(DAYS)))
    land(store, name_of(DAYS + 1), to_bytes(day_table(DAYS + 1, x=None)))
    assert snap(store, request_past(16)) == ref


def test_unmatured_labels_move_the_windows_back(store: CountingStore) -> None:
    manifest = load_manifest(store, snap(store, spec=make_spec(label_delay="3d")))
    assert manifest.windows.holdout.end == START + (DAYS - 3) * DAY
    assert keys_of(manifest)[-1] == name_of(DAYS - 4)


# Nothing new.


def judge(store: FolderStore, ref: SnapshotRef, run_id: str = "run-1", **params: Any) -> LedgerEntry:
    fingerprint = training_fingerprint(
        SPEC, snapshot_sha256=ref.data_sha256, params={"depth": 3, **params}, code_version="1"
    )
    entry = LedgerEntry(
        kind="decision",
        model="churn",
        recorded_at=START,
        request=request_at(run_id=run_id).to_dict(),
        evidence_sha256="e",
        summary="Rejected.",
        champion_before="4",
        champion_after="4",
        verdict="REJECT",
        fingerprint=fingerprint,
        policy="p",
    )
    Ledger(store, ROOT, FixedClock(START)).append(entry)
    return entry


def test_training_that_was_judged_is_nothing_new(store: CountingStore) -> None:
    first = snap(store)
    entry = judge(store, first)
    second = snap(store, request_at(run_id="run-2"))
    assert second == replace(first, nothing_new_since=entry.entry_id)
    recorded = Ledger(store, ROOT, FixedClock(START)).entries("churn")[-1]
    assert (recorded.kind, recorded.run_id, recorded.evidence_sha256) == ("nothing_new", "run-2", first.sha256)
    assert (recorded.champion_before, recorded.champion_after) == (None, None), "what the registry says now"
    assert entry.entry_id in recorded.summary
    assert SnapshotRef.from_dict(recorded.references["snapshot"]) == second
    assert snap(store, request_at(run_id="run-2"), now=START + 300 * DAY) == second
    assert len(Ledger(store, ROOT, FixedClock(START)).entries("churn")) == 2


def test_later_night_without_data_is_nothing_new(store: CountingStore) -> None:
    entry = judge(store, snap(store))
    later = request_at(START + (DAYS + 3) * DAY, run_id="run-2")
    assert snap(store, later).nothing_new_since == entry.entry_id


@pytest.mark.parametrize("changes", [{"force": True}, {"params": {"depth": 5}}])
def test_forced_or_changed_run_is_something_new(store: CountingStore, changes: dict[str, Any]) -> None:
    judge(store, snap(store))
    assert snap(store, request_at(run_id="run-2", **changes)).nothing_new_since is None


def test_repeated_run_is_not_stopped_by_its_own_decision(store: CountingStore) -> None:
    first = snap(store)
    judge(store, first, run_id="run-1")
    assert snap(store) == first


def test_refused_file_is_never_nothing_new(store: CountingStore) -> None:
    judge(store, snap(store))
    land(store, "x.parquet", b"not parquet")
    ref = snap(store, request_at(run_id="run-2"))
    assert (ref.refused_files, ref.nothing_new_since) == (1, None)


def test_undeclared_parameter_is_refused_before_anything_is_read(store: CountingStore) -> None:
    with pytest.raises(RequestError, match="width"):
        snap(store, request_at(params={"width": 1}))
    assert not store.calls


# Memory.

_BIG_FILE = """
import resource, sys
from datetime import datetime, timedelta, UTC
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
import pandas, pyarrow.fs
from perennial.domain.run_request import RunRequest
from perennial.ledger import Ledger
from perennial.spec.model import ModelSpec
from perennial.stages.snapshot import take_snapshot
from perennial.testing import FixedClock, FolderStore, MemoryRegistry

folder, spec = Path(sys.argv[1]), ModelSpec.model_validate_json(sys.argv[2])
landing = folder / spec.data.landing.removeprefix("s3://")
landing.mkdir(parents=True)
start, rows, noise = np.datetime64("2013-01-01", "us"), 50_000, np.random.default_rng(0)
schema = pa.schema([("id", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("label", pa.int64()), ("x", pa.float64()),
                    ("shop", pa.int64())] + [(f"more{n}", pa.float64()) for n in range(16)])
with pq.ParquetWriter(landing / "big.parquet", schema, compression="none", use_dictionary=False,
                      write_statistics=sys.argv[3] == "statistics") as writer:
    for part in range(25):
        ids = np.arange(rows) + part * rows
        at = pa.array(start + (ids * 1_400_000).astype("timedelta64[us]"), pa.timestamp("us", "UTC"))
        more = [noise.random(rows) for _ in range(17)]
        writer.write_table(pa.table([ids, at, ids % 2, more[0], ids % 5, *more[1:]], schema=schema))
size = (landing / "big.parquet").stat().st_size
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = FolderStore(folder)
as_of = datetime(2013, 1, 21, tzinfo=UTC) - timedelta(hours=6)
clock = FixedClock(as_of)
request = RunRequest(model="churn", run_id="r", as_of=as_of, trigger="manual")
ledger = Ledger(store, "s3://bucket/store", clock)
ref = take_snapshot(spec, request, store=store, root="s3://bucket/store", ledger=ledger,
                    registry=MemoryRegistry(), clock=clock, code_version="1", policy="p")
assert ref.rows == 25 * rows
print(size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("statistics", ["statistics", "none"])
def test_memory_stays_flat_with_a_file_of_200_megabytes(tmp_path: Path, statistics: str) -> None:
    command = [sys.executable, "-c", _BIG_FILE, str(tmp_path), SPEC.model_dump_json(), statistics]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=120)
    size_bytes, grown_bytes = (int(text) for text in done.stdout.split())
    assert size_bytes > 200_000_000
    assert grown_bytes < 60_000_000
