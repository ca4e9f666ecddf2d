"""What the webhook needs of the world, from Airflow's connections; kept for a while only: they may change."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from perennial.errors import TransientError
from perennial.ledger import Ledger
from perennial.ports import Clock, ObjectStore
from perennial.retrain_runs import RunStarter
from perennial.runtime import SystemClock
from perennial.settings import load_settings
from perennial.spec.loader import SUFFIXES, load_spec
from perennial.spec.model import ModelSpec
from perennial_airflow.hooks.runtime import PerennialHook
from perennial_airflow.webhook.authentication import Credentials

log = logging.getLogger(__name__)

CONN_ID: Final = "perennial_webhook"
CREDENTIALS_S: Final = 30.0
"""For so long a key that was taken away is believed."""
WORLD_S: Final = 600.0
"""A new store means new connections to S3, and facts about models looked up anew."""
WAIT_S: Final = 5.0
"""For what another thread is making; a sender that waits no longer is told to come again."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an alert is recorded in, and what starts runs."""

    store: ObjectStore
    root: str
    ledger: Ledger
    starter: RunStarter
    clock: Clock
    specs: Path
    connected: bool = True
    """Whether the store is the one of the Airflow connection, and not of this process's environment."""


class BrokenConnectionError(TransientError):
    """The connection says something that makes no sense; senders try again until somebody has put it right."""


class LostConnectionError(TransientError):
    """A connection that was there is said to be gone, which Airflow also says where it could not look."""


class BusyError(TransientError):
    """Another thread has been looking something up for too long."""


class Kept(Generic[Made]):
    """Something that is made anew, out of the last one, when it is older than so many seconds.

    By one thread, while the others wait, but not for ever: what it is made of may hang.
    """

    def __init__(
        self,
        make: Callable[[Made | None], Made],
        kept_s: float,
        seconds: Callable[[], float] = time.monotonic,
        wait_s: float = WAIT_S,
    ) -> None:
        self._make, self._kept_s, self._seconds, self._wait_s = make, kept_s, seconds, wait_s
        self._lock = threading.Lock()
        self._held: tuple[float, Made] | None = None

    def __call__(self) -> Made:
        """The thing itself.

        Raises:
            BusyError: another thread has been making it for too long.
        """
        held = self._fresh()
        if held is not None:
            return held[1]
        if not self._lock.acquire(timeout=self._wait_s):
            raise BusyError(f"another request has been looking up Airflow's connections for {self._wait_s:g} s")
        try:
            held = self._fresh()
            if held is None:
                last = None if self._held is None else self._held[1]
                held = self._held = (self._seconds(), self._make(last))
        finally:
            self._lock.release()
        return held[1]

    def _fresh(self) -> tuple[float, Made] | None:
        held = self._held
        return None if held is None or self._seconds() - held[0] >= self._kept_s else held


class Specs:
    """The models' specs; a file is read again when it has changed."""

    def __init__(self) -> None:
        self._held: dict[Path, tuple[tuple[int, int], ModelSpec]] = {}

    def get(self, folder: Path, model: str) -> ModelSpec | None:
        """The spec of a model; None if there is no file of that name.

        Raises:
            SpecError: the file is not a valid spec.
        """
        for suffix in SUFFIXES:
            path = folder / f"{model}{suffix}"
            try:
                facts = path.stat()
            except OSError:
                continue
            stamp = (facts.st_mtime_ns, facts.st_size)
            held = self._held.get(path)
            if held is None or held[0] != stamp:
                held = self._held[path] = (stamp, load_spec(path))
            return held[1]
        return None


def load_credentials(last: Credentials | None = None) -> Credentials:
    """Who may send, from the connection; nobody, and a line in the log, if there is no such connection.

    Args:
        last: who might send until now. Airflow says "not found" too where its database or a secrets backend failed,
            and most senders take a 401 for final: so the connection is looked for twice, and one that was there before
            does not just go. Whoever deletes it restarts the API server, or lives with 503 until then.

    Raises:
        TransientError: the database does not answer, or the connection is broken, or gone.
    """
    from perennial_airflow.runs import require_database

    try:
        extra = _extra()
    except AirflowNotFoundException:
        require_database()
        try:
            extra = _extra()
        except AirflowNotFoundException:
            if last is not None and last.anybody:
                log.error("the webhook refuses every request (503): connection %s was there, and is gone", CONN_ID)
                raise LostConnectionError(f"connection {CONN_ID} was there, and is gone") from None
            log.error("there is no Airflow connection %s, so the webhook refuses every request (401)", CONN_ID)
            return Credentials()
    try:
        return _parsed(extra)
    except ValueError as error:
        log.error("the webhook refuses every request (503): connection %s: %s", CONN_ID, error)
        raise BrokenConnectionError(f"connection {CONN_ID}: {error}") from None


def _extra() -> str:
    return BaseHook.get_connection(CONN_ID).extra or "{}"


def _parsed(text: str) -> Credentials:
    try:
        extra: Any = json.loads(text)
    except ValueError:  # its text may hold secrets
        raise ValueError("the extra is not JSON") from None
    mask_secret(extra)
    credentials = Credentials.parse(extra)
    if not credentials.anybody:
        raise ValueError("the extra has neither keys nor tokens nor sns_topics, so nobody could send")
    return credentials


def build_world(last: World | None = None) -> World:
    """The real thing; the last one, if the store's connection was there then and is not now (see above).

    Raises:
        TransientError: the database does not answer.
    """
    from perennial_airflow.runs import AirflowStarter, require_database

    hook = PerennialHook()
    if not hook.has_s3_connection:
        require_database()
        hook = PerennialHook()
    if last is not None and last.connected and not hook.has_s3_connection:
        log.warning("the Airflow connection %s was there, and is gone; the webhook goes on with it", hook.s3_conn_id)
        return last
    settings, store, clock = load_settings(), hook.store(), SystemClock()
    return World(
        store=store,
        root=settings.store,
        ledger=Ledger(store, settings.store, clock),
        starter=AirflowStarter(),
        clock=clock,
        specs=settings.specs,
        connected=hook.has_s3_connection,
    )
