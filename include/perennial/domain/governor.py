"""Turns alerts into at most the right number of runs. Pure: facts in, outcome out.

The rules are asked in the order of `RULES`; the first one that speaks decides, and if none does, a run starts. The last
one, `not_created`, is not asked here: Airflow took the start for a mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from perennial.domain.alert import Alert, Fate, Outcome
from perennial.domain.fingerprint import digest_of
from perennial.domain.times import format_time
from perennial.spec.fields import format_duration
from perennial.spec.parts import DriftTrigger

RUN_PREFIX: Final = "drift__"
"""Runs that alerts start have an id that begins so."""
LOOK_AGAIN: Final = timedelta(minutes=15)
"""After so long, where nobody can tell when the time will have come."""
DAY: Final = timedelta(hours=24)
RULES: Final = (
    "not_enabled",
    "no_dag",
    "active_run",
    "later_run",
    "paused",
    "nothing_new",
    "gave_up",
    "stopped",
    "min_new_rows",
    "cooldown",
    "max_runs_per_day",
    "not_created",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What Airflow knows of a model's retraining, as far as it concerns one alert."""

    paused: bool = False
    latest: tuple[str, datetime] | None = None
    """Id and creation of the run that was created last, whatever started it."""
    active: str | None = None
    """Id of the oldest run that is queued or running."""
    served: str | None = None
    """Id of a run that was created after the alert had come in, and has succeeded."""
    ended_at: datetime | None = None
    """When the last run ended, whatever started it."""
    failed: datetime | None = None
    """When the run that ended last was created, if it failed."""
    alert_starts: tuple[datetime, ...] = ()
    """When runs for alerts were created, within the last 24 hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What the store knows."""

    judged_at: datetime | None = None
    """When a run judged just the data that is there now; None: none has, or another run might see more in it."""
    new_rows: int | None = None
    """That landed since the last training, counted as far as the policy asks; None: nothing to count from."""
    rejections: int = 0
    """Challengers trained for alerts since the last promotion."""
    last_for_alert_at: datetime | None = None
    """When the last run for an alert came to its outcome, whatever that was."""


def run_id_after(model: str, latest: tuple[str, datetime] | None) -> str:
    """Id of the run that an alert may start after this one.

    All who see the same latest run get the same id, and Airflow takes each id once: so of all that start a run at the
    same time, one does.
    """
    run_id, created = (None, "first") if latest is None else (latest[0], f"{latest[1].astimezone(UTC):%Y%m%dT%H%M%SZ}")
    return f"{RUN_PREFIX}{created}__{digest_of([model, run_id])[:8]}"


def decide(
    alert: Alert, runs: RunFacts | None, data: DataFacts | None, policy: DriftTrigger | None, now: datetime
) -> Outcome | None:
    """What becomes of an alert; `started` has the id of the run to start.

    Args:
        alert: what came in.
        runs: None if Airflow has no DAG that retrains the model.
        data: None: it was not looked at; the outcome then is None if it has to be.
        policy: the spec's `triggers.on_drift`.
        now: aware, UTC.
    """
    if policy is None:
        return _refused(now, "not_enabled", f"The spec of {alert.model} has no triggers.on_drift.")
    if runs is None:
        reason = "Airflow has no DAG that retrains the model: it is not parsed yet, or fails to import."
        return _gave_up(alert, policy, now) or _deferred(alert, policy, now, "no_dag", reason, now + LOOK_AGAIN)
    early = _by_runs(runs, now)
    if early is not None or data is None:
        return early
    return (
        _nothing_new(runs, data, now)
        or _gave_up(alert, policy, now)
        or _stopped(runs, data, policy, now)
        or _too_soon(alert, runs, data, policy, now)
        or Outcome(
            fate=Fate.STARTED,
            reason="No run is queued or running, and no rule speaks against one.",
            at=now,
            run_id=run_id_after(alert.model, runs.latest),
        )
    )


def _by_runs(runs: RunFacts, now: datetime) -> Outcome | None:
    if runs.active is not None:
        return _coalesced(now, "active_run", f"Run {runs.active} is queued or running.", runs.active)
    if runs.served is not None:
        reason = f"Run {runs.served} was created after the alert came in, and has ended well."
        return _coalesced(now, "later_run", reason, runs.served)
    if runs.paused:
        return _refused(now, "paused", "The model's DAG is paused; a run would wait until somebody unpauses it.")
    return None


def _nothing_new(runs: RunFacts, data: DataFacts, now: datetime) -> Outcome | None:
    # What a run that broke off would have found, nobody knows.
    if data.judged_at is None or (runs.failed is not None and runs.failed > data.judged_at):
        return None
    reason = f"Nothing has landed since a run judged this data on {format_time(data.judged_at)}."
    return _refused(now, "nothing_new", reason)


def _stopped(runs: RunFacts, data: DataFacts, policy: DriftTrigger, now: datetime) -> Outcome | None:
    tried = [*runs.alert_starts, *([data.last_for_alert_at] if data.last_for_alert_at else [])]
    if data.rejections < policy.stop_after_rejections or not tried:
        return None
    resumes = max(tried) + policy.resume_after
    if now >= resumes:
        return None
    reason = (
        f"{data.rejections} challengers in a row that alerts trained were not promoted (limit "
        f"{policy.stop_after_rejections}): a person has to look; one alert is let through from {format_time(resumes)}."
    )
    return _refused(now, "stopped", reason)


def _too_soon(alert: Alert, runs: RunFacts, data: DataFacts, policy: DriftTrigger, now: datetime) -> Outcome | None:
    if data.new_rows is not None and data.new_rows < policy.min_new_rows:
        reason = f"{data.new_rows} rows have landed since the last training, {policy.min_new_rows} are asked for."
        return _deferred(alert, policy, now, "min_new_rows", reason, now + LOOK_AGAIN)
    if runs.ended_at is not None and now < runs.ended_at + policy.cooldown:
        reason = (
            f"The last run ended {format_time(runs.ended_at)}, the next one may start "
            f"{format_duration(policy.cooldown)} later."
        )
        return _deferred(alert, policy, now, "cooldown", reason, runs.ended_at + policy.cooldown)
    starts = sorted(start for start in runs.alert_starts if start > now - DAY)
    if len(starts) >= policy.max_runs_per_day:
        reason = f"Alerts have started {len(starts)} runs within 24 hours, the limit is {policy.max_runs_per_day}."
        return _deferred(alert, policy, now, "max_runs_per_day", reason, starts[-policy.max_runs_per_day] + DAY)
    return None


def _gave_up(alert: Alert, policy: DriftTrigger, now: datetime) -> Outcome | None:
    if now < alert.received_at + policy.give_up_after:
        return None
    since, limit = format_time(alert.received_at), format_duration(policy.give_up_after)
    return _refused(now, "gave_up", f"It has waited since {since}; after {limit} an alert is given up.")


def _refused(now: datetime, rule: str, reason: str) -> Outcome:
    return Outcome(fate=Fate.REFUSED, reason=reason, at=now, rule=rule)


def _coalesced(now: datetime, rule: str, reason: str, run_id: str) -> Outcome:
    return Outcome(fate=Fate.COALESCED, reason=reason, at=now, rule=rule, run_id=run_id)


def _deferred(alert: Alert, policy: DriftTrigger, now: datetime, rule: str, reason: str, until: datetime) -> Outcome:
    # When the time to give it up has come, it has to be looked at, too.
    last = max(now, alert.received_at + policy.give_up_after)
    return Outcome(fate=Fate.DEFERRED, reason=reason, at=now, rule=rule, until=min(until, last))
