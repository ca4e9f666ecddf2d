"""Ten thousand requests that schemathesis makes up: is an answer undocumented, or tells one of the inside?

Runs tests/contract/test_serving_fuzz.py, of which `make test` does a tenth, in two processes. Last line: one JSON
object; `value` is the number of cases, which the test counts itself.
"""

from __future__ import annotations

import sys

from fuzz.cases import run

if __name__ == "__main__":
    sys.exit(
        run(
            bench="serving_fuzz",
            test="tests/contract/test_serving_fuzz.py",
            unit="requests",
            title=__doc__.partition("\n")[0],
        )
    )
