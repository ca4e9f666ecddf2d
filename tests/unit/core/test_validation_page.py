from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import jinja2
import pytest

from perennial.domain.manifest import Manifest, ManifestFile, UnusableFile
from perennial.domain.times import Interval
from perennial.domain.windows import DataWindows
from perennial.ports import ExpectationResult
from perennial.reports.expectation_words import expected, found, label
from perennial.reports.page import figure, percent, render, size, when
from perennial.reports.validation_page import validation_page
from perennial.spec import ModelSpec
from perennial.validation_result import Check, ValidationResult

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
START = datetime(2013, 1, 1, tzinfo=UTC)
SPEC = ModelSpec.model_validate(
    {
        "name": "toy",
        "description": f"A toy {HOSTILE}",
        "owner": f"nobody {HOSTILE}",
        "task": "regression",
        "data": {
            "landing": "s3://land/toy/",
            "time_column": "time",
            "label_column": "y",
            "key_columns": ["id"],
            "feature_columns": ["x"],
            "windows": {"training": "8d", "holdout": "2d"},
        },
        "validation": {"suite": "toy.json"},
        "training": {"estimator": "a:b"},
        "evaluation": {"primary": "rmse"},
        "gate": {"rule": {"kind": "superiority"}, "cluster_by": "day"},
    }
)
MANIFEST = Manifest(
    model="toy",
    landing="s3://land/toy/",
    watermark=START + timedelta(days=10),
    windows=DataWindows(
        training=Interval(START, START + timedelta(days=8)),
        holdout=Interval(START + timedelta(days=8), START + timedelta(days=10)),
    ),
    schema={"x": "double"},
    files=(
        ManifestFile(
            key="a.parquet",
            object_uri="s3://store/a",
            sha256="0" * 64,
            size_bytes=1_234_567,
            rows=1000,
            first_row=START,
            last_row=START,
        ),
    ),
)


def outcome(expectation: str = "expect_column_values_to_be_between", **changes: Any) -> ExpectationResult:
    values: dict[str, Any] = {
        "expectation": expectation,
        "column": "x",
        "success": True,
        "detail": {"kwargs": {"column": "x", "min_value": 0}, "observed": {"element_count": 1000}},
    }
    return ExpectationResult(**{**values, **changes})


def failed(**changes: Any) -> ExpectationResult:
    return outcome(**{"success": False, "unexpected_count": 12, "examples": [-1.0, -2.0], **changes})


def page(*checks: Check, manifest: Manifest = MANIFEST, **changes: Any) -> str:
    result = ValidationResult(
        model="toy",
        success=all(check.outcome.success for check in checks),
        snapshot_uri="s3://store/snapshots/toy/1.json",
        snapshot_sha256="ab" * 32,
        suite="toy.json",
        suite_sha256="cd" * 32,
        perennial_version="0.1.0",
        parameters={"window_days": 10},
        window=("2013-01-01T00:00:00Z", "2013-01-11T00:00:00Z"),
        rows=1000,
        columns=("x",),
        checks=checks,
    )
    return validation_page(SPEC, manifest, replace(result, **changes)).decode()


