"""Brings the monitor's alerts from the outbox to the webhook and to people.

Of each alert: post it to the webhook, note the answer, tell each of `monitoring.notify`, note that, take it out of the
outbox. A kill between any two steps repeats at most one: the webhook gives a repeated alert the same answer, and people
may be told twice, never not at all. People do not wait for the webhook: if it can't be reached, they are told so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perennial.addresses import page_address, retrain_dag_id, run_address
from perennial.domain.alert import Alert, Fate, Outcome
from perennial.domain.times import format_time
from perennial.errors import PerennialError, TerminalError, TransientError
from perennial.monitoring_objects import MonitoringObjects, OutboxItem
from perennial.spec import ModelSpec
from perennial.spec.monitoring import EmailNotice, Notice, SlackNotice

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """What people are told of an alert."""

    alert: Alert
    signal: str
    """`data_drift` and the like."""
    next_step: str
    """A sentence: what follows of it, or why nothing does."""
    page_url: str
    """Of the window's report; empty if it has no address."""
    run_url: str
    """Of the retraining that deals with it; empty: there is none, or it has no address."""
    outcome: Outcome | None

    @property
    def title(self) -> str:
        """A line, for a subject."""
        return f"{self.alert.model}: {self.signal.replace('_', ' ')}"

    @property
    def lines(self) -> tuple[str, ...]:
        """What was seen, what follows, where to look."""
        links = [("Report", self.page_url), ("Run", self.run_url)]
        return (self.alert.summary, self.next_step, *(f"{name}: {url}" for name, url in links if url))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for programs."""
        return {
            "model": self.alert.model,
            "id": self.alert.alert_id,
            "signal": self.signal,
            "summary": self.alert.summary,
            "raised_at": format_time(self.alert.raised_at),
            "evidence": dict(self.alert.evidence),
            "outcome": None if self.outcome is None else self.outcome.to_dict(),
            "next_step": self.next_step,
            "page_url": self.page_url,
            "run_url": self.run_url,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What a look into the outbox came to."""

    delivered: int
    """Alerts that left it."""
    run_id: str | None
    """Of the newest one that an alert started, or was coalesced with."""
    problems: tuple[PerennialError, ...]
    """Why others are still there."""

    def require_all(self) -> None:
        """Pass if nothing is left behind.

        Raises:
            TerminalError, TransientError: what stood in the way; transient if a later try may do better.
        """
        if self.problems:
            text = "; ".join(dict.fromkeys(str(problem) for problem in self.problems))
            lasting = all(isinstance(problem, TerminalError) for problem in self.problems)
            raise (TerminalError if lasting else TransientError)(f"not delivered, and kept in the outbox: {text}")


