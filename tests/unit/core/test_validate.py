from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perennial.domain.fingerprint import sha256_of
from perennial.domain.manifest import Manifest, ManifestFile, UnusableFile
from perennial.domain.references import ModelRef, SnapshotRef, ValidationRef
from perennial.domain.run_request import RunRequest
from perennial.domain.times import Interval
from perennial.domain.windows import DataWindows
from perennial.errors import BadDataError, IntegrityError, SpecError
from perennial.ledger import Ledger
from perennial.ports import FittedTraining
from perennial.spec import ModelSpec
from perennial.stages.validate import columns_to_read, suite_parameters, validate_data
from perennial.testing.clock import FixedClock
from perennial.testing.registry import MemoryRegistry
from perennial.testing.store import FolderStore
from perennial.testing.validator import FakeValidator

ROOT = "s3://store/perennial"
START = datetime(2013, 1, 1, tzinfo=UTC)
SPLIT = START + timedelta(days=8)
END = START + timedelta(days=10)
SUITE: dict[str, Any] = {
    "name": "toy",
    "expectations": [
        {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 5}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_value": 0}, "notes": "Metres."},
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "time", "max_value": {"$PARAMETER": "window_end"}, "strict_max": True},
        },
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "unit", "value_set": ["m"]}},
    ],
}


def toy_spec(**data: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "toy",
            "description": "A toy.",
            "owner": "nobody",
            "task": "binary_classification",
            "data": {
                "landing": "s3://land/toy/",
                "time_column": "time",
                "label_column": "y",
                "key_columns": ["id"],
                "feature_columns": ["x"],
                "windows": {"training": "8d", "holdout": "2d"},
                **data,
            },
            "validation": {"suite": "toy.json"},
            "training": {"estimator": "a:b"},
            "evaluation": {"primary": "roc_auc"},
            "gate": {"rule": {"kind": "superiority"}, "cluster_by": "day"},
        }
    )


def good_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"r{n}" for n in range(20)],
            "time": pd.date_range(START, periods=20, freq="12h").astype("datetime64[us, UTC]"),
            "x": [float(n) for n in range(20)],
            "y": [n % 2 for n in range(20)],
            "day": [f"day{n // 2}" for n in range(20)],
            "unit": ["m"] * 20,
            "unused": [None] * 20,
        }
    )


class World:
    """A store with one snapshot, and everything that validate needs."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.store.add_bucket("store")
        self.clock = FixedClock(END)
        self.registry = MemoryRegistry()
        self.ledger = Ledger(self.store, ROOT, self.clock)
        self.validator = FakeValidator()
        self.spec = toy_spec()
        self.request = RunRequest(model="toy", run_id="run-1", as_of=END, trigger="manual")
        self.snapshot = self.take(good_frame())

    def take(self, frame: pd.DataFrame, unusable: tuple[UnusableFile, ...] = ()) -> SnapshotRef:
        buffer = BytesIO()
        frame.to_parquet(buffer, index=False)
        content = buffer.getvalue()
        uri = f"{ROOT}/objects/{sha256_of(content)}.parquet"
        self.store.write(uri, content, content_type="")
        self.manifest = Manifest(
            model="toy",
            landing="s3://land/toy/",
            watermark=END,
            windows=DataWindows(training=Interval(START, SPLIT), holdout=Interval(SPLIT, END)),
            schema=dict.fromkeys(frame.columns, "any"),
            files=(
                ManifestFile(
                    key="a.parquet",
                    object_uri=uri,
                    sha256=sha256_of(content),
                    size_bytes=len(content),
                    rows=len(frame),
                    first_row=START,
                    last_row=END,
                ),
            ),
            unusable=unusable,
        )
        manifest_uri = f"{ROOT}/snapshots/{self.manifest.sha256}.json"
        self.store.write(manifest_uri, self.manifest.to_bytes(), content_type="")
        return SnapshotRef(
            uri=manifest_uri,
            sha256=self.manifest.sha256,
            data_sha256=self.manifest.data_sha256,
            rows=len(frame),
            files=1,
            watermark=END,
            pending_files=0,
            refused_files=len(self.manifest.refused),
        )

    def validate(self, suite: dict[str, Any] = SUITE) -> ValidationRef:
        return validate_data(
            self.spec,
            self.request,
            self.snapshot,
            store=self.store,
            root=ROOT,
            ledger=self.ledger,
            registry=self.registry,
            clock=self.clock,
            validator=self.validator,
            suite=suite,
        )

    def published(self) -> dict[str, bytes]:
        found = self.store.list(f"{ROOT}/validations/")
        return {info.uri.rsplit("/", 1)[1]: self.store.read(info.uri) for info in found}

    def failing(self, suite: dict[str, Any] = SUITE) -> dict[str, Any]:
        with pytest.raises(BadDataError):
            self.validate(suite)
        result: dict[str, Any] = json.loads(self.published()["result.json"])
        return {f"{c['expectation']}({c['column']})": c for c in result["checks"] if not c["success"]}


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
