"""Where shadows and canaries lie in the store.

    rollouts/<model>/current.json                 which one was begun last
    rollouts/<model>/<rollout id>/state.json      where it stands; rewritten at each look
    rollouts/<model>/<rollout id>/rollout.json    how it ended; written once
    rollouts/<model>/<rollout id>/stopped.json    that a person took it back; written once, and counts first
    rollouts/<model>/<rollout id>/<record's sha256, 16 digits>/page.html

Two may walk one rollout: the first record stands, and a state that was changed since it was read is left alone.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Final

from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.references import RolloutRef
from perennial.domain.rollout import RolloutRecord, RolloutState
from perennial.errors import IntegrityError
from perennial.json_objects import JSON_TYPE, put_once, stored_object
from perennial.ports import ObjectStore

_log = logging.getLogger(__name__)
_RECORDS: Final = ("stopped.json", "rollout.json")
_HTML: Final = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A record that is in the store."""

    record: RolloutRecord
    reference: RolloutRef
    """With an empty `ledger_uri`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutObjects:
    """One model's."""

    store: ObjectStore
    root: str
    """`s3://bucket/prefix`."""
    model: str

    def current(self) -> str | None:
        """Id of the rollout that was begun last, over or not; None: there was none."""
        found = stored_object(self.store, f"{self._folder}current.json")
        return None if found is None else str(found.get("rollout_id"))

    def put_current(self, rollout_id: str) -> None:
        """Under the model's lock."""
        content = canonical_json({"rollout_id": rollout_id})
        self.store.write(f"{self._folder}current.json", content, content_type=JSON_TYPE)

    def state(self, rollout_id: str) -> RolloutState | None:
        """Where it stands; None: it has not begun, or a crash left half a state, which begins anew."""
        uri = f"{self._folder}{rollout_id}/state.json"
        found = stored_object(self.store, uri)
        try:
            return None if found is None else RolloutState.from_dict(found)
        except ValueError as error:
            _log.error("%s is passed over: %s", uri, error)
            return None

    def put_state(self, state: RolloutState, *, instead_of: RolloutState | None) -> bool:
        """Store it, unless somebody else changed it since it was read; False: somebody has."""
        rollout_id = state.trial.rollout_id
        if instead_of is not None and self.state(rollout_id) != instead_of:
            return False
        uri = f"{self._folder}{rollout_id}/state.json"
        self.store.write(uri, canonical_json(state.to_dict()), content_type=JSON_TYPE)
        return True

    def record(self, rollout_id: str) -> StoredRecord | None:
        """How it ended; None: it has not.

        Raises:
            IntegrityError: what lies there is no record.
        """
        for name in _RECORDS:
            uri = f"{self._folder}{rollout_id}/{name}"
            if stored_object(self.store, uri) is not None:
                return _stored(uri, self.store.read(uri))
        return None

    def put_record(self, record: RolloutRecord) -> StoredRecord:
        """Store it, unless there is one; the one that counts."""
        name = "rollout.json" if record.stopped_by is None else "stopped.json"
        put_once(self.store, f"{self._folder}{record.trial.rollout_id}/{name}", record.to_json())
        stored = self.record(record.trial.rollout_id)
        if stored is None:
            raise IntegrityError(f"{self._folder}{record.trial.rollout_id}/{name} is gone as soon as it was written")
        return stored

    def put_page(self, stored: StoredRecord, page: bytes) -> None:
        """The same again changes nothing."""
        self.store.write(stored.reference.page_uri, page, content_type=_HTML)

    @property
    def _folder(self) -> str:
        return f"{self.root}/rollouts/{self.model}/"


def _stored(uri: str, content: bytes) -> StoredRecord:
    try:
        record = RolloutRecord.from_dict(json.loads(content))
    except ValueError as error:
        raise IntegrityError(f"{uri}: {error}; find out who wrote it") from error
    reference = RolloutRef(
        phase=record.trial.phase,
        uri=uri,
        sha256=sha256_of(content),
        page_uri=f"{uri.rpartition('/')[0]}/{sha256_of(content)[:16]}/page.html",
        ledger_uri="",
        passed=record.passed,
        version=record.trial.challenger,
        summary=record.summary,
    )
    return StoredRecord(record=record, reference=reference)
