"""The smoke test's clean process: real child processes, and models and interpreters that misbehave."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.wild_models import Saved, save_wild

from perennial.adapters.clean_process import CleanProcess
from perennial.domain.smoke_test import Fault
from perennial.errors import TerminalError
from perennial.ports import SmokeOutcome, SmokeTrial

BODY = json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [[0.5, 2], [-1.25, 0]]}}).encode()
GIB = 2**30
Child = Callable[..., SmokeOutcome]


def trial(saved: Saved, *, timeout_s: float = 120, max_memory_bytes: int = GIB, body: bytes = BODY) -> SmokeTrial:
    return SmokeTrial(
        model=saved.model,
        files=saved.files,
        records=saved.records,
        body=body,
        timeout_s=timeout_s,
        max_memory_bytes=max_memory_bytes,
    )


def run(saved: Saved, **how: object) -> SmokeOutcome:
    return CleanProcess(sys.executable, [saved.root]).score(trial(saved, **how))  # type: ignore[arg-type]


@pytest.fixture
def child(tmp_path: Path) -> Child:
    """Runs a shell script in place of the interpreter; its last argument, `$4`, is the folder."""
    saved = save_wild(tmp_path)

    def run_script(script: str, **how: object) -> SmokeOutcome:
        interpreter = tmp_path / "python"
        interpreter.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        interpreter.chmod(0o755)
        return CleanProcess(str(interpreter)).score(trial(saved, **how))  # type: ignore[arg-type]

    return run_script


def ends(pid: int) -> bool:
    """Whether the process is gone, or a zombie, within 10 s."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_sound_model_answers_as_a_client_would_see_it(tmp_path: Path) -> None:
    outcome = run(save_wild(tmp_path))
    assert (outcome.fault, outcome.problem, outcome.predictions) == (None, "", [2.5, -1.25])
    assert outcome.peak_memory_bytes is not None
    assert 50 * 2**20 < outcome.peak_memory_bytes < GIB
    assert outcome.facts["executable"] == sys.executable
    assert set(outcome.facts["packages"]) >= {"scikit-learn", "skops", "mlflow"}


def test_model_sees_nothing_of_the_environment_and_may_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for the model")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    outcome = run(save_wild(tmp_path, "environment"))
    assert outcome.predictions == [2.5, -1.25]
    assert "OMP_NUM_THREADS" in outcome.facts["stdout"]
    assert "AWS" not in outcome.facts["stdout"]
    assert "PYTHON" not in outcome.facts["stdout"]


def test_much_that_is_printed_and_a_thread_that_never_ends_do_no_harm(tmp_path: Path) -> None:
    outcome = run(save_wild(tmp_path, "print and thread"))
    assert outcome.predictions == [2.5, -1.25]
    assert outcome.facts["stdout_bytes"] > 9 * 2**20
    assert len(outcome.facts["stdout"]) <= 16_000


def test_module_that_is_missing_is_named(tmp_path: Path) -> None:
    saved = save_wild(tmp_path)
    outcome = CleanProcess(sys.executable).score(trial(saved))
    assert outcome.fault is Fault.LOAD
    assert "No module named 'wild_model_of_a_test'" in outcome.problem


@pytest.mark.parametrize(
    ("how", "fault", "words"),
    [
        ("exit", Fault.EXAMPLE, "SystemExit: 3"),
        ("raise", Fault.EXAMPLE, "RuntimeError: secret of the inside"),
        ("gone", Fault.EXIT, "exit code 0, but without a result"),
        ("segfault", Fault.CRASH, "ended by SIGSEGV. It was at File"),
        ("allocate", Fault.MEMORY, "Unable to allocate 1.00 GiB"),
    ],
)
def test_model_that_misbehaves_is_told_by_its_fault(tmp_path: Path, how: str, fault: Fault, words: str) -> None:
    outcome = run(save_wild(tmp_path, how))
    assert outcome.fault is fault
    assert words in outcome.problem
    assert outcome.predictions is None


def test_row_that_the_service_would_refuse_is_named_by_column(tmp_path: Path) -> None:
    body = BODY.replace(b"-1.25, 0", b"-1.25, null")
    outcome = run(save_wild(tmp_path), body=body)
    assert outcome.fault is Fault.REFUSED
    assert "column 'b', row 1: got a missing value, expected a whole number" in outcome.problem


