"""decide: asks the gate, and keeps its verdict with the evidence, for machines and for people."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any, Final

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.fingerprint import canonical_json, digest_of, sha256_of
from perennial.domain.gate import Decision, decide
from perennial.domain.references import DecisionRef, EvaluationRef
from perennial.domain.run_request import RunRequest
from perennial.errors import IntegrityError
from perennial.json_objects import put_once
from perennial.ports import ObjectStore
from perennial.reports.decision_page import decision_page
from perennial.spec.model import ModelSpec

_log = logging.getLogger(__name__)
SCHEMA_VERSION: Final = 1


def decide_promotion(
    spec: ModelSpec,
    request: RunRequest,
    evaluation: EvaluationRef,
    *,
    store: ObjectStore,
    root: str,
    run_url: str | None,
) -> DecisionRef:
    """Judge an evaluation, publish the page, then the decision; a retry finds them and changes nothing.

    A rejection is a result, not an error (invariant 6).

    Raises:
        IntegrityError: the stored evaluation is not the one that the reference names.
    """
    result = _load(store, evaluation)
    decision = decide(spec.gate, result, primary=spec.evaluation.primary)
    content = _content(spec, request, evaluation, result, decision)
    key = digest_of([content["evaluation"], content["gate"], content["request"], SCHEMA_VERSION])[:32]
    folder = f"{root}/decisions/{spec.name}/{key}"
    page = decision_page(spec, request, reference=evaluation, evaluation=result, decision=decision, run_url=run_url)
    store.write(f"{folder}/page.html", page, content_type="text/html; charset=utf-8", if_absent=True)
    stored = put_once(store, f"{folder}/decision.json", canonical_json(content))
    said = json.loads(stored)
    _log.info("%s %s decide: %s", spec.name, request.run_id, said["summary"])
    return DecisionRef(
        uri=f"{folder}/decision.json",
        sha256=sha256_of(stored),
        page_uri=f"{folder}/page.html",
        verdict=said["verdict"],
        champion_version=said["champion_version"],
        summary=said["summary"],
    )


def summarise(decision: Decision) -> str:
    """One sentence: the first reason. The verdict stands beside it wherever it is shown."""
    return decision.reasons[0] if decision.reasons else "The gate gave no reason."


def _load(store: ObjectStore, evaluation: EvaluationRef) -> EvaluationResult:
    content = store.read(evaluation.uri)
    if sha256_of(content) != evaluation.sha256:
        raise IntegrityError(
            f"{evaluation.uri}: sha256 is {sha256_of(content)}, the reference says {evaluation.sha256}; the evaluation "
            f"was changed after it was made. Nothing was decided; start a new run"
        )
    return EvaluationResult.from_dict(json.loads(content))


def _content(
    spec: ModelSpec, request: RunRequest, evaluation: EvaluationRef, result: EvaluationResult, decision: Decision
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "model": spec.name,
        "verdict": decision.verdict.value,
        "summary": summarise(decision),
        "reasons": list(decision.reasons),
        "rules": [asdict(rule) for rule in decision.rules],
        "primary": spec.evaluation.primary,
        "champion_version": result.champion_version,
        "challenger": dict(result.challenger),
        "champion": None if result.champion is None else dict(result.champion),
        "evaluation": evaluation.to_dict(),
        "gate": spec.gate.model_dump(mode="json"),
        "request": request.to_dict(),
    }
