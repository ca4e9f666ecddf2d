"""What lies in a landing zone, and whether a run has looked at it. The landing trigger and the snapshot share this."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from perennial.domain.fingerprint import canonical_json
from perennial.domain.times import format_time
from perennial.errors import NotFoundError, TerminalError
from perennial.ports import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingState:
    """One listing of a landing zone."""

    digest: str
    """sha256 over every object's uri, size and etag: the same listing gives the same digest."""
    objects: int
    newest: datetime | None
    """When the newest object was written; None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingPatience:
    """How long a landing zone has to be quiet, and for how long at most one waits for that."""

    quiet_s: float = 30.0
    """Least age of the newest object: files often land in groups."""
    at_most_s: float = 3600.0
    """A zone that is never quiet counts as quiet after this long; the snapshot leaves out what is being written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingVerdict:
    """Whether there is data to look at now, and why (not)."""

    ready: bool
    why: str


def landing_state(store: ObjectStore, landing: str) -> LandingState:
    """List the landing zone once.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    digest = hashlib.sha256()
    objects = 0
    newest: datetime | None = None
    for info in store.list(landing):
        digest.update(canonical_json([info.uri, info.size_bytes, info.etag]))
        objects += 1
        newest = info.modified if newest is None else max(newest, info.modified)
    return LandingState(digest=digest.hexdigest(), objects=objects, newest=newest)


def seen_digest(store: ObjectStore, root: str, model: str) -> str | None:
    """Digest of the newest listing that a run of this model has looked at; None before the first one."""
    try:
        return str(json.loads(store.read(_seen_uri(root, model)))["digest"])
    except (NotFoundError, ValueError, KeyError, TypeError):
        return None  # a damaged marker costs one run more, which finds nothing new


def mark_seen(store: ObjectStore, root: str, model: str, state: LandingState) -> None:
    """Remember that a run of this model has looked at this listing."""
    newest = None if state.newest is None else format_time(state.newest)
    content = canonical_json({"digest": state.digest, "objects": state.objects, "newest": newest})
    store.write(_seen_uri(root, model), content, content_type="application/json")


@contextmanager
def looking_at(
    store: ObjectStore, *, root: str, model: str, landing: str, sees_all: Callable[[], bool]
) -> Iterator[LandingState]:
    """Wrap a snapshot: the landing zone counts as looked at if the snapshot ends, or fails for good.

    The listing is taken before the snapshot, so a file that lands meanwhile is not missed. A transient error marks
    nothing: the retry will.

    Args:
        store: holds landing zone and marker.
        root: below which Perennial writes.
        model: whose run looks.
        landing: `s3://bucket/prefix/`.
        sees_all: asked at the end; False if the run stands in the past and left newer rows alone.
    """
    state = landing_state(store, landing)
    try:
        yield state
    except TerminalError:
        if sees_all():
            mark_seen(store, root, model, state)
        raise
    if sees_all():
        mark_seen(store, root, model, state)


def judge_landing(
    state: LandingState, seen: str | None, *, now: datetime, waiting_since: datetime | None, patience: LandingPatience
) -> LandingVerdict:
    """Whether a run should look at the landing zone now. Pure; the trigger and the sensor both ask it.

    Args:
        state: the zone as it is.
        seen: digest that the last run looked at.
        now: aware, UTC.
        waiting_since: when the caller first saw something unseen; None if it did not until now.
        patience: how long to wait for quiet.
    """
    if state.newest is None:
        return LandingVerdict(ready=False, why="the landing zone is empty")
    if state.digest == seen:
        return LandingVerdict(ready=False, why=f"all {state.objects} objects were looked at")
    age_s = (now - state.newest).total_seconds()
    if age_s >= patience.quiet_s:
        newest = format_time(state.newest.replace(microsecond=0))
        why = f"{state.objects:,} objects, not all looked at; the newest is from {newest}"
        return LandingVerdict(ready=True, why=why)
    if waiting_since is not None and now - waiting_since >= timedelta(seconds=patience.at_most_s):
        return LandingVerdict(ready=True, why=f"not quiet for {patience.at_most_s:g} s; looking at what is complete")
    return LandingVerdict(
        ready=False,
        why=f"the newest object is {age_s:.0f} s old, files may still land (quiet after {patience.quiet_s:g} s)",
    )


def _seen_uri(root: str, model: str) -> str:
    return f"{root}/snapshots/{model}/seen.json"
