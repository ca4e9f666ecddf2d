"""The story's `Teller` on a folder as S3 and an Airflow that a test writes the lines for."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from perennial.domain.ledger_entry import LedgerEntry
from perennial.ledger import Ledger
from perennial.runtime import Runtime
from perennial.stages.landing import landing_state, mark_seen
from perennial.testing.clock import FixedClock
from perennial.testing.registry import MemoryRegistry
from perennial.testing.smoke import InProcessSmokeTester
from perennial.testing.store import FolderStore
from perennial.testing.validator import FakeValidator
from perennial_demo import story
from perennial_demo.airflow_api import DagRun
from perennial_demo.closing import history_table, short_run
from perennial_demo.errors import DemoError
from perennial_demo.home import REPOSITORY
from perennial_demo.story import FLIGHTS, Chapter, Teller

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = "s3://perennial/store"
LANDING = "s3://perennial/landing/flights/"
DAG_ID = story.dag_id(FLIGHTS)


def a_run(run_id: str, state: str = "success", run_type: str = "asset_triggered") -> DagRun:
    return DagRun(
        dag_id=DAG_ID,
        run_id=run_id,
        state=state,
        run_type=run_type,
        conf={},
        note=None,
        triggered_by=None,
        started_at=NOW,
        ended_at=NOW + timedelta(seconds=5),
    )


def an_entry(run_id: str, kind: str = "decision", **changes: Any) -> LedgerEntry:
    request = {"model": FLIGHTS, "run_id": run_id, "as_of": "2013-07-01T06:00:00Z", "trigger": "new_data"}
    facts = {
        "kind": kind,
        "model": FLIGHTS,
        "recorded_at": NOW,
        "request": request,
        "evidence_sha256": "e" * 64,
        "summary": "why",
        "champion_before": "1",
        "champion_after": "1",
        "verdict": "REJECT" if kind == "decision" else None,
    }
    return LedgerEntry(**{**facts, **changes})


@dataclass
class FakeAirflow:
    """`listed` is what a listing shows; `on_end` is what a run does before it is over."""

    runs_of: dict[str, list[DagRun]] = field(default_factory=dict)
    on_end: dict[str, Callable[[], str | None]] = field(default_factory=dict)
    after_listings: list[Callable[[], None]] = field(default_factory=list)
    """Called one after the other, one after each listing."""
    waited_for: list[str] = field(default_factory=list)

    def runs(self, dag_id: str) -> list[DagRun]:
        found = list(reversed(self.runs_of.get(dag_id, [])))
        if self.after_listings:
            self.after_listings.pop(0)()
        return found

    def add(self, run: DagRun) -> None:
        self.runs_of.setdefault(run.dag_id, []).append(run)

    def trigger(self, dag_id: str, *, conf: dict[str, Any]) -> DagRun:
        self.add(a_run(f"manual__{conf['as_of']}", "running", "manual"))
        return self.runs_of[dag_id][-1]

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout_s: float) -> DagRun:
        self.waited_for.append(run_id)
        [run] = [run for run in self.runs_of[dag_id] if run.run_id == run_id]
        state = self.on_end[run_id]() if run_id in self.on_end else None
        over = replace(run, state=state or ("success" if not run.is_over else run.state))
        self.runs_of[dag_id] = [over if other.run_id == run_id else other for other in self.runs_of[dag_id]]
        return over


@dataclass
class Told:
    """A teller, and the world that it looks at."""

    teller: Teller
    store: FolderStore
    airflow: FakeAirflow

    def land(self, name: str, content: bytes = b"good") -> None:
        self.store.write(f"{LANDING}{name}", content, content_type="x")

    def see(self) -> None:
        """A run of the model looks at what is there."""
        mark_seen(self.store, ROOT, FLIGHTS, landing_state(self.store, LANDING))

    def record(self, run_id: str, kind: str = "decision") -> None:
        self.teller.runtime.ledger.append(an_entry(run_id, kind))

    def ends(self, run_id: str, kind: str = "decision", *, sees: bool = True) -> None:
        """What the run will come to."""

        def end() -> str:
            if sees:
                self.see()
            self.record(run_id, kind)
            return "failed" if kind == "refused" else "success"

        self.airflow.on_end[run_id] = end

    def sensor_chapter(self) -> Chapter:
        return Chapter(title="April", model=FLIGHTS, land=lambda _: self.land("dt=2013-04-01/flights.parquet"))

    @property
    def output(self) -> str:
        text: str = self.teller.stack.console.file.getvalue()  # type: ignore[attr-defined]
        return text


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    store = FolderStore(tmp_path)
    store.add_bucket("perennial")
    airflow = FakeAirflow()
    runtime = Runtime(
        store=store,
        registry=MemoryRegistry(),
        validator=FakeValidator(),
        smoke_tester=InProcessSmokeTester(MemoryRegistry()),
        clock=FixedClock(NOW),
        ledger=Ledger(store, ROOT, FixedClock(NOW)),
        root=ROOT,
        specs=REPOSITORY / "include" / "models",
        import_roots=(),
    )
    console = Console(file=io.StringIO(), width=120)
    stack: Any = SimpleNamespace(
        console=console, airflow=airflow, home=SimpleNamespace(root=tmp_path), airflow_url="http://airflow"
    )
    seconds = [0.0]
    monkeypatch.setattr(
        story,
        "time",
        SimpleNamespace(monotonic=lambda: seconds[0], sleep=lambda s: seconds.__setitem__(0, seconds[0] + s)),
    )
    return Told(Teller(stack, runtime), store, airflow)


def test_run_that_the_sensor_starts_is_waited_for_and_shown(told: Told) -> None:
    told.ends("asset_triggered__1")
    told.airflow.after_listings = [
        lambda: None,
        lambda: None,
        lambda: told.airflow.add(a_run("asset_triggered__1", "running")),
    ]
    told.teller.tell(told.sensor_chapter())
    assert told.airflow.waited_for == ["asset_triggered__1"]
    assert told.output.count("waiting for the landing sensor") == 1
    assert "REJECT  champion v1" in told.output


def test_files_that_a_run_looks_at_while_the_story_waits_end_the_wait(told: Told) -> None:
    """The sensor fired while the services came up: its run was over before the chapter listed the runs."""
    told.airflow.add(a_run("asset_triggered__early"))
    told.airflow.after_listings = [lambda: None, told.see]
    told.teller.tell(told.sensor_chapter())
    assert "nothing to notice" in told.output
    assert told.airflow.waited_for == []


def test_files_that_were_looked_at_in_an_earlier_telling_are_no_reason_to_wait(told: Told) -> None:
    told.sensor_chapter().land(told.teller)
    told.see()
    told.teller.tell(told.sensor_chapter())
    assert "nothing to notice" in told.output


def test_run_that_was_under_way_before_counts_if_it_looked_at_these_files(told: Told) -> None:
    told.airflow.add(a_run("asset_triggered__early", "running"))
    told.ends("asset_triggered__early")
    told.teller.tell(told.sensor_chapter())
    assert told.airflow.waited_for == ["asset_triggered__early"]
    assert "REJECT" in told.output


def test_run_that_was_under_way_before_and_did_not_see_these_files_is_not_this_chapters(told: Told) -> None:
    told.airflow.add(a_run("asset_triggered__early", "running"))
    told.ends("asset_triggered__early", "nothing_new", sees=False)
    told.ends("asset_triggered__late")
    told.airflow.after_listings = [
        lambda: None,
        lambda: told.airflow.add(a_run("asset_triggered__late", "running")),
    ]
    told.teller.tell(told.sensor_chapter())
    assert told.airflow.waited_for == ["asset_triggered__early", "asset_triggered__late"]
    assert "nothing new" not in told.output


def test_run_that_somebody_else_started_is_not_taken_for_the_sensors(told: Told) -> None:
    told.airflow.after_listings = [lambda: told.airflow.add(a_run("scheduled__1", "running", "scheduled"))]
    with pytest.raises(DemoError, match=r"The landing sensor started no run of .* within 300 s"):
        told.teller.tell(told.sensor_chapter())


def test_refused_run_in_a_chapter_that_does_not_expect_it_fails_the_demo(told: Told) -> None:
    told.ends("asset_triggered__1", "refused")
    told.airflow.after_listings = [lambda: told.airflow.add(a_run("asset_triggered__1", "running"))]
    with pytest.raises(DemoError, match="ended as failed, which this chapter does not expect"):
        told.teller.tell(told.sensor_chapter())


@pytest.fixture
def landed_again(told: Told, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Days that were published, in place of the real publisher's S3."""
    days: list[str] = []

    def publish(first: Any, _end: Any, *, cache: Path) -> None:
        days.append(first.isoformat())
        told.land(f"dt={first}/flights.parquet")

    monkeypatch.setattr("flights.publisher.publish", publish)
    return days


