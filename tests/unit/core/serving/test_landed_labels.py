"""Labels that others leave as files: what is read, which one wins, and what is left out with a word."""

from __future__ import annotations

import io
import json
import logging
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from perennial.domain.times import Interval
from perennial.errors import StoreUnavailableError, TerminalError
from perennial.prediction_objects import joined, read_labels
from perennial.serving.labels import Label, LabelLog
from perennial.table_cache import TableCache
from perennial.testing import FixedClock
from tests.unit.core.serving.logged import DAYS, NOON, ROOT, FaultyStore

LANDING = "s3://bucket/outcomes/"


@pytest.fixture
def store(tmp_path: Path) -> FaultyStore:
    return FaultyStore(tmp_path)


def land(store: FaultyStore, name: str, content: bytes, modified: datetime = NOON) -> None:
    store.write(LANDING + name, content, content_type="application/octet-stream")
    os.utime(store._path(LANDING + name), (modified.timestamp(), modified.timestamp()))


def lines(*rows: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pd.DataFrame(columns).to_parquet(sink)
    return sink.getvalue()


def found(store: FaultyStore, during: Interval = DAYS) -> list[tuple[Any, ...]]:
    frame = read_labels(store, ROOT, "churn", during, landing=LANDING)
    columns = [frame[name] for name in ("request_id", "row", "label", "received_at")]
    return sorted(zip(*columns, strict=True))


CSV = b"request_id,row,label,received_at,note\n17,0,1,2026-11-21T11:00:00Z,x\nr-2,3,0.5,2026-11-21 10:00:00,\n"
SAME = [{"request_id": "17", "row": 0, "label": 1}, {"request_id": "r-2", "row": 3, "label": 0.5}]
AT = ["2026-11-21T11:00:00Z", "2026-11-21 10:00:00"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("day=1/a.CSV", CSV),
        ("a.jsonl", lines(*[{**row, "received_at": at} for row, at in zip(SAME, AT, strict=True)])),
        ("a.ndjson", lines(*[{**row, "received_at": at, "more": [1]} for row, at in zip(SAME, AT, strict=True)])),
        (
            "a.parquet",
            parquet(
                request_id=["17", "r-2"],
                row=[0, 3],
                label=[1.0, 0.5],
                received_at=pd.to_datetime(["2026-11-21T12:00+01:00", "2026-11-21T10:00Z"], utc=True),
            ),
        ),
    ],
)
def test_labels_are_read_from_each_format(store: FaultyStore, name: str, content: bytes) -> None:
    land(store, name, content)
    assert found(store) == [
        ("17", 0, 1.0, NOON - timedelta(hours=1)),
        ("r-2", 3, 0.5, NOON - timedelta(hours=2)),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"label,request_id\ntrue,r-1\nfalse,r-2\n,r-3\n"),
        ("a.json", lines({"request_id": "r-1", "label": True}, {"request_id": "r-2", "label": False})),
        ("a.parquet", parquet(request_id=["r-1", "r-2", None], label=[True, False, True])),
    ],
)
def test_row_and_time_left_out_are_the_first_and_the_objects_own(store: FaultyStore, name: str, content: bytes) -> None:
    land(store, name, content)
    assert found(store) == [("r-1", 0, 1.0, NOON), ("r-2", 0, 0.0, NOON)]


def test_texts_are_labels_too_and_come_beside_numbers_that_were_sent(store: FaultyStore) -> None:
    land(store, "a.csv", b"request_id,label\nr-1,late\nr-2,\n")
    assert found(store) == [("r-1", 0, "late", NOON)]
    LabelLog(store, ROOT, FixedClock(NOON)).add("churn", [Label("r-3", 0, 1.0)])
    assert [(name, label) for name, _, label, _ in found(store)] == [("r-1", "late"), ("r-3", "1.0")]


def test_of_labels_from_both_places_the_last_counts(store: FaultyStore) -> None:
    sent = LabelLog(store, ROOT, FixedClock(NOON))
    sent.add("churn", [Label("r-1", 0, 1.0), Label("r-2", 0, 1.0)])
    land(store, "a.csv", b"request_id,label\nr-1,0\n", NOON + timedelta(hours=1))
    land(store, "b.csv", b"request_id,label\nr-2,0\n", NOON - timedelta(hours=1))
    predictions = pd.DataFrame({"request_id": ["r-1", "r-2"], "row": [0, 0]})
    labels = read_labels(store, ROOT, "churn", DAYS, landing=LANDING)
    assert joined(predictions, labels)["label"].tolist() == [0.0, 1.0]


