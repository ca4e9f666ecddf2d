"""Is a service ready? A probe answers None for yes, else what is missing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import httpx

Probe = Callable[[datetime], str | None]
"""Takes the time at which the service was started (UTC)."""

TIMEOUT_S: Final = 3.0


def http_answers(url: str, *, status: int | None = None) -> Probe:
    """Ready when a GET of `url` is answered, with `status` if one is given."""

    def probe(_started_at: datetime) -> str | None:
        answer = _get(url)
        if isinstance(answer, str):
            return answer
        return None if status in (None, answer.status_code) else f"{url} answers {answer.status_code}, not {status}"

    return probe


def all_of(*probes: Probe) -> Probe:
    """Ready when every probe is; they are asked in order, up to the first that is not."""

    def probe(started_at: datetime) -> str | None:
        return next((problem for one in probes if (problem := one(started_at)) is not None), None)

    return probe


def airflow_component(airflow_url: str, component: str) -> Probe:
    """Ready when Airflow's monitor calls the component healthy, by a heartbeat since it was started.

    The heartbeat of a component that was killed counts as healthy for another 30 seconds, hence the second condition.
    """

    def probe(started_at: datetime) -> str | None:
        answer = _get(f"{airflow_url}/api/v2/monitor/health")
        if isinstance(answer, str):
            return answer
        if answer.status_code != 200:
            return f"Airflow's monitor answers {answer.status_code}"
        return heartbeat_problem(answer.json(), component, started_at)

    return probe


def heartbeat_problem(monitor: dict[str, Any], component: str, started_at: datetime) -> str | None:
    """What keeps a component from being healthy by Airflow's monitor, or None."""
    facts = monitor.get(component) or {}
    if facts.get("status") != "healthy":
        return f"{component} is {facts.get('status') or 'not known'} to Airflow's monitor"
    beat = facts.get(f"latest_{component}_heartbeat")
    if beat is None or datetime.fromisoformat(beat).astimezone(UTC) < started_at:
        return f"{component} has sent no heartbeat yet"
    return None


def _get(url: str) -> httpx.Response | str:
    try:
        # The loopback interface is not reached through a proxy, whatever the environment says.
        return httpx.get(url, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        return f"{url} does not answer ({type(error).__name__})"
