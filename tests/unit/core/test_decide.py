"""decide: the verdict, kept with its evidence and put on record; a retry changes nothing; nothing changed is judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.references import DecisionRef, EvaluationRef, ModelRef, SnapshotRef
from perennial.errors import IntegrityError, LockTimeoutError, NotAllowedError, NotFoundError
from perennial.ledger import Ledger
from perennial.spec.parts import Approval
from perennial.stages import decide as stage
from perennial.stages.decide import decide_promotion
from perennial.stages.evaluate import evaluate_models
from perennial.testing.clock import FixedClock
from tests.unit.core.judging import HOLDOUT, ROOT, Bench, Column, Constant, NotFinite, holdout_rows


@dataclass
class Judging(Bench):
    """A bench whose evaluations can be decided on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.clock = FixedClock(HOLDOUT.end + timedelta(minutes=5))
        self.ledger = Ledger(self.store, ROOT, self.clock)
        self.judged: tuple[SnapshotRef, ModelRef] | None = None

    def evaluate(self, challenger: Any, champion: Any = None, rows_a_day: int = 60) -> EvaluationRef:
        if champion is not None:
            self.enthrone(self.train(champion, name="old"))
        self.judged = self.snapshot(holdout_rows(rows_a_day)), self.train(challenger, name="new")
        snapshot, model = self.judged
        return evaluate_models(
            self.spec, self.request, snapshot, model, store=self.store, root=ROOT, registry=self.registry
        )

    def decide(self, evaluation: EvaluationRef, run_url: str | None = None, **changes: Any) -> DecisionRef:
        assert self.judged is not None
        snapshot, model = self.judged
        ports: dict[str, Any] = {"store": self.store, "model": model, "run_url": run_url, **changes}
        return decide_promotion(
            self.spec,
            self.request,
            evaluation,
            snapshot=snapshot,
            root=ROOT,
            ledger=self.ledger,
            clock=self.clock,
            policy="p",
            **ports,
        )

    def entries(self) -> list[LedgerEntry]:
        return self.ledger.entries(self.spec.name)

    def content(self, decision: DecisionRef) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.store.read(decision.uri))
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Judging:
    return Judging(tmp_path)


