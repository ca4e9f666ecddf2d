"""For all tests of the scoring service in one process."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look waits until what it began is done, however slow the machine is; tests of what hangs set their own."""
    monkeypatch.setattr("perennial.serving.host._PATIENCE_S", 30.0)
    monkeypatch.setattr("perennial.serving.host._LOAD_PATIENCE_S", 30.0)
