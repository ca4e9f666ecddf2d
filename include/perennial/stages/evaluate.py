"""evaluate: champion and challenger score one holdout that neither has seen; metrics, intervals and scores are kept."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from perennial.domain.comparison import compare
from perennial.domain.curves import calibration_curve, roc_curve
from perennial.domain.evaluation import Curves, EvaluationResult
from perennial.domain.fingerprint import canonical_json, digest_of, sha256_of
from perennial.domain.references import EvaluationRef, ModelRef, SnapshotRef
from perennial.domain.run_request import RunRequest
from perennial.domain.statistic import Paired
from perennial.domain.times import format_time
from perennial.errors import IntegrityError
from perennial.json_objects import put_once, stored_object
from perennial.ports import ModelRegistry, ObjectStore
from perennial.spec.model import ModelSpec
from perennial.stages.costs import measure_costs
from perennial.stages.frames import arrow_table, load_manifest
from perennial.stages.holdout import Holdout
from perennial.stages.judged_champion import JudgedChampion, judged_champion
from perennial.stages.match import Glass, Match, score_match, set_up_match
from perennial.stages.profiles import write_holdout_profile
from perennial.stages.scoring import Loaded, Scores
from perennial.stages.slices import coded, measure_fairness, measure_slices
from perennial.stages.units import units_of

_log = logging.getLogger(__name__)
METHOD_VERSION: Final = 3
"""Part of an evaluation's key: raise it when the same scores would give other figures."""
_PARQUET: Final = "application/vnd.apache.parquet"


def evaluate_models(
    spec: ModelSpec,
    request: RunRequest,
    snapshot: SnapshotRef,
    challenger: ModelRef,
    *,
    store: ObjectStore,
    root: str,
    registry: ModelRegistry,
) -> EvaluationRef:
    """Score both models on the snapshot's holdout; without a champion, the challenger alone.

    The same snapshot, models, policy and seed give the same reference; what is stored already is not computed again,
    the latencies included. A run that is repeated judges the champion that it met the first time, also if it has itself
    moved the alias since. A request that breaks the glass (who may is checked elsewhere) goes on where the comparison
    is unfair or the champion unusable: see `perennial.stages.match`.

    Raises:
        UnfairComparisonError: the holdout is not newer than a training plus the embargo, a key is in common with one,
            or twice in the holdout, or a training's keys are not on record.
        ChampionUnusableError: the champion cannot be loaded or cannot score the holdout.
        IntegrityError: bytes of the manifest, of the holdout, of a model or of a stored evaluation are not the
            recorded ones.
        NoDataError: no row in the holdout window.
    """
    manifest = load_manifest(store, snapshot)
    champion = judged_champion(request, challenger, store=store, root=root, registry=registry)
    glass = Glass(request)
    match = set_up_match(
        spec, snapshot, manifest, challenger, champion, glass, store=store, root=root, registry=registry
    )
    key = _key(spec, match.holdout, challenger, champion, broken=bool(request.break_glass))
    folder = f"{root}/evaluations/{spec.name}/{key}"
    if stored_object(store, f"{folder}/evaluation.json") is None:
        scores = score_match(spec, match, champion, glass)
        result = measure(spec, match, scores, challenger, champion, notes=glass.notes)
        store.write(f"{folder}/scores.parquet", _scores_file(spec, match.holdout, scores), content_type=_PARQUET)
        fingerprint = challenger.fingerprint
        write_holdout_profile(store, root, spec, fingerprint, match.holdout.frame, scores, result)
        put_once(store, f"{folder}/evaluation.json", canonical_json(asdict(result)))
    reference = _reference(store, folder, match.holdout)
    _log.info("%s %s evaluate: %d rows, %s", spec.name, request.run_id, reference.rows, reference.uri)
    return reference


def _key(
    spec: ModelSpec, holdout: Holdout, challenger: ModelRef, champion: JudgedChampion | None, *, broken: bool
) -> str:
    """Names everything that the evaluation's content depends on."""
    return digest_of(
        {
            "method": METHOD_VERSION,
            "task": spec.task,
            "challenger": challenger.to_dict(),
            "champion": None if champion is None else [champion.version, _facts(champion.model)],
            "holdout": holdout.sha256,
            "label": spec.data.label_column,
            "features": list(spec.data.feature_columns),
            "evaluation": spec.evaluation.model_dump(mode="json"),
            "gate": spec.gate.model_dump(mode="json"),
            "seed": spec.training.seed,
            "break_glass": broken,
        }
    )[:32]


def _seed(holdout: Holdout, challenger: ModelRef, champion: JudgedChampion | None) -> int:
    """Of the bootstrap: the data's and the models' alone, so that no setting of the gate draws anew.

    Otherwise an unlucky verdict could be tried again with `replicates: 2001`.
    """
    rival = None if champion is None or champion.model is None else champion.model.digest
    return int(digest_of([holdout.sha256, challenger.digest, rival])[:16], 16)


def _facts(model: ModelRef | None) -> dict[str, Any] | None:
    return None if model is None else model.to_dict()


