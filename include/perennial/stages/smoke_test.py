"""The last question before a model serves: do its files have their digest, and does it answer as it should?

Asked of a challenger that is to be deployed in a clean process, against the scores that evaluate stored; of the others,
and of the target of a roll-back, here and now, by the model's own input example.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perennial.domain.fingerprint import canonical_json, digest_of, sha256_of
from perennial.domain.json_values import json_ready
from perennial.domain.metric_names import Task
from perennial.domain.references import DecisionRef, EvaluationRef, ModelRef, SmokeTestRef, SnapshotRef
from perennial.domain.run_request import RunRequest
from perennial.domain.smoke_test import Fault, score_differences
from perennial.domain.times import format_time
from perennial.errors import IntegrityError, SmokeTestError, SpecError, SpecProblem
from perennial.json_objects import put_once, stored_object
from perennial.ports import Clock, ModelRegistry, ObjectStore, SmokeOutcome, SmokeTester, SmokeTrial
from perennial.spec.deployment import SmokeTest
from perennial.spec.model import ModelSpec
from perennial.stages.smoke_rows import SmokeRows, smoke_rows

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_MIB: Final = 2**20
_NEXT_STEPS: Final[Mapping[Fault, str]] = {
    Fault.REQUIREMENTS: "Install these versions where it is to be tried out and served (PERENNIAL_SMOKE_TEST_PYTHON "
    "names the interpreter), or train anew with those that are installed there",
    Fault.INTEGRITY: "Nobody may override this",
    Fault.LOAD: "What its own code needs has to be installed, or to lie beside the specs",
    Fault.EXAMPLE: "Mend the model's code, and start a new run",
    Fault.REFUSED: "Requests like these would get status 400. Give such a column a type in the landed files that says "
    "what it holds in training as in the holdout (double, if numbers may be missing), and start a new run",
    Fault.FAILED: "Mend the model's code, and start a new run",
    Fault.SCORES: "Its scores depend on something that is not part of it: other rows of a batch, a random draw, the "
    "time, files, or types that JSON turns into others. Mend the model's code, and start a new run",
    Fault.TIME: "The report has where it was at that time. Mend that, or raise deployment.smoke_test.timeout",
    Fault.MEMORY: "Make the model smaller, or raise deployment.smoke_test.max_memory_mib if what serves it has as much",
    Fault.CRASH: "The report has its last words; look for a library that is broken or of another version",
    Fault.EXIT: "The report has its last words; is Perennial installed in the interpreter it names?",
    Fault.RESULT: "Something writes into the test's own folder, or the interpreter has another release of Perennial",
}


def smoke_test_in_clean_process(
    spec: ModelSpec,
    request: RunRequest,
    *,
    snapshot: SnapshotRef,
    model: ModelRef,
    evaluation: EvaluationRef,
    decision: DecisionRef,
    store: ObjectStore,
    root: str,
    registry: ModelRegistry,
    clock: Clock,
    tester: SmokeTester,
) -> SmokeTestRef:
    """Let the challenger score holdout rows in a clean process, and compare with what evaluate got for them.

    Each attempt's report is published before anything is raised. The same run with the same inputs finds a test that
    passed, and one whose failure is the model's; what may have been the machine's fault is tried again.

    Raises:
        SmokeTestError: it did not pass. If the glass is broken, the reference's `passed` is False instead.
        IntegrityError: files are not those that were recorded; also if the glass is broken.
        NotFoundError: the model is gone from the registry.
    """
    policy = _policy(spec)
    inputs = {
        "run": request.run_id,
        "decision": decision.sha256,
        "model": model.digest,
        "evaluation": evaluation.sha256,
        "policy": policy.model_dump(mode="json"),
    }
    folder = f"{root}/smoke_tests/{spec.name}/{digest_of(inputs)[:32]}"
    uri, known = _last_attempt(store, folder)
    if known is None:
        rows = smoke_rows(spec, policy.rows, snapshot, evaluation, store=store)
        outcome = _try_out(policy, model, rows, registry, tester)
        found = _judged(spec, policy, rows, outcome)
        report = {
            "model": spec.name,
            "digest": model.digest,
            "challenger": model.to_dict(),
            "run_id": request.run_id,
            "decision": decision.uri,
            "evaluation": evaluation.uri,
            "at": format_time(clock.now()),
            "limits": inputs["policy"],
            "rows": len(rows.keys),
            "took_s": round(outcome.took_s, 3),
            "peak_memory_mib": None if outcome.peak_memory_bytes is None else outcome.peak_memory_bytes // _MIB,
            "facts": _facts(outcome),
            **found,
        }
        content = put_once(store, uri, canonical_json(report))
    else:
        content = store.read(uri)
    report = json.loads(content)
    _log.info("%s %s smoke_test: passed=%s, %s", spec.name, request.run_id, report.get("passed"), uri)
    if not report["passed"]:
        _fail(spec, model, report, uri, glass_is_broken=decision.break_glass)
    return SmokeTestRef(
        uri=uri,
        sha256=sha256_of(content),
        digest=model.digest,
        passed=bool(report["passed"]),
        rows=int(report["rows"]),
    )


def _policy(spec: ModelSpec) -> SmokeTest:
    if spec.deployment is None:
        raise SpecError([SpecProblem(f"{spec.name}.yaml", "deployment", "None", "the smoke test needs one")])
    return spec.deployment.smoke_test


def _last_attempt(store: ObjectStore, folder: str) -> tuple[str, dict[str, Any] | None]:
    """The report that stands; else where the next one goes."""
    number = 1
    while True:
        uri = f"{folder}/report.json" if number == 1 else f"{folder}/report-{number}.json"
        report = stored_object(store, uri)
        if report is None or report.get("passed") or Fault(report["fault"]).stands:
            return uri, report
        number += 1


def _try_out(
    policy: SmokeTest, model: ModelRef, rows: SmokeRows, registry: ModelRegistry, tester: SmokeTester
) -> SmokeOutcome:
    with TemporaryDirectory(prefix="perennial-smoke-model-") as name:
        files = Path(name)
        return tester.score(
            SmokeTrial(
                model=model,
                files=files,
                records=registry.fetch(model, files),
                body=rows.body,
                timeout_s=policy.timeout.total_seconds(),
                max_memory_bytes=policy.max_memory_mib * _MIB,
            )
        )


def _judged(spec: ModelSpec, policy: SmokeTest, rows: SmokeRows, outcome: SmokeOutcome) -> dict[str, Any]:
    """Whether it passed, and if not, why."""
    if outcome.predictions is None:
        return {"passed": False, "fault": outcome.fault, "problem": outcome.problem, "largest_difference": None}
    try:
        apart = score_differences(spec.task, outcome.predictions, rows.expected)
    except (ValueError, TypeError) as error:
        problem = f"its answers cannot be compared with evaluate's scores: {error}"
        return {"passed": False, "fault": Fault.SCORES, "problem": problem, "largest_difference": None}
    wrong = ~(apart <= policy.tolerance)
    largest = None if np.isnan(apart).any() else float(apart.max())
    if not wrong.any():
        return {"passed": True, "fault": None, "problem": "", "largest_difference": largest}
    worst = int(np.where(np.isnan(apart), np.inf, apart).argmax())
    problem = (
        f"{int(wrong.sum())} of {len(apart)} holdout rows score otherwise than in evaluate (limit "
        f"{policy.tolerance:g}), most of all {rows.keys[worst]}: {_shown(outcome.predictions[worst])}, evaluate had "
        f"{_shown(rows.expected[worst].tolist())}"
    )
    return {"passed": False, "fault": Fault.SCORES, "problem": problem, "largest_difference": largest}


def _shown(scores: Any) -> str:
    return str(scores)[:200]


def _facts(outcome: SmokeOutcome) -> dict[str, Any]:
    """As the tester told them; texts are its own to shorten."""
    return {key: value if isinstance(value, str) else json_ready(value) for key, value in outcome.facts.items()}


def _fail(spec: ModelSpec, model: ModelRef, report: Mapping[str, Any], uri: str, *, glass_is_broken: bool) -> None:
    fault = Fault(report["fault"])
    message = (
        f"{spec.name}: the challenger {model.model_uri} does not pass the smoke test ({fault}): {report['problem']}. "
        f"Nothing was moved. {_NEXT_STEPS[fault]}. The report is {uri}"
    )
    if fault is Fault.INTEGRITY:
        raise IntegrityError(message)
    if not glass_is_broken:
        raise SmokeTestError(message)
    _log.warning("the glass is broken: %s", message)


def smoke_test(task: Task, model: ModelRef, name: str, *, registry: ModelRegistry) -> None:
    """Load the model with its digests checked (invariant 8), and let it predict its own input example.

    Args:
        task: what the model is for.
        model: to be tested.
        name: of the model, for messages: `version 3 of flights_delay`.
        registry: holds it.

    Raises:
        IntegrityError, NotFoundError: as `ModelRegistry.open_model`.
        SmokeTestError: it has no input example, fails on it, or gives something that is no prediction.
    """
    loaded = registry.open_model(model)
    example = loaded.input_example
    if example is None or example.empty:
        raise SmokeTestError(
            f"{name} ({model.model_uri}) was logged without an input example and cannot be tried out. Nothing was moved"
        )
    try:
        fault = _fault(task, loaded.estimator, example)
    except Exception as error:  # predict runs the user's code
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        raise SmokeTestError(
            f"{name} ({model.model_uri}) gives no usable predictions for the {len(example)} rows of its own input "
            f"example: {fault}. Nothing was moved"
        )


def _fault(task: Task, estimator: Any, example: pd.DataFrame) -> str | None:
    """What is wrong with the predictions; None if nothing is."""
    classifies = task != "regression"
    given = estimator.predict_proba(example) if classifies else estimator.predict(example)
    values = np.asarray(given, dtype=np.float64).reshape(len(given), -1)
    expected = (len(example), len(estimator.classes_) if classifies else 1)
    if values.shape != expected:
        return f"their shape is {values.shape}, expected {expected}"
    if not np.isfinite(values).all():
        return f"{(~np.isfinite(values)).sum()} of {values.size} values are not finite"
    if classifies and (values.min() < 0 or values.max() > 1):
        return f"probabilities lie between {values.min():g} and {values.max():g}, expected [0, 1]"
    return None