def test_telling_that_stopped_at_the_corrupted_day_is_picked_up(told: Told, landed_again: list[str]) -> None:
    told.land("dt=2013-07-01/flights.parquet", b"corrupted")
    told.airflow.add(a_run("asset_triggered__corrupted", "running"))
    told.ends("asset_triggered__corrupted", "refused", sees=False)
    told.teller.resume()
    assert landed_again == ["2013-07-01"]
    assert told.airflow.waited_for == ["asset_triggered__corrupted"]
    # The sensor had already told of the corrupted day once more; its run fails, and the next one sees the repair.
    told.ends("asset_triggered__2", "refused", sees=False)
    told.ends("asset_triggered__3")
    told.airflow.after_listings = [
        lambda: told.airflow.add(a_run("asset_triggered__2", "running")),
        lambda: told.airflow.add(a_run("asset_triggered__3", "running")),
    ]
    told.teller.tell(told.sensor_chapter())
    assert told.airflow.waited_for[1:] == ["asset_triggered__2", "asset_triggered__3"]
    assert "REJECT" in told.output


def test_refusal_on_record_is_not_asked_for_again(told: Told) -> None:
    told.record("manual__refused", "refused")
    chapter = Chapter(title="Bad", model=FLIGHTS, land=lambda _: told.land("x"), as_of=NOW, is_refused=True)
    told.teller.tell(chapter)
    assert "told in an earlier demo" in told.output
    assert list(told.store.list(LANDING)) == []


