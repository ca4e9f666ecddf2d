"""What the governor has to know: of the runs from Airflow, of the data from the store.

The data's facts are looked up at most every `KEPT_FOR` in a process, and the decision ledger is read only when it has
grown; Airflow is asked each time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from perennial.domain.alert import Alert, Outcome
from perennial.domain.governor import DataFacts, RunFacts
from perennial.domain.ledger_entry import OUTCOMES, LedgerEntry
from perennial.domain.manifest import UnusableFile
from perennial.domain.times import parse_time
from perennial.errors import StoreUnavailableError
from perennial.ledger import Ledger
from perennial.ledger_objects import LedgerObjects, Mark
from perennial.ports import Clock, ObjectInfo, ObjectStore
from perennial.retrain_runs import RetrainDag, RetrainRun, RunStarter
from perennial.spec.model import ModelSpec
from perennial.stages.landed_files import is_hidden, not_yet
from perennial.stages.landing import landing_state, seen_digest
from perennial.stages.parquet_footer import read_footer

KEPT_FOR: Final = timedelta(seconds=5)
WAIT_S: Final = 10.0
"""For so long a thread waits for another one that asks the same."""
COUNT_FOR: Final = timedelta(seconds=5)
"""For so long one look counts rows; the next one goes on from there."""
LOOK_BACK: Final = 64
"""So many of the newest entries of the decision ledger are read first; more if they do not tell enough."""
_READERS: Final = 16
"""Footers that are read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRuns:
    """A model's runs as one alert sees them."""

    own: str | None
    """Id of the run that was started for this very alert."""
    facts: RunFacts | None
    """None: Airflow has no DAG that retrains the model."""


def runs_for(alert: Alert, attempt: Outcome | None, starter: RunStarter, now: datetime) -> AlertRuns:
    """Ask Airflow.

    Args:
        alert: whose run may be there already.
        attempt: the start that was begun last; its run may have ended long ago.
        starter: Airflow.
        now: aware, UTC.
    """
    dag = starter.look(alert.model, now)
    known = [] if dag is None else [dag.latest, dag.active, dag.last_ended, *dag.for_alerts]
    own = next((run.run_id for run in known if run is not None and run.alert_key == alert.key), None)
    if own is None and attempt is not None and attempt.run_id is not None:
        tried = starter.run(alert.model, attempt.run_id)
        own = tried.run_id if tried is not None and tried.alert_key == alert.key else None
    return AlertRuns(own=own, facts=None if dag is None else _run_facts(dag, alert))


def _run_facts(dag: RetrainDag, alert: Alert) -> RunFacts:
    last = dag.last_ended
    return RunFacts(
        paused=dag.paused,
        latest=None if dag.latest is None else (dag.latest.run_id, dag.latest.created_at),
        active=None if dag.active is None else dag.active.run_id,
        served=last.run_id if last is not None and _has_served(last, alert) else None,
        ended_at=None if last is None else last.ended_at,
        failed=last.created_at if last is not None and last.state == "failed" else None,
        alert_starts=tuple(run.created_at for run in dag.for_alerts),
    )


def _has_served(run: RetrainRun, alert: Alert) -> bool:
    return run.state == "success" and run.created_at > alert.received_at


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """What the decision ledger tells; no more of it is kept, a process may know a thousand models."""

    outcome: LedgerEntry | None = None
    """The newest."""
    trained_on: str | None = None
    """Uri of the snapshot that the last challenger was trained on."""
    rejections: int = 0
    last_for_alert_at: datetime | None = None


@dataclass(slots=True)
class _Known:
    """What this process knows of one model's data."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: tuple[datetime, int] | None = None
    """When, and how many new rows were asked for."""
    facts: DataFacts = field(default_factory=DataFacts)
    read: tuple[tuple[Mark, ...], int] | None = None
    """The decision ledger's heads as it was read, and how many rejections it was read for."""
    history: _History = field(default_factory=_History)


_known: WeakKeyDictionary[Any, dict[tuple[str, str], _Known]] = WeakKeyDictionary()
_known_lock: Final = threading.Lock()
_rows: Final[dict[tuple[str, str], dict[tuple[str, str], int]]] = {}
"""Of each model (root, name): rows by uri and etag of a landed file. Outlives the store's client, which is renewed."""


def data_facts(spec: ModelSpec, *, store: ObjectStore, root: str, ledger: Ledger, clock: Clock) -> DataFacts:
    """Ask the store, or say what it said up to `KEPT_FOR` ago. Threads that ask at once wait for one answer.

    Raises:
        StoreUnavailableError: the store does not answer, or another thread has waited for it for too long.
    """
    with _known_lock:
        known = _known.setdefault(store, {}).setdefault((root, spec.name), _Known())
    policy = spec.triggers.on_drift
    wanted = 0 if policy is None else policy.min_new_rows
    if not known.lock.acquire(timeout=WAIT_S):  # else a store that hangs would be asked by one thread after the other
        raise StoreUnavailableError(f"{spec.name}: the store has not told for {WAIT_S:g} s what has landed; try again")
    try:
        now = clock.now()
        fresh = known.asked is not None and known.asked[1] == wanted and now - known.asked[0] < KEPT_FOR
        if not fresh:
            known.facts = _look(spec, known, wanted, store=store, root=root, ledger=ledger, clock=clock)
            known.asked = (now, wanted)
        return known.facts
    finally:
        known.lock.release()


