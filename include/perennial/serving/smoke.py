"""What runs in the clean process of the smoke test: `python -I -m perennial.serving.smoke FOLDER`.

FOLDER holds `task.json` (see `perennial.adapters.clean_process`) and `rows.json`, the body of a request. The model is
opened, warmed up and asked by the code that serves it. `result.json` comes last, whole or not at all.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perennial.domain.smoke_test import Fault, out_of_memory
from perennial.errors import IntegrityError

if TYPE_CHECKING:
    from perennial.ports import LoadedModel

_MIB: Final = 2**20
_GRACE_S: Final = 10
_LIBRARIES: Final = ("perennial.adapters.mlflow_models", "skops.io", "perennial.serving.scorer")


class _FaultError(Exception):
    """The smoke test is over."""

    def __init__(self, fault: Fault, problem: str) -> None:
        self.fault, self.problem = fault, problem


def tried_out(open_model: Callable[[], LoadedModel], body: bytes) -> dict[str, Any]:
    """Load, score the input example, and answer a request.

    Args:
        open_model: compares the files with their digest, and loads them.
        body: JSON, as a client sends it.

    Returns:
        `predictions`, what the client would get; or `fault` with `problem`.
    """
    from perennial.serving.errors import BadRequestError
    from perennial.serving.payload import JSON_TYPE, parse
    from perennial.serving.scorer import Scorer, encode_predictions

    try:
        loaded = _step(Fault.LOAD, open_model)
        scorer = _step(Fault.LOAD, lambda: Scorer("under test", "", loaded))
        _step(Fault.EXAMPLE, scorer.warm_up)
        try:
            batch = parse(body, JSON_TYPE, scorer.columns)
        except BadRequestError as error:
            raise _FaultError(Fault.REFUSED, str(error)) from error
        answer = _step(Fault.FAILED, lambda: encode_predictions(scorer.score([batch])[0]))
        return {"predictions": json.loads(answer)["predictions"]}
    except _FaultError as over:
        return {"fault": over.fault, "problem": over.problem}


def check_requirements(text: str) -> tuple[dict[str, str | None], list[str]]:
    """Compare a requirements.txt with what is installed here.

    Returns:
        The installed version (None: there is none) of each package that the text names, and what does not fit.
    """
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import InvalidRequirement, Requirement

    installed: dict[str, str | None] = {}
    problems = []
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            problems.append(f"{line!r} cannot be compared with what is installed")
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            found = installed[wanted.name] = version(wanted.name)
        except PackageNotFoundError:
            installed[wanted.name] = None
            problems.append(f"{wanted} is needed, and no {wanted.name} is installed")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            problems.append(f"{wanted} is needed, {found} is installed")
    return installed, problems


def main(folder: Path) -> None:
    """Do the task, write the result, end."""
    began = time.perf_counter()
    task = json.loads((folder / "task.json").read_bytes())
    _watch_time(task["timeout_s"])
    sys.path.extend(task["import_roots"])
    files = Path(task["files"])
    facts: dict[str, Any] = {"python": sys.version.partition(" ")[0], "executable": sys.executable}
    # Before anything is imported: a library that is missing is then told by name and version.
    facts["packages"], problems = check_requirements((files / "requirements.txt").read_text(encoding="utf-8"))
    if problems:
        result: dict[str, Any] = {"fault": Fault.REQUIREMENTS, "problem": "; ".join(problems)}
    else:
        try:
            _step(Fault.LOAD, _import_libraries)
            facts["imports_s"] = round(time.perf_counter() - began, 3)
            facts["imports_mib"] = (_peak_memory_bytes() or 0) // _MIB
            _limit_memory(int(task["max_memory_bytes"]))
            result = tried_out(lambda: _opened(task, files), (folder / "rows.json").read_bytes())
        except _FaultError as over:
            result = {"fault": over.fault, "problem": over.problem}
    facts["whole_s"] = round(time.perf_counter() - began, 3)
    result.update(facts=facts, peak_memory_bytes=_peak_memory_bytes())
    unfinished = folder / "result.json.unfinished"
    unfinished.write_text(json.dumps(result), encoding="utf-8")
    unfinished.replace(folder / "result.json")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # threads that the model has started, and what it does at exit, are none of the test's


def _import_libraries() -> None:
    """What every model needs."""
    for name in _LIBRARIES:
        importlib.import_module(name)


def _opened(task: Mapping[str, Any], files: Path) -> LoadedModel:
    from perennial.adapters.mlflow_models import open_folder
    from perennial.domain.references import ModelRef

    records = task["records"]
    return open_folder(
        ModelRef.from_dict(task["model"]),
        files,
        files_record=records["files"],
        types_record=records["trusted_types"],
        is_on_record=lambda: bool(records["digest_on_record"]),
    )


def _step(fault: Fault, step: Callable[[], Any]) -> Any:
    """What the step returns; whatever it raises, a model's sys.exit included, is its fault."""
    try:
        return step()
    except BaseException as error:
        causes = list(_causes(error))
        said = "; ".join(dict.fromkeys(f"{type(cause).__name__}: {str(cause)[:1000]}" for cause in causes))
        if any(isinstance(cause, MemoryError) for cause in causes) or out_of_memory(said):
            fault = Fault.MEMORY
        elif isinstance(error, IntegrityError):
            fault = Fault.INTEGRITY
        raise _FaultError(fault, said) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _watch_time(timeout_s: float) -> None:
    """Say where it hangs shortly before it is killed, and end without a parent that would do so."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(0.9 * timeout_s)
    signal.alarm(int(timeout_s) + _GRACE_S)


def _limit_memory(limit_bytes: int) -> None:
    """Let the kernel refuse more.

    After the libraries are imported: OpenBLAS waits for ever for memory that it does not get while it is loaded. Of the
    data segment, as the address space also counts what is only reserved: 575 MiB where 270 are used.

    Raises:
        _FaultError: as much is in use already.
    """
    used = _peak_memory_bytes() or 0
    if used >= limit_bytes:
        problem = f"the libraries alone take {used // _MIB} MiB, the limit is {limit_bytes // _MIB} MiB"
        raise _FaultError(Fault.MEMORY, problem)
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = limit_bytes if most == resource.RLIM_INFINITY else min(limit_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def _peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far; None where /proc does not tell.

    Not `ru_maxrss`: that one begins with the size of the process that this one was forked from.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
