"""A process that dies around any effect of a promotion or a rollback; then the retry, or others: one right end."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from perennial.domain.references import DecisionRef, ModelRef, PromotionRef, Reference
from perennial.domain.run_request import RunRequest
from perennial.errors import FenceError, TransientError
from tests.unit.core.faulty import Fault, ProcessDied, crashing, unavailable
from tests.unit.core.production import MODEL, Production, spec

Move = tuple[str, str | None, str | None]
MOST_CALLS = 200
"""A move makes fewer calls; a loop that gets here goes round in circles."""
OVER = timedelta(minutes=10)
"""By then all leases have ended."""


@dataclass(frozen=True)
class Case:
    """What is done to a production, and what has to come of it."""

    origin: Production
    act: Callable[[Production], Reference]
    before: list[Move]
    """Moves on record when it begins."""
    lead: list[Move]
    """What somebody did by hand before, and is found on the way."""
    move: Move
    """The move itself."""


def _promotion(folder: Path, earlier: tuple[str, ...]) -> Case:
    origin = Production(folder, spec=spec(approval={"required": True, "approvers": ["ada"]}))
    for name in earlier:
        _promoted(origin, name)
    request, model, decision = _decided(origin, "the-run")
    approval = origin.answered(request, decision)
    before = origin.champion
    return Case(
        origin=origin,
        act=lambda production: production.carry_out(request, model, decision, approval),
        before=origin.moves(),
        lead=[],
        move=("promotion", before, str(len(earlier) + 1)),
    )


def _decided(production: Production, run_id: str) -> tuple[RunRequest, ModelRef, DecisionRef]:
    request, model = production.request(run_id), production.trained(run_id)
    return request, model, production.decided(model, request, judged=production.champion)


def _promoted(production: Production, name: str) -> PromotionRef:
    request, model, decision = _decided(production, name)
    return production.carry_out(request, model, decision, production.answered(request, decision))


def _rollback(folder: Path, *, by_hand: bool) -> Case:
    origin = Production(folder, spec=spec(approval={"required": True, "approvers": ["ada"]}))
    for name in ("first", "second"):
        _promoted(origin, name)
    request, recorded = origin.rollback_request("the-run"), origin.moves()
    if by_hand:
        origin.moved_by_hand(origin.registry.register_by_hand(MODEL))
    return Case(
        origin=origin,
        act=lambda production: production.roll_back(request.run_id),
        before=recorded,
        lead=[("outside", "2", "3")] if by_hand else [],
        move=("rollback", "3", "2") if by_hand else ("rollback", "2", "1"),
    )


CASES: dict[str, Callable[[Path], Case]] = {
    "first promotion": lambda folder: _promotion(folder, ()),
    "promotion": lambda folder: _promotion(folder, ("first", "second")),
    "rollback": lambda folder: _rollback(folder, by_hand=False),
    "rollback of a hand-made move": lambda folder: _rollback(folder, by_hand=True),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return CASES[request.param](tmp_path / "origin")


def _copy(production: Production, folder: Path) -> Production:
    shutil.copytree(production.folder, folder)
    copied = Production(
        folder, spec=production.spec, registry=copy.deepcopy(production.registry), clock=production.clock
    )
    copied.pass_time(OVER)
    return copied


def _struck(case: Case, folder: Path, *, after: bool) -> Iterator[Production]:
    """A production for each effect at which the process died, and at last one where it did not."""
    for at in range(1, MOST_CALLS):
        production = _copy(case.origin, folder / str(at))
        fault = Fault(at=at, after=after, fatal=True)
        store, registry = crashing(production.store, production.registry, fault)
        with suppress(ProcessDied):
            case.act(Production(production.folder, production.spec, registry, store, production.clock))
        yield production
        if not fault.struck:
            assert len(fault.calls) >= 8, fault.calls
            return
    pytest.fail("the fault struck at every call")


def _assert_moved_once(production: Production, case: Case) -> None:
    assert production.moves() == [*case.before, *case.lead, case.move]
    production.assert_in_step()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_crash_around_every_effect_is_completed_by_the_retry(case: Case, tmp_path: Path, after: bool) -> None:
    for number, production in enumerate(_struck(case, tmp_path, after=after)):
        retried = _copy(production, tmp_path / f"{number} retried")
        reference = case.act(retried)
        _assert_moved_once(retried, case)
        retried.pass_time(OVER)
        assert case.act(retried) == reference
        _assert_moved_once(retried, case)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_somebody_elses_look_after_a_crash_records_the_move_as_what_it_is_or_not_at_all(
    case: Case, tmp_path: Path, after: bool
) -> None:
    seen = set()
    for number, production in enumerate(_struck(case, tmp_path, after=after)):
        looked = _copy(production, tmp_path / f"{number} looked")
        looked.settle()
        looked.assert_in_step()
        done = looked.moves()[len(case.before) + len(case.lead) :]
        assert done in ([], [case.move])
        seen.add(len(done))
        case.act(looked)
        _assert_moved_once(looked, case)
    assert seen == {0, 1}


@pytest.mark.parametrize("case", ["promotion"], indirect=True)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_rollback_after_a_crashed_promotion_is_not_undone_by_its_retry(case: Case, tmp_path: Path, after: bool) -> None:
    seen = set()
    for number, production in enumerate(_struck(case, tmp_path, after=after)):
        other = _copy(production, tmp_path / f"{number} rolled back")
        other.roll_back("other-run")
        took_effect = case.move in other.moves()
        if took_effect:
            case.act(other)  # finds its record, and leaves things as they are
            assert other.moves()[2:] == [case.move, ("rollback", "3", "2")]
        else:
            with pytest.raises(FenceError):
                case.act(other)
            assert other.moves()[2:] == [("rollback", "2", "1")]
        other.assert_in_step()
        seen.add(took_effect)
    assert seen == {False, True}


@pytest.mark.parametrize("case", ["rollback"], indirect=True)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_promotion_after_a_crashed_rollback_judges_what_is_champion_then(
    case: Case, tmp_path: Path, after: bool
) -> None:
    seen = set()
    for number, production in enumerate(_struck(case, tmp_path, after=after)):
        other = _copy(production, tmp_path / f"{number} promoted")
        judged = other.settle()
        _promoted(other, "other-run")
        other.assert_in_step()
        took_effect = case.move in other.moves()
        assert judged == ("1" if took_effect else "2")
        assert other.moves()[2:] == [*([case.move] if took_effect else []), ("promotion", judged, "3")]
        seen.add(took_effect)
    assert seen == {False, True}


@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
def test_server_that_does_not_answer_once_at_any_call_is_transient_and_retried(
    case: Case, tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, MOST_CALLS):
        production = _copy(case.origin, tmp_path / str(at))
        # A ticket that could not be taken away is waited for until its lease has ended.
        monkeypatch.setattr("perennial.lock.time.sleep", lambda _s, c=production.clock: c.advance(timedelta(seconds=8)))
        fault = Fault(at=at, after=after, fatal=False)
        store, registry = unavailable(production.store, production.registry, fault)
        try:
            case.act(Production(production.folder, production.spec, registry, store, production.clock))
        except TransientError:
            assert fault.struck
        production.pass_time(OVER)
        case.act(production)
        _assert_moved_once(production, case)
        if not fault.struck:
            return
    pytest.fail("the fault struck at every call")
