"""Promotion and rollback of a model that serves: what they need first, and whom they tell afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.references import SmokeTestRef
from perennial.errors import (
    DeployerUnavailableError,
    ExpiredVerdictError,
    IntegrityError,
    NotAllowedError,
    SmokeTestError,
    TerminalError,
)
from perennial.spec.model import ModelSpec
from tests.unit.core.production import MODEL, Broken, spec
from tests.unit.core.walking import CANARY, SHADOW, Live, spec_with

GLASS = {"requested_by": "ada", "break_glass": "the data are wrong, and we know why"}


@pytest.fixture
def live(tmp_path: Path) -> Live:
    """Without rollouts: a promoted version takes all requests at once."""
    return Live(tmp_path, spec=breakable(spec(deployment={"kind": "scoring_service"})))


def breakable(given: ModelSpec) -> ModelSpec:
    approval = given.approval.model_copy(update={"break_glass": ("ada",)})
    return given.model_copy(update={"approval": approval})


def changed(live: Live, smoke: SmokeTestRef) -> SmokeTestRef:
    live.store.write(smoke.uri, b'{"digest": "x", "passed": true}', content_type="application/json")
    return smoke


@pytest.mark.parametrize(
    "tampered",
    [
        changed,
        lambda _, smoke: replace(smoke, digest="another"),
        lambda _, smoke: replace(smoke, passed=False),
        lambda _, smoke: replace(smoke, sha256="0" * 64),
        lambda live, _: live.tested(live.trained("other")),
        lambda live, smoke: replace(live.tested(live.trained("other")), digest=smoke.digest),
    ],
)
@pytest.mark.parametrize("glass", [{}, GLASS])
def test_smoke_test_of_something_else_promotes_nothing_also_with_broken_glass(
    live: Live, tampered: Callable[[Live, SmokeTestRef], SmokeTestRef], glass: dict[str, Any]
) -> None:
    case = live.case(**glass)
    smoke = tampered(live, live.tested(case.model))
    with pytest.raises(IntegrityError, match="is not the report of a smoke test"):
        live.carry_out(case.request, case.model, case.decision, smoke=smoke)
    assert live.champion == "1"


def test_smoke_test_that_was_not_passed_is_overridden_by_broken_glass_only(live: Live) -> None:
    case = live.case()
    with pytest.raises(SmokeTestError, match="did not pass its smoke test"):
        live.carry_out(case.request, case.model, case.decision, smoke=live.tested(case.model, passed=False))
    case = live.case("glass", **GLASS)
    live.carry_out(case.request, case.model, case.decision, smoke=live.tested(case.model, passed=False))
    promotion = live.ledger.entries(MODEL)[-1]
    assert "Overridden: smoke test." in promotion.summary
    assert "did not pass its smoke test" in promotion.reasons[-1]


def test_without_its_smoke_test_a_model_that_serves_is_promoted_by_broken_glass_only(live: Live) -> None:
    live.tested = lambda *_, **__: None  # type: ignore[method-assign]
    case = live.case()
    with pytest.raises(NotAllowedError, match="was not tried out in a clean process"):
        live.promote(case)
    case = live.case("glass", **GLASS)
    assert live.promote(case).champion_after == "2"
    broken = replace(case, model=live.trained("broken", Broken()), request=live.request("broken", **GLASS))
    broken = replace(broken, decision=live.decided(broken.model, broken.request, judged="2"))
    live.promote(broken)
    assert "Overridden: smoke test." in live.ledger.entries(MODEL)[-1].summary  # it was tried out here


def test_rejection_needs_no_smoke_test_and_tells_nobody(live: Live) -> None:
    request, model = live.request("run"), live.trained("model")
    decision = live.decided(model, request, verdict="REJECT", judged="1")
    assert not live.carry_out(request, model, decision).promoted
    assert live.deployer.changes == []


def test_verdict_lives_longer_by_its_rollouts(tmp_path: Path) -> None:
    live = Live(tmp_path, spec=breakable(spec_with(shadow=SHADOW, canary=CANARY)))
    case = live.case()
    walked = timedelta(minutes=30 + 30 + 30 + 40)
    ended = [live.walk(case, phase) for phase in ("shadow", "canary")]
    entry = next(
        entry for entry in live.ledger.entries(MODEL) if entry.kind == "decision" and entry.run_id == "the-run"
    )
    limit = entry.recorded_at + live.spec.gate.verdict_expires + walked
    live.pass_time(limit - live.clock.now() + timedelta(seconds=1))
    with pytest.raises(ExpiredVerdictError, match="with up to 2h 10m more for its rollouts"):
        live.promote(case, *ended)
    live.pass_time(-timedelta(seconds=1))
    assert live.promote(case, *ended).champion_after == "2"


def test_platform_that_did_not_hear_of_the_promotion_hears_of_it_at_the_retry(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = live.case()

    def away(*_: Any) -> None:
        raise DeployerUnavailableError("503")

    with monkeypatch.context() as patched:
        patched.setattr(live.deployer, "promote", away)
        with pytest.raises(DeployerUnavailableError):
            live.promote(case)
    assert live.champion == "2"
    entries = live.ledger.entries(MODEL)
    assert live.promote(case).champion_after == "2"
    assert live.deployer.changes == [("promote", "2", 100)]
    assert live.ledger.entries(MODEL) == entries


def test_old_promotion_that_is_repeated_does_not_deploy_what_was_replaced_since(live: Live) -> None:
    first = live.case("first-run")
    live.promote(first)
    live.promote(live.case("second-run"))
    live.promote(first)
    assert live.deployer.changes[-1] == ("promote", "3", 100)


def test_rollback_lets_the_version_serve_that_it_went_back_to_also_when_it_is_repeated(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.promote(live.case())

    def away(*_: Any) -> None:
        raise DeployerUnavailableError("503")

    with monkeypatch.context() as patched:
        patched.setattr(live.deployer, "promote", away)
        with pytest.raises(DeployerUnavailableError):
            live.roll_back()
    live.roll_back()
    assert live.deployer.changes[-1] == ("promote", "1", 100)
    assert [kind for kind, _, _ in live.moves()] == ["promotion", "promotion", "rollback"]


@pytest.mark.parametrize("to", [None, "1"])
def test_rollback_that_was_asked_for_again_by_a_person_brings_a_platform_that_lags_in_line(
    live: Live, monkeypatch: pytest.MonkeyPatch, to: str | None
) -> None:
    live.promote(live.case())

    def away(*_: Any) -> None:
        raise DeployerUnavailableError("it is busy")

    with monkeypatch.context() as patched:
        patched.setattr(live.deployer, "promote", away)
        for run_id in ("first", "second"):
            with pytest.raises(DeployerUnavailableError):
                live.roll_back(run_id, to)
    with pytest.raises(TerminalError, match="Nothing was changed"):
        live.roll_back("third", to)
    assert live.deployer.status(MODEL).champion == "1"
    with pytest.raises(TerminalError, match="Nothing was changed"):
        live.roll_back("fourth", to)
    assert live.deployer.changes[-1] == ("promote", "1", 100)
    assert [kind for kind, _, _ in live.moves()] == ["promotion", "promotion", "rollback"]


def test_rollback_that_is_refused_leaves_a_canary_alone(tmp_path: Path) -> None:
    live = Live(tmp_path)
    live.under_way(live.case())
    with pytest.raises(TerminalError, match="is the champion already"):
        live.roll_back(to="1")
    assert live.share == 50
