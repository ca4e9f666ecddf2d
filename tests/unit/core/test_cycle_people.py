"""Whole cycles that people step into: a champion moved by hand, approval, rollback, broken glass."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from perennial import cycle
from perennial.champion_door import ANCHOR_TAG, anchors
from perennial.domain.references import RollbackRef
from perennial.domain.run_request import RollbackRequest
from perennial.errors import FenceError, NotAllowedError
from perennial.spec.model import ModelSpec
from perennial.testing.registry import MemoryRegistry
from tests.unit.core.world import ROOT, SPEC, World, day_frame


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_champion_moved_by_hand_between_decision_and_promotion_is_left_alone(world: World) -> None:
    world.land(range(28))
    world.run()
    world.land(range(28, 56), sign=-1.0)
    runtime, spec, request = world.runtime, world.spec, world.request()
    snapshot = cycle.snapshot(runtime, spec, request)
    model = cycle.train(runtime, spec, request, snapshot)
    evaluation = cycle.evaluate(runtime, spec, request, snapshot, model)
    decision = cycle.decide(runtime, spec, request, snapshot, evaluation, model)
    assert decision.verdict == "PROMOTE"
    by_hand = replace(model, digest="somebody else's")
    runtime.registry.point_alias("toy", "champion", runtime.registry.register("toy", by_hand, {}))
    with pytest.raises(FenceError, match="the alias now names version 2"):
        cycle.promote(runtime, spec, request, snapshot, model, evaluation, decision)
    assert world.outcomes()[-1] == ("outside", None, "2")


def _with_approval(world: World, **approval: object) -> None:
    world.spec = ModelSpec.model_validate({**SPEC, "approval": approval})


def _challenge(world: World) -> None:
    """A champion, and data of a world that has turned round since: the next challenger is better."""
    world.land(range(28))
    world.run()
    world.land(range(28, 56), sign=-1.0)


def _back(world: World) -> RollbackRef:
    request = RollbackRequest(model="toy", run_id="back", as_of=world.clock.now(), trigger="manual")
    return cycle.rollback(world.runtime, world.spec, request)


def test_hand_made_move_is_on_record_at_the_next_run_even_if_nothing_is_new(world: World) -> None:
    world.land(range(28))
    first = world.run()
    assert first.model is not None
    by_hand = world.registry.register("toy", replace(first.model, digest="somebody else's"), {})
    world.registry.point_alias("toy", "champion", by_hand)
    world.run()
    assert world.outcomes()[2:] == [("outside", None, "2"), ("nothing_new", None, "2")]


def test_champion_moved_by_hand_after_the_run_began_is_on_record_before_it_is_decided(world: World) -> None:
    gate = world.spec.gate.model_copy(update={"min_tenure": timedelta(days=1)})
    world.spec = world.spec.model_copy(update={"gate": gate})
    world.land(range(28))
    world.run()
    world.clock.advance(timedelta(days=2))
    world.land(range(28, 56), sign=-1.0)
    world.run()
    world.land(range(56, 84))
    runtime, spec, request = world.runtime, world.spec, world.request()
    snapshot = cycle.snapshot(runtime, spec, request)
    model = cycle.train(runtime, spec, request, snapshot)
    world.registry.point_alias("toy", "champion", "1")
    evaluation = cycle.evaluate(runtime, spec, request, snapshot, model)
    decision = cycle.decide(runtime, spec, request, snapshot, evaluation, model)
    assert [champion for _, _, champion in world.outcomes()[-3:]] == ["2", "1", "1"]
    rules = {rule["name"]: rule for rule in json.loads(world.store.read(decision.uri))["rules"]}
    assert rules["tenure"]["sentence"].startswith("The champion has been in production for ")


def test_ledger_that_the_registry_contradicts_promotes_nothing(world: World) -> None:
    world.land(range(28))
    world.run()
    world.registry.tag_version("toy", "1", {ANCHOR_TAG: f"99:{'0' * 64}"})
    world.land(range(28, 56), sign=-1.0)
    decision = world.run().decision
    assert decision is not None
    assert decision.verdict != "PROMOTE"
    assert len(json.loads(world.store.read(decision.uri))["history"]["damage"]) == 1


def test_promotion_that_needs_approval_waits_for_it(world: World) -> None:
    _challenge(world)
    _with_approval(world, required=True, approvers=["ada"])
    result = world.run()
    assert result.decision is not None
    assert result.decision.verdict == "PROMOTE"
    assert result.promotion is None
    assert world.outcomes()[-1] == ("decision", "PROMOTE", "1")


def test_approved_promotion_is_carried_out_and_a_rollback_takes_it_back(world: World) -> None:
    _challenge(world)
    _with_approval(world, required=True, approvers=["ada"])
    runtime, spec, request = world.runtime, world.spec, world.request()
    snapshot = cycle.snapshot(runtime, spec, request)
    model = cycle.train(runtime, spec, request, snapshot)
    evaluation = cycle.evaluate(runtime, spec, request, snapshot, model)
    decision = cycle.decide(runtime, spec, request, snapshot, evaluation, model)
    approval = cycle.approve(runtime, spec, request, decision, approved=True, by="ada", at=world.clock.now())
    result = cycle.promote(runtime, spec, request, snapshot, model, evaluation, decision, approval)
    assert (result.champion_before, result.champion_after) == ("1", "2")
    entry = runtime.ledger.entries("toy")[-1]
    assert entry.actor == "ada"
    assert set(entry.references) == {"snapshot", "model", "evaluation", "decision", "approval"}
    assert isinstance(world.registry, MemoryRegistry)
    card = world.registry.texts[model.run_id]["model_card.md"]
    assert card == world.registry.description("toy", "2")
    assert "ada" in card
    back = _back(world)
    assert (back.champion_before, back.champion_after, back.quarantined) == ("2", "1", 1)
    assert world.outcomes()[-1] == ("rollback", None, "1")
    assert runtime.ledger.verify("toy", anchors(world.registry, "toy")).sound


def test_version_that_was_taken_back_is_not_promoted_again(world: World) -> None:
    _challenge(world)
    world.run()
    _back(world)
    result = world.run(force=True)
    assert result.decision is not None
    assert result.decision.verdict == "REJECT"
    assert world.registry.champion_version("toy") == "1"


def test_broken_glass_by_somebody_who_may_not_is_refused_before_anything_is_written(world: World) -> None:
    world.land(range(28))
    _with_approval(world, break_glass=["root"])
    with pytest.raises(NotAllowedError, match="mallory may not break the glass"):
        world.run(break_glass="because", requested_by="mallory")
    assert world.outcomes() == []
    assert list(world.store.list(f"{ROOT}/")) == []


def test_broken_glass_goes_through_bad_data_approval_and_gate(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.land(range(28))
    world.run()
    bad = day_frame(28)
    bad.loc[3:5, "z"] = np.nan
    bad.loc[3:5, "x"] = 0.0
    bad.to_parquet(world.folder / "bucket/landing/toy/day=028.parquet", index=False)
    (world.specs / "toy.json").write_text(
        '{"expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "z"}}]}'
    )
    _with_approval(world, required=True, break_glass=["root"])
    result = world.run(break_glass="the champion is down", requested_by="root")
    assert result.validation is not None
    assert not result.validation.success
    assert result.promotion is not None
    assert result.promotion.champion_after == "2"
    assert [kind for kind, _, _ in world.outcomes()[2:]] == ["decision", "promotion"]
    assert "root broke the glass (the champion is down): going on with data that was refused" in caplog.text
    entry = world.runtime.ledger.entries("toy")[-1]
    assert (entry.actor, entry.break_glass) == ("root", True)


def test_broken_glass_judges_again_what_was_judged_before(world: World) -> None:
    world.land(range(28))
    world.run()
    _with_approval(world, break_glass=["root"])
    assert world.run().snapshot.nothing_new_since is not None
    assert world.run(break_glass="because", requested_by="root").decision is not None
