"""The demo's story: 2013 passes, data lands month by month, and the loop decides what to do about it.

Nothing is staged but the passing of time and one mistyped parameter: the verdicts are whatever the gate says of the
real data, and canaries end as the guardrails say of requests that are sent all along (`perennial_demo.traffic`).
Told again on the same PERENNIAL_HOME, it finds everything judged already and says so; a telling that was interrupted,
by a power cut even, is picked up wherever it stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from rich.text import Text

from perennial.addresses import page_address, retrain_dag_id, rollback_dag_id
from perennial.cli.terminal import data_up_to, plain_times
from perennial.domain.ledger_entry import ROLLOUT
from perennial.ledger_answers import quarantined_versions
from perennial.settings import DEMO_SWITCH
from perennial_demo.airflow_api import DagRun
from perennial_demo.chapters import (
    CHAPTERS,
    CORRUPTED_DAY,
    DAY_AFTER_THE_REPAIR,
    DIABETES,
    FIRST_MONTH,
    FLIGHTS,
    Chapter,
    landed_flights,
)
from perennial_demo.closing import champions, history_table, styled_outcome, verify_ledgers
from perennial_demo.errors import DemoError
from perennial_demo.stack import Stack
from perennial_demo.summer import DRIFT_RUN, Summer
from perennial_demo.traffic import Tally, Traffic, flights_of_month

if TYPE_CHECKING:
    from perennial.domain.ledger_entry import LedgerEntry
    from perennial.runtime import Runtime

MODELS: Final = (FLIGHTS, DIABETES)
RUN_TIMEOUT_S: Final = 300.0
DAG_TIMEOUT_S: Final = 120.0
READING_S: Final = 3.0
"""Nobody answers a question sooner; Airflow 3.3 takes an answer that comes before it knows that the process which asked
has ended for a fault of the task's, and runs it again."""
SENSOR_RUN: Final = "asset_triggered"
RUN_TYPES: Final = {"manual": "triggered by REST", SENSOR_RUN: "started by the sensor", "scheduled": "by the clock"}


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
    stack.console.print(
        "\n2013 passes in minutes. The headings' dates are the data's; runs and ledger go by this machine's clock."
    )
    # Before all else: a canary that an earlier telling left under way waits for requests.
    with teller.traffic() or nullcontext() as traffic:
        teller.resume()
        for chapter in CHAPTERS:
            teller.tell(chapter)
        teller.take_back(FLIGHTS)
    teller.show_history()
    verify_ledgers(stack.console, teller.runtime, MODELS)
    if traffic is not None:
        teller.show_traffic(traffic.tally)
    stack.console.print(f"\nThe story took {time.monotonic() - began:.0f} s.")
    teller.show_where_to_look()


def dag_id(model: str) -> str:
    """The model's retraining DAG."""
    return retrain_dag_id(model)


