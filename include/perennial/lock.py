"""One lock a model, kept in the object store, so that the command, Airflow and a second Airflow exclude each other.

Lamport's bakery (L. Lamport, "A new solution of Dijkstra's concurrent programming problem", CACM 17(8), 1974), with an
object for each mark and each ticket. Every key is written by one process only, so that it needs neither conditional nor
atomic puts, which not every store has; it needs that a listing shows what was put before it began, as S3's does.

Beyond the paper, holders may die: marks and tickets carry the end of a lease, and whoever waits passes those over whose
lease ended more than `CLOCK_TOLERANCE` ago, removes them, and looks again. Who lives all the same, by a slower clock,
finds what it wrote gone when it writes its next object or asks `Lease.require_held`: machines whose clocks differ by
more stop each other. What this does not give: a process that is paused for longer than its lease right between
`require_held` and the effect that follows does not notice.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from perennial.domain.fingerprint import canonical_json
from perennial.domain.times import format_time, parse_time
from perennial.errors import LockLostError, LockTimeoutError, NotFoundError, PerennialError
from perennial.json_objects import JSON_TYPE
from perennial.ports import Clock, ObjectInfo, ObjectStore

_log = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=30)
"""A holder that has died is passed over after this, and `CLOCK_TOLERANCE`."""
PATIENCE: Final = timedelta(seconds=90)
"""How long to wait for others, by this machine's monotonic clock."""
CLOCK_TOLERANCE: Final = timedelta(seconds=10)
"""By how much the clocks of two machines may differ."""
_MARGIN: Final = 1 / 6
"""Share of the lease that is kept back for the effect that follows a `require_held`."""
_RENEW_AFTER: Final = 1 / 3
"""Share of the lease after which one who waits renews it; so a holder starts with at least the rest."""
_SHORTEST_SLEEP_S: Final = 0.02
_LONGEST_SLEEP_S: Final = 0.5
_CHOOSING, _TICKET = "choosing-", "ticket-"


@dataclass(slots=True, kw_only=True)
class Lease:
    """Proof that the lock is held."""

    model: str
    owner: str
    """Who holds it, for people: a run id."""
    ticket_uri: str
    ends: datetime
    """By the wall clock, as the others read it."""
    began_s: float
    """By this machine's monotonic clock."""
    length: timedelta
    store: ObjectStore = field(repr=False)
    clock: Clock = field(repr=False)

    def require_held(self) -> None:
        """To be called right before an effect that must not happen twice. Costs one look at the store.

        Raises:
            LockLostError: the lease is over (this process was held up), or others took it for dead; nothing more may
                be moved.
            StoreUnavailableError: the store does not answer.
        """
        there = self.store.head(self.ticket_uri) is not None  # first, because the answer may take its time
        if self.is_over:
            why = f"its lease of {self.length.total_seconds():g} s is over"
        elif not there:
            why = "others took it for dead and removed its ticket (do the machines' clocks agree?)"
        else:
            return
        raise LockLostError(
            f"{self.model}: {self.owner} no longer holds the lock: {why}. Nothing more was moved; try again"
        )

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return self._age > 1 - _MARGIN

    @property
    def wants_renewal(self) -> bool:
        """Whether one who still waits should renew it."""
        return self._age > _RENEW_AFTER

    @property
    def _age(self) -> float:
        """Share of the lease that is over, by the clock that says more: a machine's sleep may stop a monotonic one."""
        left_s = (self.ends - self.clock.now()).total_seconds()
        length_s = self.length.total_seconds()
        return max(time.monotonic() - self.began_s, length_s - left_s) / length_s