def _reference(store: ObjectStore, folder: str, holdout: Holdout) -> EvaluationRef:
    """From what is stored: of two runs at once, the first one's file stays, and both refer to it.

    Raises:
        IntegrityError: what is stored is of another holdout.
    """
    uri = f"{folder}/evaluation.json"
    content = store.read(uri)
    result = EvaluationResult.from_dict(json.loads(content))
    if result.holdout_sha256 != holdout.sha256:
        raise IntegrityError(
            f"{uri} is of a holdout with sha256 {result.holdout_sha256}, the one just loaded has {holdout.sha256}; the "
            f"evaluation was changed after it was made. Find out by whom, delete it, and start a new run"
        )
    return EvaluationRef(
        uri=uri,
        sha256=sha256_of(content),
        scores_uri=f"{folder}/scores.parquet",
        holdout_sha256=result.holdout_sha256,
        rows=result.rows,
        champion_version=result.champion_version,
    )


def measure(
    spec: ModelSpec,
    match: Match,
    scores: Scores,
    challenger: ModelRef,
    champion: JudgedChampion | None,
    *,
    notes: list[str],
) -> EvaluationResult:
    """Metrics, intervals, parts and costs from the scores, without any store: what the gate judges.

    Args:
        spec: the model's.
        match: the holdout, and the models whose cost is measured.
        scores: of the holdout's rows.
        challenger: what it is.
        champion: what is judged with it; None if there is none.
        notes: said already.
    """
    frame, holdout = match.holdout.frame, match.holdout
    seed = _seed(holdout, challenger, champion)
    column = spec.gate.cluster_by
    clusters = None if column is None else coded(frame[column])
    codes = None if clusters is None else clusters.codes
    confidence = 2 * spec.gate.rule.confidence - 1
    pairs = compare(
        spec.evaluation.all_metrics,
        scores.labels,
        scores.challenger,
        scores.champion,
        codes,
        replicates=spec.gate.replicates,
        seed=seed,
    )
    slices = measure_slices(spec, frame, scores, codes, confidence=confidence, seed=seed)
    costs, cost_notes = measure_costs(spec, frame, _compared(match, scores))
    unit, units = units_of(spec, frame, scores, clusters, holdout.interval.end)
    return EvaluationResult(
        model=spec.name,
        champion_version=None if champion is None else champion.version,
        rows=len(frame),
        clusters=len(frame) if clusters is None else len(clusters.texts),
        confidence=confidence,
        comparisons={name: pair.comparison(name, confidence) for name, pair in pairs.items()},
        slices=tuple(slices.results),
        holdout=(format_time(holdout.interval.start), format_time(holdout.interval.end)),
        holdout_sha256=holdout.sha256,
        challenger=challenger.to_dict(),
        champion=None if champion is None else _facts(champion.model),
        defects=(*scores.defects, *slices.defects),
        notes=(*notes, *scores.notes, *_notes(pairs), *_same(champion, challenger), *slices.notes, *cost_notes),
        unit=unit,
        units=units,
        fairness=tuple(measure_fairness(spec, frame, scores, codes, confidence=confidence, seed=seed)),
        costs=costs,
        curves=_curves(spec, scores),
    )


def _compared(match: Match, scores: Scores) -> dict[str, Loaded]:
    """The models that have scores."""
    models = {"challenger": match.challenger}
    if scores.champion is not None and match.champion is not None:
        models["champion"] = match.champion
    return models


def _notes(pairs: Mapping[str, Paired]) -> list[str]:
    return [
        f"{name} is undefined in {pair.undefined:,} of {pair.replicates:,} bootstrap replicates."
        for name, pair in pairs.items()
        if pair.undefined
    ]


def _same(champion: JudgedChampion | None, challenger: ModelRef) -> list[str]:
    if champion is None or champion.model is None or champion.model.digest != challenger.digest:
        return []
    return [f"The challenger is champion version {champion.version} itself: the same bytes."]


def _curves(spec: ModelSpec, scores: Scores) -> dict[str, Curves]:
    if spec.task != "binary_classification":
        return {}
    return {
        who: Curves(roc=roc_curve(scores.labels, given), calibration=calibration_curve(scores.labels, given))
        for who, given in (("challenger", scores.challenger), ("champion", scores.champion))
        if given is not None
    }


def _scores_file(spec: ModelSpec, holdout: Holdout, scores: Scores) -> bytes:
    """One row a holdout row: keys, time, cluster, slices, label, and each model's score (multiclass: one a class)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = spec.data
    cluster = () if spec.gate.cluster_by is None else (spec.gate.cluster_by,)
    names = (*data.key_columns, data.time_column, *cluster, *spec.evaluation.slices, data.label_column)
    table = arrow_table(holdout.frame[list(dict.fromkeys(names))])
    for who, given in (("challenger", scores.challenger), ("champion", scores.champion)):
        if given is None:
            continue
        if given.ndim == 1:
            table = table.append_column(f"{who}_score", pa.array(given))
            continue
        for name, column in zip(scores.classes, given.T, strict=True):
            table = table.append_column(f"{who}_score_{name}", pa.array(np.ascontiguousarray(column)))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