class Teller:
    """Lands data, starts runs or waits for them, and prints what came of each."""

    def __init__(self, stack: Stack, runtime: Runtime) -> None:
        from perennial.spec import spec_paths

        self.stack = stack
        self.runtime = runtime
        self.declared = [path.stem for path in spec_paths(self.runtime.specs)]
        """Models of the specs folder that these services run with."""
        self.cache = stack.home.root / "cache"
        self._asking = {name for name in self.declared if self._asks_for_approval(name)}
        self._stopped_at_the_corrupted_day = False
        self._traffic: Traffic | None = None

    def traffic(self) -> Traffic | None:
        """Requests for the flights' model, from its first champion on; None if the specs deploy it elsewhere."""
        from perennial.spec import load_model

        spec = load_model(self.runtime.specs, FLIGHTS)
        url = self.stack.scoring_url
        if url is None or spec.deployment is None or spec.deployment.kind != "scoring_service":
            return None
        columns, label = spec.data.feature_columns, spec.data.label_column
        self._traffic = Traffic(
            url,
            FLIGHTS,
            lambda month: flights_of_month(month, columns, label, self.cache),
            month=FIRST_MONTH,
            telling=f"demo-{uuid4().hex[:8]}",
        )
        return self._traffic

    def resume(self) -> None:
        """Put right what an interrupted telling left: the corrupted day in its place, runs that are under way.

        Runs that the services were killed under go on by themselves, as soon as the new scheduler has missed the old
        one (`config/airflow.env`). What they come to is not this telling's affair.
        """
        if self._has_landed(CORRUPTED_DAY) and not self._has_landed(DAY_AFTER_THE_REPAIR):
            self._stopped_at_the_corrupted_day = True
            self.stack.console.print("\nAn earlier telling stopped at the corrupted day; it is landed again, whole.")
            landed_flights(CORRUPTED_DAY, CORRUPTED_DAY)(self)
        for model in MODELS:
            for run in reversed(self.stack.airflow.runs(dag_id(model))):
                if not run.is_over:
                    self.stack.console.print(f"\nwaiting for run {run.run_id}, which is under way", markup=False)
                    self._wait(model, run.run_id)

    def _asks_for_approval(self, model: str) -> bool:
        from perennial.spec import load_model

        return load_model(self.runtime.specs, model).approval.required

    def _has_landed(self, day: date) -> bool:
        from flights.publisher import LANDING, object_uri

        return self.runtime.store.head(object_uri(LANDING, day.isoformat())) is not None

    def tell(self, chapter: Chapter) -> None:
        """One chapter.

        Raises:
            DemoError: its run ended otherwise than it has to, left nothing in the ledger, or did not come.
        """
        self.stack.console.print(f"\n[bold]{chapter.title}[/]")
        if chapter.live is not None and self._traffic is not None:
            self._traffic.turn_to(chapter.live)
        if chapter.is_refused and self._was_refused(chapter.model):
            self.stack.console.print("  told in an earlier demo; good files are in its place now")
            return
        if chapter.before is not None and self._has_landed(chapter.before):
            self.stack.console.print("  told in an earlier demo; more has landed since, which a run would find")
            return
        before = self.stack.airflow.runs(dag_id(chapter.model))
        chapter.land(self)
        finished = self._run_of(chapter, before)
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

    def _run_of(self, chapter: Chapter, before: Sequence[DagRun]) -> DagRun | None:
        """The chapter's run when it is over; None if there was nothing to do."""
        if chapter.by_alert and self._traffic is None:
            self.stack.console.print("  the specs deploy the model elsewhere: there are no requests to look at")
            return None
        if chapter.by_alert:
            return Summer(self.stack, self.runtime, chapter.model, self._wait).tell()
        return self._by_rest(chapter) if chapter.as_of else self._by_sensor(chapter, before)

    def _by_rest(self, chapter: Chapter) -> DagRun:
        """Start a run the way the UI's Trigger button does."""
        conf: dict[str, Any] = {"reason": chapter.title[:500]}
        conf |= {"as_of": chapter.as_of.isoformat()} if chapter.as_of else {}
        conf |= {"params": dict(chapter.params)} if chapter.params else {}
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

    def take_back(self, model: str) -> None:
        """Somebody finds the champion wanting, and goes back to the one before through Airflow."""
        self.stack.console.print("\n[bold]2 September: complaints. Somebody takes the champion back, in Airflow[/]")
        entries = self.runtime.ledger.entries(model)
        if any(entry.kind == "rollback" for entry in entries):
            self.stack.console.print("  taken back in an earlier demo")
            return
        if sum(entry.kind == "promotion" for entry in entries) < 2:
            self.stack.console.print("  there was one champion only: nothing to go back to")
            return
        self.stack.airflow.wait_for_dag(rollback_dag_id(model), timeout_s=DAG_TIMEOUT_S)
        began = time.monotonic()
        conf = {"reason": "complaints about too many false alarms"}
        started = self.stack.airflow.trigger(rollback_dag_id(model), conf=conf)
        finished = self.stack.airflow.wait_for_run(rollback_dag_id(model), started.run_id, timeout_s=RUN_TIMEOUT_S)
        took = time.monotonic() - began
        entry = self._outcome(model, finished)
        if finished.state != "success" or entry is None or entry.kind != "rollback":
            raise DemoError(
                f"Run {finished.run_id} of {rollback_dag_id(model)} ended as {finished.state} and took nothing back. "
                f"Its log: {self.stack.airflow_url}/dags/{rollback_dag_id(model)}/runs/{finished.run_id}"
            )
        self._show(entry, finished)
        self.stack.console.print(f"  {took:.1f} s from the trigger to the end of the run", markup=False)

    def _wait(self, model: str, run_id: str) -> DagRun:
        """Until the run is over; if it asks for a person's approval on the way, give it.

        Raises:
            AirflowApiError: it is not over after `RUN_TIMEOUT_S`.
        """
        airflow, deadline = self.stack.airflow, time.monotonic() + RUN_TIMEOUT_S
        if model not in self._asking:
            return airflow.wait_for_run(dag_id(model), run_id, timeout_s=RUN_TIMEOUT_S)
        while not airflow.run(dag_id(model), run_id).is_over and time.monotonic() < deadline:
            for question in airflow.pending_approvals(dag_id(model), run_id):
                self.stack.console.print(f"  the run asks: {question.subject}", markup=False)
                time.sleep(READING_S)
                airflow.answer_approval(question, approve=True)
                self.stack.console.print("  the demo answers Yes in the owner's place")
            time.sleep(0.25)
        return airflow.wait_for_run(dag_id(model), run_id, timeout_s=max(1.0, deadline - time.monotonic()))

    def _outcome(self, model: str, run: DagRun) -> LedgerEntry | None:
        entries = self.runtime.ledger.entries(model)
        return next((entry for entry in reversed(entries) if entry.run_id == run.run_id), None)

    def _was_refused(self, model: str) -> bool:
        return any(entry.kind == "refused" for entry in self.runtime.ledger.entries(model))

    def _show(self, entry: LedgerEntry, run: DagRun) -> None:
        took = (run.ended_at - run.started_at).total_seconds() if run.ended_at and run.started_at else 0.0
        of_run = [other for other in self.runtime.ledger.entries(entry.model) if other.run_id == entry.run_id]
        decision = next((other for other in of_run if other.kind == "decision"), entry)
        text = Text("  ").append_text(styled_outcome(decision))
        data = f"  data up to {data_up_to(entry)}" if "snapshot" in entry.references else ""
        text.append(f"  champion {champions(entry)}{data}  ({_way_in(run)}, {took:.1f} s)")
        text.append(f"\n  {plain_times(decision.summary)}")
        for rollout in (other for other in of_run if other.kind == ROLLOUT):
            text.append("\n  ").append_text(styled_outcome(rollout))
            text.append(f"  {plain_times(rollout.summary)}\n  {self._page_url(rollout)}")
        self.stack.console.print(text)

    def show_traffic(self, tally: Tally) -> None:
        """What became of the requests that were sent all along.

        Raises:
            DemoError: one of them failed, or the champion never served.
        """
        self.stack.console.print("\n[bold]Requests while all this happened[/]")
        failed = sum(tally.failures.values())
        self.stack.console.print(
            f"  {tally.requests:,} for flights of the weeks to come; {tally.labels:,} outcomes told; {failed:,} failed",
            markup=False,
        )
        for (version, role), count in sorted(tally.answers.items()):
            self.stack.console.print(f"  {count:>7,} answered by version {version} as {role}", markup=False)
        if failed or not tally.answers:
            reasons = "; ".join(f"{count:,} x {why}" for why, count in tally.failures.items()) or "none was answered"
            log = self.stack.home.logs / "scoring.log"
            raise DemoError(f"Of the requests to {self.stack.scoring_url} {failed:,} failed: {reasons}. Its log: {log}")

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
            ("the ledger", f".venv/bin/perennial history {FLIGHTS} --verify"),
            ("what serves, and why", f".venv/bin/perennial champion {FLIGHTS}"),
            *self._scored(),
            ("what served on a day", f".venv/bin/perennial champion {FLIGHTS} --at 2013-07-04"),
            *self._way_back(),
            ("end it all", "make stop"),
        ]
        stack.console.print("\n[bold]Where to look[/]")
        for what, where in lines:
            stack.console.print(f"  {what:<26}{where}", markup=False, soft_wrap=True)

    def _scored(self) -> list[tuple[str, str]]:
        url = self.stack.scoring_url
        return [] if url is None else [("what answers requests", f"{url}/models, {url}/metrics")]

    def _way_back(self) -> list[tuple[str, str]]:
        """How to put back what the story took back; nothing if it took nothing."""
        held = quarantined_versions(self.runtime.ledger.entries(FLIGHTS))
        command = f".venv/bin/perennial rollback {FLIGHTS} --to"
        return [
            (f"put version {version} back", f'{command} {version} --reason "a look"') for version in list(held)[-1:]
        ]

    def _refused_url(self) -> str:
        entries = self.runtime.ledger.entries(FLIGHTS)
        refused = next((entry for entry in reversed(entries) if entry.kind == "refused"), None)
        return self._run_url(FLIGHTS, refused.run_id) if refused else "none"

    def _page_url(self, entry: LedgerEntry) -> str:
        return page_address(
            entry.page_uri or "", root=self.runtime.root, model=entry.model, airflow_url=self.stack.airflow_url
        )

    def _run_url(self, model: str, run_id: str) -> str:
        return f"{self.stack.airflow_url}/dags/{dag_id(model)}/runs/{run_id}"


def _way_in(run: DagRun) -> str:
    """What started it."""
    is_for_an_alert = run.run_id.startswith(DRIFT_RUN)
    return "started by the alert" if is_for_an_alert else RUN_TYPES.get(run.run_type, run.run_type)


def open_runtime(stack: Stack) -> Runtime:
    """Perennial on the stack's services. From here on this process's environment is the demo's, for the publishers."""
    from perennial.runtime import build_runtime
    from perennial.settings import load_settings

    os.environ.update({**stack.environment, DEMO_SWITCH: "1"})
    return build_runtime(load_settings())
