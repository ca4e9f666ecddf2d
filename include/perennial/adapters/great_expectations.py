"""Runs expectation suites with Great Expectations on one pandas frame.

Great Expectations takes seconds to import, so it is imported at the first validation, not with this module.
"""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from perennial.domain.faulty_values import MAX_EXAMPLES, faulty_values
from perennial.domain.json_values import json_ready
from perennial.errors import SpecError, SpecProblem
from perennial.ports import ExpectationResult, SuiteResult

if TYPE_CHECKING:
    import pandas as pd

_PARAMETER: Final = "$PARAMETER"
_POSITION: Final = "perennial_position"
_KEYS: Final = frozenset({"type", "kwargs", "meta", "notes", "severity", "description", "id", "rendered_content"})
_RESULT_FORMAT: Final = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
"""COMPLETE knows every row at fault. The query that it would add repeats all their positions as one text."""
_FACTS: Final = ("element_count", "missing_count", "observed_value", "details")
_NAME: Final = re.compile(r"[A-Za-z_]\w*(?!\w)(?!\s*[(=])")
_CALL: Final = re.compile(r"([A-Za-z_]\w*)\s*\(")
_CONSTANTS: Final = frozenset({"pi", "e", "PI", "E"})


class GreatExpectationsValidator:
    """The port `Validator` on Great Expectations: in memory, nothing written, nothing sent anywhere."""

    def validate(self, frame: pd.DataFrame, suite: Mapping[str, Any], parameters: Mapping[str, Any]) -> SuiteResult:
        """Check the frame.

        Args:
            frame: rows to check; its index is ignored, rows are known by position.
            suite: `{"name": ..., "expectations": [{"type": ..., "kwargs": {...}, "notes" or "meta.notes": ...}]}`.
            parameters: values for `{"$PARAMETER": "name"}` or an expression such as `"window_days * 100"`; times are
                aware datetimes.

        Raises:
            SpecError: an unknown expectation, arguments that it does not take, or a parameter that is not passed.
        """
        with _quiet():
            expectations = _load(suite, parameters)
            frame = frame.reset_index(drop=True)
            raw = _run(frame, suite, expectations, parameters)
        results = [_result(entry, outcome, frame) for entry, outcome in zip(suite["expectations"], raw, strict=True)]
        rows = sorted({row for result in results if not result.success for row in result.rows})
        return SuiteResult(
            success=all(result.success for result in results), results=results, faulty_rows=array("q", rows)
        )


def _load(suite: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Any]:
    """Great Expectations' own objects, in the suite's order; all problems are collected before one is raised."""
    file = str(suite.get("name", "suite"))
    problems: list[SpecProblem] = []
    loaded = []
    for position, entry in enumerate(suite["expectations"]):
        where = f"expectations[{position}]"
        found = [SpecProblem(file, f"{where}{field}", value, allowed) for field, value, allowed in _shape(entry)]
        if not found:
            found = [
                SpecProblem(file, f"{where}.kwargs.{name}", repr(value), allowed)
                for name, value, allowed in _parameter_problems(entry.get("kwargs", {}), parameters)
            ]
        if not found:
            expectation, found = _load_one(file, where, position, entry)
            loaded.append(expectation)
        problems += found
    if problems:
        raise SpecError(problems)
    return loaded


