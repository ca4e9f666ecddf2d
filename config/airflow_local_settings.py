"""Airflow imports this module when one of its processes starts (it is on the path of the demo and of the images).

Only the scheduler is started with PERENNIAL_PRELOAD=1: the workers that its LocalExecutor forks inherit the modules
it has imported, so that a task starts in a tenth of a second, not after ten seconds of imports.
"""

from __future__ import annotations

import os

__all__: list[str] = []  # Airflow copies public names into its settings; there is nothing to copy.

if os.environ.get("PERENNIAL_PRELOAD") == "1":
    from perennial_airflow.preload import preload

    preload()