def _look(
    spec: ModelSpec, known: _Known, wanted: int, *, store: ObjectStore, root: str, ledger: Ledger, clock: Clock
) -> DataFacts:
    limit = spec.triggers.on_drift.stop_after_rejections if spec.triggers.on_drift is not None else 0
    read = LedgerObjects(store, root).marks(spec.name).heads, limit
    if read != known.read:
        known.history = _read_history(spec.name, ledger, limit)
        known.read = read
    history = known.history
    judged = history.outcome
    seen = judged is not None and _saw_all(judged, spec) and _landed_as_seen(spec, store, root)
    return DataFacts(
        judged_at=judged.recorded_at if judged is not None and seen else None,
        new_rows=_new_rows(spec, known, wanted, store=store, root=root, clock=clock) if wanted else None,
        rejections=history.rejections,
        last_for_alert_at=history.last_for_alert_at,
    )


def _read_history(model: str, ledger: Ledger, limit: int) -> _History:
    """Back to the last promotion, or to `limit` rejections: other runs may lie between two of them, however many."""
    count = LOOK_BACK
    while True:
        entries = ledger.newest(model, *OUTCOMES, "promotion", count=count)
        history = _history(entries)
        promoted = any(entry.kind == "promotion" for entry in entries)
        if promoted or history.rejections >= limit or len(entries) < count:
            return history
        count *= 4


def _history(entries: Sequence[LedgerEntry]) -> _History:
    outcomes = [entry for entry in entries if entry.kind in OUTCOMES]
    decisions = [entry for entry in outcomes if entry.kind == "decision"]
    for_alerts = [entry for entry in outcomes if entry.request.get("trigger") == "drift"]
    promoted = max((entry.sequence for entry in entries if entry.kind == "promotion"), default=0)
    return _History(
        outcome=outcomes[-1] if outcomes else None,
        trained_on=decisions[-1].references.get("snapshot", {}).get("uri") if decisions else None,
        rejections=sum(entry.kind == "decision" and entry.sequence > promoted for entry in for_alerts),
        last_for_alert_at=for_alerts[-1].recorded_at if for_alerts else None,
    )


def _landed_as_seen(spec: ModelSpec, store: ObjectStore, root: str) -> bool:
    seen = seen_digest(store, root, spec.name)
    return seen is not None and seen == landing_state(store, spec.data.landing).digest


def _saw_all(outcome: LedgerEntry, spec: ModelSpec) -> bool:
    """Whether a run of today would find nothing else than this one did, if the landing zone is the same."""
    if outcome.kind == "refused" or outcome.request.get("params"):
        return False  # an alert's run trains with the spec's own parameters
    snapshot = outcome.references.get("snapshot", {})
    try:
        # Rows whose labels had not matured, or files that had to settle, are something new by and by.
        matured = parse_time(snapshot["watermark"]) + spec.data.label_delay <= outcome.as_of
        return matured and not (snapshot["pending_files"] and spec.data.settle)
    except (KeyError, TypeError, ValueError):
        return False


def _new_rows(
    spec: ModelSpec, known: _Known, wanted: int, *, store: ObjectStore, root: str, clock: Clock
) -> int | None:
    """Rows of files that were written after the last training's snapshot.

    Reads no further than `wanted`, nor for longer than `COUNT_FOR`: then it is what was counted so far.
    """
    snapshot = store.head(known.history.trained_on) if known.history.trained_on else None
    if snapshot is None:
        return None
    landing, now = spec.data.landing, clock.now()
    unread: list[tuple[str, ObjectInfo]] = []
    earlier, rows = _rows.get((root, spec.name), {}), dict[tuple[str, str], int]()
    for info in store.list(landing):
        key, name = info.uri.removeprefix(landing), (info.uri, info.etag)
        ours = info.uri.startswith(f"{root}/")  # a store that lies in the landing zone
        if info.modified <= snapshot.modified or ours or is_hidden(key):
            continue
        if not_yet(key, info, spec.data.settle, now) is not None:
            continue
        if name in earlier:
            rows[name] = earlier[name]
        else:
            unread.append((key, info))
    _rows[root, spec.name] = rows  # filled below, so that what was counted before the store went away stays
    unread.sort(key=lambda file: file[1].size_bytes, reverse=True)
    with ThreadPoolExecutor(_READERS) as pool:
        while unread and sum(rows.values()) < wanted and clock.now() - now < COUNT_FOR:
            batch, unread = unread[:_READERS], unread[_READERS:]
            counts = pool.map(lambda file: _rows_in(file[0], file[1], store), batch)
            for (_, info), count in zip(batch, counts, strict=True):
                rows[info.uri, info.etag] = count
    return sum(rows.values())


def _rows_in(key: str, info: ObjectInfo, store: ObjectStore) -> int:
    footer = read_footer(key, info.size_bytes, info.modified, partial(_read, store, info.uri))
    return 0 if isinstance(footer, UnusableFile) else int(footer.num_rows)


def _read(store: ObjectStore, uri: str, start: int, end: int) -> bytes:
    return store.read(uri, start=start, end=end)
