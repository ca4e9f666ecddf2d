"""The demo's story: 2013 passes, data lands month by month, and the loop decides what to do about it.

Nothing is staged but the passing of time: the verdicts are whatever the gate says of the real data.
Told again on the same PERENNIAL_HOME, it finds everything judged already and says so; a telling that was interrupted,
by a power cut even, is picked up wherever it stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from rich.text import Text

from perennial.settings import DEMO_SWITCH
from perennial_demo.airflow_api import DagRun
from perennial_demo.closing import champions, history_table, styled_outcome
from perennial_demo.errors import DemoError
from perennial_demo.stack import Stack

if TYPE_CHECKING:
    from perennial.domain.ledger_entry import LedgerEntry
    from perennial.runtime import Runtime

FLIGHTS: Final = "flights_delay"
DIABETES: Final = "diabetes_progression"
MODELS: Final = (FLIGHTS, DIABETES)
RUN_TIMEOUT_S: Final = 300.0
DAG_TIMEOUT_S: Final = 120.0
SENSOR_RUN: Final = "asset_triggered"
CORRUPTED_DAY: Final = date(2013, 7, 1)
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
    is_refused: bool = False
    """Whether this chapter's run has to fail. If it does not, the demo fails."""


def run(stack: Stack) -> None:
    """Tell the story on running services, and end with a table of what came of it.

    Raises:
        DemoError: a run ended otherwise than it has to.
    """
    began = time.monotonic()
    teller = Teller(stack, open_runtime(stack))
    missing = [model for model in MODELS if model not in teller.declared]
    if missing:
        stack.console.print(
            f"\n{teller.runtime.specs} declares {', '.join(teller.declared) or 'no model'}; the story of 2013 needs "
            f"{' and '.join(missing)}. The services are up: land data and press Trigger.",
            markup=False,
        )
        return
    for model in MODELS:
        stack.airflow.wait_for_dag(dag_id(model), timeout_s=DAG_TIMEOUT_S)
    teller.resume()
    for chapter in CHAPTERS:
        teller.tell(chapter)
    teller.show_history()
    stack.console.print(f"\nThe story took {time.monotonic() - began:.0f} s.")
    teller.show_where_to_look()


def dag_id(model: str) -> str:
    """The model's retraining DAG."""
    return f"perennial__{model}__retrain"


