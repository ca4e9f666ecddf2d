"""Ten thousand messages of each kind that schemathesis and hypothesis make up: is an answer undocumented, or above 499?

Runs tests/unit/airflow/webhook/test_fuzz.py, of which `make test` does a fiftieth, in two processes: as many cases over
all operations of the OpenAPI document, and again for each adapter. Last line: one JSON object; `value` is the number of
cases of each, which the tests count themselves.
"""

from __future__ import annotations

import sys

from fuzz.cases import run

if __name__ == "__main__":
    sys.exit(
        run(
            bench="webhook_fuzz",
            test="tests/unit/airflow/webhook/test_fuzz.py",
            unit="messages",
            title=__doc__.partition("\n")[0],
        )
    )
