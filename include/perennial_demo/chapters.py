"""What happens in the demo's story, in order: which data lands when, and how its run is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from perennial_demo.story import Teller

FLIGHTS: Final = "flights_delay"
DIABETES: Final = "diabetes_progression"
CORRUPTED_DAY: Final = date(2013, 7, 1)
FIRST_MONTH: Final = date(2013, 4, 1)
"""Whose flights are asked about when the first champion serves."""
DAY_AFTER_THE_REPAIR: Final = date(2013, 7, 31)
"""Landed with the corrupted day's repair, last of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One thing that happens."""

    title: str
    model: str
    land: Callable[[Teller], object]
    """Puts files into the landing zone."""
    as_of: datetime | None = None
    """Of the run that is then triggered through the REST API; None: the sensor has to notice by itself."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Of the training, in place of the spec's; for a run that is triggered through the REST API."""
    before: date | None = None
    """Told only as long as no flights of this day have landed: the run would find them, and judge something else."""
    by_alert: bool = False
    """The run has to come of what the monitor sees in the requests."""
    live: date | None = None
    """First day of the month whose flights the requests are about from here on; None: as before."""
    is_refused: bool = False
    """Whether this chapter's run has to fail. If it does not, the demo fails."""


def landed_flights(first: date, last: date) -> Callable[[Teller], object]:
    """Land the days from `first` to `last`, both included."""

    def land(teller: Teller) -> object:
        from flights.publisher import publish

        return publish(first, last + timedelta(days=1), cache=teller.cache)

    return land


def _corrupted_flights(teller: Teller) -> object:
    """Land one day as an upstream bug would have it."""
    from flights.publisher import publish_corrupted

    return publish_corrupted(CORRUPTED_DAY, cache=teller.cache)


def _diabetes(*weeks: int) -> Callable[[Teller], object]:
    def land(_teller: Teller) -> object:
        from diabetes.publisher import publish

        return publish(weeks)

    return land


def _morning(year: int, month: int, day: int) -> datetime:
    """06:00 UTC, when nothing departs from New York."""
    return datetime(year, month, day, 6, tzinfo=UTC)


CHAPTERS: Final = (
    Chapter(
        title="1 April 2013: January to March have landed. Somebody triggers the first run",
        model=FLIGHTS,
        land=landed_flights(date(2013, 1, 1), date(2013, 3, 31)),
        as_of=_morning(2013, 4, 1),
        live=date(2013, 4, 1),
    ),
    Chapter(
        title="1 May: April has landed. The sensor starts a run",
        model=FLIGHTS,
        land=landed_flights(date(2013, 4, 1), date(2013, 4, 30)),
        live=date(2013, 5, 1),
    ),
    Chapter(
        title="A second model, on data up to 17 February: a regression. Its owner wants to be asked before a promotion",
        model=DIABETES,
        land=_diabetes(1, 2, 3, 4, 5, 6),
        as_of=datetime(2013, 2, 18, 3, tzinfo=UTC),
    ),
    Chapter(
        title="1 June: May has landed. Somebody triggers a run",
        model=FLIGHTS,
        land=landed_flights(date(2013, 5, 1), date(2013, 5, 31)),
        as_of=_morning(2013, 6, 1),
        live=date(2013, 6, 1),
    ),
    # It ranks flights better than the champion does, which is what the gate asks, and gives all of them nearly the same
    # probability, which is what live traffic shows: trees that learn so slowly never get far from the average.
    Chapter(
        title="2 July: June has landed. Somebody triggers a run, with a learning rate mistyped as 0.002",
        model=FLIGHTS,
        land=landed_flights(date(2013, 6, 1), date(2013, 6, 30)),
        as_of=_morning(2013, 7, 2),
        before=CORRUPTED_DAY,
        params={"learning_rate": 0.002},
        live=date(2013, 7, 1),
    ),
    Chapter(
        title="July: summer has come to the requests. The monitor looks at them, and nobody triggers anything",
        model=FLIGHTS,
        land=lambda _teller: None,
        by_alert=True,
        before=CORRUPTED_DAY,
        live=date(2013, 7, 1),
    ),
    Chapter(
        title="3 July: the flights of 1 July arrive corrupted by a bug upstream. The run has to refuse them",
        model=FLIGHTS,
        land=_corrupted_flights,
        as_of=_morning(2013, 7, 3),
        is_refused=True,
    ),
    Chapter(
        title="1 August: 1 July was landed again, whole, and the rest of July with it",
        model=FLIGHTS,
        land=landed_flights(CORRUPTED_DAY, date(2013, 7, 31)),
        as_of=_morning(2013, 8, 1),
        live=date(2013, 8, 1),
    ),
    Chapter(
        title="1 August again: nothing has landed since, so nothing is judged",
        model=FLIGHTS,
        land=lambda _teller: None,
        as_of=_morning(2013, 8, 1),
    ),
    Chapter(
        title="1 September: August has landed",
        model=FLIGHTS,
        land=landed_flights(date(2013, 8, 1), date(2013, 8, 31)),
        as_of=_morning(2013, 9, 1),
        live=date(2013, 9, 1),
    ),
)
