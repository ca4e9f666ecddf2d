"""The operators on a small world: what each leaves in XCom, behind its buttons, and in Airflow's states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from perennial.domain.references import DecisionRef, PromotionRef, SnapshotRef
from perennial.errors import StoreUnavailableError
from perennial_airflow import links
from tests.unit.airflow.running import ORDER, Run
from tests.unit.core.world import World, day_frame

pytestmark = pytest.mark.airflow


def test_good_first_challenger_goes_all_the_way(world: World) -> None:
    world.land(range(28))
    run = Run(world)
    promotion = PromotionRef.from_dict(run.tasks("promote_if_better"))
    assert promotion.promoted
    assert world.registry.champion("toy") is not None
    decided, promoted = world.runtime.ledger.entries("toy")
    assert (decided.kind, promoted.kind) == ("decision", "promotion")
    assert promoted.request["requested_by"] == "ada"


def test_each_stage_puts_its_page_behind_its_button(world: World) -> None:
    world.land(range(28))
    run = Run(world)
    run.tasks("promote_if_better")
    base = "http://airflow.example/perennial/ui/perennial__toy__retrain"
    assert run.pushed["validate_data"][links.ValidationReportLink.key].startswith(f"{base}/validations/")
    assert run.pushed["decide"][links.DecisionLink.key].startswith(f"{base}/decisions/")
    assert run.pushed["promote_if_better"][links.DecisionLink.key] == run.pushed["decide"][links.DecisionLink.key]
    assert run.pushed["train_challenger"][links.MlflowRunLink.key] == "memory://runs/run-1"


def test_nothing_new_ends_green_and_skips_the_rest(world: World) -> None:
    world.land(range(28))
    Run(world).tasks("promote_if_better")
    again = Run(world, run_id="manual__2")
    with pytest.raises(DownstreamTasksSkipped) as caught:
        again.task("snapshot_data")
    assert sorted(caught.value.tasks) == sorted(ORDER[1:])
    reference = SnapshotRef.from_dict(again.pushed["snapshot_data"]["return_value"])
    assert reference.nothing_new_since is not None


def test_force_judges_again_what_was_judged(world: World) -> None:
    world.land(range(28))
    Run(world).tasks("promote_if_better")
    reference = Run(world, run_id="manual__2", force=True).task("snapshot_data")
    assert reference["nothing_new_since"] is None


def test_challenger_that_is_not_better_leaves_promotion_skipped_and_recorded(world: World) -> None:
    world.land(range(28))
    Run(world).tasks("promote_if_better")
    world.land(range(28, 35))
    run = Run(world, run_id="manual__2")
    decision = DecisionRef.from_dict(run.tasks("decide"))
    assert decision.verdict != "PROMOTE"
    with pytest.raises(AirflowSkipException) as caught:
        run.task("promote_if_better")
    assert decision.verdict in str(caught.value)
    assert not PromotionRef.from_dict(run.returned["promote_if_better"]).promoted
    entries = world.runtime.ledger.entries("toy")
    assert [entry.kind for entry in entries] == ["decision", "promotion", "decision"]
    assert "stays version 1" in str(caught.value)


def test_bad_data_fails_at_once_with_the_report_behind_its_button(world: World) -> None:
    world.land(range(28))
    bad = day_frame(28)
    bad.loc[3:5, "x"] = np.nan
    bad.to_parquet(world.folder / "bucket/landing/toy/day=028.parquet", index=False)
    run = Run(world)
    run.task("snapshot_data")
    with pytest.raises(AirflowFailException):
        run.task("validate_data")
    assert run.pushed["validate_data"][links.ValidationReportLink.key].endswith("/page.html")


def test_missing_reference_is_named(world: World) -> None:
    with pytest.raises(AirflowFailException, match="train_challenger needs the snapshot reference"):
        Run(world).task("train_challenger")


def test_store_that_does_not_answer_is_retried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_args: Any) -> None:
        raise StoreUnavailableError("s3 does not answer")

    monkeypatch.setattr(world.store, "list", unavailable)
    with pytest.raises(AirflowException, match="tried again") as caught:
        Run(world).task("snapshot_data")
    assert not isinstance(caught.value, AirflowFailException)


def test_model_without_a_spec_fails_at_once(world: World) -> None:
    run = Run(world)
    (world.specs / "toy.yaml").unlink()
    with pytest.raises(AirflowFailException, match="no spec for model 'toy'"):
        run.task("snapshot_data")
