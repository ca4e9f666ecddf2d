"""Fires when data has landed that no run of the model has looked at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Hashable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from perennial.domain.times import format_time
from perennial.stages.landing import LandingPatience, LandingState, LandingVerdict, judge_landing
from perennial_airflow.hooks.runtime import S3_CONN_ID, PerennialHook

if TYPE_CHECKING:
    from perennial.ports import ObjectStore

log = logging.getLogger(__name__)

AGAIN_AFTER: Final = timedelta(hours=1)
"""An event may get lost (Airflow drops those of paused DAGs); what is still unseen then is told again."""


class LandingWatch:
    """What a watcher knows of a landing zone from one look to the next. The trigger and the blocking sensor share it.

    Args:
        quiet_s: the newest object must be at least this old.
    """

    def __init__(self, quiet_s: float) -> None:
        self._patience = LandingPatience(quiet_s=quiet_s)
        self._waiting_since: datetime | None = None

    def judge(self, state: LandingState, seen: str | None, now: datetime) -> LandingVerdict:
        """Whether a run should look now; remembers since when there has been something unseen.

        Args:
            state: the zone as it is.
            seen: digest that the last run looked at.
            now: aware, UTC.
        """
        verdict = judge_landing(state, seen, now=now, waiting_since=self._waiting_since, patience=self._patience)
        if verdict.ready or state.newest is None or state.digest == seen:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        return verdict


class LandingTrigger(BaseEventTrigger):
    """Polls a landing zone. As an asset's watcher it goes on for ever; with `once` it ends after one event (sensor).

    At least once: an event is repeated after a restart of the triggerer, or after an hour if no run looked at the data.
    A run too many finds nothing new. Watchers of one landing zone share one listing.

    Args:
        model: whose runs count.
        landing: `s3://bucket/prefix/`.
        poll_s: time between two listings.
        quiet_s: the newest object must be at least this old.
        once: end after the first event.
        s3_conn_id: Airflow connection (`aws`) of the store.
    """

    def __init__(
        self,
        *,
        model: str,
        landing: str,
        poll_s: float = 30.0,
        quiet_s: float = 30.0,
        once: bool = False,
        s3_conn_id: str = S3_CONN_ID,
    ) -> None:
        super().__init__()
        self.model = model
        self.landing = landing
        self.poll_s = poll_s
        self.quiet_s = quiet_s
        self.once = once
        self.s3_conn_id = s3_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        names = ("model", "landing", "poll_s", "quiet_s", "once", "s3_conn_id")
        return (f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names})

    def shared_stream_key(self) -> Hashable | None:
        """Watchers of one landing zone share one listing; a sensor's trigger polls by itself."""
        return None if self.once else ("perennial-landing", self.landing, self.poll_s, self.s3_conn_id)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[LandingState]:
        """A listing every `poll_s` seconds. A store that does not answer is asked again; the stream never ends."""
        from perennial.stages.landing import landing_state

        while True:
            try:
                store = await asyncio.to_thread(_store, kwargs["s3_conn_id"])
                yield await asyncio.to_thread(landing_state, store, kwargs["landing"])
            except Exception as error:  # Airflow would start a trigger that ends again at once, each second
                _store.cache_clear()  # perhaps the connection was changed
                log.warning("cannot list %s, trying again in %g s: %s", kwargs["landing"], kwargs["poll_s"], error)
            await asyncio.sleep(kwargs["poll_s"])

    async def filter_shared_stream(self, shared_stream: AsyncIterator[LandingState]) -> AsyncIterator[TriggerEvent]:
        """An event for each listing that a run of this model should look at."""
        watch = LandingWatch(self.quiet_s)
        told: tuple[str, str | None, datetime] | None = None
        async for state in shared_stream:
            seen = await self._seen()
            now = datetime.now(UTC)
            verdict = watch.judge(state, seen, now)
            # Not repeated if a run has looked since: it saw something else (a file half landed), this is still unseen.
            repeated = told is not None and told[:2] == (state.digest, seen) and now - told[2] < AGAIN_AFTER
            if not verdict.ready or repeated:
                log.debug("%s: no event: %s", self.landing, "told already" if repeated else verdict.why)
                continue
            told = (state.digest, seen, now)
            yield TriggerEvent(self._payload(state, verdict.why))
            if self.once:
                return

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The same without sharing: for a sensor."""
        async for event in self.filter_shared_stream(self.open_shared_stream(self.serialize()[1])):
            yield event

    def _payload(self, state: LandingState, why: str) -> dict[str, Any]:
        newest = None if state.newest is None else format_time(state.newest)
        return {"model": self.model, "landing": self.landing, "digest": state.digest, "newest": newest, "why": why}

    async def _seen(self) -> str | None:
        from perennial.settings import load_settings
        from perennial.stages.landing import seen_digest

        try:
            store = await asyncio.to_thread(_store, self.s3_conn_id)
            return await asyncio.to_thread(seen_digest, store, load_settings().store, self.model)
        except Exception as error:
            log.warning("cannot read what %s has looked at, taking it for nothing: %s", self.model, error)
            return None


@cache
def _store(s3_conn_id: str) -> ObjectStore:
    """One client for all triggers of a process: a boto3 client of its own for each of 1,000 would cost gigabytes."""
    return PerennialHook(s3_conn_id=s3_conn_id).store()
