"""What the webhook needs of the world, from Airflow's connections; kept for a while only: they may change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

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


class BrokenConnectionError(TransientError):
    """The connection says something that makes no sense; senders try again until somebody has put it right."""


class Kept(Generic[Made]):
    """Something that is made anew when it is older than so many seconds; by one thread, while the others wait."""

    def __init__(self, make: Callable[[], Made], kept_s: float, seconds: Callable[[], float] = time.monotonic) -> None:
        self._make, self._kept_s, self._seconds = make, kept_s, seconds
        self._lock = threading.Lock()
        self._held: tuple[float, Made] | None = None

    def __call__(self) -> Made:
        """The thing itself."""
        held = self._held
        if held is None or self._seconds() - held[0] >= self._kept_s:
            with self._lock:
                held = self._held
                if held is None or self._seconds() - held[0] >= self._kept_s:
                    held = self._held = (self._seconds(), self._make())
        return held[1]


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


def load_credentials() -> Credentials:
    """Who may send, from the connection; nobody, and a line in the log, if there is no such connection.

    Raises:
        TransientError: the database does not answer, or the connection is broken.
    """
    from perennial_airflow.runs import require_database

    try:
        extra = BaseHook.get_connection(CONN_ID).extra_dejson
    except AirflowNotFoundException:
        require_database()  # Airflow says "not found" too where it could not look
        log.error("there is no Airflow connection %s, so the webhook refuses every request (401)", CONN_ID)
        return Credentials()
    try:
        return Credentials.parse(extra)
    except ValueError as error:
        log.error("the webhook refuses every request (503): connection %s: %s", CONN_ID, error)
        raise BrokenConnectionError(f"connection {CONN_ID}: {error}") from None


def build_world() -> World:
    """The real thing."""
    from perennial_airflow.runs import AirflowStarter

    settings, store, clock = load_settings(), PerennialHook().store(), SystemClock()
    return World(
        store=store,
        root=settings.store,
        ledger=Ledger(store, settings.store, clock),
        starter=AirflowStarter(),
        clock=clock,
        specs=settings.specs,
    )
