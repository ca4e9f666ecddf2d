"""The webhook on fakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.airflow.webhook.gate import Gate


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)
