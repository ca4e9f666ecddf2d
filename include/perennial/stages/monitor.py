"""monitor: looks at each window of the prediction log that has ended, once, and raises the alerts that follow.

Order of effects for each window, oldest first: report, alerts into the outbox, page, mark, metrics to MLflow. A report
stands once it is written, and everything else follows from it: who looks next makes good what a crash left undone. The
alarms' states lie in the newest report, so nothing else is remembered between two looks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from perennial.addresses import page_address
from perennial.domain.ledger_entry import MOVES
from perennial.domain.monitoring_report import HISTORY, alerts_to_send
from perennial.domain.references import MonitoringRef
from perennial.domain.times import Interval, format_time, parse_time
from perennial.domain.windows import WindowGrid
from perennial.domain.wording import counted
from perennial.errors import RegistryUnavailableError, TerminalError
from perennial.ledger import Ledger
from perennial.monitoring_objects import MonitoringObjects, StoredReport
from perennial.ports import Clock, ModelRegistry, ObjectStore
from perennial.spec.model import ModelSpec
from perennial.spec.monitoring import Monitoring
from perennial.stages.monitor_performance import measure_performance
from perennial.stages.monitor_report import metrics_of, window_report
from perennial.stages.monitor_versions import Versions
from perennial.stages.monitor_window import champion_of

_log = logging.getLogger(__name__)
GRACE: Final = timedelta(seconds=30)
"""After a window's end; its last rows are on their way to the log until then."""
MOST_WINDOWS: Final = 48
"""At one look."""


@dataclass(frozen=True, slots=True)
class Due:
    """What a look has to look at."""

    windows: tuple[Interval, ...]
    skipped: int
    """Windows before them that nobody looks at any more."""


def observe(
    spec: ModelSpec,
    *,
    as_of: datetime,
    store: ObjectStore,
    root: str,
    registry: ModelRegistry,
    ledger: Ledger,
    clock: Clock,
    airflow_url: str = "",
) -> MonitoringRef:
    """Look at each window that has ended since the last look, oldest first, at most `MOST_WINDOWS`.

    The same again looks at nothing anew, and gives what stands. At the very first look the newest `alert.of` windows
    are due.

    Args:
        spec: the model's, with monitoring.
        as_of: time to stand at; one in the future is now.
        store: holds log, labels, profiles and reports.
        root: `s3://bucket/prefix`.
        registry: tells what a version was trained on, and keeps the metrics.
        ledger: tells of promotions.
        clock: now.
        airflow_url: base address of Airflow's web server, for links; empty if it is not known.

    Raises:
        TerminalError: the spec asks for no monitoring, or a report or a profile in the store is none.
        StoreUnavailableError: try again; nothing is lost, and alerts that were raised are in the outbox.
        RegistryUnavailableError: the same. All windows were looked at, and the newest one's metrics are lacking; or a
            window waits in which a version served that the report before it does not tell of.
    """
    if spec.monitoring is None:
        raise TerminalError(f"{spec.name}: the spec has no `monitoring`; add it, or do not run the monitor")
    now = clock.now()
    objects = MonitoringObjects(store=store, root=root, model=spec.name)
    publisher = _Publisher(spec, spec.monitoring, objects, registry, airflow_url)
    newest = objects.newest(now)
    if newest is not None:
        publisher.publish(newest)  # what a crash left undone
    due = due_windows(spec.monitoring, min(as_of, now), None if newest is None else newest.window_end)
    moves = _moves(spec, ledger) if due.windows else []
    versions = Versions(spec, store=store, root=root, registry=registry)
    for place, window in enumerate(due.windows):
        served = versions.served(window, before=None if newest is None else newest.content)
        report = window_report(
            spec,
            spec.monitoring,
            window,
            served,
            measure_performance(spec, spec.monitoring, window, champion_of(served), store=store, root=root),
            before=None if newest is None else newest.content,
            moves=moves,
            skipped=0 if place else due.skipped,
            now=now,
        )
        newest = objects.put_report(window.end, report)
        publisher.publish(newest)
        _log.info("%s monitor: window %s: %s", spec.name, window, newest.content["summary"])
    if publisher.unreachable is not None:
        raise publisher.unreachable
    return _reference(newest, len(due.windows), due.skipped)


