"""The alert ledger: what came in for each model, and what became of it; one object an alert.

    alerts/<model>/<key>.json        the record, rewritten as the alert goes on from one state to the next
    alerts-open/<model>/<key>        the record once more while it is open; put before it, deleted after its end

An ended record is never opened again, and one that tells of a started run stands above all others: several processes
may carry one alert on at once, also over a store that ignores conditions. See docs/adr/0012-alert-governor.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self

from perennial.domain.alert import Alert, Fate, Outcome
from perennial.domain.fingerprint import canonical_json
from perennial.json_objects import JSON_TYPE, stored_object
from perennial.ports import ObjectStore

_log = logging.getLogger(__name__)
_READERS: Final = 16
"""Records that are read at once."""


class AlertState(StrEnum):
    """Where an alert stands."""

    STARTING = "starting"
    """Received; its run is being started, or that was interrupted and will be done by the next tick."""
    DEFERRED = "deferred"
    """Until its newest outcome's `until`."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRecord:
    """An alert and what became of it so far."""

    alert: Alert
    state: AlertState
    outcomes: tuple[Outcome, ...] = ()
    """Oldest first; empty: nobody was answered yet."""
    attempt: Outcome | None = None
    """The start that was begun last: how it will be told once its run is there."""

    @property
    def open(self) -> bool:
        """Whether something is still to be done."""
        return self.state is not AlertState.ENDED

    @property
    def newest(self) -> Outcome | None:
        """Where it stands, for people."""
        return self.outcomes[-1] if self.outcomes else None

    @property
    def started(self) -> bool:
        """Whether it ended with a run of its own."""
        return not self.open and self.newest is not None and self.newest.fate is Fate.STARTED

    def starting(self, attempt: Outcome) -> Self:
        """The record with a start begun."""
        return replace(self, state=AlertState.STARTING, attempt=attempt)

    def answered(self, outcome: Outcome) -> Self:
        """The record with one outcome more; of a row of deferrals by one rule, the first and the last are kept."""
        deferred = outcome.fate is Fate.DEFERRED
        again = deferred and [told.rule for told in self.outcomes[-2:]] == [outcome.rule] * 2
        state = AlertState.DEFERRED if deferred else AlertState.ENDED
        return replace(self, state=state, outcomes=(*(self.outcomes[:-1] if again else self.outcomes), outcome))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "alert": self.alert.to_dict(),
            "state": self.state.value,
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "attempt": None if self.attempt is None else self.attempt.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: not a record.
        """
        try:
            attempt = values["attempt"]
            return cls(
                alert=Alert.from_dict(values["alert"]),
                state=AlertState(values["state"]),
                outcomes=tuple(Outcome.from_dict(outcome) for outcome in values["outcomes"]),
                attempt=None if attempt is None else Outcome.from_dict(attempt),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an alert's record: {type(error).__name__}: {error}") from error


class AlertLedger:
    """Records of all models' alerts below `root` (`s3://bucket/prefix`)."""

    def __init__(self, store: ObjectStore, root: str) -> None:
        self._store, self._root = store, root

    def read(self, model: str, key: str) -> AlertRecord | None:
        """The record of an alert; None if there is none, or half of one, which is to be written anew."""
        return self._read(self._uri(model, key))

    def list(self, model: str, count: int = 50) -> list[AlertRecord]:
        """The `count` records that changed last, the alert received last first."""
        infos = sorted(self._store.list(f"{self._root}/alerts/{model}/"), key=lambda info: info.modified)
        uris = [info.uri for info in infos[-count:]] if count > 0 else []
        with ThreadPoolExecutor(_READERS) as pool:
            found = [record for record in pool.map(self._read, uris) if record is not None]
        return sorted(found, key=lambda record: (record.alert.received_at, record.alert.key), reverse=True)

    def add(self, record: AlertRecord) -> AlertRecord | None:
        """Put an alert's first record; the one that is there already instead, or None: it was put."""
        uri = self._uri(record.alert.model, record.alert.key)
        content = canonical_json(record.to_dict())
        if self._store.write(uri, content, content_type=JSON_TYPE, if_absent=True):
            return None
        there = self._read(uri)
        if there is None:  # half an object
            self._store.write(uri, content, content_type=JSON_TYPE)
        return there

    def replace(self, record: AlertRecord, *, instead_of: AlertRecord) -> AlertRecord:
        """Put the record, unless somebody else carried the alert on meanwhile; the one that stands.

        A start is put in any case: it names what cannot be undone.
        """
        alert = record.alert
        there = self.read(alert.model, alert.key) or instead_of
        if there != instead_of and (there.started or not record.started):
            return there
        self._store.write(self._uri(alert.model, alert.key), canonical_json(record.to_dict()), content_type=JSON_TYPE)
        if record.open:  # somebody may have ended it since we looked, and have taken its mark away
            self.open(record)
        return record

    def open(self, record: AlertRecord) -> None:
        """Mark the alert, so that the next tick finds it; before its first record is put."""
        content = canonical_json(record.to_dict())
        self._store.write(self._mark(record.alert.model, record.alert.key), content, content_type=JSON_TYPE)

    def close(self, record: AlertRecord) -> None:
        """Take an ended alert's mark away; the same again changes nothing."""
        alert = record.alert
        self._store.delete(self._mark(alert.model, alert.key))
        there = self.read(alert.model, alert.key)
        if there is not None and there.open:  # put by somebody who had looked before it ended
            self.open(there)

    def opened(self, model: str) -> Sequence[AlertRecord]:
        """Records of all marked alerts, the alert received first first. A record that was never put is put now."""
        names = [info.uri.rpartition("/")[2] for info in self._store.list(f"{self._root}/alerts-open/{model}/")]
        with ThreadPoolExecutor(_READERS) as pool:
            found = [record for record in pool.map(lambda key: self._marked(model, key), names) if record is not None]
        return sorted(found, key=lambda record: (record.alert.received_at, record.alert.key))

    def _marked(self, model: str, key: str) -> AlertRecord | None:
        record = self.read(model, key)
        if record is not None:
            return record
        marked = self._read(self._mark(model, key))
        return None if marked is None else self.add(marked) or marked

    def _read(self, uri: str) -> AlertRecord | None:
        content = stored_object(self._store, uri)
        try:
            return None if content is None else AlertRecord.from_dict(content)
        except ValueError as error:
            _log.error("%s is passed over: %s", uri, error)
            return None

    def _uri(self, model: str, key: str) -> str:
        return f"{self._root}/alerts/{model}/{key}.json"

    def _mark(self, model: str, key: str) -> str:
        return f"{self._root}/alerts-open/{model}/{key}"