def test_package_of_another_version_is_told_with_both_before_anything_is_loaded(tmp_path: Path) -> None:
    saved = save_wild(tmp_path)
    pins = "numpy==1.0.0\nno-such-package==2.0\nskops>=0.1 ; python_version < '3'\n"
    (saved.files / "requirements.txt").write_text(pins, encoding="utf-8")
    outcome = run(saved)
    assert outcome.fault is Fault.REQUIREMENTS
    assert "numpy==1.0.0 is needed, 2." in outcome.problem
    assert "no-such-package==2.0 is needed, and no no-such-package is installed" in outcome.problem
    assert "skops" not in outcome.problem


def test_file_that_was_changed_is_not_loaded(tmp_path: Path) -> None:
    saved = save_wild(tmp_path)
    file = saved.files / "model.skops"
    file.write_bytes(file.read_bytes() + b"?")
    outcome = run(saved)
    assert outcome.fault is Fault.INTEGRITY
    assert "model.skops was changed" in outcome.problem


def test_limit_below_what_the_libraries_take_is_told(tmp_path: Path) -> None:
    outcome = run(save_wild(tmp_path), max_memory_bytes=64 * 2**20)
    assert outcome.fault is Fault.MEMORY
    assert "the libraries alone take" in outcome.problem
    assert "the limit is 64 MiB" in outcome.problem


def test_process_that_hangs_is_killed_with_what_it_has_started(child: Child, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome = child(f"sleep 3600 &\necho $! $$ > {pids}\nwait", timeout_s=3)
    assert outcome.fault is Fault.TIME
    assert "had not ended after 3 s" in outcome.problem
    assert outcome.took_s < 60
    assert all(ends(int(pid)) for pid in pids.read_text(encoding="ascii").split())


def test_process_that_leaves_another_behind_takes_it_along(child: Child, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome = child(f"sleep 3600 &\necho $! > {pids}\nexit 7")
    assert outcome.fault is Fault.EXIT
    assert ends(int(pids.read_text(encoding="ascii")))


@pytest.mark.parametrize(
    ("script", "fault", "words"),
    [
        ("kill -KILL $$", Fault.CRASH, "ended by SIGKILL, as the kernel does when the machine has no more memory"),
        ("kill -ABRT $$", Fault.CRASH, "ended by SIGABRT. It said nothing"),
        ("echo std::bad_alloc >&2; kill -ABRT $$", Fault.MEMORY, "SIGABRT. Its last words: std::bad_alloc"),
        ("echo no such module >&2; exit 1", Fault.EXIT, "exit code 1, without a result. Its last words: no such"),
        ("echo hello; exit 2", Fault.EXIT, "exit code 2, without a result; it had written 6 bytes to stdout"),
        ("exit 0", Fault.EXIT, "exit code 0, but without a result"),
        ("echo garbage > $4/result.json", Fault.RESULT, "it begins with 'garbage"),
        ("echo '[1]' > $4/result.json", Fault.RESULT, "it begins with '[1]"),
        ("printf '\\377' > $4/result.json", Fault.RESULT, "it begins with"),
        ('echo \'{"fault": "scores", "predictions": []}\' > $4/result.json', Fault.RESULT, "cannot be read"),
        ('echo \'{"fault": "luck", "problem": "none"}\' > $4/result.json', Fault.RESULT, "cannot be read"),
        ("echo '{\"predictions\": [1]}' > $4/result.json", Fault.RESULT, "cannot be read"),
    ],
)
def test_end_without_a_sound_result_is_told_apart(child: Child, script: str, fault: Fault, words: str) -> None:
    outcome = child(script)
    assert outcome.fault is fault
    assert words in outcome.problem


def test_more_memory_than_the_limit_is_a_fault_though_the_kernel_let_it_pass(child: Child) -> None:
    result = '{"predictions": [1.0, 2.0], "facts": {}, "peak_memory_bytes": 2147483648}'
    outcome = child(f"echo '{result}' > $4/result.json")
    assert outcome.fault is Fault.MEMORY
    assert outcome.problem == "it took 2048 MiB, the limit is 1024 MiB"
    assert outcome.predictions is None


def test_interpreter_that_does_not_exist_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match=r"/nowhere/python.*PERENNIAL_SMOKE_TEST_PYTHON"):
        CleanProcess("/nowhere/python").score(trial(save_wild(tmp_path)))


def test_error_while_it_waits_leaves_no_process_behind(child: Child, tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with pytest.raises(KeyboardInterrupt):
            child(f"sleep 3600 &\necho $! $$ > {pids}\nwait")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert all(ends(int(pid)) for pid in pids.read_text(encoding="ascii").split())