def due_windows(monitoring: Monitoring, until: datetime, last_end: datetime | None) -> Due:
    """Windows of the grid that ended `GRACE` before `until`, and after the newest that was looked at.

    Args:
        monitoring: says how long a window is.
        until: now, or the past time to stand at.
        last_end: end of the newest window that has a report; None: there is none.
    """
    grid = WindowGrid(monitoring.window)
    newest = grid.number(until - GRACE)
    if last_end is None:
        first, skipped = newest - monitoring.alert.of + 1, 0
    else:
        after = grid.number(last_end) + 1
        first = max(after, newest - MOST_WINDOWS + 1)
        skipped = first - after if newest >= after else 0
    return Due(tuple(map(grid.window, range(first, newest + 1))), skipped)


@dataclass(slots=True)
class _Publisher:
    """Sees to what follows from a report."""

    spec: ModelSpec
    monitoring: Monitoring
    objects: MonitoringObjects
    registry: ModelRegistry
    airflow_url: str
    unreachable: RegistryUnavailableError | None = None
    """MLflow did not answer; it is not asked again at this look."""

    def publish(self, report: StoredReport) -> None:
        """Alerts, page, mark, metrics; again changes nothing."""
        if not self.objects.is_done(report):
            self._raise_alerts(report)
            self.objects.put_page(report, self._page(report))
            self.objects.mark_done(report)
        if self.unreachable is None:
            self._log_metrics(report)

    def _log_metrics(self, report: StoredReport) -> None:
        number = WindowGrid(self.monitoring.window).number(report.window_end)
        try:
            self.registry.log_monitoring(
                self.spec.name, at=report.window_end, step=number, metrics=metrics_of(report.content)
            )
        except RegistryUnavailableError as error:  # further windows are looked at all the same
            self.unreachable = error
        except TerminalError as error:  # the report has them, too: nobody must be left without alarms for them
            _log.error("%s monitor: MLflow refused the metrics of %s: %s", self.spec.name, report.uri, error)

    def _raise_alerts(self, report: StoredReport) -> None:
        root, model = self.objects.root, self.spec.name
        address = page_address(report.page_uri, root=root, model=model, airflow_url=self.airflow_url)
        alerts = alerts_to_send(report.content, report_uri=report.uri, page=address or report.page_uri)
        for alert, signal, retrain in alerts:
            self.objects.put_alert(alert, signal=signal, retrain=retrain, page_uri=report.page_uri)

    def _page(self, report: StoredReport) -> bytes:
        from perennial.reports.monitoring_page import monitoring_page, page_without_drawings

        try:
            return monitoring_page(self.spec, report.content)
        except Exception as error:  # whatever is wrong with a drawing, later windows have to be looked at
            _log.exception("%s monitor: the page of %s could not be drawn", self.spec.name, report.uri)
            return page_without_drawings(self.spec, report.content, error)


def _moves(spec: ModelSpec, ledger: Ledger) -> list[dict[str, Any]]:
    """The newest changes of the champion."""
    return [
        {"at": format_time(entry.recorded_at), "version": entry.champion_after, "how": entry.kind}
        for entry in ledger.newest(spec.name, *MOVES, count=HISTORY)
    ]


def _reference(newest: StoredReport | None, windows: int, skipped: int) -> MonitoringRef:
    if newest is None:
        summary = "No window has ended yet."
        nothing = dict.fromkeys(("uri", "sha256", "page_uri", "window_start", "window_end"))
        return MonitoringRef(**nothing, windows=0, rows=0, open_alerts=0, summary=summary)
    report = newest.content
    told = str(report["summary"]) if windows else f"No window has ended since the last look. {report['summary']}"
    if skipped:
        told = f"{counted(skipped, 'window')} before were skipped. {told}"
    return MonitoringRef(
        uri=newest.uri,
        sha256=newest.sha256,
        page_uri=newest.page_uri,
        window_start=parse_time(str(report["window_start"])),
        window_end=newest.window_end,
        windows=windows,
        rows=int(report["rows"]),
        open_alerts=len(report["alerts"]),
        summary=told[:500],
    )
