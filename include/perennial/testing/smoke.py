"""A SmokeTester without a process of its own."""

from __future__ import annotations

from typing import Any

from perennial.domain.smoke_test import Fault
from perennial.ports import ModelRegistry, SmokeOutcome, SmokeTrial


class InProcessSmokeTester:
    """Opens the files with the registry, and scores here, by the code of the real one; no limit holds."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self.trials: list[SmokeTrial] = []
        """All that were made, oldest first; their files are gone."""
        self.fault: Fault | None = None
        """What comes of the next trials, whatever the model does."""

    def score(self, trial: SmokeTrial) -> SmokeOutcome:
        """Open, warm up, answer."""
        from perennial.serving.smoke import tried_out

        self.trials.append(trial)
        found: dict[str, Any] = {"fault": self.fault, "problem": f"a {self.fault}, as the test wants it"}
        if self.fault is None:
            found = tried_out(lambda: self._registry.open_fetched(trial.model, trial.files, trial.records), trial.body)
        return SmokeOutcome(
            predictions=found.get("predictions"),
            fault=found.get("fault"),
            problem=found.get("problem", ""),
            took_s=0.5,
            peak_memory_bytes=100 * 2**20,
            facts={"python": "3.11"},
        )
