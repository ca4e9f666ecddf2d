"""Bring `.venv` to exactly what the lock files say. `make` runs it before everything else.

    python3 scripts/set_up.py run     # what the demo needs
    python3 scripts/set_up.py dev     # that, and what tests, lint and benchmarks need

Done in a tenth of a second when nothing has changed: the file `.venv/perennial-set-up` tells what was installed. From
the first change to the last it says "unfinished", so that a set-up that was interrupted is made again, from scratch.

Only the standard library is used, and nothing newer than Python 3.6: a Python that is too old has to get as far as
being told so.
"""

import fcntl
import hashlib
import re
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = REPOSITORY / ".venv"
STAMP = ENVIRONMENT / "perennial-set-up"
UNFINISHED = "unfinished"
RUN, DEV = "run", "dev"
LOCKS = {RUN: ["requirements.txt"], DEV: ["requirements.txt", "requirements-dev.txt"]}
OLDEST, NEWEST = (3, 11), (3, 13)


def main(kind: str) -> int:
    """Install what `kind` (run or dev) needs, unless it is there already. Returns the exit code."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = f"{sys.executable} is Python {sys.version_info[0]}.{sys.version_info[1]}"
        return fail(f"{found}; 3.11, 3.12 or 3.13 is needed. Choose one, for example: make demo PYTHON=python3.12")
    with Path(__file__).open(encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another `make` may be at it
        enough = {digest(RUN), digest(DEV)} if kind == RUN else {digest(DEV)}
        if stamp() in enough:
            return 0
        try:
            install(kind)
        except subprocess.CalledProcessError as error:
            command = " ".join(map(str, error.cmd))
            return fail(f"Set-up failed: {command} ended with exit code {error.returncode}. Run make again to go on.")
    return 0


def install(kind: str) -> None:
    """Make `.venv` if need be, and give it the locked packages and this one."""
    sys.stdout.write("Setting up .venv; the first time takes a minute or two.\n")
    sys.stdout.flush()
    python, uv = str(ENVIRONMENT / "bin" / "python"), str(ENVIRONMENT / "bin" / "uv")
    same_python = works(python, "-c", f"import sys, pip; sys.exit(sys.version != {sys.version!r})")
    if stamp() == UNFINISHED or not same_python:
        venv.create(str(ENVIRONMENT), clear=True, with_pip=True, symlinks=True)
    STAMP.write_text(UNFINISHED, encoding="utf-8")
    if not works(uv, "--version"):
        call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", pinned("uv"))
    # `sync` also removes what the lock files no longer name. With byte-code, because every process of the demo imports
    # anew, and takes two to three times as long without.
    call(uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", "--compile-bytecode", *LOCKS[kind])
    call(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", "--editable", ".")
    STAMP.write_text(digest(kind), encoding="utf-8")


def digest(kind: str) -> str:
    """What the environment depends on, in one string."""
    total = hashlib.sha256(f"{kind} {sys.version} {ENVIRONMENT}".encode())
    for name in ["pyproject.toml", *LOCKS[kind]]:
        total.update((REPOSITORY / name).read_bytes())
    return total.hexdigest()


def stamp() -> str:
    """What the environment was last set up for."""
    return STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""


def pinned(package: str) -> str:
    """The package with the version that the lock file has."""
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==[^\s;]+", text, re.MULTILINE)
    return found.group(0) if found else package


def works(*command: str) -> bool:
    """Whether a command is there and succeeds."""
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def call(*command: str) -> None:
    """Run a command in the repository; raises CalledProcessError."""
    subprocess.check_call(command, cwd=str(REPOSITORY))


def fail(message: str) -> int:
    """Tell what went wrong."""
    sys.stderr.write(message + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