def test_better_challenger_is_promoted_and_the_evidence_kept(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    decision = bench.decide(evaluation)
    stored = bench.store.read(decision.uri)
    content = json.loads(stored)
    assert (decision.verdict, decision.champion_version) == ("PROMOTE", "1")
    assert decision.sha256 == sha256_of(stored)
    assert decision.summary == content["reasons"][0]
    assert decision.summary.startswith("Challenger's roc_auc is 0.9")
    assert content["evaluation"] == evaluation.to_dict()
    assert content["challenger"]["fingerprint"] == "new"
    assert content["champion"]["fingerprint"] == "old"
    assert content["request"]["requested_by"] == "ada"
    assert [rule["name"] for rule in content["rules"]] == [
        "rows",
        "clusters",
        "scores",
        "quarantine",
        "floor",
        "superiority",
    ]
    assert bench.store.read(decision.page_uri).startswith(b"<!doctype html>")


def test_worse_challenger_is_a_recorded_rejection_not_an_error(bench: Judging) -> None:
    decision = bench.decide(bench.evaluate(Column("poor"), Column("good")))
    assert decision.verdict == "REJECT"
    assert decision.summary.endswith("; worse, beyond chance (higher is better).")


def test_first_challenger_that_reaches_the_floors_is_promoted(bench: Judging) -> None:
    decision = bench.decide(bench.evaluate(Column("good")))
    assert (decision.verdict, decision.champion_version) == ("PROMOTE", None)


def test_first_challenger_without_floors_is_inconclusive(bench: Judging) -> None:
    bench.respec(gate={"floors": {}})
    assert bench.decide(bench.evaluate(Column("good"))).verdict == "INCONCLUSIVE"


def test_too_few_rows_are_inconclusive(bench: Judging) -> None:
    decision = bench.decide(bench.evaluate(Column("good"), Column("poor"), rows_a_day=20))
    assert decision.verdict == "INCONCLUSIVE"
    assert "280 rows; 220 more are needed" in decision.summary


@pytest.mark.parametrize("broken", [NotFinite("good"), Constant("good")])
def test_broken_challenger_is_never_promoted(bench: Judging, broken: Any) -> None:
    bench.respec(gate={"rule": {"kind": "non_inferiority", "margin": 0.5}, "floors": {}})
    assert bench.decide(bench.evaluate(broken, Column("poor"))).verdict == "REJECT"


def _moved(bench: Judging, before: str | None, after: str | None) -> None:
    entry = LedgerEntry(
        kind="outside",
        model=bench.spec.name,
        recorded_at=bench.clock.now(),
        request={"model": bench.spec.name, "run_id": f"outside__{after}", "as_of": "2013-03-10T00:00:00Z"},
        evidence_sha256=sha256_of(str(after).encode()),
        summary="The alias champion was moved outside Perennial.",
        champion_before=before,
        champion_after=after,
    )
    bench.ledger.append(entry)


def test_alias_taken_off_by_hand_does_not_let_the_next_challenger_in_on_floors_alone(bench: Judging) -> None:
    _moved(bench, None, "1")
    _moved(bench, "1", None)
    decision = bench.decide(bench.evaluate(Column("good")))
    assert decision.verdict == "INCONCLUSIVE"
    assert "`perennial rollback flights_delay --to 1`" in decision.summary


def test_retry_gives_the_same_reference_and_leaves_the_page(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    first = bench.decide(evaluation, run_url="https://mlflow/runs/1")
    page = bench.store.read(first.page_uri)
    assert bench.decide(evaluation, run_url="https://moved/runs/1") == first
    assert bench.store.read(first.page_uri) == page


def test_another_run_on_the_same_evaluation_has_a_decision_of_its_own(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    first = bench.decide(evaluation)
    bench.request = replace(bench.request, run_id="manual__2")
    second = bench.decide(evaluation)
    assert second.uri != first.uri
    assert second.verdict == first.verdict


def test_changed_evaluation_is_an_integrity_error_and_decides_nothing(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    content = bench.store.read(evaluation.uri).replace(b'"rows":840', b'"rows":841', 1)
    bench.store.write(evaluation.uri, content, content_type="application/json")
    with pytest.raises(IntegrityError, match="changed after it was made"):
        bench.decide(evaluation)
    assert list(bench.store.list(f"{ROOT}/decisions/")) == []


def test_evaluation_that_is_gone_is_not_found(bench: Judging) -> None:
    evaluation = replace(bench.evaluate(Column("good")), uri=f"{ROOT}/gone.json")
    with pytest.raises(NotFoundError):
        bench.decide(evaluation)


def test_reference_fits_into_xcom_with_room(bench: Judging) -> None:
    decision = bench.decide(bench.evaluate(Column("good"), Column("poor")))
    assert len(json.dumps(decision.to_dict())) < 1500


def test_every_decision_is_on_record_and_moves_nothing(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    decision = bench.decide(evaluation)
    (entry,) = bench.entries()
    assert bench.judged is not None
    snapshot, model = bench.judged
    assert (entry.kind, entry.verdict, entry.champion_before, entry.champion_after) == ("decision", "PROMOTE", "1", "1")
    assert (entry.fingerprint, entry.policy, entry.evidence_sha256) == ("new", "p", decision.sha256)
    assert (entry.recorded_at, entry.as_of) == (bench.clock.now(), bench.request.as_of)
    assert (entry.page_uri, entry.summary) == (decision.page_uri, decision.summary)
    assert list(entry.reasons) == bench.content(decision)["reasons"]
    assert (entry.actor, entry.break_glass) == (None, False)
    assert entry.references == {
        "snapshot": snapshot.to_dict(),
        "model": model.to_dict(),
        "evaluation": evaluation.to_dict(),
        "decision": {**decision.to_dict(), "ledger_uri": ""},
    }
    assert json.loads(bench.store.read(decision.ledger_uri))["entry_id"] == entry.entry_id
    assert bench.registry.champion_version(bench.spec.name) == "1"


def test_retry_records_once_whatever_happened_meanwhile(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    first = bench.decide(evaluation)
    mine = bench.request
    bench.request = replace(mine, run_id="manual__2")
    bench.decide(evaluation)
    bench.request = mine
    bench.clock.advance(timedelta(hours=1))
    assert bench.decide(evaluation) == first
    assert [entry.run_id for entry in bench.entries()] == ["manual__1", "manual__2"]


@pytest.mark.parametrize("broken", ["page.html", "decision.json", "/ledger/"])
def test_crash_before_any_write_is_completed_by_the_retry(bench: Judging, broken: str) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    whole = bench.store.write

    def failing(uri: str, *args: Any, **how: Any) -> bool:
        if broken in uri:
            raise KeyboardInterrupt
        return whole(uri, *args, **how)

    bench.store.write = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.decide(evaluation)
    assert bench.entries() == []
    bench.store.write = whole  # type: ignore[method-assign]
    decision = bench.decide(evaluation)
    (entry,) = bench.entries()
    assert entry.evidence_sha256 == sha256_of(bench.store.read(decision.uri))
    assert bench.store.read(decision.page_uri).startswith(b"<!doctype html>")


class _Others:
    """Does something each time the page is rendered: what happens while a decision is being made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
        self.renderings = 0
        render = stage.decision_page

        def rendering(*args: Any, **how: Any) -> bytes:
            self.renderings += 1
            rendered = self.renderings
            page = render(*args, **how)
            act(rendered)
            return page

        monkeypatch.setattr(stage, "decision_page", rendering)


def _budgeted(bench: Judging) -> tuple[EvaluationRef, Callable[[], DecisionRef]]:
    """An evaluation, and how another run decides on one of its own, of the same days."""
    bench.respec(gate={"false_promotions": {"budget": 0.05, "period_days": 90}})
    others = bench.evaluate(Column("good"), Column("poor"), rows_a_day=50), bench.judged
    evaluation = bench.evaluate(Column("good"))

    def other() -> DecisionRef:
        mine = bench.request, bench.judged
        bench.request, bench.judged = replace(bench.request, run_id="manual__2"), others[1]
        try:
            return bench.decide(others[0])
        finally:
            bench.request, bench.judged = mine

    return evaluation, other


def _recorded_by_other(bench: Judging, number: int) -> None:
    """A move of the champion, as another run records it."""
    request = {**bench.request.to_dict(), "run_id": f"other__{number}"}
    entry = LedgerEntry(
        kind="rollback",
        model=bench.spec.name,
        recorded_at=bench.clock.now(),
        request=request,
        evidence_sha256=f"{number}",
        summary="",
        champion_before="1",
        champion_after="1",
        quarantined={f"digest {number}": "Taken back."},
    )
    bench.ledger.append(entry)


def test_decision_stored_and_not_recorded_is_made_anew_if_others_decided_meanwhile(tmp_path: Path) -> None:
    bench, orderly = Judging(tmp_path / "crashed"), Judging(tmp_path / "orderly")
    evaluation, other = _budgeted(bench)
    whole = bench.store.write

    def failing(uri: str, *args: Any, **how: Any) -> bool:
        if "/ledger/" in uri:
            raise KeyboardInterrupt
        return whole(uri, *args, **how)

    bench.store.write = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.decide(evaluation)
    bench.store.write = whole  # type: ignore[method-assign]
    (stale,) = [info.uri for info in bench.store.list(f"{ROOT}/decisions/") if info.uri.endswith("decision.json")]
    other()
    decision = bench.decide(evaluation)
    assert decision.uri != stale
    assert [entry.run_id for entry in bench.entries()] == ["manual__2", "manual__1"]
    assert bench.decide(evaluation) == decision
    assert len(bench.entries()) == 2

    same, other = _budgeted(orderly)
    other()
    assert bench.content(decision) == orderly.content(orderly.decide(same))
    assert bench.content(decision)["evidence"] != json.loads(bench.store.read(stale))["evidence"]


def test_decision_stored_and_not_recorded_counts_if_nothing_happened_meanwhile(
    bench: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, _ = _budgeted(bench)
    others = _Others(monkeypatch, lambda _: None)

    def dying(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as crash:
        crash.setattr(bench.ledger, "lock", dying)
        with pytest.raises(KeyboardInterrupt):
            bench.decide(evaluation)
    stored = [info.uri for info in bench.store.list(f"{ROOT}/decisions/")]
    assert bench.decide(evaluation).uri in stored
    assert [info.uri for info in bench.store.list(f"{ROOT}/decisions/")] == stored
    assert others.renderings == 1


def test_what_others_record_while_it_is_judged_is_taken_into_account(
    bench: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    others = _Others(monkeypatch, lambda time: _recorded_by_other(bench, time) if time <= 2 else None)
    decision = bench.decide(evaluation)
    assert others.renderings == 3
    assert [entry.kind for entry in bench.entries()] == ["rollback", "rollback", "decision"]
    assert list(bench.content(decision)["history"]["quarantined"]) == ["digest 1", "digest 2"]
    assert bench.decide(evaluation) == decision


def test_model_is_not_locked_while_it_is_judged(bench: Judging, monkeypatch: pytest.MonkeyPatch) -> None:
    locks: list[list[str]] = []
    _Others(monkeypatch, lambda _: locks.append([info.uri for info in bench.store.list(f"{ROOT}/locks/")]))
    bench.decide(bench.evaluate(Column("good"), Column("poor")))
    assert locks == [[]]


def test_same_run_twice_at_a_time_has_one_decision(bench: Judging, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    other: list[DecisionRef] = []

    def overtake(time: int) -> None:
        if time == 1:
            _recorded_by_other(bench, time)
            other.append(bench.decide(evaluation))

    _Others(monkeypatch, overtake)
    assert [bench.decide(evaluation)] == other
    assert [entry.kind for entry in bench.entries()] == ["rollback", "decision"]


def test_decision_that_others_overtake_all_the_time_gives_up_to_be_tried_again(
    bench: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    others = _Others(monkeypatch, lambda time: _recorded_by_other(bench, time))
    with pytest.raises(LockTimeoutError, match=r"5 times in turn, while manual__1 was judged.*try again"):
        bench.decide(evaluation)
    assert others.renderings == 5
    assert {entry.kind for entry in bench.entries()} == {"rollback"}


def test_entries_that_no_decision_rests_on_are_no_reason_to_judge_again(
    bench: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    entry = replace(_as_entry(bench), kind="nothing_new")
    others = _Others(monkeypatch, lambda _: bench.ledger.append(entry) and None)
    bench.decide(evaluation)
    assert others.renderings == 1


def _as_entry(bench: Judging) -> LedgerEntry:
    _recorded_by_other(bench, 0)
    return replace(bench.entries()[-1], evidence_sha256="another")


@pytest.mark.parametrize(
    "change", [{"holdout_sha256": "0" * 64}, {"champion_version": "7"}, {"champion_version": None}]
)
def test_reference_that_says_something_else_than_the_evaluation_decides_nothing(
    bench: Judging, change: dict[str, Any]
) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    with pytest.raises(IntegrityError, match="belong to different runs"):
        bench.decide(replace(evaluation, **change))
    assert bench.entries() == []


def test_evaluation_of_another_challenger_decides_nothing(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    with pytest.raises(IntegrityError, match="challenger digest"):
        bench.decide(evaluation, model=bench.train(Column("good"), name="third"))
    assert bench.entries() == []


def _allow(bench: Judging) -> None:
    bench.spec = bench.spec.model_copy(update={"approval": Approval(break_glass=("ada",))})


def _break(bench: Judging, why: str = "the champion scores nulls", by: str = "ada") -> None:
    bench.request = replace(bench.request, break_glass=why, requested_by=by)


def test_broken_glass_promotes_against_the_gate_and_says_so_loudly(bench: Judging) -> None:
    _allow(bench)
    evaluation = bench.evaluate(Column("poor"), Column("good"))
    _break(bench)
    decision = bench.decide(evaluation)
    said = bench.content(decision)
    (entry,) = bench.entries()
    assert (decision.verdict, decision.break_glass) == ("PROMOTE", True)
    assert said["gate_verdict"] == "REJECT"
    assert said["break_glass"] == {"by": "ada", "why": "the champion scores nulls"}
    assert decision.summary == (
        'OVERRIDDEN: ada breaks the glass ("the champion scores nulls"): promoted whatever the gate says, '
        "and the gate says REJECT."
    )
    assert "worse, beyond chance" in said["reasons"][1]
    assert (entry.verdict, entry.break_glass, entry.actor, entry.summary) == ("PROMOTE", True, "ada", decision.summary)
    page = bench.store.read(decision.page_uri)
    assert b"The glass was broken" in page
    assert b"the champion scores nulls" in page


def test_glass_is_broken_by_those_named_only(bench: Judging) -> None:
    _allow(bench)
    evaluation = bench.evaluate(Column("poor"), Column("good"))
    _break(bench, by="mallory")
    with pytest.raises(NotAllowedError, match="mallory may not break the glass"):
        bench.decide(evaluation)
    assert bench.entries() == []
    assert list(bench.store.list(f"{ROOT}/decisions/")) == []


def test_broken_glass_does_not_promote_the_champion_over_itself(bench: Judging) -> None:
    _allow(bench)
    same = bench.train(Column("good"), name="new")
    bench.enthrone(same)
    snapshot = bench.snapshot(holdout_rows())
    bench.judged = snapshot, same
    evaluation = evaluate_models(
        bench.spec, bench.request, snapshot, same, store=bench.store, root=ROOT, registry=bench.registry
    )
    _break(bench)
    decision = bench.decide(evaluation)
    assert (decision.verdict, decision.break_glass) == ("REJECT", False)
    assert "nothing comes of it: the challenger is the champion itself" in decision.summary
    assert bench.content(decision)["break_glass"] == {"by": "ada", "why": "the champion scores nulls"}


def test_broken_glass_does_not_override_a_changed_evaluation(bench: Judging) -> None:
    _allow(bench)
    evaluation = bench.evaluate(Column("poor"), Column("good"))
    content = bench.store.read(evaluation.uri).replace(b'"rows":840', b'"rows":841', 1)
    bench.store.write(evaluation.uri, content, content_type="application/json")
    _break(bench)
    with pytest.raises(IntegrityError):
        bench.decide(evaluation)
    assert bench.entries() == []


def test_slice_column_that_the_evaluation_lacks_is_missed(bench: Judging) -> None:
    evaluation = bench.evaluate(Column("good"), Column("poor"))
    bench.respec(gate={"slices": {"margin": 0.05, "min_rows": 10_000}})
    decision = bench.decide(evaluation)
    assert decision.verdict == "REJECT"
    assert "No value of origin" in decision.summary