class Teller:
    """Lands data, starts runs or waits for them, and prints what came of each."""

    def __init__(self, stack: Stack, runtime: Runtime) -> None:
        from perennial.spec import spec_paths

        self.stack = stack
        self.runtime = runtime
        self.declared = [path.stem for path in spec_paths(self.runtime.specs)]
        """Models of the specs folder that these services run with."""
        self.cache = stack.home.root / "cache"
        self._stopped_at_the_corrupted_day = False

    def resume(self) -> None:
        """Put right what an interrupted telling left: the corrupted day in its place, runs that are under way.

        Runs that the services were killed under go on by themselves, as soon as the new scheduler has missed the old
        one (`config/airflow.env`). What they come to is not this telling's affair.
        """
        if self._has_landed(CORRUPTED_DAY) and not self._has_landed(DAY_AFTER_THE_REPAIR):
            self._stopped_at_the_corrupted_day = True
            self.stack.console.print("\nAn earlier telling stopped at the corrupted day; it is landed again, whole.")
            _flights(CORRUPTED_DAY, CORRUPTED_DAY)(self)
        for model in MODELS:
            for run in reversed(self.stack.airflow.runs(dag_id(model))):
                if not run.is_over:
                    self.stack.console.print(f"\nwaiting for run {run.run_id}, which is under way", markup=False)
                    self._wait(model, run.run_id)

    def _has_landed(self, day: date) -> bool:
        from flights.publisher import LANDING, object_uri

        return self.runtime.store.head(object_uri(LANDING, day.isoformat())) is not None

    def tell(self, chapter: Chapter) -> None:
        """One chapter.

        Raises:
            DemoError: its run ended otherwise than it has to, left nothing in the ledger, or did not come.
        """
        self.stack.console.print(f"\n[bold]{chapter.title}[/]")
        if chapter.is_refused and self._was_refused(chapter.model):
            self.stack.console.print("  told in an earlier demo; good files are in its place now")
            return
        before = self.stack.airflow.runs(dag_id(chapter.model))
        chapter.land(self)
        finished = self._by_rest(chapter) if chapter.as_of else self._by_sensor(chapter, before)
        if finished is None:
            return
        entry = self._outcome(chapter.model, finished)
        if (finished.state == "failed") != chapter.is_refused:
            raise DemoError(
                f"Run {finished.run_id} of {dag_id(chapter.model)} ended as {finished.state}, which this chapter does "
                f"not expect. Its tasks and their logs: {self._run_url(chapter.model, finished.run_id)}"
            )
        if entry is None:
            raise DemoError(f"Run {finished.run_id} of {dag_id(chapter.model)} left no entry in the ledger")
        self._show(entry, finished)

    def _by_rest(self, chapter: Chapter) -> DagRun:
        """Start a run the way the UI's Trigger button does."""
        conf = {"as_of": chapter.as_of.isoformat() if chapter.as_of else None, "reason": chapter.title[:500]}
        started = self.stack.airflow.trigger(dag_id(chapter.model), conf=conf)
        return self._wait(chapter.model, started.run_id)

    def _by_sensor(self, chapter: Chapter, before: Sequence[DagRun]) -> DagRun | None:
        """Wait for the run that the landing sensor starts; None if these files were looked at already.

        Args:
            chapter: what has landed.
            before: the runs that there were before it landed.
        """
        landed = self._landed(chapter.model)
        over = {run.run_id for run in before if run.is_over}
        under_way = {run.run_id for run in before} - over
        deadline = time.monotonic() + RUN_TIMEOUT_S
        is_told = False
        while time.monotonic() < deadline:
            # In this order: a run that marks these files as seen was listed before.
            seen = self._seen(chapter.model)
            runs = self.stack.airflow.runs(dag_id(chapter.model))
            new = [run for run in runs if run.run_type == SENSOR_RUN and run.run_id not in over]
            if new:
                finished = self._wait(chapter.model, new[-1].run_id)
                if self._is_of_this_chapter(chapter.model, finished, landed, under_way):
                    return finished
                over.add(finished.run_id)
                continue
            if seen == landed:
                self.stack.console.print("  a run has looked at these files already: nothing to notice")
                return None
            if not is_told:
                self.stack.console.print("  waiting for the landing sensor to notice ...")
                is_told = True
            time.sleep(0.5)
        raise DemoError(f"The landing sensor started no run of {dag_id(chapter.model)} within {RUN_TIMEOUT_S:.0f} s")

    def _is_of_this_chapter(self, model: str, run: DagRun, landed: str, under_way: set[str]) -> bool:
        """Whether a run of the sensor is about the files of this chapter, and not about what was there before."""
        if run.state == "failed":
            entry = self._outcome(model, run)
            # The sensor may have been quicker than the corrupted day's repair.
            return not (self._stopped_at_the_corrupted_day and entry is not None and entry.kind == "refused")
        return run.run_id not in under_way or self._seen(model) == landed

    def _landed(self, model: str) -> str:
        from perennial.spec import load_model
        from perennial.stages.landing import landing_state

        return landing_state(self.runtime.store, load_model(self.runtime.specs, model).data.landing).digest

    def _seen(self, model: str) -> str | None:
        from perennial.stages.landing import seen_digest

        return seen_digest(self.runtime.store, self.runtime.root, model)

    def _wait(self, model: str, run_id: str) -> DagRun:
        return self.stack.airflow.wait_for_run(dag_id(model), run_id, timeout_s=RUN_TIMEOUT_S)

    def _outcome(self, model: str, run: DagRun) -> LedgerEntry | None:
        entries = self.runtime.ledger.entries(model)
        return next((entry for entry in reversed(entries) if entry.run_id == run.run_id), None)

    def _was_refused(self, model: str) -> bool:
        return any(entry.kind == "refused" for entry in self.runtime.ledger.entries(model))

    def _show(self, entry: LedgerEntry, run: DagRun) -> None:
        took = (run.ended_at - run.started_at).total_seconds() if run.ended_at and run.started_at else 0.0
        text = Text("  ")
        text.append_text(styled_outcome(entry))
        text.append(f"  champion {champions(entry)}  ({run.run_type} run, {took:.1f} s)\n  {entry.summary}")
        self.stack.console.print(text)

    def show_history(self) -> None:
        """The closing tables: the whole ledger, of earlier tellings too."""
        self.stack.console.print("\n[bold]What happened[/]")
        for model in MODELS:
            self.stack.console.print(history_table(model, self.runtime.ledger.entries(model)))

    def show_where_to_look(self) -> None:
        """Addresses and commands to go on with."""
        stack = self.stack
        lines = [
            ("runs, reports, decisions", f"{stack.airflow_url}/dags/{dag_id(FLIGHTS)}"),
            ("trainings and versions", f"{stack.mlflow_url}/#/models/{FLIGHTS}"),
            ("the refused day", self._refused_url()),
            ("the ledger", f".venv/bin/perennial history {FLIGHTS}"),
            ("what serves, and why", f".venv/bin/perennial champion {FLIGHTS}"),
            ("end it all", "make stop"),
        ]
        stack.console.print("\n[bold]Where to look[/]")
        for what, where in lines:
            stack.console.print(f"  {what:<26}{where}", markup=False, soft_wrap=True)

    def _refused_url(self) -> str:
        entries = self.runtime.ledger.entries(FLIGHTS)
        refused = next((entry for entry in reversed(entries) if entry.kind == "refused"), None)
        return self._run_url(FLIGHTS, refused.run_id) if refused else "none"

    def _run_url(self, model: str, run_id: str) -> str:
        return f"{self.stack.airflow_url}/dags/{dag_id(model)}/runs/{run_id}"