def _shape(entry: Any) -> Iterator[tuple[str, str, str]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        yield "", repr(entry)[:80], 'must be an object such as {"type": "expect_...", "kwargs": {...}}'
        return
    if not isinstance(entry.get("kwargs", {}), dict):
        yield ".kwargs", repr(entry["kwargs"])[:80], "must be an object with the expectation's arguments"
    for name in sorted(set(entry) - _KEYS):
        yield f".{name}", repr(entry[name])[:80], f"there is no such field; there are {', '.join(sorted(_KEYS))}"
    if entry.get("severity") not in (None, "critical"):
        yield ".severity", repr(entry["severity"]), "must be 'critical': any failed expectation stops the run"


def _load_one(file: str, where: str, position: int, entry: Mapping[str, Any]) -> tuple[Any, list[SpecProblem]]:
    from great_expectations.compatibility.pydantic import ValidationError
    from great_expectations.exceptions import ExpectationNotFoundError, GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    kwargs = dict(entry.get("kwargs", {}))
    try:
        configuration = ExpectationConfiguration(type=entry["type"], kwargs=kwargs, meta={_POSITION: position})
        return configuration.to_domain_obj(), []
    except ExpectationNotFoundError:
        close = difflib.get_close_matches(entry["type"], list_registered_expectation_implementations(), n=3)
        allowed = "Great Expectations has no such expectation" + (f"; close: {', '.join(close)}" if close else "")
        return None, [SpecProblem(file, f"{where}.type", repr(entry["type"]), allowed)]
    except ValidationError as error:
        by_field: dict[str, str] = {}
        for detail in error.errors():
            by_field.setdefault(str(detail["loc"][0]), detail["msg"])
        return None, [_kwargs_problem(file, where, kwargs, name, message) for name, message in by_field.items()]
    except (GreatExpectationsError, TypeError, ValueError) as error:
        return None, [SpecProblem(file, f"{where}.kwargs", repr(kwargs)[:80], f"{type(error).__name__}: {error}")]


def _kwargs_problem(file: str, where: str, kwargs: Mapping[str, Any], name: str, message: str) -> SpecProblem:
    if name == "__root__":
        return SpecProblem(file, f"{where}.kwargs", repr(kwargs)[:80], message)
    value = repr(kwargs[name])[:80] if name in kwargs else "(missing)"
    return SpecProblem(file, f"{where}.kwargs.{name}", value, message)


def _parameter_problems(kwargs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Parameters that cannot be filled. Great Expectations would find out one at a time, while it validates."""
    for name, value in kwargs.items():
        if not (isinstance(value, dict) and _PARAMETER in value):
            if _PARAMETER in repr(value):
                yield name, value, "only a whole argument can be a parameter, not a part of one"
            continue
        expression = value[_PARAMETER]
        if not isinstance(expression, str):
            yield name, expression, "must be a parameter's name or an expression with it"
            continue
        unknown = sorted(set(_NAME.findall(expression)) - set(parameters) - _CONSTANTS)
        if unknown:
            yield name, expression, f"no parameter {', '.join(unknown)}; there are {', '.join(sorted(parameters))}"
        if "now" in _CALL.findall(expression):
            yield name, expression, "the wall clock has no place in a suite; hang it on as_of or watermark"


def _run(
    frame: pd.DataFrame, suite: Mapping[str, Any], expectations: Sequence[Any], parameters: Mapping[str, Any]
) -> list[Any]:
    """Great Expectations' results in the suite's order."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )
    from great_expectations.exceptions import SuiteParameterError

    config = DataContextConfig(
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("frame").add_dataframe_asset("frame")
    try:
        batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
        outcome = batch.validate(
            gx.ExpectationSuite(name=str(suite.get("name") or "suite"), expectations=list(expectations)),
            result_format=_RESULT_FORMAT,
            expectation_parameters=dict(parameters),
        )
    except SuiteParameterError as error:
        raise SpecError([SpecProblem(str(suite.get("name", "suite")), _PARAMETER, "", str(error))]) from error
    finally:
        context.data_sources.delete("frame")  # Great Expectations keeps the context, and with it the frame
    return sorted(outcome.results, key=lambda result: int(result.expectation_config.meta[_POSITION]))


def _result(entry: Mapping[str, Any], outcome: Any, frame: pd.DataFrame) -> ExpectationResult:
    kwargs = {name: value for name, value in outcome.expectation_config.kwargs.items() if name != "batch_id"}
    raw: Mapping[str, Any] = outcome.result or {}
    facts = {name: raw[name] for name in _FACTS if name in raw}
    rows = array("q", sorted(set(raw.get("unexpected_index_list") or ())))
    columns = _columns(kwargs)
    examples: list[Any] = []
    if not outcome.success:
        # Great Expectations hands out 200 values at most, so the rows are looked up in the frame instead.
        given = raw.get("partial_unexpected_list") or []
        examples, more = faulty_values(frame, columns, rows) if rows else (json_ready(given)[:MAX_EXAMPLES], {})
        facts |= more
    return ExpectationResult(
        expectation=entry["type"],
        column=", ".join(columns) or None,
        success=bool(outcome.success),
        detail={"kwargs": json_ready(kwargs), "observed": json_ready(facts)},
        unexpected_count=int(raw.get("unexpected_count") or 0),
        examples=examples,
        notes=_notes(entry),
        error=_error(outcome.exception_info),
        rows=rows,
    )


def _columns(kwargs: Mapping[str, Any]) -> list[str]:
    if "column" in kwargs:
        return [str(kwargs["column"])]
    several = kwargs.get("column_list") or [kwargs[name] for name in ("column_A", "column_B") if name in kwargs]
    return [str(column) for column in several]


def _notes(entry: Mapping[str, Any]) -> str:
    notes = entry.get("notes") or (entry.get("meta") or {}).get("notes") or ""
    return " ".join(map(str, notes)) if isinstance(notes, list) else str(notes)


def _error(information: Mapping[str, Any] | None) -> str:
    """What Great Expectations says it could not do; the last line where it hands out a whole traceback."""
    if not information:
        return ""
    details = [information] if "raised_exception" in information else list(information.values())
    messages = [str(detail.get("exception_message") or "") for detail in details if detail.get("raised_exception")]
    lines = [message.strip().splitlines()[-1].removeprefix("Error: ") for message in messages if message.strip()]
    return "; ".join(dict.fromkeys(lines)) or ("raised an exception" if messages else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Great Expectations' log held back: what it has to say is in its results. Nobody else's logging is changed."""
    logger = logging.getLogger("great_expectations")
    level, show = logger.level, warnings.showwarning
    logger.setLevel(logging.CRITICAL)
    try:
        import great_expectations  # noqa: F401 - for its effects, which are undone here

        if warnings.showwarning is not show:  # at import it sends all of Python's warnings to the log
            logging.captureWarnings(False)
        yield
    finally:
        logger.setLevel(level)