@contextmanager
def model_lock(
    store: ObjectStore,
    root: str,
    model: str,
    *,
    owner: str,
    clock: Clock,
    lease: timedelta = LEASE,
    patience: timedelta = PATIENCE,
) -> Iterator[Lease]:
    """Hold the model's lock inside the block.

    Raises:
        LockTimeoutError: others held it all the time; says who, since when.
        LockLostError: see `Lease.require_held`.
        StoreUnavailableError: the store does not answer.
    """
    give_up_s = time.monotonic() + patience.total_seconds()
    while True:
        place = _Place(store, f"{root}/locks/{model}/", model, owner, clock, lease)
        try:
            held = place.wait(give_up_s)
            if held is not None:
                yield held
                return
            _log.warning(
                "%s %s lock: was held up for longer than its lease, or taken for dead, while it waited; queues again",
                model,
                owner,
            )
        finally:
            place.leave()
        if time.monotonic() >= give_up_s:
            raise LockTimeoutError(
                f"{model}: {owner} could not take the lock within {patience.total_seconds():g} s: the store answers "
                f"too slowly for a lease of {lease.total_seconds():g} s, or the machines' clocks differ. Try again"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """What another process has written: its mark, or the newest of its tickets."""

    uri: str
    holder: str
    number: int
    """0: it is still choosing one."""
    modified: datetime


class _Place:
    """One process's place in the queue. A new one for every try: ids are never used twice."""

    def __init__(self, store: ObjectStore, folder: str, model: str, owner: str, clock: Clock, lease: timedelta) -> None:
        self._store, self._folder, self._model, self._owner = store, folder, model, owner
        self._clock, self._lease = clock, lease
        self._id = secrets.token_hex(8)
        self._written: list[str] = []
        self._passed: set[str] = set()
        """Uris of those that have left, or were passed over."""
        self._choosing: set[str] | None = None
        """Who was choosing at the first look after the number was taken, and still is."""
        self._read: dict[str, Mapping[str, str]] = {}

    def wait(self, give_up_s: float) -> Lease | None:
        """The lock; None if this place was lost: its lease ran out meanwhile, or others have passed it over."""
        mark = self._write(f"{_CHOOSING}{self._id}.json")
        number = 1 + max((claim.number for claim in self._claims(_TICKET)), default=0)
        ticket = self._write(f"{_TICKET}{number:08d}-{self._id}-000.json")
        stored = self._counted(mark)
        if stored is None:
            return None  # others may have taken no notice of the number
        self._compare_clocks(mark, stored)
        self._delete(mark.ticket_uri)
        sleep_s, renewals, waited_for = _SHORTEST_SLEEP_S, 0, 0
        while True:
            if ticket.wants_renewal:
                renewals += 1
                renewed = self._write(f"{_TICKET}{number:08d}-{self._id}-{renewals:03d}.json")
                if self._counted(ticket) is None:
                    return None
                ticket = renewed
            ahead = self._ahead(number)
            if not ahead:
                return None if self._counted(ticket) is None else ticket
            if time.monotonic() >= give_up_s:
                raise LockTimeoutError(self._told(ahead[0]))
            # The queue moves: its next may come soon.
            sleep_s = _SHORTEST_SLEEP_S if len(ahead) < waited_for else min(sleep_s * 1.5, _LONGEST_SLEEP_S)
            waited_for = len(ahead)
            time.sleep(sleep_s * (0.5 + secrets.randbelow(1000) / 1000))

    def leave(self) -> None:
        """Take away everything this place has written, tickets last."""
        for uri in sorted(self._written):
            try:
                self._delete(uri)
            except PerennialError as error:
                _log.warning("%s lock: cannot remove %s; its lease ends it: %s", self._model, uri, error)

    def _counted(self, written: Lease) -> ObjectInfo | None:
        """The mark or ticket, if nobody has passed it over. To be asked when the one that follows it is there."""
        stored = self._store.head(written.ticket_uri)
        return None if written.is_over else stored

    def _compare_clocks(self, written: Lease, stored: ObjectInfo) -> None:
        off_s = (stored.modified - (written.ends - written.length)).total_seconds()
        if abs(off_s) > CLOCK_TOLERANCE.total_seconds():
            _log.warning(
                "%s lock: this machine's clock is %.0f s %s the store's; if those of two machines differ by more than "
                "%.0f s, they take each other for dead",
                self._model,
                abs(off_s),
                "behind" if off_s > 0 else "ahead of",
                CLOCK_TOLERANCE.total_seconds(),
            )

    def _ahead(self, number: int) -> list[_Claim]:
        """Those to wait for."""
        while True:
            claims, now = self._look(number)
            waiting = [claim for claim in claims if not self._passed_over(claim, now)]
            if len(waiting) == len(claims):
                return waiting
            # Who was passed over may have written its next object before the last one was removed: look again.

    def _look(self, number: int) -> tuple[list[_Claim], datetime]:
        """Who is choosing or ahead, and when. Marks come before tickets: a ticket is there before its mark goes."""
        # The time before the listings: a renewal that they do not show was then written after the lease's end.
        now = self._clock.now()
        marks = self._claims(_CHOOSING)
        seen = {claim.holder for claim in marks}
        # Whoever begins to choose after the first look sees this ticket and takes a higher number.
        self._choosing = seen if self._choosing is None else self._choosing & seen
        claims = [claim for claim in marks if claim.holder in self._choosing]
        claims += [claim for claim in self._claims(_TICKET) if (claim.number, claim.holder) < (number, self._id)]
        return [claim for claim in claims if claim.uri not in self._passed], now

    def _claims(self, prefix: str) -> list[_Claim]:
        """Of the others; of several tickets of one holder the newest."""
        found = [_claim(info, prefix) for info in self._store.list(self._folder + prefix)]
        return list({claim.holder: claim for claim in found if claim and claim.holder != self._id}.values())

    def _passed_over(self, claim: _Claim, now: datetime) -> bool:
        """Whether its holder has left, or is dead: then what it wrote is removed."""
        try:
            facts = self._facts(claim.uri)
        except NotFoundError:
            # A ticket goes when its holder leaves. A mark goes when a ticket is there, which the next look shows.
            if claim.number > 0:
                self._passed.add(claim.uri)
            return claim.number > 0
        # Half written, or damaged: nobody knows its end, so it gets the longest that it can have.
        ends = parse_time(facts["lease_ends"]) if facts else claim.modified + self._lease
        if now <= ends + CLOCK_TOLERANCE:
            return False
        _log.warning("%s lock: passed over %s, whose lease ended at %s", self._model, claim.uri, format_time(ends))
        self._delete(claim.uri)
        self._passed.add(claim.uri)
        return True

    def _facts(self, uri: str) -> Mapping[str, str]:
        """What a ticket says; nothing if it cannot be read."""
        if uri not in self._read:
            try:
                content = json.loads(self._store.read(uri))
                parse_time(content["lease_ends"])
                self._read[uri] = {name: str(content[name]) for name in ("owner", "taken_at", "lease_ends")}
            except (ValueError, KeyError, TypeError):
                return {}
        return self._read[uri]

    def _write(self, name: str) -> Lease:
        began_s, now = time.monotonic(), self._clock.now()
        uri, ends = self._folder + name, now + self._lease
        facts = {"owner": self._owner, "taken_at": format_time(now), "lease_ends": format_time(ends)}
        self._written.append(uri)
        self._store.write(uri, canonical_json(facts), content_type=JSON_TYPE)
        return Lease(
            model=self._model,
            owner=self._owner,
            ticket_uri=uri,
            ends=ends,
            began_s=began_s,
            length=self._lease,
            store=self._store,
            clock=self._clock,
        )

    def _delete(self, uri: str) -> None:
        self._store.delete(uri)
        if uri in self._written:
            self._written.remove(uri)

    def _told(self, claim: _Claim) -> str:
        try:
            facts = self._facts(claim.uri)
        except NotFoundError:
            facts = {}
        facts = facts or {"owner": "somebody", "taken_at": format_time(claim.modified)}
        until = f", with a lease until {facts['lease_ends']}" if "lease_ends" in facts else ""
        return (
            f"{self._model}: the lock is with {facts['owner']} since {facts['taken_at']}{until} ({claim.uri}); "
            f"{self._owner} gave up waiting. Try again when it has ended; a holder that died is passed over "
            f"{CLOCK_TOLERANCE.total_seconds():g} s after its lease"
        )


def _claim(info: ObjectInfo, prefix: str) -> _Claim | None:
    parts = info.uri.rpartition("/")[2].removeprefix(prefix).removesuffix(".json").split("-")
    if prefix == _CHOOSING:
        return _Claim(uri=info.uri, holder=parts[0], number=0, modified=info.modified)
    if len(parts) != 3 or not parts[0].isdecimal():
        return None  # not a ticket
    return _Claim(uri=info.uri, holder=parts[1], number=int(parts[0]), modified=info.modified)