def open_runtime(stack: Stack) -> Runtime:
    """Perennial on the stack's services. From here on this process's environment is the demo's, for the publishers."""
    from perennial.runtime import build_runtime
    from perennial.settings import load_settings

    os.environ.update({**stack.environment, DEMO_SWITCH: "1"})
    return build_runtime(load_settings())


def _flights(first: date, last: date) -> Callable[[Teller], object]:
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
        title="1 April: January to March have landed; somebody triggers the first run",
        model=FLIGHTS,
        land=_flights(date(2013, 1, 1), date(2013, 3, 31)),
        as_of=_morning(2013, 4, 1),
    ),
    Chapter(
        title="1 May: April has landed; the sensor notices",
        model=FLIGHTS,
        land=_flights(date(2013, 4, 1), date(2013, 4, 30)),
    ),
    Chapter(
        title="A second model, another task and another data set: diabetes, six weeks of visits",
        model=DIABETES,
        land=_diabetes(1, 2, 3, 4, 5, 6),
        as_of=datetime(2013, 2, 18, 3, tzinfo=UTC),
    ),
    Chapter(
        title="1 June: May has landed, spring weather is here",
        model=FLIGHTS,
        land=_flights(date(2013, 5, 1), date(2013, 5, 31)),
        as_of=_morning(2013, 6, 1),
    ),
    Chapter(
        title="1 July: June has landed; the sensor notices",
        model=FLIGHTS,
        land=_flights(date(2013, 6, 1), date(2013, 6, 30)),
    ),
    Chapter(
        title="2 July: the day before arrives corrupted by an upstream bug",
        model=FLIGHTS,
        land=_corrupted_flights,
        as_of=_morning(2013, 7, 3),
        is_refused=True,
    ),
    Chapter(
        title="1 August: the day was landed again, whole, and July with it",
        model=FLIGHTS,
        land=_flights(CORRUPTED_DAY, date(2013, 7, 31)),
        as_of=_morning(2013, 8, 1),
    ),
    Chapter(
        title="The same once more: nothing has landed since",
        model=FLIGHTS,
        land=lambda _teller: None,
        as_of=_morning(2013, 8, 1),
    ),
    Chapter(
        title="1 September: August has landed; a month that changes little",
        model=FLIGHTS,
        land=_flights(date(2013, 8, 1), date(2013, 8, 31)),
        as_of=_morning(2013, 9, 1),
    ),
)
