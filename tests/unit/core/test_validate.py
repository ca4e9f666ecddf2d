"""validate: the verdict on the data is published before it stops a run; refused data is on record, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest

from perennial.domain.fingerprint import sha256_of
from perennial.domain.manifest import UnusableFile
from perennial.domain.references import ModelRef
from perennial.errors import BadDataError, IntegrityError, SpecError
from perennial.ports import FittedTraining
from perennial.stages.validate import columns_to_read, suite_parameters
from tests.unit.core.validating import END, SPLIT, START, SUITE, World, good_frame, toy_spec


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def change(world: World, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    world.snapshot = world.take(edit(good_frame()))


def negative(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(x=frame["x"].mask(frame.index.isin([3, 4, 19]), -1.0))


def test_good_data_passes_and_is_published(world: World) -> None:
    reference = world.validate()
    assert reference.success
    assert (reference.failed, reference.quarantine_uri) == (0, None)
    assert set(world.published()) == {"result.json", "page.html"}
    assert sha256_of(world.store.read(reference.uri)) == reference.sha256
    assert world.ledger.entries("toy") == []
    result = json.loads(world.store.read(reference.uri))
    assert (result["rows"], result["faulty_rows"]) == (20, 0)
    assert result["parameters"] == {"window_end": "2013-01-11T00:00:00Z"}


def test_retry_gives_the_same_reference_and_bytes_without_checking_again(world: World) -> None:
    first = world.validate()
    published = world.published()
    world.clock.advance(timedelta(hours=1))
    assert world.validate() == first
    assert world.published() == published
    assert world.validator.calls == 1


def test_result_lost_before_the_retry_is_made_again_byte_for_byte(world: World, tmp_path: Path) -> None:
    change(world, negative)
    world.failing()
    published = world.published()
    for path in (tmp_path / "store").rglob("result.json"):
        path.unlink()
    world.failing()
    assert world.published() == published
    assert world.validator.calls == 2


def test_bad_data_publishes_first_and_is_recorded_once_over_two_tries(world: World) -> None:
    change(world, negative)
    for _ in range(2):
        with pytest.raises(BadDataError) as caught:
            world.validate()
        world.clock.advance(timedelta(minutes=5))
    assert set(world.published()) == {"result.json", "page.html", "quarantine.parquet"}
    (entry,) = world.ledger.entries("toy")
    assert (entry.kind, entry.champion_before, entry.champion_after) == ("refused", None, None)
    assert entry.evidence_sha256 == sha256_of(world.published()["result.json"])
    assert entry.summary == (
        "Data refused: 1 of 10 expectations failed on 20 rows: expect_column_values_to_be_between(x) 3 times."
    )
    assert list(entry.reasons) == [
        "expect_column_values_to_be_between(x): expected that x is at least 0; "
        "3 of 20 rows (15.0\N{NARROW NO-BREAK SPACE}%), such as -1 (3 times)."
    ]
    assert set(entry.references) == {"snapshot", "validation"}
    assert entry.references["validation"]["success"] is False
    message = str(caught.value)
    assert "1 of 10 expectations failed" in message
    assert "expect_column_values_to_be_between(x)" in message
    assert str(entry.page_uri) in message
    assert "quarantine.parquet" in message


def test_refusal_records_the_champion_that_stays(world: World) -> None:
    trained = world.registry.log_training(
        FittedTraining(
            model="toy",
            task="binary_classification",
            estimator=1,
            params={},
            metrics={},
            tags={},
            input_example=good_frame(),
            output_example=[],
            dataset_uri="",
            dataset_sha256="",
            dataset_rows=1,
            fingerprint="f",
            keys_sha256="k",
            training_start=START,
            training_end=END,
            trusted_types=(),
            run_name="",
        )
    )
    assert isinstance(trained, ModelRef)
    world.registry.point_alias("toy", "champion", world.registry.register("toy", trained, {}))
    change(world, negative)
    world.failing()
    (entry,) = world.ledger.entries("toy")
    assert (entry.champion_before, entry.champion_after) == ("1", "1")


def test_champion_moved_between_two_tries_keeps_the_first_record(world: World) -> None:
    test_refusal_records_the_champion_that_stays(world)
    world.registry._aliases.clear()
    world.failing()
    (entry,) = world.ledger.entries("toy")
    assert entry.champion_before == "1"


def test_quarantine_holds_rows_at_fault_with_what_they_broke(world: World) -> None:
    change(world, lambda frame: negative(frame).assign(unit=["ft" if n == 3 else "m" for n in range(20)]))
    world.failing()
    rows = pd.read_parquet(BytesIO(world.published()["quarantine.parquet"]))
    assert list(rows["id"]) == ["r3", "r4", "r19"]
    assert list(rows.columns) == ["id", "time", "y", "x", "day", "unit", "perennial_faults"]
    assert list(rows["perennial_faults"]) == [
        "expect_column_values_to_be_between(x); expect_column_values_to_be_in_set(unit)",
        "expect_column_values_to_be_between(x)",
        "expect_column_values_to_be_between(x)",
    ]


def test_failed_check_names_keys_and_times_of_rows_at_fault(world: World) -> None:
    change(world, negative)
    (check,) = world.failing().values()
    assert check["example_rows"][0] == {"id": "r3", "time": "2013-01-02T12:00:00Z"}
    assert check["notes"] == "Metres."
    assert "rows" not in check


def test_rows_at_fault_within_mostly_are_not_quarantined(world: World) -> None:
    change(world, negative)
    suite = {
        "expectations": [
            {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_value": 0, "mostly": 0.5}}
        ]
    }
    assert world.validate(suite).success
    assert "quarantine.parquet" not in world.published()


def test_rows_outside_the_windows_are_not_checked(world: World) -> None:
    late = good_frame().tail(1).assign(id="late", x=-5.0, time=pd.Timestamp(END + timedelta(hours=1)))
    change(world, lambda frame: pd.concat([frame, late]))
    assert world.validate().success


@pytest.mark.parametrize(
    ("edit", "failed"),
    [
        (lambda f: f.assign(y=f["y"].astype("Float64").mask(f.index == 2)), "expect_column_values_to_not_be_null(y)"),
        (lambda f: f.assign(y=f["y"].mask(f.index == 2, -1)), "expect_column_values_to_be_in_set(y)"),
        (lambda f: f.assign(id=f["id"].mask(f.index == 2)), "expect_column_values_to_not_be_null(id)"),
        (lambda f: f.assign(id=f["id"].replace("r2", "r3")), "expect_column_values_to_be_unique(id)"),
        (lambda f: f.drop(columns="day"), "expect_column_to_exist(day)"),
        (lambda f: f.head(16), "expect_windows_to_have_rows(None)"),
        (lambda f: f.tail(10).assign(time=f["time"].tail(10).clip(lower=SPLIT)), "expect_windows_to_have_rows(None)"),
    ],
)
def test_what_every_model_needs_is_checked_whatever_the_suite_says(
    world: World, edit: Callable[[pd.DataFrame], pd.DataFrame], failed: str
) -> None:
    change(world, edit)
    checks = world.failing()
    assert set(checks) == {failed}
    assert checks[failed]["source"] == "perennial"


def test_boolean_label_is_valid(world: World) -> None:
    change(world, lambda frame: frame.assign(y=frame["y"].astype(bool)))
    assert world.validate().success


def test_infinite_regression_label_fails(world: World) -> None:
    world.spec = world.spec.model_copy(update={"task": "regression"})
    change(world, lambda frame: frame.assign(y=frame["y"].astype(float).mask(frame.index == 2, float("inf"))))
    assert set(world.failing()) == {"expect_column_values_to_be_finite(y)"}


def test_fault_that_the_suite_reports_is_not_reported_twice(world: World) -> None:
    change(world, lambda frame: frame.assign(id=frame["id"].replace("r2", "r3")))
    suite = {"expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}}]}
    (check,) = world.failing(suite).values()
    assert check["source"] == "suite"


REFUSED = UnusableFile(key="b.parquet", why="schema_changed", detail="x: double, was int64")
PENDING = UnusableFile(key="c.parquet", why="still_being_written", detail="2 s old")


def test_refused_landing_file_fails(world: World) -> None:
    world.snapshot = world.take(good_frame(), (REFUSED, PENDING))
    checks = world.failing()
    assert list(checks) == ["expect_landing_files_to_be_usable(None)"]
    assert checks["expect_landing_files_to_be_usable(None)"]["examples"] == [
        "b.parquet: schema_changed: x: double, was int64"
    ]


def test_refused_landing_file_passes_where_the_spec_skips_it(world: World) -> None:
    world.spec = toy_spec(on_refused_file="skip")
    world.snapshot = world.take(good_frame(), (REFUSED,))
    assert world.validate().success
    assert b"b.parquet" in world.published()["page.html"]


def test_invalid_suite_is_reported_with_its_file_name_and_nothing_published(world: World) -> None:
    with pytest.raises(SpecError) as caught:
        world.validate({"name": "another", "expectations": [{"type": "expect_nonsense", "kwargs": {}}]})
    assert caught.value.problems[0].file == "toy.json"
    assert world.published() == {}
    assert world.ledger.entries("toy") == []


def test_another_suite_gives_another_result(world: World) -> None:
    first = world.validate()
    suite = {**SUITE, "expectations": SUITE["expectations"][:2]}
    assert world.validate(suite).uri != first.uri


def test_another_as_of_reuses_the_result_unless_the_suite_uses_it(world: World) -> None:
    first = world.validate()
    world.request = replace(world.request, as_of=END + timedelta(hours=1), run_id="run-2")
    assert world.validate() == first
    kwargs = {"column": "time", "max_value": {"$PARAMETER": "as_of"}}
    suite = {"expectations": [{"type": "expect_column_values_to_be_between", "kwargs": kwargs}]}
    later = world.validate(suite)
    world.request = replace(world.request, as_of=END)
    assert world.validate(suite).uri != later.uri


def test_unreadable_result_is_an_integrity_error(world: World) -> None:
    reference = world.validate()
    world.store.write(reference.uri, b"{}", content_type="application/json")
    with pytest.raises(IntegrityError, match="not a validation result"):
        world.validate()


def test_parameters_hang_on_the_windows(world: World) -> None:
    assert suite_parameters(world.request, world.manifest) == {
        "as_of": END,
        "watermark": END,
        "window_start": START,
        "window_end": END,
        "window_days": 10,
    }


def test_only_columns_of_the_spec_and_the_suite_are_read(world: World) -> None:
    assert columns_to_read(world.spec, SUITE, world.manifest) == ("id", "time", "y", "x", "day", "unit")
    everything = {"expectations": [{"type": "expect_table_columns_to_match_set", "kwargs": {"column_set": ["x"]}}]}
    assert set(columns_to_read(world.spec, everything, world.manifest)) == set(good_frame().columns)
    kwargs = {"column_A": "x", "column_B": "nope", "row_condition": 'unused.notnull() and unit == "m"'}
    pairs = {"expectations": [{"type": "expect_column_pair_values_to_be_equal", "kwargs": kwargs}]}
    assert set(columns_to_read(world.spec, pairs, world.manifest)) == set(good_frame().columns)
