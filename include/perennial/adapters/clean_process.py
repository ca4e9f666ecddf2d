"""The smoke test's clean process: no environment, no credentials, a limit to its time and memory, and no survivors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final

from perennial.domain.smoke_test import Fault, out_of_memory
from perennial.errors import TerminalError
from perennial.ports import SmokeOutcome, SmokeTrial

MODULE: Final = "perennial.serving.smoke"
_KEPT: Final = 16_000
"""Bytes of stdout's beginning and of stderr's end, where Python's own trace of a crash takes about 6,000."""
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LIBRARIES: Final = "LD_LIBRARY_PATH"
"""The one variable that is handed on: an interpreter may not start without it."""
_MIB: Final = 2**20
_TRACE: Final = "(most recent call first)"


class CleanProcess:
    """`perennial.ports.SmokeTester` with a process of its own for each trial, in a process group of its own."""

    def __init__(self, python: str, import_roots: Sequence[Path] = ()) -> None:
        """Touch nothing yet.

        Args:
            python: path of the interpreter, absolute, with Perennial and the model's libraries installed.
            import_roots: folders with the user's own code, put behind what is installed.
        """
        self._python, self._roots = python, [str(root.absolute()) for root in import_roots]

    def score(self, trial: SmokeTrial) -> SmokeOutcome:
        """Load and score in a process that knows nothing of this one."""
        with TemporaryDirectory(prefix="perennial-smoke-") as name:
            folder = Path(name).resolve()
            task = {
                "model": trial.model.to_dict(),
                "records": asdict(trial.records),
                "files": str(trial.files.resolve()),
                "import_roots": self._roots,
                "timeout_s": trial.timeout_s,
                "max_memory_bytes": trial.max_memory_bytes,
            }
            (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
            (folder / "rows.json").write_bytes(trial.body)
            return _outcome(trial, self._run(folder, trial.timeout_s), folder / "result.json")

    def _run(self, folder: Path, timeout_s: float) -> _Ended:
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                [self._python, "-I", "-m", MODULE, str(folder)],
                cwd=folder,
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise TerminalError(
                f"the smoke test's interpreter {self._python!r} cannot be started: {error}. "
                f"PERENNIAL_SMOKE_TEST_PYTHON names it; leave that out to use the one that runs Perennial"
            ) from error
        code = None
        with process:
            output = [_Output(stream) for stream in (process.stdout, process.stderr) if stream is not None]
            try:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout_s)
            finally:
                # Also when it ended by itself: it may have left others behind, which hold its output open.
                with suppress(ProcessLookupError, PermissionError):  # nobody is left
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                took_s = time.monotonic() - began
                stdout, stderr = [stream.finish() for stream in output]
        return _Ended(code=code, took_s=took_s, stdout=stdout, stderr=stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    size_bytes: int
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    code: int | None
    """None: it was killed at the time limit."""
    took_s: float
    stdout: _Said
    stderr: _Said


class _Output:
    """Reads a stream to its end, and keeps little of it: the process neither blocks nor fills memory or disk."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._first, self._last, self._size = b"", b"", 0
        self._thread = threading.Thread(target=self._read, name="smoke-test-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError, ValueError):  # closed by us, as somebody who left the process group holds it open
            while chunk := os.read(self._stream.fileno(), 65536):
                self._size += len(chunk)
                self._first = (self._first + chunk)[:_KEPT]
                self._last = (self._last + chunk)[-_KEPT:]

    def finish(self) -> _Said:
        self._thread.join(5)
        first, last = (text.decode("utf-8", "replace") for text in (self._first, self._last))
        return _Said(size_bytes=self._size, first=first, last=last)


def _environment(folder: Path) -> dict[str, str]:
    """All that the process is told of the world."""
    kept = {_LIBRARIES: os.environ[_LIBRARIES]} if _LIBRARIES in os.environ else {}
    home = str(folder)
    return {
        **kept,
        **dict.fromkeys(_THREADS, "1"),
        # Arrow's own allocator reserves 1 GiB of the data segment, which the limit would count.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PATH": os.defpath,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _outcome(trial: SmokeTrial, ended: _Ended, file: Path) -> SmokeOutcome:
    """What the process came to."""
    result: dict[str, Any] = {}
    fault, problem = _how_it_ended(trial, ended)
    if fault is None:
        fault, problem, result = _read_result(file)
    peak = result.get("peak_memory_bytes")
    if fault is None and peak is not None and peak > trial.max_memory_bytes:
        fault = Fault.MEMORY
        problem = f"it took {peak // _MIB} MiB, the limit is {trial.max_memory_bytes // _MIB} MiB"
    facts = {**result.get("facts", {}), "stderr": ended.stderr.last}
    if ended.stdout.size_bytes:
        facts |= {"stdout": ended.stdout.first, "stdout_bytes": ended.stdout.size_bytes}
    return SmokeOutcome(
        predictions=None if fault is not None else result["predictions"],
        fault=fault,
        problem=problem,
        took_s=ended.took_s,
        peak_memory_bytes=peak,
        facts=facts,
    )


def _how_it_ended(trial: SmokeTrial, ended: _Ended) -> tuple[Fault | None, str]:
    """Nothing, if it ended as it should."""
    said = _last_words(ended)
    if ended.code is None:
        return Fault.TIME, f"the process had not ended after {trial.timeout_s:g} s, the limit; it was killed{said}"
    if ended.code == 0:
        return None, ""
    if ended.code < 0:
        name = _signal_name(-ended.code)
        hint = ", as the kernel does when the machine has no more memory" if name == "SIGKILL" else ""
        fault, problem = Fault.CRASH, f"the process was ended by {name}{hint}{said}"
    else:
        fault, problem = Fault.EXIT, f"the process ended with exit code {ended.code}, without a result{said}"
    if out_of_memory(ended.stderr.last):
        fault = Fault.MEMORY
    return fault, problem


def _last_words(ended: _Ended) -> str:
    printed = f"; it had written {ended.stdout.size_bytes:,} bytes to stdout" if ended.stdout.size_bytes else ""
    said = ended.stderr.last
    where = said.rpartition(_TRACE)[2] if _TRACE in said else ""  # Python's own, of a crash or before the time limit
    lines = [line.strip() for line in (where or said).splitlines() if line.strip()]
    if where and len(lines) > 1:
        return f"{printed}. It was at {lines[1][:300]}"
    return printed + (f". Its last words: {lines[-1][:300]}" if lines else ". It said nothing")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read_result(file: Path) -> tuple[Fault | None, str, dict[str, Any]]:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return Fault.EXIT, "the process ended with exit code 0, but without a result: the model ended it", {}
    try:
        result = json.loads(content)
        fault = Fault(result["fault"]) if "fault" in result else None
        sound = isinstance(result["problem"], str) if fault else isinstance(result["predictions"], list)
        peak = result["peak_memory_bytes"]
        sound = sound and isinstance(result["facts"], dict) and (peak is None or isinstance(peak, int))
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        start = content[:60].decode("utf-8", "replace")
        return Fault.RESULT, f"the process left a result that cannot be read; it begins with {start!r}", {}
    return fault, result.get("problem", ""), result
