"""What others do while a challenger is tried out: people, other runs, other walkers; and runs that were killed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.references import RolloutRef
from perennial.errors import (
    DeployerUnavailableError,
    ExpiredVerdictError,
    FenceError,
    NotAllowedError,
    TerminalError,
)
from perennial.stages.rollout import end_abandoned
from perennial.stages.rollout_objects import RolloutObjects
from tests.unit.core.faulty import ProcessDied
from tests.unit.core.production import MODEL
from tests.unit.core.walking import CANARY, MINUTE, SHADOW, Live, spec_with


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path)


def settle(live: Live) -> None:
    """What each run does at its beginning."""
    end_abandoned(live.spec, door=live.door, deployer=live.deployer, owner="next")


def interrupted(live: Live, monkeypatch: pytest.MonkeyPatch, call: str, what: Callable[[], Any]) -> None:
    """Something happens right before the next such call to the platform."""
    made = getattr(live.deployer, call)

    def later(*given: Any) -> Any:
        monkeypatch.setattr(live.deployer, call, made)
        what()
        return made(*given)

    monkeypatch.setattr(live.deployer, call, later)


def test_person_who_stops_it_takes_the_challenger_back_and_quarantines_it(live: Live) -> None:
    case = live.case()
    live.under_way(case)
    ended = live.stop(requested_by="ada", reason="complaints from the shop floor")
    assert (ended.passed, ended.version) == (False, "2")
    assert ended.summary == (
        "Version 2 was taken back from its canary at 50 %: ada took it back: complaints from the shop floor."
    )
    assert live.deployer.changes[-1] == ("roll_back", "1", 100)
    (entry,) = live.ends()
    assert (entry.actor, entry.approved, list(entry.quarantined)) == ("ada", False, [case.model.digest])
    assert live.look(case).ended == ended
    assert live.stop("again") == ended
    assert len(live.ends()) == 1


def test_stop_where_nothing_is_tried_out_says_so(live: Live) -> None:
    with pytest.raises(TerminalError, match="no challenger is being tried out"):
        live.stop()
    live.walk(live.case(), failed=8)
    with pytest.raises(TerminalError, match=r"no challenger is being tried out\. Version 2 was taken back"):
        live.stop()


def test_stop_after_it_has_passed_keeps_it_from_being_promoted(live: Live) -> None:
    case = live.case()
    passed = live.walk(case)
    stopped = live.stop()
    assert live.deployer.changes[-1] == ("roll_back", "1", 100)
    assert [entry.approved for entry in live.ends()] == [True, False]
    for rollout in (passed, stopped):
        with pytest.raises(FenceError, match="taken back since it was judged"):
            live.promote(case, rollout)
    assert live.champion == "1"
    assert live.look(case).ended == stopped


def test_stop_between_shadow_and_canary_keeps_the_canary_from_beginning(live: Live) -> None:
    live.spec = spec_with(shadow=SHADOW, canary=CANARY)
    case = live.case()
    live.walk(case, "shadow")
    live.stop()
    with pytest.raises(FenceError, match="taken back since it was judged"):
        live.look(case)


def test_stop_after_the_promotion_names_the_command_that_helps(live: Live) -> None:
    case = live.case()
    live.promote(case, live.walk(case))
    with pytest.raises(TerminalError, match="version 2 is champion already; perennial rollback churn puts"):
        live.stop()
    live.roll_back()
    with pytest.raises(TerminalError, match="no challenger is being tried out"):
        live.stop()
    assert live.champion == "1"


def test_stop_right_before_a_share_is_given_wins(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    case = live.case()
    live.under_way(case)
    interrupted(live, monkeypatch, "shift", live.stop)
    seen = live.look(case)
    assert seen.ended is not None
    assert "took it back" in seen.ended.summary
    assert live.deployer.status(MODEL).rollout_id is None


def test_stop_right_before_the_record_of_a_pass_wins(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    case, put = live.case(), RolloutObjects.put_record
    live.under_way(case)
    live.pass_time(5 * MINUTE)
    live.traffic()
    live.look(case)
    live.pass_time(10 * MINUTE)
    live.traffic()

    def stopped_first(objects: RolloutObjects, record: Any) -> Any:
        monkeypatch.setattr(RolloutObjects, "put_record", put)
        live.stop()
        return put(objects, record)

    monkeypatch.setattr(RolloutObjects, "put_record", stopped_first)
    ended = live.look(case).ended
    assert ended is not None
    assert not ended.passed
    assert live.deployer.status(MODEL).rollout_id is None


def test_rollback_of_the_champion_meanwhile_ends_it_without_quarantine_and_the_new_champion_serves(live: Live) -> None:
    live.promote((case := live.case("second")), live.walk(case))
    case = live.case()
    live.look(case)
    live.look(case)
    assert live.share == 50
    live.roll_back()
    assert live.deployer.changes[-1] == ("promote", "1", 100)
    ended = live.look(case).ended
    assert ended is not None
    assert "The champion is version 1 by now, not version 2." in ended.summary
    assert live.ends()[0].quarantined == {}
    assert live.deployer.changes[-1] == ("promote", "1", 100)  # nothing more to take back
    assert live.champion == "1"


@pytest.mark.parametrize("moved", ["another", "by hand", "deleted"])
def test_champion_that_moves_meanwhile_gets_all_requests(live: Live, moved: str) -> None:
    case = live.case()
    live.under_way(case)
    if moved == "another":
        live.moved_by_hand(live.registry.register(MODEL, live.trained("other"), {}))
    elif moved == "by hand":
        live.moved_by_hand(live.registry.register_by_hand(MODEL))
    else:
        live.deleted_by_hand("1")
    ended = live.look(case).ended
    assert ended is not None
    assert "by now, not version 1" in ended.summary
    assert live.ends()[0].quarantined == {}
    # Who is unknown to Perennial cannot be served; then it is who served so far.
    assert live.deployer.changes[-1] == ("roll_back", "3" if moved == "another" else "1", 100)


def test_two_who_look_at_once_come_to_one_end(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one makes its whole look right after this one has read where it stands."""
    case, ends = live.case(), []
    for _ in range(12):
        interrupted(live, monkeypatch, "status", lambda: ends.append(live.look(case).ended))
        mine = live.look(case).ended
        if mine is not None:
            break
        live.pass_time(5 * MINUTE)
        live.traffic()
    assert mine is not None
    assert mine.passed
    assert ends[-1] in (mine, None)
    assert len(live.ends()) == 1
    assert [change for change in live.deployer.changes if change[0] == "shift"] == [
        ("shift", "2", 50),
        ("shift", "2", 100),
    ]


