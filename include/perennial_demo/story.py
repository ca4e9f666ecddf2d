"""The demo's story: 2013 passes, data lands month by month, and the loop decides what to do about it.

Nothing is staged but the passing of time: the verdicts are whatever the gate says of the real data.
Told again on the same PERENNIAL_HOME, it finds everything judged already and says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from perennial_demo.airflow_api import DagRun
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
CORRUPTED_DAY: Final = date(2013, 7, 1)
_STYLES: Final = {"PROMOTE": "green", "REJECT": "yellow", "INCONCLUSIVE": "yellow", "refused": "red"}


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
    teller = Teller(stack)
    for model in MODELS:
        stack.airflow.wait_for_dag(dag_id(model), timeout_s=DAG_TIMEOUT_S)
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

    def __init__(self, stack: Stack) -> None:
        os.environ.update(stack.environment)
        self.stack = stack
        self.runtime = _runtime()
        self.cache = stack.home.root / "cache"
        self._run_ids: list[tuple[str, str]] = []

    def tell(self, chapter: Chapter) -> None:
        """One chapter."""
        self.stack.console.print(f"\n[bold]{chapter.title}[/]")
        if chapter.is_refused and self._was_refused(chapter.model):
            self.stack.console.print("  told in an earlier demo; good files are in its place now")
            return
        known = {run.run_id for run in self.stack.airflow.runs(dag_id(chapter.model))}
        chapter.land(self)
        finished = self._by_rest(chapter) if chapter.as_of else self._by_sensor(chapter, known)
        if finished is None:
            return
        self._run_ids.append((chapter.model, finished.run_id))
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

    def _by_sensor(self, chapter: Chapter, known: set[str]) -> DagRun | None:
        """Wait for the run that the landing sensor starts; None if there is nothing for it to notice."""
        from perennial.spec import load_model
        from perennial.stages.landing import landing_state, seen_digest

        landing = load_model(self.runtime.specs, chapter.model).data.landing
        state = landing_state(self.runtime.store, landing)
        if state.digest == seen_digest(self.runtime.store, self.runtime.root, chapter.model):
            self.stack.console.print("  these files landed in an earlier demo and were looked at: nothing to notice")
            return None
        self.stack.console.print("  waiting for the landing sensor to notice ...")
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while time.monotonic() < deadline:
            new = [run for run in self.stack.airflow.runs(dag_id(chapter.model)) if run.run_id not in known]
            if new:
                return self._wait(chapter.model, new[0].run_id)
            time.sleep(0.5)
        raise DemoError(f"The landing sensor started no run of {dag_id(chapter.model)} within {RUN_TIMEOUT_S:.0f} s")

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
        text.append(outcome(entry), style=_STYLES.get(outcome(entry), "cyan"))
        text.append(f"  champion {champions(entry)}  ({run.run_type} run, {took:.1f} s)\n  {entry.summary}")
        self.stack.console.print(text)

    def show_history(self) -> None:
        """The closing table: every run of this telling, with what it came to."""
        table = Table("model", "data up to", "trigger", "outcome", "champion", "why", title="What happened")
        for model, run_id in self._run_ids:
            entry = next(e for e in reversed(self.runtime.ledger.entries(model)) if e.run_id == run_id)
            trigger = str(entry.request["trigger"])
            table.add_row(
                model,
                data_up_to(entry),
                {"manual": "REST API", "new_data": "sensor"}.get(trigger, trigger),
                Text(outcome(entry), style=_STYLES.get(outcome(entry), "cyan")),
                champions(entry),
                Text(entry.summary),
            )
        self.stack.console.print()
        self.stack.console.print(table)

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


def outcome(entry: LedgerEntry) -> str:
    """Verdict, or what ended the run before one."""
    return entry.verdict or entry.kind.replace("_", " ")


def champions(entry: LedgerEntry) -> str:
    """Champion before and after, as in `v1 -> v2`."""
    before, after = (f"v{version}" if version else "none" for version in (entry.champion_before, entry.champion_after))
    return before if before == after else f"{before} -> {after}"


def data_up_to(entry: LedgerEntry) -> str:
    """Day of the newest data that the run looked at."""
    snapshot: dict[str, Any] = entry.references.get("snapshot", {})
    return str(snapshot.get("watermark", entry.request["as_of"]))[:10]


def _runtime() -> Runtime:
    from perennial.runtime import build_runtime
    from perennial.settings import load_settings

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