@pytest.mark.parametrize("days", [[], ["2013-06-30"], ["2013-07-01", "2013-07-31"]])
def test_zone_without_a_corrupted_day_is_left_as_it_is(told: Told, landed_again: list[str], days: list[str]) -> None:
    for day in days:
        told.land(f"dt={day}/flights.parquet")
    told.teller.resume()
    assert landed_again == []
    assert told.output == ""


def test_runs_under_way_are_waited_for_oldest_first_whatever_they_come_to(told: Told) -> None:
    told.airflow.runs_of[DAG_ID] = [
        a_run("manual__over", "failed", "manual"),
        a_run("manual__1", "running", "manual"),
        a_run("manual__2", "queued", "manual"),
    ]
    told.ends("manual__1", "refused")
    told.teller.resume()
    assert told.airflow.waited_for == ["manual__1", "manual__2"]


def test_every_run_of_the_ledger_is_in_the_closing_table_at_120_columns(told: Told) -> None:
    reasons = [
        "roc_auc of the challenger is better than the champion's by 0.0421 [0.0223, 0.0671], 95% confidence; " * 2
    ]
    entries = [
        an_entry("manual__2026-01-01T00:00:00.123456+00:00_AbCdEfGh", summary=reasons[0], verdict="INCONCLUSIVE"),
        an_entry("asset_triggered__2026-01-02T10:20:30.5+00:00_IjKlMnOp", champion_before=None, verdict="PROMOTE"),
    ]
    for entry in entries:
        told.teller.runtime.ledger.append(entry)
    told.teller.show_history()
    lines = told.output.splitlines()
    assert max(len(line) for line in lines) <= 120
    header = next(line for line in lines if "verdict" in line)
    assert [name for name in ("run", "trigger", "verdict", "reason", "champion") if name not in header] == []
    [promoted] = [line for line in lines if "PROMOTE" in line]
    assert "2026-01-02T10:20:30" in promoted
    assert "sensor" in promoted
    assert "none -> v1" in promoted
    assert len([line for line in lines if line.strip()]) < 14  # a reason is not squeezed into a narrow column


@pytest.mark.parametrize(
    ("run_id", "short"),
    [
        ("manual__2026-01-01T00:00:00.123456+00:00_AbCdEfGh", "2026-01-01T00:00:00"),
        ("command__2026-01-01T00:00:00Z", "2026-01-01T00:00:00"),
        ("mine", "mine"),
    ],
)
def test_run_is_shortened_to_what_airflows_search_finds(run_id: str, short: str) -> None:
    assert short_run(run_id) == short
    assert short in run_id


def test_table_of_a_model_without_runs_is_empty() -> None:
    assert history_table(FLIGHTS, []).row_count == 0
