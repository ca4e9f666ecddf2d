"""validate: the suite, and Perennial's own checks, on the rows that this run would learn from and be judged on.

The evidence is published before anybody hears of the verdict: the rows at fault, then the page, then the result, which
marks the other two as complete. A retry, or a later run over the same snapshot and suite, finds it and reuses it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from perennial import __version__
from perennial.domain.fingerprint import digest_of, sha256_of
from perennial.domain.json_values import json_ready
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.manifest import Manifest
from perennial.domain.references import SnapshotRef, ValidationRef
from perennial.domain.run_request import RunRequest
from perennial.domain.times import format_time
from perennial.errors import BadDataError, IntegrityError, SpecError
from perennial.ledger import Ledger
from perennial.ports import Clock, ExpectationResult, ModelRegistry, ObjectStore, Validator
from perennial.reports.expectation_words import expected, found, label
from perennial.reports.page import count
from perennial.reports.validation_page import validation_page
from perennial.spec.model import ModelSpec
from perennial.stages.data_checks import data_checks
from perennial.stages.frames import load_manifest, read_frame
from perennial.stages.quarantine import quarantine_bytes, rows_by_fault
from perennial.validation_result import Check, ValidationResult

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_EXAMPLE_ROWS: Final = 5
_NAMED_IN_ERROR: Final = 5
_COLUMN_ARGUMENTS: Final = ("column", "column_A", "column_B", "column_list")


def validate_data(
    spec: ModelSpec,
    request: RunRequest,
    snapshot: SnapshotRef,
    *,
    store: ObjectStore,
    root: str,
    ledger: Ledger,
    registry: ModelRegistry,
    clock: Clock,
    validator: Validator,
    suite: Mapping[str, Any],
) -> ValidationRef:
    """The published result of checking the snapshot's windows; returned only if the data passed.

    Or if the glass is broken: that run goes on with data that was refused, with its evidence published all the same.

    Raises:
        BadDataError: some expectation failed. Result, page and rows at fault were published, the refusal recorded.
        SpecError: the suite is not a valid suite.
        IntegrityError: there is a result already, and it cannot be read.
    """
    manifest = load_manifest(store, snapshot)
    parameters = suite_parameters(request, manifest)
    used = json_ready({name: parameters[name] for name in sorted(_parameter_names(suite) & set(parameters))})
    folder = f"{root}/validations/{spec.name}/{_key(spec, snapshot, suite, used)}"
    uri = f"{folder}/result.json"
    if store.head(uri) is None:
        frame = _read(spec, suite, manifest, store)
        checks = _run_checks(spec, manifest, frame, validator, suite, parameters)
        _publish(spec, manifest, _sum_up(spec, snapshot, manifest, suite, used, checks, frame), frame, store, folder)
    content = store.read(uri)
    result = _read_result(uri, content)
    reference = ValidationRef(
        uri=uri,
        sha256=sha256_of(content),
        page_uri=f"{folder}/page.html",
        success=result.success,
        expectations=len(result.checks),
        failed=len(result.failed),
        quarantine_uri=result.quarantine_uri,
    )
    if not result.success and request.break_glass:
        _log.warning(
            "%s %s validate: %s broke the glass (%s): going on with data that was refused. %s Page: %s",
            spec.name,
            request.run_id,
            request.requested_by,
            request.break_glass,
            _summary(result),
            reference.page_uri,
        )
        return reference
    if not result.success:
        _record_refusal(spec, request, snapshot, reference, result, ledger, registry, clock)
        raise BadDataError(_message(reference, result), page_uri=reference.page_uri)
    _log.info("%s %s validate: all %d expectations hold", spec.name, request.run_id, reference.expectations)
    return reference


def suite_parameters(request: RunRequest, manifest: Manifest) -> dict[str, Any]:
    """What a suite may refer to as `{"$PARAMETER": ...}`: aware times, and the windows' length in whole days."""
    whole = manifest.windows.whole
    return {
        "as_of": request.as_of,
        "watermark": manifest.watermark,
        "window_start": whole.start,
        "window_end": whole.end,
        "window_days": (whole.end - whole.start) // timedelta(days=1),
    }


