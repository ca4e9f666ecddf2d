"""The page that says whether the data was good enough, and what is wrong with it."""

from __future__ import annotations

from typing import Any, Final

from perennial.domain.manifest import REFUSED, Manifest, UnusableFile
from perennial.domain.times import format_time
from perennial.reports.expectation_words import example_texts, expected, found, share_at_fault
from perennial.reports.page import render
from perennial.spec.model import ModelSpec
from perennial.validation_result import Check, ValidationResult

_SHOWN_FILES: Final = 50
_SHOWN_EXAMPLES: Final = 6
_WHY: Final = {
    "still_being_written": "still being written",
    "empty": "empty",
    "not_parquet": "not Parquet",
    "schema_changed": "schema changed",
}


def validation_page(spec: ModelSpec, manifest: Manifest, result: ValidationResult) -> bytes:
    """Self-contained HTML: verdict, failed expectations, what happens next, passed ones, facts about the data."""
    windows = manifest.windows
    unusable = sorted(manifest.unusable, key=lambda file: (file.why not in REFUSED, file.key))
    return render(
        "validation.html.j2",
        spec=spec,
        result=result,
        manifest=manifest,
        failed=[_view(check) for check in result.failed],
        passed=[_view(check) for check in result.passed],
        training=(format_time(windows.training.start), format_time(windows.training.end)),
        holdout=(format_time(windows.holdout.start), format_time(windows.holdout.end)),
        size_bytes=sum(file.size_bytes for file in manifest.files),
        unusable=[_file(file) for file in unusable[:_SHOWN_FILES]],
        unusable_left_out=max(0, len(unusable) - _SHOWN_FILES),
    )


def _view(check: Check) -> dict[str, Any]:
    outcome = check.outcome
    observed = outcome.detail.get("observed", {})
    return {
        "sentence": expected(outcome),
        "expectation": outcome.expectation,
        "column": outcome.column,
        "source": check.source,
        "notes": outcome.notes,
        "error": outcome.error,
        "found": found(outcome, examples=False),
        "observed": observed,
        "unexpected": outcome.unexpected_count,
        "element_count": observed.get("element_count"),
        "share": share_at_fault(outcome),
        "examples": example_texts(outcome)[:_SHOWN_EXAMPLES],
        "example_rows": check.example_rows,
        "rows_between": check.rows_between,
    }


def _file(file: UnusableFile) -> dict[str, Any]:
    return {"key": file.key, "why": _WHY.get(file.why, file.why), "refused": file.why in REFUSED, "detail": file.detail}
