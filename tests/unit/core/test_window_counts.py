"""Counting a window of the prediction log: which rows count for what, whatever the objects look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perennial.domain.counting import build_category_profile, build_number_profile
from perennial.domain.profile import ColumnProfile, HoldoutProfile, Profile, SliceProfile
from perennial.domain.times import Interval
from perennial.domain.traffic import Role
from perennial.errors import StoreUnavailableError
from perennial.prediction_objects import predictions_path
from perennial.serving.prediction_log import encoded
from perennial.spec.model import ModelSpec
from perennial.stages import window_counts
from perennial.stages.window_counts import VersionCounts, count_window
from perennial.testing import FolderStore
from tests.unit.core.serving.logged import NOON, ROOT, request
from tests.unit.core.test_spec_loader import VALID

HOUR = Interval(NOON, NOON + timedelta(hours=1))
AGE = build_number_profile("age", np.arange(20.0, 60.0))
PLAN = build_category_profile("plan", np.array([0, 0, 1]), ["basic", "gold"])
SCORE = build_number_profile("score", np.linspace(0, 1, 11))


def spec(**deployment: Any) -> ModelSpec:
    return ModelSpec.model_validate({**VALID, "deployment": {"kind": "scoring_service", **deployment}})


def profile(*columns: ColumnProfile, slices: tuple[SliceProfile, ...] = ()) -> Profile:
    return Profile(model="churn", fingerprint="f", rows=40, columns=columns, slices=slices)


def holdout(*scores: Any) -> HoldoutProfile:
    return HoldoutProfile(
        model="churn", fingerprint="f", rows=11, holdout_sha256="0", scores=scores, performance=(), confidence=0.9
    )


@dataclass
class Log:
    """Objects as the scoring service writes them."""

    folder: Path
    store: FolderStore = field(init=False)
    objects: int = 0

    def __post_init__(self) -> None:
        self.store = FolderStore(self.folder)
        self.store.add_bucket("bucket")

    def put(self, *requests: Any) -> None:
        """One object; its requests are of one version and day."""
        self.objects += 1
        path = predictions_path("churn", requests[0].at, requests[0].version)
        uri = f"{ROOT}/{path}replica-{self.objects:06d}.parquet"
        self.store.write(uri, encoded(requests), content_type="application/octet-stream")

    def count(
        self,
        references: Mapping[str, tuple[Profile | None, HoldoutProfile | None]] | None = None,
        *,
        during: Interval = HOUR,
        spec: ModelSpec = spec(),  # noqa: B008
    ) -> tuple[VersionCounts, ...]:
        known = {"3": (profile(AGE, PLAN), holdout(SCORE))} if references is None else references

        def reference_of(version: str) -> tuple[Profile | None, HoldoutProfile | None]:
            return known.get(version, (None, None))

        return count_window(spec, during, store=self.store, root=ROOT, reference_of=reference_of)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_window_without_a_log_has_no_versions(log: Log) -> None:
    assert log.count() == ()


def test_rows_requests_and_latencies_are_counted(log: Log) -> None:
    log.put(request(1, rows=3, latency_ms=2.0), request(2, latency_ms=8.0))
    (counts,) = log.count()
    assert (counts.version, counts.rows, counts.requests, counts.failed) == ("3", 4, 2, 0)
    assert counts.roles == {"champion": 4}
    assert counts.latency.quantile(1.0) == pytest.approx(8.0, rel=0.01)
    assert counts.newest == NOON + timedelta(milliseconds=2)
    assert counts.columns["age"].counts.sum() == 4
    assert counts.columns["age"].total == 31 * 3 + 32
    assert counts.columns["plan"].counts.tolist() == [4, 0, 0]


def test_only_rows_within_the_window_count(log: Log) -> None:
    moments = [timedelta(seconds=-1), timedelta(0), timedelta(minutes=59), timedelta(hours=1)]
    log.put(*(request(number, at=NOON + moment) for number, moment in enumerate(moments)))
    (counts,) = log.count()
    assert counts.rows == 2
    assert counts.columns["age"].total == 31 + 32


def test_window_over_midnight_reads_both_days(log: Log) -> None:
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    for moment in (midnight - timedelta(minutes=1), midnight + timedelta(minutes=1)):
        log.put(request(at=moment))
    (counts,) = log.count(during=Interval(midnight - timedelta(hours=1), midnight + timedelta(hours=1)))
    assert counts.rows == 2


def test_versions_are_counted_apart_most_rows_first(log: Log) -> None:
    log.put(request(1, version="3", features={"age": [50], "plan": ["gold"]}))
    log.put(*(request(number, version="4", role=Role.CANARY) for number in range(3)))
    first, second = log.count()
    assert [(counts.version, counts.rows) for counts in (first, second)] == [("4", 3), ("3", 1)]
    assert first.columns == {}
    assert second.columns["plan"].counts.tolist() == [0, 1, 0]


def test_shadow_copies_count_for_scores_alone(log: Log) -> None:
    log.put(request(1, role=Role.SHADOW, predictions=[[0.1, 0.9]]), request(2, role=Role.CANARY))
    (counts,) = log.count()
    assert (counts.rows, counts.requests) == (1, 1)
    assert counts.roles == {"shadow": 1, "canary": 1}
    assert counts.columns["age"].counts.sum() == 1
    assert counts.scores["score"].total == pytest.approx(0.9 + 0.25)


def test_failed_requests_are_counted_by_kind_and_have_no_features(log: Log) -> None:
    failed = {"features": {}, "predictions": None}
    log.put(
        request(1),
        request(2, error="timeout: 30 s", **failed),
        request(3, error="model_failed: x", **failed),
        request(4, error="model_failed: y", **failed),
    )
    (counts,) = log.count()
    assert (counts.requests, counts.failed, counts.rows) == (4, 3, 1)
    assert list(counts.errors.items()) == [("model_failed", 2), ("timeout", 1)]
    assert counts.columns["age"].missing == 0
    assert counts.scores["score"].missing == 0


def test_object_of_failed_requests_only_is_counted(log: Log) -> None:
    log.put(request(1, error="timeout: 30 s", features={}, predictions=None))
    (counts,) = log.count()
    assert (counts.rows, counts.failed) == (0, 1)
    assert counts.columns["age"].counts.sum() + counts.columns["age"].missing == 0


def test_column_that_nobody_sent_is_missing_in_all_rows(log: Log) -> None:
    log.put(request(1, features={"age": [None]}), request(2, features={"age": [None]}))
    (counts,) = log.count()
    assert (counts.columns["age"].missing, counts.columns["plan"].missing) == (2, 2)


def test_feature_kept_out_of_the_log_is_not_counted_as_missing(log: Log) -> None:
    log.put(request(1, features={"age": [30]}))
    inside = SliceProfile(column="plan", level="gold", rows=1, columns=(AGE,))
    (counts,) = log.count({"3": (profile(AGE, PLAN, slices=(inside,)), None)}, spec=spec(log={"exclude": ["plan"]}))
    assert list(counts.columns) == ["age"]
    assert counts.slices == {}


def test_objects_of_other_types_are_counted_together(log: Log) -> None:
    for values in ([30], [30.5], [None], [True]):
        log.put(request(features={"age": values, "plan": ["gold"]}))
    (counts,) = log.count()
    assert counts.columns["age"].counts.sum() == 3
    assert counts.columns["age"].total == 30 + 30.5 + 1
    assert counts.columns["age"].missing == 1


def test_text_in_a_numbers_place_is_unreadable_and_a_number_written_as_text_is_not(log: Log) -> None:
    log.put(request(1, features={"age": ["old"]}), request(2, features={"age": [33.5]}))
    (counts,) = log.count({"3": (profile(AGE), None)})
    ages = counts.columns["age"]
    assert (ages.unreadable, ages.unseen, ages.total) == (1, 1, 33.5)
    assert ages.counts[-1] == 1


def test_booleans_and_numbers_are_categories_by_their_text(log: Log) -> None:
    paid = build_category_profile("plan", np.array([0, 1, 2]), ["true", "false", "7"])
    for value in (True, False, 7, 7.0, None):
        log.put(request(features={"plan": [value]}))
    (counts,) = log.count({"3": (profile(paid), None)})
    assert dict(zip((*paid.levels, "other"), counts.columns["plan"].counts.tolist(), strict=True)) == {
        "7": 2,
        "false": 1,
        "true": 1,
        "other": 0,
    }
    assert counts.columns["plan"].missing == 1


def test_feature_named_as_a_column_of_the_log_is_found(log: Log) -> None:
    log.put(request(1, features={"row": [44]}))
    (counts,) = log.count({"3": (profile(build_number_profile("row", np.arange(9.0))), None)})
    assert counts.columns["row"].total == 44


def test_slices_count_their_own_rows_as_their_own_profile_says(log: Log) -> None:
    older = build_number_profile("age", np.arange(40.0, 60.0), bins=4)
    inside = SliceProfile(column="plan", level="gold", rows=20, columns=(older, PLAN))
    unused = SliceProfile(column="plan", level="silver", rows=20, columns=(older, PLAN))
    log.put(request(rows=4, features={"age": [20, 41, 59, 30], "plan": ["basic", "gold", "gold", None]}))
    (counts,) = log.count({"3": (profile(AGE, PLAN, slices=(inside, unused)), None)})
    gold = counts.slices["plan", "gold"]
    assert gold.rows == 2
    assert gold.columns["age"].counts.tolist() == [1, 0, 0, 1]
    assert gold.columns["plan"].counts.tolist() == [0, 2, 0]
    assert counts.slices["plan", "silver"].rows == 0


@pytest.mark.parametrize(
    ("task", "primary", "names", "predictions", "totals", "missing"),
    [
        ("regression", "mae", ["prediction"], [1.5, 2.0, None, float("nan")], [3.5], 2),
        ("binary_classification", "roc_auc", ["score"], [[0.2, 0.8], [0.5, 0.5], None, [float("nan")] * 2], [1.3], 2),
        ("multiclass_classification", "log_loss", ["a", "b"], [[0.2, 0.7, 0.1], [0.5, 0.5, 0.0], None], [0.7, 1.2], 1),
    ],
)
def test_scores_are_counted_as_the_task_has_them(
    log: Log, task: str, primary: str, names: list[str], predictions: list[Any], totals: list[float], missing: int
) -> None:
    log.put(*(request(number, predictions=[given]) for number, given in enumerate(predictions)))
    gate = {"rule": {"kind": "superiority", "min_effect": 0.01}, "cluster_by": "day"}
    evaluation = {"primary": primary}
    own = ModelSpec.model_validate(
        {**spec().model_dump(mode="json"), "task": task, "gate": gate, "evaluation": evaluation}
    )
    profiles = [build_number_profile(name, np.linspace(0, 3, 10)) for name in names]
    (counts,) = log.count({"3": (None, holdout(*profiles))}, spec=own)
    assert [counts.scores[name].total for name in names] == pytest.approx(totals)
    assert {counts.scores[name].missing for name in names} == {missing}
    assert counts.rows == len(predictions)


def test_objects_written_before_the_window_are_not_read(log: Log) -> None:
    log.put(request(1))
    later = Interval(datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) + timedelta(hours=2))
    for path in log.folder.rglob("*.parquet"):
        path.write_bytes(b"not to be read")
    assert log.count(during=later) == ()


@pytest.mark.parametrize("cut", [0, 300])
def test_object_that_a_crash_cut_off_is_left_out_and_named(log: Log, cut: int) -> None:
    log.put(request(1))
    log.put(request(2))
    path = min(log.folder.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:cut])
    (counts,) = log.count()
    assert counts.rows == 1
    assert [uri.rpartition("/")[2] for uri in counts.unreadable] == [path.name]


def test_table_that_is_no_log_is_left_out_and_named(log: Log) -> None:
    log.put(request(1))
    path = next(log.folder.rglob("*.parquet"))
    pd.DataFrame({"at": [1], "age": [2]}).to_parquet(path)
    (counts,) = log.count()
    assert (counts.rows, counts.newest, len(counts.unreadable)) == (0, None, 1)


def test_many_objects_in_small_batches_count_as_one_frame(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_counts, "_BATCH_ROWS", 7)
    monkeypatch.setattr(window_counts, "WHOLE_BYTES", 0)  # so that no object is fetched whole
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(10, 80, 300), "plan": rng.choice(["basic", "gold", "tin"], 300)})
    for start in range(0, 300, 10):
        part = frame[start : start + 10].astype(object).to_dict("list")
        log.put(request(start, rows=10, features=part))
    (counts,) = log.count()
    assert counts.rows == 300
    assert counts.columns["plan"].counts.tolist() == [
        int((frame["plan"] == one).sum()) for one in ("basic", "gold", "tin")
    ]
    assert counts.columns["age"].total == frame["age"].sum()
    assert counts.columns["age"].unseen == int((~frame["age"].between(20, 59)).sum())
    assert counts.columns["plan"].unseen == int((frame["plan"] == "tin").sum())


class Down(FolderStore):
    """Answers some reads, then no more."""

    def __init__(self, root: Path, answers: int) -> None:
        super().__init__(root)
        self.answers = answers

    def arrow(self, uri: str) -> Any:
        self.answers -= 1
        if self.answers < 0:
            raise StoreUnavailableError(f"cannot read {uri}: connection refused")
        return super().arrow(uri)


def test_store_that_goes_down_ends_the_look_at_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_counts, "_WORKERS", 2)
    for number in range(20):
        log.put(request(number))
    log.store = Down(log.folder, answers=3)
    with pytest.raises(StoreUnavailableError):
        log.count()
    assert log.store.answers >= -2  # no more than one further try of the other worker


def test_each_version_is_asked_for_its_profiles_once(log: Log) -> None:
    for number in range(5):
        log.put(request(number, version="3"))
        log.put(request(number, version="4", role=Role.SHADOW))
    asked: list[str] = []

    def reference_of(version: str) -> tuple[Profile | None, HoldoutProfile | None]:
        asked.append(version)
        return None, None

    found = count_window(spec(), HOUR, store=log.store, root=ROOT, reference_of=reference_of)
    assert sorted(asked) == ["3", "4"]
    assert [(counts.version, counts.rows) for counts in found] == [("3", 5), ("4", 0)]
