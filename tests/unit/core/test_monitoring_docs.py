"""What docs/monitoring.md shows is what the spec takes, what the monitor does, and what a report holds."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from perennial.domain.counting import BINS, MAX_LEVELS
from perennial.domain.drift import MIN_STRETCHES
from perennial.domain.monitoring_report import HISTORY, SIGNALS
from perennial.spec.model import ModelSpec
from perennial.spec.monitoring import Monitoring
from perennial.stages.monitor import GRACE, MOST_WINDOWS
from perennial.stages.profiles import MAX_SLICE_LEVELS
from tests.unit.core.judging import SPEC
from tests.unit.core.monitored import Monitored

DOCS = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text(encoding="utf-8")
FLAT = re.sub(r"\s+", " ", DOCS)
"""In one line."""


def test_example_is_a_spec_with_the_defaults_written_out() -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", DOCS, flags=re.S)
    data = {**SPEC["data"], "feature_columns": ["origin"]}
    spec = ModelSpec.model_validate({**SPEC, "data": data, **yaml.safe_load(example)})
    assert spec.monitoring is not None
    own = {"label_delay": None, "slices": (), "notify": ()}
    assert spec.monitoring.model_copy(update=own) == Monitoring()
    assert {notice.kind for notice in spec.monitoring.notify} == {"slack", "email", "webhook"}
    assert spec.triggers.on_drift is not None


def test_every_field_of_the_spec_is_shown() -> None:
    """One whose default is null could be left out of the example unnoticed."""
    [example] = re.findall(r"```yaml\n(.*?)```", DOCS, flags=re.S)
    assert set(yaml.safe_load(example)["monitoring"]) == set(Monitoring.model_fields)
    assert FLAT.count("`reference_window`") >= 2


def test_numbers_told_are_those_of_the_code() -> None:
    assert f"at most {BINS} quantile bins" in FLAT
    assert f"the {MAX_LEVELS} most frequent categories" in FLAT
    assert f"Fewer than {MIN_STRETCHES} stretches" in FLAT
    assert f"the {MAX_SLICE_LEVELS} values with most training rows" in FLAT
    assert f"at most {MOST_WINDOWS}, oldest first" in FLAT
    assert f"{GRACE.seconds} s after its end" in FLAT
    assert f"the last {HISTORY} windows" in FLAT


def test_table_of_the_report_has_its_keys_and_no_others(tmp_path: Path) -> None:
    world = Monitored(tmp_path)
    world.train()
    world.serve(2)
    world.observe()
    [table] = re.findall(r"\| key \| \|\n\| --- \| --- \|\n(.*?)\n\n", DOCS, flags=re.S)
    told = {
        re.split(r"[.\[]", name)[0]
        for line in table.splitlines()
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    assert told == set(world.report(2)) - {"format"}


def test_every_signal_has_a_line() -> None:
    assert all(f"| `{signal}` |" in DOCS for signal in SIGNALS)
