"""The chapter in which drift finds its way to a run: requests, monitor, alert, webhook, governor, retraining.

Nothing starts the run but the monitor's alert. The demo only looks at the monitor's DAG more often than its schedule
would, as somebody does who presses Trigger there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from perennial.addresses import monitor_dag_id, page_address, retrain_dag_id
from perennial.domain.references import MonitoringRef
from perennial_demo.airflow_api import DagRun
from perennial_demo.errors import DemoError
from perennial_demo.stack import Stack

if TYPE_CHECKING:
    from perennial.domain.alert import Alert, Outcome
    from perennial.runtime import Runtime

LOOKS: Final = 12
"""How often the monitor is asked at most."""
LOOK_TIMEOUT_S: Final = 120.0
AT_ONCE: Final = 50
"""How often the same alert comes, while its run is under way."""
OBSERVE: Final = "observe"
DRIFT_RUN: Final = "drift__"


class Summer:
    """Lets the monitor look until it raises an alert, and waits for the run that this starts.

    Args:
        stack: the services.
        runtime: Perennial on them.
        model: who is asked.
        wait: until a run of the model's retraining is over, by its id.
    """

    def __init__(self, stack: Stack, runtime: Runtime, model: str, wait: Callable[[str, str], DagRun]) -> None:
        self._stack, self._runtime, self._model, self._wait = stack, runtime, model, wait

    def tell(self) -> DagRun | None:
        """The run, when it is over; None if an earlier telling has told of it.

        Raises:
            DemoError: the monitor raised no alert, its alert started no run, or more than one.
        """
        before = self._drift_runs()
        if before:
            self._say("told in an earlier demo")
            return None
        alert, first, run_id = self._alert_that_started_a_run()
        self._same_alert_again(alert, first)
        finished = self._wait(self._model, run_id)
        runs = self._drift_runs()
        if runs != [run_id]:
            raise DemoError(f"One run was to come of {AT_ONCE + 1} alerts, there are {len(runs)}: {', '.join(runs)}")
        if (finished.conf.get("alert") or {}).get("alert_id") != alert.alert_id:
            raise DemoError(f"Run {run_id} of {retrain_dag_id(self._model)} does not name its alert in its conf")
        return finished

    def _alert_that_started_a_run(self) -> tuple[Alert, Outcome, str]:
        """The alert, what its sender was told, and the run, which may have started later."""
        dag = monitor_dag_id(self._model)
        self._stack.airflow.wait_for_dag(dag, timeout_s=LOOK_TIMEOUT_S)
        for _ in range(LOOKS):
            look = self._stack.airflow.trigger(dag)
            finished = self._stack.airflow.wait_for_run(dag, look.run_id, timeout_s=LOOK_TIMEOUT_S)
            if finished.state != "success":
                raise DemoError(f"Run {look.run_id} of {dag} ended as {finished.state}: {self._url(dag, look.run_id)}")
            seen = MonitoringRef.from_dict(self._stack.airflow.xcom(dag, look.run_id, OBSERVE))
            if seen.windows:
                self._say(seen.summary)
                self._say(self._page(seen))
            found = self._started()
            if found is not None:
                return found
            time.sleep(self._window_s() / 2)
        raise DemoError(f"The monitor raised no alert that started a run in {LOOKS} looks. Its runs: {self._url(dag)}")

    def _started(self) -> tuple[Alert, Outcome, str] | None:
        """The monitor's alert that a run was started for."""
        from perennial.alert_ledger import AlertLedger
        from perennial.domain.alert import Fate

        for record in AlertLedger(self._runtime.store, self._runtime.root).list(self._model, 100):
            for outcome in record.outcomes:
                if outcome.fate is Fate.STARTED and outcome.run_id and record.alert.source == "monitor":
                    self._say(f"alert: {record.alert.summary}")
                    self._say(f"the governor: {outcome.reason}")
                    return record.alert, record.outcomes[0], outcome.run_id
        return None

    def _same_alert_again(self, alert: Alert, first: Outcome) -> None:
        """Many times at once, signed each, as senders do that heard no answer."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = list(pool.map(lambda _: self._send(alert), range(AT_ONCE)))
        told = Counter((outcome.fate.value, outcome.run_id) for outcome in outcomes)
        if set(told) != {(first.fate.value, first.run_id)}:
            raise DemoError(f"The same alert sent {AT_ONCE} times at once was answered otherwise than at first: {told}")
        self._say(f"the same alert {AT_ONCE} times at once: each time the same answer, and no other run")

    def _send(self, alert: Alert) -> Outcome:
        from perennial.alert_sender import SigningKey, send_alert
        from perennial_demo.environment import WEBHOOK_KEY

        key = SigningKey.parse(self._stack.environment[WEBHOOK_KEY])
        return send_alert(alert, airflow_url=self._stack.airflow_url, key=key, now=self._runtime.clock.now())

    def _drift_runs(self) -> list[str]:
        runs = self._stack.airflow.runs(retrain_dag_id(self._model))
        return [run.run_id for run in runs if run.run_id.startswith(DRIFT_RUN)]

    def _window_s(self) -> float:
        from perennial.spec import load_model

        monitoring = load_model(self._runtime.specs, self._model).monitoring
        return 0.0 if monitoring is None else monitoring.window.total_seconds()

    def _page(self, seen: MonitoringRef) -> str:
        root, airflow_url = self._runtime.root, self._stack.airflow_url
        return page_address(seen.page_uri or "", root=root, model=self._model, airflow_url=airflow_url)

    def _url(self, dag: str, run_id: str = "") -> str:
        return f"{self._stack.airflow_url}/dags/{dag}" + (f"/runs/{run_id}" if run_id else "")

    def _say(self, text: str) -> None:
        self._stack.console.print(f"  {text}", markup=False)