def deliver(
    spec: ModelSpec,
    *,
    objects: MonitoringObjects,
    post: Callable[[Alert], Outcome],
    tell: Callable[[Notice, AlertMessage], None],
    airflow_url: str,
) -> Delivery:
    """Deliver what is in a model's outbox, oldest first. What stands in one alert's way does not stop the others.

    Args:
        spec: whom to tell, and whether alerts may start runs at all.
        objects: with the outbox.
        post: sends an alert to the webhook.
        tell: sends a message to people; whatever it raises is a problem of that alert.
        airflow_url: base address of Airflow's web server, for links.
    """
    carrier = _Carrier(spec=spec, objects=objects, post=post, tell=tell, airflow_url=airflow_url)
    delivered, run_id, problems = 0, None, []
    for item in objects.outbox():
        outcome, found = carrier.carry(item)
        problems += found
        if not found:
            objects.delivered(item)
            delivered += 1
        if outcome is not None and outcome.run_id:
            run_id = outcome.run_id
    return Delivery(delivered=delivered, run_id=run_id, problems=tuple(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Carrier:
    spec: ModelSpec
    objects: MonitoringObjects
    post: Callable[[Alert], Outcome]
    tell: Callable[[Notice, AlertMessage], None]
    airflow_url: str

    def carry(self, item: OutboxItem) -> tuple[Outcome | None, list[PerennialError]]:
        """One alert; the webhook's answer, if there is one, and what stood in the way."""
        problems: list[PerennialError] = []
        outcome, problem = self._posted(item)
        if problem is not None:
            problems.append(problem)
        message = self._message(item, outcome, problem)
        told = list(item.delivery.get("told", ()))
        for notice in self.spec.monitoring.notify if self.spec.monitoring else ():
            name = notice_name(notice)
            if name in told:
                continue
            try:
                self.tell(notice, message)
            except Exception as error:  # a provider's errors are of any kind, and one of them must not stop the others
                problem = _told_not(item.alert, name, error)
                _log.warning("%s", problem)
                problems.append(problem)
            else:
                _log.info("%s: told %s", item.alert.alert_id, name)
                told.append(name)
                self._remember(item, outcome, told)
        return outcome, problems

    def _posted(self, item: OutboxItem) -> tuple[Outcome | None, PerennialError | None]:
        """The webhook's answer, new or noted; or why there is none."""
        if not self._asks_for_a_run(item):
            return None, None
        if noted := item.delivery.get("posted"):
            return Outcome.from_dict(noted), None
        try:
            outcome = self.post(item.alert)
        except PerennialError as error:
            _log.warning("%s: %s", item.alert.alert_id, error)
            return None, error
        _log.info("%s: %s (%s)", item.alert.alert_id, outcome.fate, outcome.reason)
        self._remember(item, outcome, item.delivery.get("told", ()))
        return outcome, None

    def _remember(self, item: OutboxItem, outcome: Outcome | None, told: Any) -> None:
        posted = {"posted": outcome.to_dict()} if outcome is not None else {}
        self.objects.remember(item, {**posted, "told": list(told)})

    def _asks_for_a_run(self, item: OutboxItem) -> bool:
        return item.retrain and self.spec.triggers.on_drift is not None

    def _message(self, item: OutboxItem, outcome: Outcome | None, problem: PerennialError | None) -> AlertMessage:
        model = item.alert.model
        run_id = outcome.run_id if outcome is not None else None
        return AlertMessage(
            alert=item.alert,
            signal=item.signal,
            next_step=self._next_step(item, outcome, problem),
            page_url=page_address(item.page_uri, root=self.objects.root, model=model, airflow_url=self.airflow_url),
            run_url=run_address(retrain_dag_id(model), run_id, airflow_url=self.airflow_url) if run_id else "",
            outcome=outcome,
        )

    def _next_step(self, item: OutboxItem, outcome: Outcome | None, problem: PerennialError | None) -> str:
        if problem is not None:
            return f"No retraining was asked for yet, the monitor tries again: {problem}"
        if outcome is not None:
            return _in_words(outcome)
        if item.retrain:
            return "No retraining: the spec has no triggers.on_drift."
        return "A retraining would not help: look at the service, and at what it is sent."


def _in_words(outcome: Outcome) -> str:
    if outcome.fate is Fate.STARTED:
        return "A retraining was started."
    if outcome.fate is Fate.COALESCED:
        return f"A retraining was under way already: {outcome.reason}"
    if outcome.fate is Fate.DEFERRED:
        when = f" until {outcome.until:%Y-%m-%d %H:%M} UTC" if outcome.until else ""
        return f"A retraining has to wait{when}: {outcome.reason}"
    return f"No retraining: {outcome.reason}"


def notice_name(notice: Notice) -> str:
    """Whom a notice goes to: the same as long as the spec says the same."""
    if isinstance(notice, SlackNotice):
        return f"slack {notice.channel} ({notice.connection})"
    if isinstance(notice, EmailNotice):
        return f"email {', '.join(notice.to)} ({notice.connection})"
    return f"webhook ({notice.connection})"


def _told_not(alert: Alert, name: str, error: Exception) -> PerennialError:
    # Never a provider's own words or traceback: an incoming webhook's address is its secret, and requests repeats it.
    why = str(error) if isinstance(error, PerennialError) else type(error).__name__
    kind = TerminalError if isinstance(error, TerminalError) else TransientError
    return kind(f"{alert.alert_id}: {name} was not told: {why}")
