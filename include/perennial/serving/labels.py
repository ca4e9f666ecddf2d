"""Outcomes that come later: `POST /labels`, and how they are joined to the predictions.

The body is `{"labels": [{"request_id": "r-17", "row": 0, "label": 1}]}`; `row` is the row's place in its request, 0 if
left out. Labels are numbers, or true and false, which count as 1 and 0, or texts; not both in one body.

Once the answer is 200 they are in the store. They may come in any order, days later, more than once, and changed: of
several for the same row of the same request the one that came last counts (`perennial.prediction_objects.joined`). One
for an unknown request is kept, and joins nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from perennial.errors import TransientError
from perennial.ports import Clock, ObjectStore
from perennial.prediction_objects import PARQUET_TYPE, SUFFIX, labels_path, labels_schema
from perennial.serving.errors import BadRequestError, UnavailableError

MAX_LABELS: Final = 10_000
"""In one body."""
MAX_TEXT: Final = 200
"""Characters of a request id, and of a label."""
MAX_ROW: Final = 2**31 - 1
_SHOWN: Final = 10
"""Faults that a message names."""
_FIELDS: Final = frozenset({"request_id", "row", "label"})


@dataclass(frozen=True, slots=True)
class Label:
    """The outcome of one row of one request."""

    request_id: str
    row: int
    label: float | str


class LabelLog:
    """Writes labels to the store, each body as one object."""

    def __init__(self, store: ObjectStore, root: str, clock: Clock) -> None:
        self._store, self._root, self._clock = store, root, clock

    def add(self, model: str, labels: Sequence[Label]) -> None:
        """Write them; blocks until the store has them.

        Raises:
            UnavailableError: it did not take them; sending them again does no harm.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        now = self._clock.now()
        own = {
            "request_id": [label.request_id for label in labels],
            "row": [label.row for label in labels],
            "received_at": [now] * len(labels),
        }
        columns = {name: pa.array(values, labels_schema().field(name).type) for name, values in own.items()}
        table = pa.table({**columns, "label": pa.array([label.label for label in labels])})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        uri = f"{self._root}/{labels_path(model, now)}{now:%H%M%S%f}-{uuid4().hex[:12]}{SUFFIX}"
        try:
            self._store.write(uri, bytes(sink.getvalue()), content_type=PARQUET_TYPE)
        except TransientError as error:
            raise UnavailableError(
                "the labels could not be kept: the store does not answer; send them again"
            ) from error


def parse_labels(body: bytes) -> list[Label]:
    """The body's labels, at least one.

    Raises:
        BadRequestError: with every label at fault (the first few in the text): what came, and what is expected.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body must be JSON: {str(error)[:200]}") from None
    given = document.get("labels") if isinstance(document, dict) and set(document) == {"labels"} else None
    if not isinstance(given, list) or not given:
        raise BadRequestError('the body must be {"labels": [...]} with at least one label, and nothing else')
    if len(given) > MAX_LABELS:
        raise BadRequestError(
            f"at most {MAX_LABELS:,} labels at once, got {len(given):,}; send several bodies", status=413
        )
    faults = [
        {"label": number, "expected": expected}
        for number, label in enumerate(given)
        if (expected := _expected(label)) is not None
    ]
    if faults:
        told = "; ".join(f"label {fault['label']}: {fault['expected']}" for fault in faults[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise BadRequestError(told + more, detail=faults)
    texts = sum(isinstance(label["label"], str) for label in given)
    if 0 < texts < len(given):
        raise BadRequestError(f"labels must be all texts or all numbers; {texts} of {len(given)} are texts")
    return [
        Label(label["request_id"], int(label.get("row", 0)), label["label"] if texts else float(label["label"]))
        for label in given
    ]


def _expected(label: Any) -> str | None:
    """What a label should be like, if it is not."""
    if not isinstance(label, dict) or not {"request_id", "label"} <= set(label) <= _FIELDS:
        return "must be an object with request_id and label, perhaps row, and nothing else"
    if not _is_text(label["request_id"]):
        return f"request_id must be a text of 1 to {MAX_TEXT} characters"
    row = label.get("row", 0)
    if isinstance(row, bool) or not _is_number(row) or row != int(row) or not 0 <= row <= MAX_ROW:
        return f"row must be a whole number from 0 to {MAX_ROW}"
    if not _is_text(label["label"]) and not _is_number(label["label"]):
        return f"label must be a finite number, true, false, or a text of 1 to {MAX_TEXT} characters"
    return None


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry and Parquet cannot
        return False
    return True


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False
