"""A challenger on live traffic: how it proves itself, and what takes it back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.champion_door import QUARANTINE_TAG
from perennial.domain.references import RolloutRef
from perennial.domain.rollout import RolloutRecord
from perennial.errors import (
    DeployerUnavailableError,
    FenceError,
    IntegrityError,
    NotAllowedError,
    StoreUnavailableError,
    TerminalError,
)
from perennial.stages.rollout import nothing_to_try
from tests.unit.core.production import MODEL, ROOT
from tests.unit.core.walking import CANARY, MINUTE, RAILS, SHADOW, Live, spec_with


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path)


def record_of(live: Live, ended: RolloutRef) -> RolloutRecord:
    return RolloutRecord.from_dict(json.loads(live.store.read(ended.uri)))


def test_canary_whose_guardrails_hold_walks_its_steps_and_keeps_its_split_for_the_promotion(live: Live) -> None:
    case = live.case()
    ended = live.walk(case)
    assert ended.passed
    assert live.deployer.changes == [("deploy", "2", 0), ("shift", "2", 50), ("shift", "2", 100)]
    assert (live.share, live.champion) == (100, "1")
    (entry,) = live.ends()
    assert (entry.approved, entry.quarantined, entry.evidence_sha256) == (True, {}, ended.sha256)
    assert (entry.champion_before, entry.champion_after, entry.page_uri) == ("1", "1", ended.page_uri)
    assert RolloutRef.from_dict(entry.references["rollout"]) == replace(ended, ledger_uri="")
    assert live.store.read(ended.page_uri).startswith(b"<!doctype html>")
    promotion = live.promote(case, ended)
    assert (promotion.champion_before, promotion.champion_after) == ("1", "2")
    assert live.deployer.changes[-1] == ("promote", "2", 100)
    live.assert_in_step()


def test_record_tells_each_step_with_its_times_and_what_was_read_at_its_end(live: Live) -> None:
    began = live.clock.now()
    record = record_of(live, live.walk(live.case()))
    first, second = record.steps
    assert (first.share, first.began_at, first.ended_at) == (50, began + 5 * MINUTE, began + 15 * MINUTE)
    assert (second.share, second.began_at, second.ended_at) == (100, began + 15 * MINUTE, began + 25 * MINUTE)
    for step in record.steps:
        assert {finding.name: str(finding.verdict) for finding in step.findings} == dict.fromkeys(RAILS, "PASS")
        assert [finding.n for finding in step.findings] == [16, 16, 16]
        assert step.restarts == 0
    assert record.summary == "Version 2 passed its canary beside version 1: 50, 100 % in 25m."
    assert RolloutRecord.from_dict(json.loads(record.to_json())) == record


def test_breach_takes_the_challenger_back_at_once_and_quarantines_it(live: Live) -> None:
    case = live.case()
    live.under_way(case)
    live.traffic(failed=1)
    ended = live.look(case).ended
    assert ended is not None
    assert not ended.passed
    assert live.deployer.changes[-1] == ("roll_back", "1", 100)
    assert live.deployer.status(MODEL).rollout_id is None
    (entry,) = live.ends()
    assert (entry.approved, list(entry.quarantined)) == (False, [case.model.digest])
    assert "The error rate is 0.0625 over 16 samples" in entry.quarantined[case.model.digest]
    assert "error rate" in live.registry.version_tags(MODEL)["2"][QUARANTINE_TAG]
    assert "at 50 %" in ended.summary
    with pytest.raises(FenceError, match="taken back since it was judged"):
        live.promote(case, ended)
    assert live.champion == "1"
    again = live.request("again")
    with pytest.raises(FenceError, match="taken back since it was judged"):
        live.look(replace(case, request=again, decision=live.decided(case.model, again, judged="1")))


def test_too_few_samples_take_it_back_without_quarantine_when_the_time_is_up(live: Live) -> None:
    case = live.case()
    ended = live.walk(case, requests=0)
    assert not ended.passed
    assert "4 are needed" in ended.summary
    assert live.ends()[0].quarantined == {}
    assert live.deployer.changes[-1][0] == "roll_back"
    assert live.clock.now() - live.state(case).trial.asked_at <= timedelta(minutes=40)
    with pytest.raises(NotAllowedError, match="a canary that the challenger has passed; Version 2 was taken back"):
        live.promote(case, ended)


def test_look_after_the_end_gives_the_same_end_and_changes_nothing(live: Live) -> None:
    case = live.case()
    ended = live.walk(case, failed=8)
    entries, changes = live.ledger.entries(MODEL), list(live.deployer.changes)
    live.pass_time(timedelta(days=3))
    seen = live.look(case)
    assert (seen.ended, seen.wait) == (ended, timedelta(0))
    assert (live.ledger.entries(MODEL), live.deployer.changes) == (entries, changes)


def test_shadow_that_has_passed_is_ended_and_its_canary_begins_with_the_same_version(live: Live) -> None:
    live.spec = spec_with(shadow=SHADOW, canary=CANARY)
    case = live.case()
    shadow = live.walk(case, "shadow")
    assert shadow.passed
    assert live.deployer.status(MODEL).rollout_id is None
    canary = live.walk(case)
    assert (canary.passed, canary.version) == (True, "2")
    assert [change for change in live.deployer.changes if change[0] != "shift"] == [
        ("deploy", "2", 0),
        ("roll_back", "1", 100),
        ("deploy", "2", 0),
    ]
    with pytest.raises(NotAllowedError, match=r"deployment\.shadow asks for a shadow"):
        live.promote(case, canary)


def test_both_rollouts_on_record_are_what_a_promotion_needs(live: Live) -> None:
    live.spec = spec_with(shadow=SHADOW, canary=CANARY)
    case = live.case()
    ended = [live.walk(case, phase) for phase in ("shadow", "canary")]
    assert live.promote(case, *ended).champion_after == "2"


def test_challenger_that_comes_up_slowly_is_waited_for_half_an_hour(live: Live) -> None:
    case = live.case()
    live.deployer.is_slow = True
    for _ in range(6):
        assert live.look(case).said == "Version 2 is being brought up."
        live.pass_time(5 * MINUTE - timedelta(microseconds=1))
    assert live.look(case).ended is None
    live.pass_time(MINUTE)
    ended = live.look(case).ended
    assert ended is not None
    assert ended.summary == (
        "Version 2 was taken back before its canary began: It was not up 30m after it was asked for."
    )
    assert live.ends()[0].quarantined == {}
    assert live.deployer.changes == [("deploy", "2", 0), ("roll_back", "1", 100)]


def test_first_step_begins_when_the_challenger_is_up(live: Live) -> None:
    case = live.case()
    live.deployer.is_slow = True
    live.look(case)
    live.pass_time(25 * MINUTE)
    live.deployer.is_slow = False
    assert live.look(case).ended is None
    assert live.state(case).steps[0].began_at == live.clock.now()
    assert live.share == 50


@pytest.mark.parametrize("minutes", [0, 6])
def test_problem_of_the_platform_ends_it_without_quarantine(live: Live, minutes: int) -> None:
    case = live.case()
    live.under_way(case, minutes) if minutes else live.look(case)
    live.deployer.problem = "its container exits with code 1"
    ended = live.look(case).ended
    assert ended is not None
    assert "its container exits with code 1" in ended.summary
    assert live.ends()[0].quarantined == {}
    assert live.deployer.changes[-1] == ("roll_back", "1", 100)


def test_split_that_expired_is_put_in_force_again_and_its_step_begins_anew(live: Live) -> None:
    case = live.case()
    live.under_way(case)
    live.deployer.expire(MODEL)
    live.pass_time(2 * MINUTE)
    said = live.look(case).said
    assert "was not in force; the step begins anew" in said
    assert live.share == 50
    state = live.state(case)
    assert state.canary is not None
    assert state.canary.step_started_at == live.clock.now()
    assert [step.restarts for step in state.steps] == [1]
    assert live.walk(case).passed


def test_platform_that_takes_its_time_for_a_share_holds_the_step_back(live: Live) -> None:
    case = live.case()
    live.under_way(case)
    live.deployer.is_slow = True
    live.pass_time(4 * MINUTE)
    live.look(case)
    live.deployer.is_slow = False
    live.pass_time(9 * MINUTE)
    live.traffic()
    live.look(case)
    assert live.share == 50
    assert live.walk(case).passed


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"shadow": SHADOW}, "The spec asks for no canary any more."),
        ({"canary": {**CANARY, "steps": [50]}}, ""),
        ({"canary": {**CANARY, "steps": [30, 60]}}, ""),
    ],
)
def test_spec_that_is_edited_meanwhile_counts_from_the_next_look(live: Live, edit: dict[str, Any], said: str) -> None:
    case = live.case()
    live.under_way(case)
    live.spec = spec_with(**edit)
    if said:
        ended = live.look(case).ended
        assert ended is not None
        assert said in ended.summary
        assert live.ends()[0].quarantined == {}
        return
    assert live.walk(case).passed
    assert live.share == edit["canary"]["steps"][-1]


def test_spec_that_loses_the_step_it_is_in_takes_the_challenger_back(live: Live) -> None:
    case = live.case()
    live.under_way(case)
    live.pass_time(4 * MINUTE)
    live.look(case)
    assert live.share == 100
    live.spec = spec_with(canary={**CANARY, "steps": [50]})
    live.traffic()
    ended = live.look(case).ended
    assert ended is not None
    assert "no step 2 any more" in ended.summary
    assert live.ends()[0].quarantined == {}


def test_file_in_the_log_that_is_none_takes_it_back_without_quarantine(live: Live) -> None:
    case = live.case()
    live.under_way(case)
    uri = f"{ROOT}/predictions/{MODEL}/day={live.clock.now():%Y-%m-%d}/version=2/x.parquet"
    live.store.write(uri, b"not Parquet", content_type="x")
    ended = live.look(case).ended
    assert ended is not None
    assert "the prediction log cannot be read" in ended.summary
    assert live.ends()[0].quarantined == {}


def test_platform_that_refuses_takes_it_back_without_quarantine(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    case = live.case()
    live.under_way(case)

    def refuse(*_: Any) -> None:
        raise TerminalError("403: the role may not change endpoints")

    monkeypatch.setattr(live.deployer, "shift", refuse)
    ended = live.look(case).ended
    assert ended is not None
    assert "the role may not change endpoints" in ended.summary
    assert live.ends()[0].quarantined == {}


@pytest.mark.parametrize("error", [StoreUnavailableError, DeployerUnavailableError])
@pytest.mark.parametrize("call", ["status", "shift"])
def test_what_does_not_answer_is_told_and_the_next_look_goes_on(
    live: Live, monkeypatch: pytest.MonkeyPatch, call: str, error: type[Exception]
) -> None:
    case = live.case()
    live.under_way(case)

    def fail(*_: Any) -> None:
        raise error("503")

    with monkeypatch.context() as patched:
        patched.setattr(live.deployer, call, fail)
        with pytest.raises(error, match="503"):
            live.look(case)
    assert live.ends() == []
    assert live.walk(case).passed


def test_performance_asks_the_challenger_for_its_classes_once(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    rails = {**RAILS, "performance_loss": {"max": 0.1, "min_samples": 1}}
    live.spec = spec_with(canary={**CANARY, "max_extend": "2d", "guardrails": rails})
    case = live.case()
    live.under_way(case)
    assert live.state(case).classes == (0, 1)
    monkeypatch.setattr(live.registry, "open_model", None)
    assert live.look(case).ended is None


def test_decision_that_was_changed_puts_nothing_on_traffic(live: Live) -> None:
    case = live.case()
    live.store.write(case.decision.uri, b"{}", content_type="application/json")
    with pytest.raises(IntegrityError, match="was changed after the decision"):
        live.look(case)
    assert live.deployer.changes == []


def test_promotion_that_a_person_has_to_approve_needs_the_yes_before_any_traffic(live: Live) -> None:
    live.spec = live.spec.model_copy(update={"approval": live.spec.approval.model_copy(update={"required": True})})
    case = live.case()
    with pytest.raises(NotAllowedError, match="asks for a person's Yes"):
        live.look(case)
    live.answered(case.request, case.decision)
    live.look(case)
    assert live.deployer.changes == [("deploy", "2", 0)]


def test_champion_that_moved_before_the_beginning_is_a_fence(live: Live) -> None:
    case = live.case()
    other = live.registry.register(MODEL, live.trained("other"), {})
    live.moved_by_hand(other)
    with pytest.raises(FenceError, match="version 1 was to be replaced, but the alias now names version 2"):
        live.look(case)
    assert live.deployer.changes == []


def test_nothing_to_try_says_why(live: Live) -> None:
    case = live.case()
    failed = live.walk(case, failed=8)
    asked, decision = live.spec, case.decision
    answer = live.answered(case.request, decision, approved=False)
    assert nothing_to_try(asked, decision, phase="smoke_test") is None
    assert nothing_to_try(asked, decision, phase="canary") is None
    assert nothing_to_try(asked, decision, None, [failed], phase="canary") is None
    for spec, given, phase, said in (
        (asked, {}, "shadow", "asks for no shadow"),
        (live.spec.model_copy(update={"deployment": None}), {}, "smoke_test", "asks for no smoke test"),
        (asked, {"decision": replace(decision, verdict="REJECT")}, "smoke_test", "The verdict is REJECT"),
        (asked, {"decision": replace(decision, break_glass=True)}, "canary", "The glass is broken"),
        (asked, {"decision": replace(decision, champion_version=None)}, "canary", "There is no champion"),
        (asked, {"approval": answer}, "canary", "was declined"),
        (asked, {"rollouts": [replace(failed, phase="shadow")]}, "canary", "There is no canary. Version 2 was taken"),
    ):
        why = nothing_to_try(spec, **{"decision": decision, **given}, phase=phase)
        assert why is not None
        assert said in why
    assert nothing_to_try(asked, replace(decision, break_glass=True), phase="smoke_test") is None
    assert nothing_to_try(asked, replace(decision, champion_version=None), phase="smoke_test") is None


def test_look_where_there_is_nothing_to_try_is_refused(live: Live) -> None:
    case = live.case()
    with pytest.raises(TerminalError, match=r"no shadow can begin\. The spec asks for no shadow"):
        live.look(case, "shadow")
