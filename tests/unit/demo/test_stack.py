"""`Stack` with small servers in place of the real ones; tests/system runs the real ones."""

import io
import socket
import sys

import pytest
from rich.console import Console

from perennial_demo import process
from perennial_demo.errors import PortError, ServiceError
from perennial_demo.health import http_answers
from perennial_demo.home import Home
from perennial_demo.ports import Ports, free_port
from perennial_demo.records import living_record
from perennial_demo.services import Plan, Service
from perennial_demo.stack import Stack

SERVE = ("-m", "http.server", "--bind", "127.0.0.1")
FAIL = "import sys; [print('line', n) for n in range(100)]; print('the reason', flush=True); sys.exit(3)"


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    yield home
    process.stop(home.root, grace_s=1)


def server(name, port, **changes):
    return Service(
        **{
            "name": name,
            "title": name,
            "command": (sys.executable, *SERVE, str(port)),
            "environ": {},
            "probe": http_answers(f"http://127.0.0.1:{port}/", status=200),
            "port": (name, port),
            "ready_timeout_s": 20,
            **changes,
        }
    )


def make_stack(home, *services):
    stack = Stack(home, Ports(), {}, console=Console(file=io.StringIO(), width=200))
    environment = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2"}
    stack.plan = Plan(home=home, environment=environment, airflow_secrets={}, airflow={}, services=services)
    return stack


def output(stack):
    return stack.console.file.getvalue()


def test_up_starts_services_and_down_leaves_no_process(home):
    stack = make_stack(home, server("s3", free_port()), server("mlflow", free_port()))
    stack.up()
    assert [entry.problem for entry in stack.status()] == [None, None]
    assert str(home.logs / "s3.log") in output(stack)
    stack.down()
    assert process.marked(home.root) == []
    assert [entry.problem for entry in stack.status()] == ["not running", "not running"]
    assert list(home.pids.iterdir()) == []


def test_second_up_keeps_healthy_services(home):
    stack = make_stack(home, server("s3", free_port()))
    stack.up()
    pid = living_record(home, "s3").pid
    make_stack(home, *stack.plan.services).up()
    assert living_record(home, "s3").pid == pid


def test_up_after_a_change_restarts_the_service(home):
    port = free_port()
    make_stack(home, server("s3", port)).up()
    pid = living_record(home, "s3").pid
    make_stack(home, server("s3", port, code_digest="new")).up()
    assert living_record(home, "s3").pid != pid
    assert len(process.marked(home.root)) == 1


def test_up_after_a_service_was_killed_starts_it_again(home):
    stack = make_stack(home, server("s3", free_port()), server("mlflow", free_port()))
    stack.up()
    kept = living_record(home, "mlflow").pid
    for victim in process.marked(home.root, {"s3"}):
        victim.kill()
        victim.wait(5)
    stack.up()
    assert living_record(home, "s3") is not None
    assert living_record(home, "mlflow").pid == kept


def test_service_that_dies_shows_the_end_of_its_log_and_stops_the_others(home):
    broken = server("mlflow", free_port(), command=(sys.executable, "-c", FAIL))
    with pytest.raises(ServiceError) as error:
        make_stack(home, server("s3", free_port()), broken).up()
    message = str(error.value)
    assert "mlflow ended with code 3" in message
    assert str(home.logs / "mlflow.log") in message
    assert "the reason" in message
    assert "line 71" in message
    assert "line 70\n" not in message  # the last 30 lines, not all
    assert process.marked(home.root) == []


def test_service_that_is_not_healthy_in_time_names_what_is_missing(home):
    slow = server("mlflow", free_port(), probe=lambda _: "it sleeps", ready_timeout_s=0.5)
    with pytest.raises(ServiceError, match="mlflow was not healthy after 0 s: it sleeps"):
        make_stack(home, slow).up()
    assert process.marked(home.root) == []


def test_failure_leaves_services_from_before_running(home):
    good = server("s3", free_port())
    make_stack(home, good).up()
    with pytest.raises(ServiceError):
        make_stack(home, good, server("mlflow", free_port(), command=(sys.executable, "-c", FAIL))).up()
    assert living_record(home, "s3") is not None


def test_interrupt_stops_what_was_started(home):
    def interrupt(_started_at):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_stack(home, server("s3", free_port(), probe=interrupt)).up()
    assert process.marked(home.root) == []


def test_taken_port_starts_nothing(home):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        with pytest.raises(PortError, match=f"Port {taken}, wanted for mlflow"):
            make_stack(home, server("s3", free_port()), server("mlflow", taken)).up()
    assert process.marked(home.root) == []
    assert not home.environment_file.exists()


def test_down_in_a_home_that_never_was_says_so(home):
    stack = make_stack(home)
    stack.down()
    assert "Nothing was ever started" in output(stack)
    assert not home.root.exists()
