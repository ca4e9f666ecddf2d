"""What a run may be asked for, and references through JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.fingerprint import canonical_json, digest_of
from perennial.domain.references import ModelRef, SnapshotRef
from perennial.domain.run_request import (
    RollbackRequest,
    RunRequest,
    require_break_glass_allowed,
    training_params,
)
from perennial.domain.times import Interval, format_time, parse_time
from perennial.domain.windows import watermark_at, windows_at
from perennial.errors import NotAllowedError, RequestError
from perennial.spec.fields import format_duration, parse_duration
from perennial.spec.model import ModelSpec
from perennial.spec.parts import Approval
from tests.unit.core.test_spec_loader import VALID

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


def _spec(**params: Any) -> ModelSpec:
    return ModelSpec.model_validate({**VALID, "training": {**VALID["training"], "params": params}})


def _request(**changes: Any) -> RunRequest:
    return RunRequest(**{"model": "churn", "run_id": "r", "as_of": NOON, "trigger": "manual", **changes})


def test_declared_parameter_of_the_same_type_overrides() -> None:
    assert training_params(_spec(depth=3, rate=0.1), _request(params={"rate": 1})) == {"depth": 3, "rate": 1}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dept": 4}, "declared: depth"),
        ({"depth": "deep"}, "expected int"),
        ({"depth": True}, "expected int"),
    ],
)
def test_override_the_spec_does_not_allow_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        training_params(_spec(depth=3), _request(params=params))


@pytest.mark.parametrize(
    "changes",
    [{"as_of": datetime(2013, 7, 1)}, {"trigger": "mood"}, {"reason": "x" * 501}],  # noqa: DTZ001
)
def test_request_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        _request(**changes)


def test_windows_hang_on_the_watermark_when_labels_are_ripe() -> None:
    windows = windows_at(NOON, NOON + timedelta(days=900), _spec().data)
    assert windows.holdout == Interval(NOON - timedelta(days=14), NOON)
    assert windows.training == Interval(NOON - timedelta(days=75), NOON - timedelta(days=15))


def test_holdout_ends_where_labels_have_matured() -> None:
    assert windows_at(NOON, NOON, _spec().data).holdout.end == NOON - timedelta(days=1)


def test_watermark_is_past_the_newest_row_but_never_past_as_of() -> None:
    row = NOON + timedelta(seconds=20)
    assert watermark_at(row, NOON + timedelta(hours=1)) == NOON + timedelta(minutes=1)
    assert watermark_at(row, NOON + timedelta(seconds=30)) == NOON + timedelta(seconds=30)


def test_reference_passes_through_json_unchanged() -> None:
    reference = ModelRef(
        model_uri="models:/m-1",
        run_id="r",
        digest="d",
        fingerprint="f",
        snapshot_sha256="s",
        training_start=NOON,
        training_end=NOON + timedelta(days=1),
        keys_sha256="k",
    )
    assert ModelRef.from_dict(json.loads(json.dumps(reference.to_dict()))) == reference
    with pytest.raises(ValueError, match="expected a snapshot reference"):
        SnapshotRef.from_dict(reference.to_dict())


@given(st.datetimes(timezones=st.just(timezone(timedelta(hours=-4)))))
def test_time_reads_back_in_utc(moment: datetime) -> None:
    assert parse_time(format_time(moment)) == moment


@given(st.integers(0, 10**7))
def test_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


def test_canonical_json_ignores_order_and_refuses_nan() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_interval_must_start_before_it_ends() -> None:
    with pytest.raises(ValueError, match="start before it ends"):
        Interval(NOON, NOON)


def _asking(by: str, why: str = "the champion predicts nonsense") -> RunRequest:
    return RunRequest(model="churn", run_id="r", as_of=NOON, trigger="manual", requested_by=by, break_glass=why)


@pytest.mark.parametrize(("allowed", "by"), [([], "ada"), (["grace"], "ada"), (["grace"], "")])
def test_glass_broken_by_somebody_who_is_not_named_is_refused(allowed: list[str], by: str) -> None:
    spec = _spec().model_copy(update={"approval": Approval.model_validate({"break_glass": allowed})})
    with pytest.raises(NotAllowedError, match=r"may not break the glass; the spec names (nobody|grace)"):
        require_break_glass_allowed(spec, _asking(by))
    require_break_glass_allowed(spec, _asking(by, why=""))


def test_glass_broken_by_somebody_who_is_named_is_allowed() -> None:
    spec = _spec().model_copy(update={"approval": Approval.model_validate({"break_glass": ["grace"]})})
    require_break_glass_allowed(spec, _asking("grace"))


@pytest.mark.parametrize("to", ["", "v3", "-1", "latest", "3.0", "\u0663"])
def test_rollback_to_what_is_no_version_is_refused(to: str) -> None:
    with pytest.raises(RequestError, match="not a version"):
        RollbackRequest(model="churn", run_id="r", as_of=NOON, trigger="manual", to=to)


def test_reason_for_breaking_the_glass_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestError, match="break_glass has 501 characters, at most 500"):
        _asking("grace", "x" * 501)
