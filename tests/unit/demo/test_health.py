from datetime import UTC, datetime

import pytest

from perennial_demo.health import all_of, heartbeat_problem, http_answers
from perennial_demo.ports import free_port

STARTED = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def monitor(status, beat):
    return {"scheduler": {"status": status, "latest_scheduler_heartbeat": beat}}


def test_heartbeat_since_the_start_is_healthy():
    assert heartbeat_problem(monitor("healthy", "2026-11-21T09:00:01+00:00"), "scheduler", STARTED) is None


def test_heartbeat_in_another_time_zone_is_compared_in_utc():
    assert heartbeat_problem(monitor("healthy", "2026-11-21T10:00:01+01:00"), "scheduler", STARTED) is None


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        (monitor("healthy", "2026-11-21T08:59:59+00:00"), "no heartbeat yet"),  # of the process that was killed
        (monitor("healthy", None), "no heartbeat yet"),
        (monitor("unhealthy", "2026-11-21T09:00:01+00:00"), "is unhealthy"),
        (monitor(None, None), "is not known"),
        ({}, "is not known"),
    ],
)
def test_missing_heartbeat_is_a_problem(facts, problem):
    assert problem in heartbeat_problem(facts, "scheduler", STARTED)


def test_server_that_is_not_there_is_a_problem():
    assert "does not answer" in http_answers(f"http://127.0.0.1:{free_port()}/")(STARTED)


def test_all_of_names_the_first_problem():
    asked = []

    def probe(answer):
        return lambda _started: asked.append(answer) or answer

    assert all_of(probe(None), probe("two"), probe("three"))(STARTED) == "two"
    assert asked == [None, "two"]
