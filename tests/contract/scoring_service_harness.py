"""The scoring service's deployer on a store, for the suite of all deployers; replicas are played by their own rule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from tests.contract.deployers import Crash, Fault, Served
from tests.contract.s3_servers import Server, answer

from perennial.adapters.deploy_scoring_service import ScoringServiceDeployer
from perennial.domain.traffic import Role, TrafficPlan, plan_uri, role_for
from perennial.errors import NotFoundError, StoreUnavailableError, TerminalError
from perennial.ports import Deployer, ObjectStore
from perennial.testing import FixedClock, FolderStore

NOW: Final = datetime(2013, 4, 1, tzinfo=UTC)
KEYS: Final = 4_000


class PlayedStore:
    """A store that counts what the deployer calls, and dies at a call."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.calls = 0
        self.changes = 0
        self.fault: BaseException | None = None
        self.crash_at: tuple[int, bool] | None = None

    def read(self, uri: str) -> bytes:
        return self._called(lambda: self._store.read(uri))

    def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
        self.changes += 1
        return self._called(lambda: self._store.write(uri, content, content_type=content_type, if_absent=if_absent))

    def delete(self, uri: str) -> None:
        self.changes += self.fault is None and self._store.head(uri) is not None
        self._called(lambda: self._store.delete(uri))

    def _called(self, call: Any) -> Any:
        if self.crash_at == (self.calls, False):
            raise Crash
        self.calls += 1
        if self.fault is not None:
            raise self.fault
        try:
            return call()
        finally:
            if self.crash_at == (self.calls - 1, True):
                raise Crash


@dataclass
class ScoringServiceHarness:
    """See `tests.contract.deployers.Harness`."""

    store: ObjectStore
    root: str
    server: Server | None = None
    """Plays the faults over HTTP; None: the store raises them itself."""
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    roles: tuple[Role, ...] = (Role.CANARY, Role.SHADOW)
    _alias: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.played = PlayedStore(self.store)

    @property
    def calls(self) -> int:
        return self.played.calls

    @property
    def changes(self) -> int:
        return self.played.changes

    def deployer(self) -> Deployer:
        return ScoringServiceDeployer(self.played, self.root, self.clock)  # type: ignore[arg-type]

    def settle(self) -> None:
        """Replicas go by what they read."""

    def move_alias(self, model: str, version: str) -> None:
        self._alias[model] = version

    def served(self, model: str) -> Served:
        """What a replica does with the requests, key by key where the share says so."""
        champion = self._alias.get(model)
        if champion is None:
            return Served()
        try:
            plan = TrafficPlan.from_dict(json.loads(self.store.read(plan_uri(self.root, model))))
        except NotFoundError:
            plan = None
        if plan is None or plan.challenger == champion:
            return Served(answers={champion: 100})
        assert_picks_its_share(plan, self.clock.now())
        share = plan.share if plan.is_live(self.clock.now()) else 0
        if plan.role is Role.SHADOW:
            return Served(answers={champion: 100}, copies={plan.challenger: share} if share else {})
        answers = {champion: 100 - share, plan.challenger: share}
        return Served(answers={version: percent for version, percent in answers.items() if percent})

    @contextmanager
    def play(self, fault: Fault) -> Iterator[None]:
        if self.server is None:
            self.played.fault = {
                Fault.DOWN: StoreUnavailableError("down"),
                Fault.THROTTLED: StoreUnavailableError("slow down"),
                Fault.DENIED: TerminalError("not allowed; grant it"),
            }[fault]
            yield
            self.played.fault = None
            return
        status, code = {
            Fault.DOWN: (503, "ServiceUnavailable"),
            Fault.THROTTLED: (503, "SlowDown"),
            Fault.DENIED: (403, "AccessDenied"),
        }[fault]

        def hook(request: Any) -> Any:
            return answer(request, status, code)

        self.server.before_send.append(hook)
        try:
            yield
        finally:
            self.server.before_send.remove(hook)

    @contextmanager
    def crash(self, at: int, *, after: bool) -> Iterator[None]:
        self.played.crash_at = (self.played.calls + at, after)
        try:
            yield
        finally:
            self.played.crash_at = None


def assert_picks_its_share(plan: TrafficPlan, now: datetime) -> None:
    """The rule that the replicas go by, on many keys."""
    picked = sum(role_for(plan, str(key), now) is not Role.CHAMPION for key in range(KEYS))
    share = plan.share if plan.is_live(now) else 0
    assert abs(100 * picked / KEYS - share) < 3


def on_folder(folder: Path) -> ScoringServiceHarness:
    store = FolderStore(folder)
    store.add_bucket("bucket")
    return ScoringServiceHarness(store, "s3://bucket/store")


@contextmanager
def on_server(server: Server, bucket: str) -> Iterator[ScoringServiceHarness]:
    """A bucket of its own on a running S3 server. Retries do not wait."""
    server.add_bucket(bucket)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.endpoint.time", NoSleep)
        yield ScoringServiceHarness(server.store(), f"s3://{bucket}/store", server)


class NoSleep:
    """In place of botocore's `time`."""

    @staticmethod
    def sleep(_: float) -> None: ...
