"""Labels: what is taken, what is refused and how, and which label counts for which prediction."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.traffic import Role
from perennial.prediction_objects import joined, read_labels
from perennial.serving.errors import BadRequestError, UnavailableError
from perennial.serving.labels import MAX_LABELS, Label, LabelLog, parse_labels
from perennial.testing import FixedClock
from tests.unit.core.serving.logged import DAYS, NOON, ROOT, FaultyStore, request, rows_of, started

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def body(*labels: Any) -> bytes:
    return json.dumps({"labels": list(labels)}).encode()


def one(**changes: Any) -> dict[str, Any]:
    return {"request_id": "r-1", "row": 0, "label": 1, **changes}


@pytest.mark.parametrize(
    ("label", "read"),
    [(1, 1.0), (0.5, 0.5), (-3, -3.0), (True, 1.0), (False, 0.0), ("late", "late"), ("", None), (None, None)],
)
def test_label_is_a_number_a_truth_value_or_a_text(label: Any, read: Any) -> None:
    if read is None:
        with pytest.raises(BadRequestError, match="label must be a finite number"):
            parse_labels(body(one(label=label)))
    else:
        assert parse_labels(body(one(label=label))) == [Label("r-1", 0, read)]


def test_row_left_out_is_the_first_and_a_whole_float_is_whole() -> None:
    assert parse_labels(body({"request_id": "r-1", "label": 1})) == [Label("r-1", 0, 1.0)]
    assert parse_labels(body(one(row=7.0))) == [Label("r-1", 7, 1.0)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "must be JSON"),
        (b"\xff", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b"[]", "at least one label"),
        (b"{}", "at least one label"),
        (b'{"labels": []}', "at least one label"),
        (b'{"labels": {}}', "at least one label"),
        (b'{"labels": [{"request_id": "r", "label": 1}], "model": "x"}', "nothing else"),
        (body(5), "label 0: must be an object with request_id and label"),
        (body(one(), {"label": 1}), "label 1: must be an object"),
        (body(one(more=1)), "nothing else"),
        (body(one(request_id="")), "request_id must be a text of 1 to 200"),
        (body(one(request_id="x" * 201)), "request_id must be a text"),
        (body(one(request_id=7)), "request_id must be a text"),
        (body(one(request_id="\ud800")), "request_id must be a text"),
        (body(one(row=-1)), "row must be a whole number"),
        (body(one(row=1.5)), "row must be a whole number"),
        (body(one(row=True)), "row must be a whole number"),
        (body(one(row=2**31)), "row must be a whole number"),
        (body(one(label=float("nan"))), "label must be a finite number"),
        (body(one(label=10**400)), "label must be a finite number"),
        (body(one(label=[1])), "label must be a finite number"),
        (body(one(label="\ud800")), "label must be a finite number"),
        (body(one(label="a"), one(label=1)), "all texts or all numbers; 1 of 2 are texts"),
    ],
)
def test_body_that_is_not_labels_is_refused_with_place_and_what_is_expected(content: bytes, told: str) -> None:
    with pytest.raises(BadRequestError, match=told) as caught:
        parse_labels(content)
    assert caught.value.status == 400


def test_every_label_at_fault_is_named_and_the_text_stays_short() -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_labels(body(*[one(row=-1)] * 500))
    assert len(caught.value.detail) == 500
    assert str(caught.value).endswith("and 490 more")
    assert len(str(caught.value)) < 1000


def test_too_many_labels_at_once_are_refused_as_too_large() -> None:
    with pytest.raises(BadRequestError, match="at most 10,000 labels at once, got 10,001") as caught:
        parse_labels(body(*[one()] * (MAX_LABELS + 1)))
    assert caught.value.status == 413


@given(JSON | st.fixed_dictionaries({"labels": st.lists(st.fixed_dictionaries(dict.fromkeys(one(), JSON)))}))
def test_any_json_is_labels_or_a_bad_request(content: Any) -> None:
    try:
        labels = parse_labels(json.dumps(content).encode())
    except BadRequestError:
        return
    assert labels


@pytest.fixture
def store(tmp_path: Path) -> FaultyStore:
    return FaultyStore(tmp_path / "s3")


def test_labels_lie_by_model_and_the_day_they_came(store: FaultyStore) -> None:
    clock = FixedClock(NOON)
    log = LabelLog(store, ROOT, clock)
    log.add("churn", [Label("r-1", 0, 1.0), Label("r-1", 1, 0.0)])
    clock.advance(timedelta(days=1))
    log.add("churn", [Label("r-2", 0, 1.0)])
    log.add("other", [Label("r-3", 0, "late")])
    found = [info.uri.removeprefix(f"{ROOT}/labels/").rpartition("/")[0] for info in store.list(f"{ROOT}/")]
    assert found == ["churn/day=2026-11-21", "churn/day=2026-11-22", "other/day=2026-11-22"]
    frame = read_labels(store, ROOT, "churn", DAYS)
    assert sorted(zip(frame["request_id"], frame["row"], frame["label"], strict=True)) == [
        ("r-1", 0, 1.0),
        ("r-1", 1, 0.0),
        ("r-2", 0, 1.0),
    ]
    assert set(frame["received_at"]) == {NOON, NOON + timedelta(days=1)}


def test_labels_are_refused_while_the_store_is_down_and_may_be_sent_again(store: FaultyStore) -> None:
    log = LabelLog(store, ROOT, FixedClock(NOON))
    store.down = True
    with pytest.raises(UnavailableError, match="send them again"):
        log.add("churn", [Label("r-1", 0, 1.0)])
    store.down = False
    for _ in range(2):  # the second: its answer was lost on the way
        log.add("churn", [Label("r-1", 0, 1.0)])
    predictions = pd.DataFrame({"request_id": ["r-1"], "row": [0]})
    assert len(joined(predictions, read_labels(store, ROOT, "churn", DAYS))) == 1


def labels(*rows: tuple[str, int, Any, int]) -> pd.DataFrame:
    """Request id, row, label, and seconds after noon at which it came."""
    frame = pd.DataFrame(rows, columns=["request_id", "row", "label", "received_at"])
    return frame.assign(received_at=[NOON + timedelta(seconds=second) for second in frame["received_at"]])


PREDICTIONS = pd.DataFrame(
    {
        "request_id": ["r-2", "r-1", "r-1", "r-3"],
        "row": [0, 0, 1, 0],
        "role": ["champion"] * 4,
        "prediction": [0.2, 0.1, 0.9, 0.3],
    }
)


def test_labels_join_by_request_and_row_in_the_predictions_order() -> None:
    found = joined(PREDICTIONS, labels(("r-1", 1, 1.0, 0), ("r-2", 0, 0.0, 5), ("unknown", 0, 1.0, 0)))
    assert found["prediction"].tolist() == [0.2, 0.9]
    assert found["label"].tolist() == [0.0, 1.0]
    assert found["labelled_at"].tolist() == [NOON + timedelta(seconds=5), NOON]


def test_last_label_by_time_wins_in_whatever_order_they_are_read() -> None:
    given = labels(("r-1", 0, 0.0, 10), ("r-1", 0, 1.0, 20), ("r-1", 0, 0.5, 15))
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        assert joined(PREDICTIONS, given.iloc[order])["label"].tolist() == [1.0]


def test_last_of_one_body_wins() -> None:
    assert joined(PREDICTIONS, labels(("r-1", 0, 0.0, 10), ("r-1", 0, 1.0, 10)))["label"].tolist() == [1.0]


def test_champion_and_shadow_of_one_request_both_get_its_label() -> None:
    both = pd.concat([PREDICTIONS, PREDICTIONS.assign(role="shadow", prediction=0.5)])
    found = joined(both, labels(("r-3", 0, 1.0, 0)))
    assert found[["role", "prediction", "label"]].to_numpy().tolist() == [["champion", 0.3, 1.0], ["shadow", 0.5, 1.0]]


def test_no_labels_or_no_predictions_give_no_rows() -> None:
    none = labels(("x", 0, 1.0, 0)).iloc[:0]
    assert joined(PREDICTIONS, none).empty
    assert joined(PREDICTIONS.iloc[:0], labels(("r-1", 0, 1.0, 0))).empty
    assert list(joined(PREDICTIONS, none).columns) == [*PREDICTIONS.columns, "label", "labelled_at"]


def test_log_and_labels_meet_in_the_store(store: FaultyStore, tmp_path: Path) -> None:
    log = started(store, tmp_path / "home")
    log.add(request(1, rows=2))
    log.add(request(1, rows=2, version="4", role=Role.SHADOW))
    log.close()
    sent = parse_labels(body(one(row=1, label=True), one(row=1, label=False), one(row=7)))
    LabelLog(store, ROOT, FixedClock(NOON + timedelta(days=1))).add("churn", sent)
    came = read_labels(store, ROOT, "churn", DAYS)
    for version in ("3", "4"):
        found = joined(rows_of(store, version), came)
        assert found[["request_id", "row", "label"]].to_numpy().tolist() == [["r-1", 1, 0.0]]


def test_labels_of_a_model_nobody_labelled_are_none(store: FaultyStore) -> None:
    assert joined(PREDICTIONS, read_labels(store, ROOT, "churn", DAYS)).empty
