from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perennial.errors import NoDataError, StoreUnavailableError
from perennial.stages.landing import (
    LandingPatience,
    LandingState,
    judge_landing,
    landing_state,
    looking_at,
    mark_seen,
    seen_digest,
)
from perennial.testing.store import FolderStore

LANDING = "s3://bucket/landing/"
ROOT = "s3://bucket/store"
NEWEST = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = LandingPatience(quiet_s=30, at_most_s=600)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path)
    store.add_bucket("bucket")
    store.write(f"{LANDING}a.parquet", b"a", content_type="x")
    return store


def state(digest: str = "d", newest: datetime | None = NEWEST) -> LandingState:
    return LandingState(digest=digest, objects=1, newest=newest)


def judge(age_s: float, *, seen: str | None = None, waiting_s: float | None = None) -> bool:
    now = NEWEST + timedelta(seconds=age_s)
    since = None if waiting_s is None else now - timedelta(seconds=waiting_s)
    return judge_landing(state(), seen, now=now, waiting_since=since, patience=PATIENCE).ready


def test_quiet_zone_with_something_unseen_is_ready() -> None:
    assert judge(30)
    assert judge(30, seen="other")


def test_zone_that_was_looked_at_is_not_ready() -> None:
    assert not judge(3000, seen="d")


def test_zone_that_is_not_quiet_waits_but_not_for_ever() -> None:
    assert not judge(29.9)
    assert not judge(5, waiting_s=599)
    assert judge(5, waiting_s=600)


def test_empty_zone_is_not_ready() -> None:
    verdict = judge_landing(state(newest=None), None, now=NEWEST, waiting_since=None, patience=PATIENCE)
    assert not verdict.ready
    assert "empty" in verdict.why


def test_same_listing_gives_the_same_digest_and_a_change_another(store: FolderStore) -> None:
    before = landing_state(store, LANDING)
    assert landing_state(store, LANDING) == before
    store.write(f"{LANDING}a.parquet", b"b", content_type="x")
    assert landing_state(store, LANDING).digest != before.digest


def test_snapshot_that_ends_has_looked(store: FolderStore) -> None:
    with looking_at(store, root=ROOT, model="m", landing=LANDING, sees_all=lambda: True) as before:
        store.write(f"{LANDING}b.parquet", b"b", content_type="x")
    assert seen_digest(store, ROOT, "m") == before.digest
    assert landing_state(store, LANDING).digest != before.digest


def test_snapshot_that_fails_for_good_has_looked(store: FolderStore) -> None:
    with (
        pytest.raises(NoDataError),
        looking_at(store, root=ROOT, model="m", landing=LANDING, sees_all=lambda: True) as before,
    ):
        raise NoDataError("too little")
    assert seen_digest(store, ROOT, "m") == before.digest


def test_snapshot_that_may_be_retried_has_not_looked(store: FolderStore) -> None:
    error = StoreUnavailableError("busy")
    with (
        pytest.raises(StoreUnavailableError),
        looking_at(store, root=ROOT, model="m", landing=LANDING, sees_all=lambda: True),
    ):
        raise error
    assert seen_digest(store, ROOT, "m") is None


def test_run_that_stands_in_the_past_has_not_looked_at_everything(store: FolderStore) -> None:
    with looking_at(store, root=ROOT, model="m", landing=LANDING, sees_all=lambda: False):
        pass
    assert seen_digest(store, ROOT, "m") is None


def test_damaged_marker_counts_as_nothing_seen(store: FolderStore) -> None:
    mark_seen(store, ROOT, "m", state())
    store.write(f"{ROOT}/snapshots/m/seen.json", b"{", content_type="x")
    assert seen_digest(store, ROOT, "m") is None