def columns_to_read(spec: ModelSpec, suite: Mapping[str, Any], manifest: Manifest) -> tuple[str, ...]:
    """The spec's columns and those that the suite names, as far as the snapshot has them.

    Expectations on the set of columns see all of them.
    """
    wanted = dict.fromkeys(spec.needed_columns)
    for entry in suite["expectations"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("kwargs", {}), dict):
            continue  # the validator will say what is wrong with it
        kwargs = entry.get("kwargs", {})
        if str(entry.get("type", "")).startswith("expect_table_column"):
            wanted |= dict.fromkeys(manifest.schema)
        for argument in _COLUMN_ARGUMENTS:
            given = kwargs.get(argument, [])
            wanted |= dict.fromkeys(map(str, given if isinstance(given, list) else [given]))
        condition = str(kwargs.get("row_condition") or "")
        wanted |= dict.fromkeys(name for name in manifest.schema if name in condition)
    return tuple(column for column in wanted if column in manifest.schema)


def _parameter_names(suite: Mapping[str, Any]) -> set[str]:
    kwargs = (entry.get("kwargs") or {} for entry in suite["expectations"] if isinstance(entry, dict))
    values = (value for given in kwargs if isinstance(given, dict) for value in given.values())
    expressions = (str(value["$PARAMETER"]) for value in values if isinstance(value, dict) and "$PARAMETER" in value)
    return {name for expression in expressions for name in re.findall(r"[A-Za-z_]\w*", expression)}


def _key(spec: ModelSpec, snapshot: SnapshotRef, suite: Mapping[str, Any], used: Mapping[str, Any]) -> str:
    """The same for the same data, expectations and version of Perennial. `as_of` counts only if the suite uses it."""
    return digest_of(
        {
            "snapshot": snapshot.sha256,
            "suite": suite,
            "parameters": used,
            "perennial": __version__,
            "task": spec.task,
            "columns": spec.needed_columns,
            "keys": spec.data.key_columns,
            "time": spec.data.time_column,
            "label": spec.data.label_column,
            "on_refused_file": spec.data.on_refused_file,
        }
    )[:32]


def _read(spec: ModelSpec, suite: Mapping[str, Any], manifest: Manifest, store: ObjectStore) -> pd.DataFrame:
    columns = columns_to_read(spec, suite, manifest)
    return read_frame(store, manifest, columns, manifest.windows.whole, time_column=spec.data.time_column)


def _run_checks(
    spec: ModelSpec,
    manifest: Manifest,
    frame: pd.DataFrame,
    validator: Validator,
    suite: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> list[Check]:
    """The suite's outcomes, then Perennial's own; what a suite's failed expectation says already is not said twice."""
    try:
        outcomes = validator.validate(frame, suite, parameters).results
    except SpecError as error:
        raise SpecError([replace(problem, file=spec.validation.suite) for problem in error.problems]) from error
    told = {(outcome.expectation, outcome.column) for outcome in outcomes if not outcome.success}
    own = (o for o in data_checks(spec, manifest, frame) if o.success or (o.expectation, o.column) not in told)
    return [
        *(_check(spec, frame, outcome, "suite") for outcome in outcomes),
        *(_check(spec, frame, outcome, "perennial") for outcome in own),
    ]


def _check(
    spec: ModelSpec, frame: pd.DataFrame, outcome: ExpectationResult, source: Literal["suite", "perennial"]
) -> Check:
    if outcome.success or not outcome.rows:
        return Check(outcome=outcome, source=source)
    columns = [column for column in (*spec.data.key_columns, spec.data.time_column) if column in frame]
    rows = frame[list(dict.fromkeys(columns))].iloc[list(outcome.rows)]
    times = rows[spec.data.time_column]
    return Check(
        outcome=outcome,
        source=source,
        example_rows=tuple(json_ready(row) for row in rows.head(_EXAMPLE_ROWS).to_dict("records")),
        rows_between=(json_ready(times.min()), json_ready(times.max())),
    )


def _sum_up(
    spec: ModelSpec,
    snapshot: SnapshotRef,
    manifest: Manifest,
    suite: Mapping[str, Any],
    used: Mapping[str, Any],
    checks: Sequence[Check],
    frame: pd.DataFrame,
) -> ValidationResult:
    whole = manifest.windows.whole
    return ValidationResult(
        model=spec.name,
        success=all(check.outcome.success for check in checks),
        snapshot_uri=snapshot.uri,
        snapshot_sha256=snapshot.sha256,
        suite=spec.validation.suite,
        suite_sha256=digest_of(suite),
        perennial_version=__version__,
        parameters=used,
        window=(format_time(whole.start), format_time(whole.end)),
        rows=len(frame),
        columns=tuple(str(column) for column in frame.columns),
        checks=tuple(checks),
    )


def _publish(
    spec: ModelSpec,
    manifest: Manifest,
    result: ValidationResult,
    frame: pd.DataFrame,
    store: ObjectStore,
    folder: str,
) -> None:
    """Rows at fault, page, result, in this order."""
    faults = rows_by_fault(check.outcome for check in result.failed)
    if faults:
        uri = f"{folder}/quarantine.parquet"
        result = replace(result, faulty_rows=len(faults), quarantine_uri=uri)
        store.write(uri, quarantine_bytes(frame, faults), content_type="application/vnd.apache.parquet")
    page = validation_page(spec, manifest, result)
    store.write(f"{folder}/page.html", page, content_type="text/html; charset=utf-8")
    store.write(f"{folder}/result.json", result.to_bytes(), content_type="application/json", if_absent=True)


def _read_result(uri: str, content: bytes) -> ValidationResult:
    try:
        return ValidationResult.from_bytes(content)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{uri} is not a validation result ({type(error).__name__}: {error}); find out who wrote it, delete it, "
            f"and run again"
        ) from error


