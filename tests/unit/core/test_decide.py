"""decide: the verdict, kept with its evidence and put on record; broken glass overrides it in the open."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.fingerprint import sha256_of
from perennial.domain.ledger_entry import LedgerEntry
from perennial.errors import IntegrityError, NotAllowedError, NotFoundError
from perennial.spec.parts import Approval
from perennial.stages.evaluate import evaluate_models
from tests.unit.core.deciding import Judging
from tests.unit.core.judging import ROOT, Column, Constant, NotFinite, holdout_rows


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
