"""Runs a fuzz test of the suite with as many cases as asked for; the tests count them themselves."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run(*, bench: str, test: str, unit: str, title: str) -> int:
    """In two processes; prints the benchmark's JSON object. The exit code.

    Args:
        bench: the benchmark's name.
        test: the test's file, from the repository.
        unit: what a case is.
        title: for `--help`.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--cases", type=int, default=10_000)
    cases = parser.parse_args().cases
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--timeout=1800", test]
    environment = {**os.environ, "PERENNIAL_FUZZ_CASES": str(cases)}
    passed = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode == 0
    seconds = round(time.monotonic() - began, 1)
    target = "each is answered as the OpenAPI document says, below 500"
    figures = {"bench": bench, "value": cases, "unit": unit, "target": target, "holds": passed}
    print(json.dumps({**figures, "seconds": seconds}))
    return 0 if passed else 1
