"""A crash, or a server that does not answer, at every single point of a cycle; then the retry. One right end."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perennial import cycle
from perennial.champion_door import anchors
from perennial.domain.ledger_entry import MOVES, OUTCOMES
from perennial.domain.references import Reference
from perennial.domain.run_request import RunRequest
from perennial.errors import BadDataError, TransientError
from perennial.runtime import Runtime
from perennial.spec.model import ModelSpec
from perennial.stages.landing import landing_state, seen_digest
from perennial.testing.clock import FixedClock
from perennial.testing.registry import MemoryRegistry
from tests.unit.core.faulty import Fault, ProcessDied, crashing, unavailable
from tests.unit.core.world import LANDING, ROOT, SPEC, World, day_frame

STAGES = ("snapshot", "validate", "train", "evaluate", "decide", "promote")
SMALL_SPEC = {**SPEC, "training": {**SPEC["training"], "params": {"depth": 2}}}  # type: ignore[dict-item]
MOST_CALLS = 200
"""A cycle makes fewer calls; a loop that gets here goes round in circles."""


def _land(world: World, name: str, days: range, **how: Any) -> None:
    """One file for all the days, so that a cycle has few effects."""
    frame = pd.concat([day_frame(day, rows=24, **how) for day in days])
    if name == "broken":
        frame.iloc[3:6, frame.columns.get_loc("x")] = np.nan  # type: ignore[index]
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False)
    world.store.write(f"{LANDING}{name}.parquet", sink.getvalue(), content_type="application/octet-stream")


def _first(world: World) -> None:
    _land(world, "a", range(28))


def _second(world: World) -> None:
    _first(world)
    world.run(run_id="earlier")


def _replaced(world: World) -> None:
    _second(world)
    _land(world, "b", range(28, 56), sign=-1.0)


def _kept(world: World) -> None:
    _second(world)
    _land(world, "b", range(28, 35))


def _refused(world: World) -> None:
    _second(world)
    _land(world, "broken", range(28, 35))


@dataclass(frozen=True)
class Night:
    """What lies there when the run begins, and what it has to come to."""

    prepare: Callable[[World], None]
    outcome: str
    champion: str
    versions: int


NIGHTS = {
    "first champion": Night(_first, "PROMOTE", "1", 1),
    "champion replaced": Night(_replaced, "PROMOTE", "2", 2),
    "champion kept": Night(_kept, "REJECT|INCONCLUSIVE", "1", 1),
    "nothing new": Night(_second, "nothing_new", "1", 1),
    "data refused": Night(_refused, "refused", "1", 1),
}


@dataclass
class Run:
    """One run as Airflow does it: a process a stage, references in between, each stage repeated until it succeeds."""

    world: World
    request: RunRequest
    references: dict[str, Any] = field(default_factory=dict)

    def go(self, runtime: Runtime) -> None:
        """The stages that have not handed on a reference yet."""
        spec, request, given = self.world.spec, self.request, self.references
        calls: dict[str, Callable[[], Reference]] = {
            "snapshot": lambda: cycle.snapshot(runtime, spec, request),
            "validate": lambda: cycle.validate(runtime, spec, request, given["snapshot"]),
            "train": lambda: cycle.train(runtime, spec, request, given["snapshot"]),
            "evaluate": lambda: cycle.evaluate(runtime, spec, request, given["snapshot"], given["train"]),
            "decide": lambda: cycle.decide(
                runtime, spec, request, given["snapshot"], given["evaluate"], given["train"]
            ),
            "promote": lambda: cycle.promote(
                runtime, spec, request, given["snapshot"], given["train"], given["evaluate"], given["decide"]
            ),
        }
        for stage in STAGES:
            if stage not in given:
                given[stage] = calls[stage]()
            if given["snapshot"].nothing_new_since is not None:
                return


@pytest.fixture(scope="module", params=NIGHTS)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Night, World]:
    """The world right before the run; each test goes on from a copy of it."""
    night = NIGHTS[request.param]
    world = World(tmp_path_factory.mktemp("world"), spec=ModelSpec.model_validate(SMALL_SPEC))
    night.prepare(world)
    world.clock = FixedClock(world.clock.now() + timedelta(hours=1))
    return night, world


def _copy(world: World, folder: Path) -> World:
    shutil.copytree(world.folder, folder, copy_function=shutil.copy2)
    return World(folder, registry=copy.deepcopy(world.registry), spec=world.spec, clock=world.clock)


def _runtime(world: World, store: Any, registry: Any) -> Runtime:
    world.store, kept = store, world.store
    try:
        runtime = world.runtime
    finally:
        world.store = kept
    return Runtime(**{**{name: getattr(runtime, name) for name in Runtime.__slots__}, "registry": registry})


def _retry(run: Run, night: Night) -> None:
    """Ten minutes later, with all servers well."""
    run.world.clock = FixedClock(run.world.clock.now() + timedelta(minutes=10))
    if night.outcome != "refused":
        run.go(run.world.runtime)
        return
    with pytest.raises(BadDataError):
        run.go(run.world.runtime)


def _assert_one_right_end(world: World, night: Night) -> None:
    assert isinstance(world.registry, MemoryRegistry)
    champion = world.registry.champion("toy")
    assert champion is not None
    assert champion.version == night.champion
    assert len(world.registry.versions("toy")) == night.versions
    entries = world.runtime.ledger.entries("toy")
    outcome, *carried_out = (entry for entry in entries if entry.run_id == "the-run")
    assert outcome.kind in OUTCOMES
    assert (outcome.verdict or outcome.kind) in night.outcome.split("|")
    assert [entry.kind for entry in carried_out] == (["promotion"] if night.outcome == "PROMOTE" else [])
    for entry in (outcome, *carried_out):
        _assert_all_there(world, entry.references)
        if entry.page_uri is not None:
            assert world.store.read(entry.page_uri).startswith(b"<!doctype html>")
    moves = [entry for entry in entries if entry.kind in MOVES]
    assert {entry.kind for entry in moves} == {"promotion"}
    assert moves[-1].champion_after == night.champion
    assert world.runtime.ledger.verify("toy", anchors(world.registry, "toy")).sound
    assert seen_digest(world.store, ROOT, "toy") == landing_state(world.store, LANDING).digest


def _assert_all_there(world: World, references: Any) -> None:
    for reference in references.values():
        for name, uri in reference.items():
            if name.endswith("uri") and str(uri).startswith("s3://"):
                assert world.store.head(uri) is not None, f"the ledger names {uri}, which is not there"


def _assert_nothing_half_done(world: World, before: str | None) -> None:
    """In between, while nobody retries: what is on record is complete, and production was moved by a decision only."""
    for entry in world.runtime.ledger.entries("toy"):
        _assert_all_there(world, entry.references)
    champion = world.registry.champion("toy")
    if champion is None or champion.version == before:
        return
    decided = [json.loads(path.read_bytes()) for path in (world.folder / "bucket/store/decisions").rglob("*.json")]
    promoted = [d["challenger"]["digest"] for d in decided if d.get("verdict") == "PROMOTE"]
    assert champion.model.digest in promoted


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_crash_around_every_effect_is_completed_by_the_retry(
    prepared: tuple[Night, World], tmp_path: Path, after: bool
) -> None:
    night, origin = prepared
    for at in range(1, MOST_CALLS):
        world = _copy(origin, tmp_path / str(at))
        champion = world.registry.champion("toy")
        fault = Fault(at=at, after=after, fatal=True)
        run = Run(world, world.request(run_id="the-run"))
        try:
            run.go(_runtime(world, *crashing(world.store, world.registry, fault)))
        except BadDataError:
            assert night.outcome == "refused"
        except ProcessDied:
            pass
        _assert_nothing_half_done(world, None if champion is None else champion.version)
        from_the_start = Run(_copy(world, tmp_path / f"{at} from the start"), run.request)
        for retried in (run, from_the_start):
            _retry(retried, night)
            _assert_one_right_end(retried.world, night)
        if not fault.struck:
            break
    assert not fault.struck
    assert len(fault.calls) >= 2


@pytest.mark.parametrize("prepared", ["champion replaced", "nothing new", "data refused"], indirect=True)
@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
def test_server_that_does_not_answer_once_at_any_call_is_transient_and_retried(
    prepared: tuple[Night, World], tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    night, origin = prepared
    for at in range(1, MOST_CALLS):
        world = _copy(origin, tmp_path / str(at))
        world.clock = FixedClock(world.clock.now())
        # A ticket that could not be taken away is waited for until its lease has ended.
        monkeypatch.setattr("perennial.lock.time.sleep", lambda _s, c=world.clock: c.advance(timedelta(seconds=8)))
        champion = world.registry.champion("toy")
        fault = Fault(at=at, after=after, fatal=False)
        run = Run(world, world.request(run_id="the-run"))
        try:
            run.go(_runtime(world, *unavailable(world.store, world.registry, fault)))
        except TransientError:
            assert fault.struck
        except BadDataError:
            assert night.outcome == "refused"
        _assert_nothing_half_done(world, None if champion is None else champion.version)
        _retry(run, night)
        _assert_one_right_end(world, night)
        if not fault.struck:
            break
    assert not fault.struck


@pytest.mark.parametrize("prepared", ["champion replaced", "champion kept"], indirect=True)
def test_finished_run_that_is_cleared_and_repeated_judges_the_same_and_records_nothing_more(
    prepared: tuple[Night, World], tmp_path: Path
) -> None:
    night, origin = prepared
    world = _copy(origin, tmp_path / "world")
    request = world.request(run_id="the-run")
    first, again = Run(world, request), Run(world, request)
    first.go(world.runtime)
    _retry(again, night)
    assert again.references == first.references
    _assert_one_right_end(world, night)


@pytest.mark.parametrize("prepared", ["nothing new"], indirect=True)
def test_champion_that_changed_between_two_tries_leaves_the_first_record_of_nothing_new(
    prepared: tuple[Night, World], tmp_path: Path
) -> None:
    _, origin = prepared
    world = _copy(origin, tmp_path / "world")
    request = world.request(run_id="the-run")
    Run(world, request).go(world.runtime)
    before = world.runtime.ledger.entries("toy")
    champion = world.registry.champion("toy")
    assert champion is not None
    other = world.registry.register("toy", replace(champion.model, digest="another"), {})
    world.registry.point_alias("toy", "champion", other)
    Run(world, request).go(world.runtime)
    *kept, found = world.runtime.ledger.entries("toy")
    assert kept == before
    assert (found.kind, found.champion_after) == ("outside", other)
