"""Ten thousand messages of each kind that schemathesis and hypothesis make up: is an answer undocumented, or above 499?

Runs tests/unit/airflow/webhook/test_fuzz.py, of which `make test` does a fiftieth, in two processes: as many cases over
all operations of the OpenAPI document, and again for each adapter. Last line: one JSON object; `value` is the number of
cases of each, which the tests count themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
TEST = "tests/unit/airflow/webhook/test_fuzz.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    cases = parser.parse_args().cases
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--timeout=1800", TEST]
    environment = {**os.environ, "PERENNIAL_FUZZ_CASES": str(cases)}
    passed = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode == 0
    seconds = round(time.monotonic() - began, 1)
    target = "each is answered as the OpenAPI document says, below 500"
    figures = {"bench": "webhook_fuzz", "value": cases, "unit": "messages", "target": target, "holds": passed}
    print(json.dumps({**figures, "seconds": seconds}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