class Tags(HTMLParser):
    """Collects a page's tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in {"meta", "br"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words += f"{data} "


def text(html: str) -> str:
    return re.sub(r"[ \n]+", " ", Tags(html).words).replace(" .", ".").replace(" ,", ",")


def test_hostile_values_are_escaped_wherever_they_come_from() -> None:
    hostile = failed(
        column=HOSTILE,
        expectation=f"expect_{HOSTILE}",
        detail={
            "kwargs": {"column": HOSTILE, HOSTILE: HOSTILE},
            "observed": {"element_count": 1000, "lowest": HOSTILE, "highest": "b"},
        },
        examples=[HOSTILE, {HOSTILE: HOSTILE}],
        notes=HOSTILE,
    )
    unknown = failed(error=HOSTILE)
    manifest = replace(
        MANIFEST,
        landing=f"s3://{HOSTILE}",
        unusable=(UnusableFile(key=HOSTILE, why=HOSTILE, detail=HOSTILE),),
    )
    html = page(
        Check(outcome=hostile, source="suite", example_rows=({HOSTILE: HOSTILE},)),
        Check(outcome=unknown, source="suite"),
        Check(outcome=outcome(notes=HOSTILE), source="suite"),
        manifest=manifest,
        suite=HOSTILE,
        parameters={HOSTILE: HOSTILE},
        quarantine_uri=HOSTILE,
        faulty_rows=12,
    )
    tags = Tags(html)
    assert not {"script", "img"} & set(tags.tags)
    assert "onerror" not in tags.attributes
    assert tags.words.count("<script>alert('x')</script>") >= 15


def test_page_loads_nothing_and_runs_nothing() -> None:
    html = page(Check(outcome=failed(), source="suite"))
    assert not {"script", "link", "img", "iframe", "object"} & set(Tags(html).tags)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_failed_page_says_verdict_first_then_what_failed_then_what_next() -> None:
    check = Check(
        outcome=failed(notes="Metres."),
        source="suite",
        example_rows=({"id": "r7", "time": None},),
        rows_between=("2013-01-02T03:04:00Z", "2013-01-03T00:00:00Z"),
    )
    words = text(page(check, quarantine_uri="s3://store/q.parquet", faulty_rows=12))
    in_order = [
        "DATA REFUSED",
        "1 of 1 expectations failed on 1,000 rows; 12 rows (1.2\N{NARROW NO-BREAK SPACE}%) are at fault.",
        "the champion stays",
        "What failed",
        "x is at least 0",
        "12 of 1,000 rows (1.2\N{NARROW NO-BREAK SPACE}%) break this, from 2013-01-02 03:04 UTC to 2013-01-03",
        "Metres.",
        "Such as -1 -2",
        "r7 empty",
        "What happens next",
        "s3://store/q.parquet",
        "s3://land/toy/",
        "The data",
        "2013-01-09 00:00 UTC to 2013-01-11 00:00 UTC",
    ]
    positions = [words.index(part) for part in in_order]
    assert positions == sorted(positions)


def test_passed_page_says_so_and_offers_no_repair() -> None:
    words = text(page(Check(outcome=outcome(), source="suite")))
    assert "All 1 expectations hold on 1,000 rows." in words
    assert "DATA ACCEPTED" in words
    assert "What happens next" not in words
    assert "What failed" not in words


def test_table_expectation_shows_the_value_found() -> None:
    count = outcome(
        "expect_table_row_count_to_be_between",
        column=None,
        success=False,
        detail={"kwargs": {"min_value": 5000}, "observed": {"observed_value": 1000}},
    )
    words = text(page(Check(outcome=count, source="suite")))
    assert "the number of rows is at least 5000" in words
    assert "Found 1000" in words
    assert "no single row is to blame" in words


def test_empty_frame_renders() -> None:
    assert "on 0 rows" in text(page(Check(outcome=failed(detail={}), source="perennial"), rows=0))


def test_many_unusable_files_are_cut_refused_first() -> None:
    pending = [UnusableFile(key=f"p{n}", why="empty", detail="0 rows") for n in range(60)]
    refused = UnusableFile(key="zzz", why="not_parquet", detail="magic bytes missing")
    words = text(
        page(Check(outcome=outcome(), source="suite"), manifest=replace(MANIFEST, unusable=(*pending, refused)))
    )
    assert words.index("zzz") < words.index("p0")
    assert "and 11 more" in words


def test_same_result_gives_the_same_bytes_also_after_a_round_trip() -> None:
    checks = (
        Check(
            outcome=failed(), source="suite", example_rows=({"id": "r7"},), rows_between=("2013-01-02", "2013-01-03")
        ),
    )
    result = ValidationResult(
        model="toy",
        success=False,
        snapshot_uri="",
        snapshot_sha256="",
        suite="",
        suite_sha256="",
        perennial_version="",
        parameters={},
        window=("2013-01-01T00:00:00Z", "2013-01-11T00:00:00Z"),
        rows=1,
        columns=("x",),
        checks=checks,
    )
    again = ValidationResult.from_bytes(result.to_bytes())
    assert again.to_bytes() == result.to_bytes()
    assert validation_page(SPEC, MANIFEST, again) == validation_page(SPEC, MANIFEST, result)


def test_value_missing_from_the_context_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render("validation.html.j2", spec=SPEC)


@pytest.mark.parametrize(
    ("expectation", "kwargs", "sentence"),
    [
        ("expect_column_values_to_be_between", {"min_value": 0, "max_value": 10}, "x is between 0 and 10"),
        ("expect_column_values_to_be_between", {"min_value": 7, "max_value": 7}, "x is 7"),
        (
            "expect_column_values_to_be_between",
            {"min_value": 0, "max_value": 12345, "strict_max": True},
            "x is at least 0 and less than 12,345",
        ),
        ("expect_column_values_to_be_between", {"max_value": 0.5, "strict_max": True}, "x is less than 0.5"),
        (
            "expect_column_values_to_not_be_null",
            {"mostly": 0.95},
            "x is never empty, in at least 95.0\N{NARROW NO-BREAK SPACE}% of rows",
        ),
        ("expect_column_values_to_be_in_set", {"value_set": ["a", "b"]}, "x is one of a, b"),
        ("expect_column_values_to_match_regex", {"regex": "^{a}{2}$"}, "x matches the pattern ^{a}{2}$"),
        ("expect_column_values_to_be_in_set", {}, "column values to be in set"),
        ("expect_my_own_thing", {"limit": 3}, "my own thing (limit: 3)"),
    ],
)
def test_expectation_reads_as_a_sentence(expectation: str, kwargs: dict[str, Any], sentence: str) -> None:
    assert expected(outcome(expectation, detail={"kwargs": kwargs})) == sentence


def test_finding_names_count_share_and_quoted_examples() -> None:
    seen = failed(
        examples=["", " UA"],
        unexpected_count=1,
        detail={"kwargs": {}, "observed": {"element_count": 100_000, "example_counts": [2, 1]}},
    )
    assert found(seen) == "1 of 100,000 rows (< 0.1\N{NARROW NO-BREAK SPACE}%), such as '' (2 times); ' UA'"
    assert found(failed(error="no such column")) == "could not be checked: no such column"
    assert label(seen) == "expect_column_values_to_be_between(x)"


def test_filters_write_for_people() -> None:
    assert [percent(share) for share in (None, float("nan"), 0.0, 1.0)] == [
        "\N{EN DASH}",
        "\N{EN DASH}",
        "0.0\N{NARROW NO-BREAK SPACE}%",
        "100.0\N{NARROW NO-BREAK SPACE}%",
    ]
    assert percent(0.9999) == "> 99.9\N{NARROW NO-BREAK SPACE}%"
    assert figure(0.123456) == "0.1235"
    assert figure(0.002, sign=True) == "+0.002"
    assert figure(None) == "\N{EN DASH}"
    assert when("2013-01-02T03:04:05+02:00") == "2013-01-02 01:04:05 UTC"
    assert [size(999), size(1500), size(25_000_000)] == ["999 B", "1.5 kB", "25 MB"]