def test_labels_that_came_at_another_time_are_left_out(store: FaultyStore) -> None:
    land(store, "a.csv", CSV)
    land(store, "b.csv", b"request_id,label\nr-9,1\n", NOON - timedelta(days=9))
    assert [name for name, *_ in found(store, Interval(NOON - timedelta(hours=1), NOON))] == ["17"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"", "Empty CSV"),
        ("b.csv", b"request_id\nr-1\n", "no column label"),
        ("c.csv", b"id,outcome\nr-1,1\n", "no column request_id and no column label"),
        ("d.csv", b"request_id,label\nr-1\n", "Expected 2 columns"),
        ("e.csv", b"request_id,row,label\nr-1,first,1\n", "first"),
        ("f.csv", b"request_id,label,received_at\nr-1,1,yesterday\n", "yesterday"),
        ("g.parquet", b"PAR1", "smaller than the minimum"),
        ("h.jsonl", b'{"request_id": 7, "label": 1}', "JSON"),
        ("i.jsonl", b'{"request_id": "r", "label": {"is": 1}}', "struct"),
        ("j.xlsx", b"x", "its name ends with none of .parquet, .csv"),
    ],
)
def test_file_that_cannot_be_read_is_named_once_and_left_out(
    store: FaultyStore, caplog: pytest.LogCaptureFixture, name: str, content: bytes, told: str
) -> None:
    land(store, name, content)
    land(store, "good.csv", b"request_id,label\nr-1,1\n")
    land(store, "_temporary/part.csv", b"")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert found(store) == [("r-1", 0, 1.0, NOON)]
    (record,) = [record for record in caplog.records if record.name == "perennial.landed_labels"]
    assert f"labels in {LANDING}{name} are left out: " in record.getMessage()
    assert told in record.getMessage()


def test_file_above_the_limit_is_named_with_its_size_and_not_read(
    store: FaultyStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"request_id,label\nr-of-a-large-file,1\n"
    monkeypatch.setattr("perennial.landed_labels.MAX_FILE_BYTES", len(content) - 1)
    land(store, "a.csv", content)
    assert found(store) == []
    assert f"it has {len(content)} bytes, at most {len(content) - 1} are read; write several files" in caplog.text


def test_prefix_that_cannot_be_listed_leaves_what_was_sent(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    LabelLog(store, ROOT, FixedClock(NOON)).add("churn", [Label("r-1", 0, 1.0)])
    own = store.list

    def denied(prefix: str) -> Any:
        if prefix == LANDING:
            raise TerminalError("access denied")
        return own(prefix)

    monkeypatch.setattr(store, "list", denied)
    assert [name for name, *_ in found(store)] == ["r-1"]
    assert f"labels below {LANDING} are left out: access denied" in caplog.text


def test_store_that_goes_down_in_the_middle_is_no_answer_and_is_not_remembered(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(store, "down.csv", b"request_id,label\nr-down,1\n")

    def down(uri: str) -> bytes:
        raise StoreUnavailableError("connection refused")

    with monkeypatch.context() as context:
        context.setattr(store, "read", down)
        with pytest.raises(StoreUnavailableError):
            found(store)
    assert [name for name, *_ in found(store)] == ["r-down"]


def test_object_is_read_once_until_it_is_replaced(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = store.read, []

    def counted(uri: str) -> bytes:
        asked.append(uri)
        return read(uri)

    monkeypatch.setattr(store, "read", counted)
    land(store, "once.csv", b"request_id,label\nr-once,1\n")
    assert found(store) == found(store) == [("r-once", 0, 1.0, NOON)]
    assert len(asked) == 1
    land(store, "once.csv", b"request_id,label\nr-once,0\n")
    assert found(store) == [("r-once", 0, 0.0, NOON)]
    land(store, "once.csv", b"request_id,label\nr-once,0\n", NOON + timedelta(hours=1))
    assert found(store) == [("r-once", 0, 0.0, NOON + timedelta(hours=1))]


def test_cache_holds_no_more_than_its_limit_and_keeps_what_was_asked_for_last(store: FaultyStore) -> None:
    cache, made = TableCache(2 * (8000 + 4096)), []

    def ask(name: str) -> None:
        land(store, name, b"")
        info = store.head(LANDING + name)
        assert info is not None

        def read() -> pa.Table:
            made.append(name)
            return pa.table({"x": pa.array([0] * 1000, pa.int64())})

        assert len(cache.get(info, None, read)) == 1000

    for name in ("a", "b", "a", "c", "a", "b"):
        ask(name)
    assert made == ["a", "b", "c", "b"]