def test_walker_that_is_behind_does_not_undo_what_the_other_has_done(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = live.case()
    live.under_way(case)
    live.pass_time(4 * MINUTE)
    interrupted(live, monkeypatch, "status", lambda: live.look(case))
    assert live.look(case).said == "Somebody else has looked at the same time."
    assert live.share == 100


def test_look_that_begins_beside_another_goes_on_with_what_the_other_has_begun(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = live.case()

    def meanwhile(*_: Any, **__: Any) -> None:
        monkeypatch.setattr("perennial.stages.rollout.end_abandoned", end_abandoned)
        live.under_way(case)
        live.pass_time(4 * MINUTE)
        live.look(case)

    monkeypatch.setattr("perennial.stages.rollout.end_abandoned", meanwhile)
    live.look(case)
    assert [step.share for step in live.state(case).steps] == [50, 100]
    assert live.share == 100


def test_fault_that_was_found_before_a_crash_is_recorded_whatever_happened_since(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = live.case()
    live.under_way(case)
    live.traffic(failed=8)

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RolloutObjects, "put_record", crash)
        with pytest.raises(KeyboardInterrupt):
            live.look(case)
    live.moved_by_hand(live.registry.register(MODEL, live.trained("other"), {}))
    live.look(case)
    assert list(live.ends()[0].quarantined) == [case.model.digest]


def test_other_run_waits_for_the_one_under_way_and_is_told_whose_it_is(live: Live) -> None:
    first, second = live.case("first-run"), live.case("second-run")
    live.under_way(first)
    with pytest.raises(
        DeployerUnavailableError, match=r"version 2 is in the canary of run first-run, until 2013-04-02T03:10:00Z"
    ):
        live.look(second)
    live.walk(first, failed=8)
    live.look(second)
    assert live.deployer.changes[-1] == ("deploy", "3", 0)


def test_rollout_that_nobody_walks_is_ended_by_the_next_one(live: Live) -> None:
    killed, following = live.case("killed"), live.case("following")
    live.under_way(killed)
    live.pass_time(timedelta(minutes=15))
    live.look(following)
    (entry,) = live.ends("killed")
    assert (entry.approved, entry.quarantined) == (False, {})
    assert "Nobody has looked at it since" in entry.summary
    assert live.deployer.changes[-2:] == [("roll_back", "1", 100), ("deploy", "3", 0)]
    seen = live.look(killed).ended
    assert seen is not None
    assert not seen.passed
    assert live.deployer.status(MODEL).challenger == "3"
    assert live.walk(following, challenger="3").passed


def test_next_run_ends_what_a_killed_one_has_left_and_nothing_that_is_walked(live: Live) -> None:
    settle(live)
    case = live.case()
    live.under_way(case)
    live.pass_time(timedelta(minutes=14))
    settle(live)
    assert live.share == 50
    live.pass_time(MINUTE)
    settle(live)
    assert live.deployer.changes[-1] == ("roll_back", "1", 100)
    assert [entry.approved for entry in live.ends()] == [False]


def test_canary_that_passed_and_is_never_promoted_does_not_keep_its_share(live: Live) -> None:
    case = live.case()
    ended = live.walk(case)
    settle(live)
    assert live.share == 100
    live.pass_time(timedelta(minutes=15))
    settle(live)
    assert live.deployer.changes[-1] == ("roll_back", "1", 100)
    assert live.promote(case, ended).champion_after == "2"


def test_end_of_an_old_rollout_leaves_the_split_of_a_newer_one(live: Live) -> None:
    old, new = live.case("old"), live.case("new")
    live.walk(old, failed=8)
    live.under_way(new)
    live.look(old)
    assert (live.deployer.status(MODEL).challenger, live.share) == ("3", 50)


def test_promotion_that_is_refused_ends_the_canary(live: Live) -> None:
    case = live.case()
    ended = live.walk(case)
    live.pass_time(timedelta(days=30))
    with pytest.raises(TerminalError, match="hours old"):
        live.promote(case, ended)
    assert live.deployer.changes[-1] == ("roll_back", "1", 100)


def test_passed_reference_that_the_ledger_does_not_know_promotes_nothing(live: Live) -> None:
    case, other = live.case(), live.case("other")
    ended = live.walk(other)
    for claimed in ((), (ended,)):
        with pytest.raises(NotAllowedError, match="the canary was not walked"):
            live.promote(case, *claimed)
    made_up = RolloutRef.from_dict({**ended.to_dict(), "sha256": "0" * 64})
    with pytest.raises(NotAllowedError, match="asks for a canary that the challenger has passed"):
        live.promote(other, made_up)
    assert live.champion == "1"


def test_end_that_a_killed_run_could_not_tell_is_told_by_the_next_one(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = live.case()
    live.under_way(case)

    def die() -> None:
        raise ProcessDied

    interrupted(live, monkeypatch, "roll_back", die)
    with pytest.raises(ProcessDied):
        live.walk(case, failed=8)
    assert not live.ends()
    settle(live)
    (entry,) = live.ends()
    assert list(entry.quarantined) == [case.model.digest]
    assert live.deployer.changes[-1] == ("roll_back", "1", 100)


def _refuse() -> None:
    raise DeployerUnavailableError("struck")


def test_platform_that_does_not_answer_at_the_end_keeps_no_quarantine_off_the_record(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = live.case()
    live.under_way(case)
    interrupted(live, monkeypatch, "roll_back", _refuse)
    with pytest.raises(DeployerUnavailableError):
        live.walk(case, failed=8)
    assert [list(entry.quarantined) for entry in live.ends()] == [[case.model.digest]]
    assert live.walk(case).passed is False
    assert (len(live.ends()), live.share) == (1, 0)


def test_person_can_end_a_split_that_outlived_its_rollout(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    case = live.case()
    live.under_way(case)
    interrupted(live, monkeypatch, "roll_back", _refuse)
    with pytest.raises(DeployerUnavailableError):
        live.walk(case, failed=8)
    assert live.share == 50
    ended = live.stop(requested_by="ada")
    assert (ended.passed, live.deployer.changes[-1]) == (False, ("roll_back", "1", 100))
    assert [entry.actor for entry in live.ends()] == [None, "ada"]


def test_share_that_is_given_too_late_does_not_survive_the_promotion(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = live.case()
    live.under_way(case)

    def overtake() -> None:
        live.pass_time(MINUTE)
        live.traffic()
        live.promote(case, live.walk(case))

    live.pass_time(MINUTE)
    live.traffic()
    interrupted(live, monkeypatch, "shift", overtake)
    seen = live.look(case).ended
    assert seen is not None
    assert seen.passed
    status = live.deployer.status(MODEL)
    assert (status.champion, status.rollout_id) == ("2", None)


def test_verdict_that_has_expired_puts_nothing_on_traffic(live: Live) -> None:
    case = live.case()
    live.pass_time(timedelta(days=30))
    with pytest.raises(ExpiredVerdictError, match="hours old"):
        live.look(case)
    assert not live.deployer.changes
