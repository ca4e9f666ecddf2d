"""The command `perennial`: the same stages as the DAGs, with no Airflow in the process.

Exit codes: 0 done (for `run`: any recorded verdict), 1 refused or failed, 2 wrong usage, 130 interrupted.
"""

from perennial.cli.entry import main

__all__ = ["main"]
