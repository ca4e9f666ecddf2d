"""What is on its way to the store on the local disk, and what a killed process leaves there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from perennial.serving.spool import Spool
from tests.unit.core.serving.logged import ROOT, FaultyStore


def test_unfinished_files_of_a_killed_process_are_removed_once_they_are_old(tmp_path: Path) -> None:
    store, folder = FaultyStore(tmp_path / "s3"), tmp_path / "spool"
    spool = Spool(folder, 1000)
    assert spool.put("predictions/a.parquet", b"whole")
    old, young = folder / "old.parquet.part", folder / "young.parquet.part"
    for path in (old, young):
        path.write_bytes(b"half")
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    spool.upload(store, f"{ROOT}/", "text/plain")
    assert os.listdir(folder) == [young.name]
    assert [info.uri for info in store.list(f"{ROOT}/")] == [f"{ROOT}/predictions/a.parquet"]