def _record_refusal(
    spec: ModelSpec,
    request: RunRequest,
    snapshot: SnapshotRef,
    reference: ValidationRef,
    result: ValidationResult,
    ledger: Ledger,
    registry: ModelRegistry,
    clock: Clock,
) -> None:
    version = registry.champion_version(spec.name)
    entry = LedgerEntry(
        kind="refused",
        model=spec.name,
        recorded_at=clock.now(),
        request=request.to_dict(),
        evidence_sha256=reference.sha256,
        summary=_summary(result),
        champion_before=version,
        champion_after=version,
        reasons=[_reason(check.outcome) for check in result.failed],
        page_uri=reference.page_uri,
        references={ref.kind: ref.to_dict() for ref in (snapshot, reference)},
    )
    ledger.append(entry)


def _summary(result: ValidationResult) -> str:
    named = [_counted(check.outcome) for check in result.failed]
    more = f" and {len(named) - _NAMED_IN_ERROR} more" if len(named) > _NAMED_IN_ERROR else ""
    return (
        f"Data refused: {len(named)} of {len(result.checks)} expectations failed on {count(result.rows)} rows: "
        f"{', '.join(named[:_NAMED_IN_ERROR])}{more}."
    )


def _counted(outcome: ExpectationResult) -> str:
    return f"{label(outcome)}" + (f" {count(outcome.unexpected_count)} times" if outcome.unexpected_count else "")


def _reason(outcome: ExpectationResult) -> str:
    return f"{label(outcome)}: expected that {expected(outcome)}; {found(outcome) or 'that does not hold'}."


def _message(reference: ValidationRef, result: ValidationResult) -> str:
    named = [_reason(check.outcome) for check in result.failed]
    more = [f"... and {len(named) - _NAMED_IN_ERROR} more."] if len(named) > _NAMED_IN_ERROR else []
    start, end = result.window
    evidence = [f"Page: {reference.page_uri}"]
    if reference.quarantine_uri:
        evidence.append(f"The {count(result.faulty_rows)} rows at fault: {reference.quarantine_uri}")
    return "\n".join(
        [
            f"{result.model}: {reference.failed} of {reference.expectations} expectations failed on "
            f"{count(result.rows)} rows of [{start}, {end}). Nothing was trained, the champion stays.",
            *named[:_NAMED_IN_ERROR],
            *more,
            *evidence,
            "Correct the files in the landing zone (or the suite, if it is wrong), then start a new run.",
        ]
    )
