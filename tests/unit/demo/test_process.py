import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import psutil
import pytest

from perennial_demo import process
from perennial_demo.home import Home
from perennial_demo.records import Record, living_record, remove_records, write_record

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)
WITH_CHILD = (
    "import os, subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "print('ready', flush=True)\ntime.sleep(60)"
)


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    yield home
    process.stop(home.root, grace_s=0)


def launch(home, code, service="one"):
    log = home.logs / f"{service}.log"
    child = process.start(
        process.Launch(
            home=home.root, service=service, command=(sys.executable, "-c", code), environ=dict(os.environ), log=log
        )
    )
    wait_until(lambda: child.pid in [p.pid for p in process.marked(home.root)])
    return child


def wait_until(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stop_ends_children_that_left_the_session(home):
    launch(home, WITH_CHILD)
    wait_until(lambda: len(process.marked(home.root)) == 2)
    assert process.stop(home.root) == []
    assert process.marked(home.root) == []


def test_stop_of_a_process_that_ignores_sigterm_is_bounded(home):
    launch(home, STUBBORN)
    wait_until(lambda: "ready" in (home.logs / "one.log").read_text())
    began = time.monotonic()
    assert process.stop(home.root, grace_s=0.3) == []
    assert time.monotonic() - began < 5


def test_stop_of_one_service_leaves_the_others(home):
    launch(home, SLEEP, "one")
    other = launch(home, SLEEP, "two")
    process.stop(home.root, {"one"})
    assert [p.pid for p in process.marked(home.root)] == [other.pid]


def test_stop_of_one_home_leaves_another_alone(home, tmp_path):
    other = Home(tmp_path / "home too")
    other.create()
    child = launch(other, SLEEP)
    try:
        process.stop(home.root)
        assert child.poll() is None
    finally:
        process.stop(other.root)


def test_stop_with_nothing_running_is_fine(home):
    assert process.stop(home.root) == []


def test_process_that_merely_has_perennial_home_set_is_not_ours(home):
    stranger = subprocess.Popen([sys.executable, "-c", SLEEP], env={**os.environ, "PERENNIAL_HOME": str(home.root)})
    try:
        assert process.stop(home.root) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_new_start_keeps_the_log_of_the_run_before(home):
    launch(home, "print('first', flush=True); " + SLEEP)
    wait_until(lambda: "first" in (home.logs / "one.log").read_text())
    process.stop(home.root)
    launch(home, SLEEP)
    assert "first" in (home.logs / "one.log.1").read_text()
    assert (home.logs / "one.log").read_text() == ""


def record(pid):
    return Record(pid=pid, fingerprint="f", started_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_record_of_a_living_service_is_returned(home):
    child = launch(home, SLEEP)
    write_record(home, "one", record(child.pid))
    assert living_record(home, "one") == record(child.pid)


def test_record_whose_pid_is_a_strangers_by_now_is_stale_and_the_stranger_survives(home):
    stranger = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    try:
        write_record(home, "one", record(stranger.pid))
        assert living_record(home, "one") is None
        process.stop(home.root)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_record_of_another_service_with_this_pid_is_stale(home):
    child = launch(home, SLEEP, "two")
    write_record(home, "one", record(child.pid))
    assert living_record(home, "one") is None


def test_record_of_a_dead_process_is_stale(home):
    child = launch(home, SLEEP)
    write_record(home, "one", record(child.pid))
    child.kill()
    child.wait()
    assert not psutil.pid_exists(child.pid)
    assert living_record(home, "one") is None


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"pid": "x"}), json.dumps({"pid": 1})])
def test_record_half_written_when_the_power_went_is_stale(home, content):
    (home.pids / "one.json").write_text(content)
    assert living_record(home, "one") is None


def test_removed_records_are_gone(home):
    write_record(home, "one", record(1))
    remove_records(home)
    assert list(home.pids.iterdir()) == []
