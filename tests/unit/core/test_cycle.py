"""Whole cycles in one process, on fakes: what each kind of night comes to."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perennial import cycle
from perennial.errors import BadDataError, NoDataError, RequestError, SpecError
from perennial.spec.model import ModelSpec
from perennial.stages.estimator import build_estimator, code_version
from perennial.stages.frames import load_manifest, read_frame
from perennial.stages.landing import landing_state, seen_digest
from perennial.testing.registry import MemoryRegistry
from tests.unit.core.world import LANDING, ROOT, SPEC, START, TOY, World, day_frame


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_first_challenger_above_the_floors_becomes_champion(world: World) -> None:
    world.land(range(28))
    result = world.run()
    assert result.promotion is not None
    assert result.promotion.promoted
    assert world.outcomes() == [("decision", "PROMOTE", None), ("promotion", "PROMOTE", "1")]


def test_second_run_on_the_same_data_ends_as_nothing_new(world: World) -> None:
    world.land(range(28))
    world.run()
    result = world.run()
    assert result.snapshot.nothing_new_since is not None
    assert result.promotion is None
    assert world.outcomes()[2:] == [("nothing_new", None, "1")]


def test_forced_run_on_the_same_data_finds_the_model_and_judges_again(world: World) -> None:
    world.land(range(28))
    world.run()
    result = world.run(force=True)
    assert isinstance(world.registry, MemoryRegistry)
    assert len(world.registry.trainings) == 1
    assert result.promotion is not None
    assert not result.promotion.promoted
    assert world.outcomes()[-1][2] == "1"


def test_more_of_the_same_data_keeps_the_champion(world: World) -> None:
    world.land(range(28))
    world.run()
    world.land(range(28, 35))
    result = world.run()
    assert result.promotion is not None
    assert not result.promotion.promoted
    kind, verdict, champion = world.outcomes()[-1]
    assert kind == "decision"
    assert verdict in {"REJECT", "INCONCLUSIVE"}
    assert champion == "1"


def test_challenger_that_saw_the_change_replaces_the_champion(world: World) -> None:
    world.land(range(28))
    world.run()
    world.land(range(28, 56), sign=-1.0)
    world.run()
    assert world.outcomes()[2:] == [("decision", "PROMOTE", "1"), ("promotion", "PROMOTE", "2")]


def test_bad_data_stops_the_run_with_its_evidence_and_the_champion_stays(world: World) -> None:
    world.land(range(28))
    world.run()
    bad = day_frame(28)
    bad.loc[3:5, "x"] = np.nan
    path = world.folder / "bucket/landing/toy/day=028.parquet"
    bad.to_parquet(path, index=False)
    with pytest.raises(BadDataError, match="expect_column_values_to_not_be_null"):
        world.run()
    entry = world.runtime.ledger.entries("toy")[-1]
    assert (entry.kind, entry.champion_before, entry.champion_after) == ("refused", "1", "1")
    assert entry.page_uri is not None
    assert world.store.read(entry.page_uri).startswith(b"<!doctype html>")


def test_file_that_is_no_parquet_is_refused_with_its_name(world: World) -> None:
    world.land(range(28))
    world.store.write(f"{LANDING}notes.txt", b"hello", content_type="text/plain")
    with pytest.raises(BadDataError, match=r"notes\.txt"):
        world.run()


def test_every_stage_run_twice_gives_the_same_reference(world: World) -> None:
    world.land(range(28))
    runtime, spec, request = world.runtime, world.spec, world.request()

    def both() -> list[object]:
        snapshot = cycle.snapshot(runtime, spec, request)
        validation = cycle.validate(runtime, spec, request, snapshot)
        model = cycle.train(runtime, spec, request, snapshot)
        evaluation = cycle.evaluate(runtime, spec, request, snapshot, model)
        decision = cycle.decide(runtime, spec, request, snapshot, evaluation, model)
        promotion = cycle.promote(runtime, spec, request, snapshot, model, evaluation, decision)
        return [snapshot, validation, model, evaluation, decision, promotion]

    assert both() == both()


def test_fresh_training_of_a_fingerprint_predicts_exactly_the_same(tmp_path: Path) -> None:
    def scores(world: World) -> tuple[str, np.ndarray]:
        world.land(range(28))
        result = world.run()
        assert result.model is not None
        manifest = load_manifest(world.store, result.snapshot)
        holdout = read_frame(world.store, manifest, ("x", "z"), manifest.windows.holdout, time_column="at")
        return result.model.fingerprint, world.registry.load(result.model).predict_proba(holdout)

    (first, here), (second, there) = scores(World(tmp_path / "a")), scores(World(tmp_path / "b"))
    assert first == second
    np.testing.assert_array_equal(here, there)


def test_other_seed_parameter_or_data_gives_another_fingerprint(world: World) -> None:
    world.land(range(28))
    first = world.run()
    other_params = world.run(params={"depth": 2})
    world.spec = ModelSpec.model_validate({**SPEC, "training": {**SPEC["training"], "seed": 8}})  # type: ignore[dict-item]
    other_seed = world.run()
    world.land(range(28, 29))
    other_data = world.run()
    fingerprints = {r.model.fingerprint for r in (first, other_params, other_seed, other_data) if r.model}
    assert len(fingerprints) == 4


def test_parameter_that_the_spec_does_not_declare_is_refused_before_anything_is_written(world: World) -> None:
    world.land(range(28))
    with pytest.raises(RequestError, match="declared: depth"):
        world.run(params={"dept": 2})
    assert world.outcomes() == []


def test_empty_landing_zone_is_told_as_such(world: World) -> None:
    with pytest.raises(NoDataError, match=r"landing"):
        world.run()


def test_training_rows_are_those_of_the_window_only(world: World) -> None:
    world.land(range(28))
    world.run()
    assert isinstance(world.registry, MemoryRegistry)
    (training,) = world.registry.trainings
    rows = pd.concat([day_frame(day) for day in range(28)])
    inside = rows[(rows["at"] >= training.training_start) & (rows["at"] < training.training_end)]
    assert training.dataset_rows == len(inside)
    assert 0 < len(inside) < len(rows)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("nowhere.at_all:build", "no module 'nowhere'"),
        ("toy_churn:missing", "has no function missing"),
        ("toy_churn:broken", "has no fit"),
    ],
)
def test_function_that_gives_no_estimator_is_told_with_field_and_value(
    world: World, estimator: str, message: str
) -> None:
    world.land(range(28))
    training = world.spec.training.model_copy(update={"estimator": estimator})
    world.spec = world.spec.model_copy(update={"training": training})
    with pytest.raises(SpecError, match=message) as caught:
        world.run()
    assert caught.value.problems[0].field == "training.estimator"


def test_function_that_refuses_its_parameters_is_told_with_the_call(world: World) -> None:
    spec = world.spec.model_copy(update={"training": world.spec.training.model_copy(update={"params": {"deep": 1}})})
    with pytest.raises(SpecError, match=r"called with random_state=7, deep=1"):
        build_estimator(spec, {"deep": 1}, (TOY,))


def test_code_version_changes_with_any_source_of_the_package(world: World, tmp_path: Path) -> None:
    package = tmp_path / "own_code"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "training.py").write_text("def build(**_): ...\n", encoding="utf-8")
    training = world.spec.training.model_copy(update={"estimator": "own_code.training:build"})
    spec = world.spec.model_copy(update={"training": training})
    before = code_version(spec, (tmp_path,))
    assert code_version(spec, (tmp_path,)) == before
    (package / "features.py").write_text("SCALE = 2\n", encoding="utf-8")
    assert code_version(spec, (tmp_path,)) != before


def test_run_that_saw_everything_marks_the_landing_zone_as_looked_at(world: World) -> None:
    world.land(range(28))
    world.run()
    assert seen_digest(world.store, ROOT, "toy") == landing_state(world.store, LANDING).digest


def test_run_that_stands_in_the_past_leaves_newer_data_to_be_noticed(world: World) -> None:
    world.land(range(35))
    world.run(as_of=START + timedelta(days=28))
    assert seen_digest(world.store, ROOT, "toy") is None


def test_run_that_fails_for_good_counts_as_having_looked(world: World) -> None:
    world.land(range(3))
    with pytest.raises(NoDataError):
        world.run()
    assert seen_digest(world.store, ROOT, "toy") == landing_state(world.store, LANDING).digest


def test_run_that_stands_in_the_future_is_refused(world: World) -> None:
    world.land(range(28))
    with pytest.raises(RequestError, match="lies in the future"):
        world.run(as_of=world.clock.now() + timedelta(days=1))
    assert world.outcomes() == []


def test_changed_gate_is_something_new_to_judge_by(world: World) -> None:
    world.land(range(28))
    world.run()
    gate = world.spec.gate.model_copy(update={"floors": {"roc_auc": 0.99}})
    world.spec = world.spec.model_copy(update={"gate": gate})
    assert world.run().decision is not None
    assert world.run().snapshot.nothing_new_since is not None


def test_stray_file_that_the_spec_skips_does_not_hide_that_nothing_is_new(world: World) -> None:
    data = world.spec.data.model_copy(update={"on_refused_file": "skip"})
    world.spec = world.spec.model_copy(update={"data": data})
    world.land(range(28))
    world.store.write(f"{LANDING}notes.txt", b"hello", content_type="text/plain")
    world.run()
    assert world.run().snapshot.nothing_new_since is not None


def test_holdout_metrics_reach_the_registry(world: World) -> None:
    world.land(range(28))
    result = world.run()
    assert result.model is not None
    assert isinstance(world.registry, MemoryRegistry)
    noted = world.registry.annotations[result.model.run_id]
    assert 0.6 < noted["holdout_roc_auc"] <= 1
    assert noted["perennial.verdict"] == "PROMOTE"
    assert "perennial.decision_url" not in noted  # of an Airflow that nobody has named


def test_decision_is_one_click_away_from_the_training_in_the_registry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = vars(World)["runtime"].fget
    there = property(lambda world: replace(bare(world), airflow_url="https://airflow.example"))
    monkeypatch.setattr(World, "runtime", there)
    world.land(range(28))
    result = world.run()
    assert result.model is not None
    assert isinstance(world.registry, MemoryRegistry)
    url = world.registry.annotations[result.model.run_id]["perennial.decision_url"]
    assert url.startswith("https://airflow.example/perennial/ui/perennial__toy__retrain/decisions/")


def test_half_written_evaluation_is_made_again(world: World) -> None:
    world.land(range(28))
    first = world.run()
    assert first.evaluation is not None
    uri = first.evaluation.uri
    world.store.write(uri, world.store.read(uri)[:50], content_type="application/json")
    second = cycle.evaluate(world.runtime, world.spec, world.request(run_id="run-1"), first.snapshot, first.model)  # type: ignore[arg-type]
    assert second == first.evaluation


def test_users_fit_that_fails_in_any_way_is_told_as_a_spec_problem(world: World) -> None:
    world.land(range(28))
    training = world.spec.training.model_copy(update={"estimator": "toy_churn:failing"})
    world.spec = world.spec.model_copy(update={"training": training})
    with pytest.raises(SpecError, match="ZeroDivisionError"):
        world.run()
