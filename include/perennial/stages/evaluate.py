"""evaluate: champion and challenger score one holdout that neither has seen; metrics, intervals and scores are kept."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perennial.domain.bootstrap import BootstrapResult, paired_bootstrap
from perennial.domain.evaluation import EvaluationResult, SliceResult
from perennial.domain.fingerprint import canonical_json, digest_of, finite_or_none, sha256_of
from perennial.domain.metrics import metric
from perennial.domain.references import EvaluationRef, ModelRef, SnapshotRef
from perennial.domain.resampling import Codes
from perennial.domain.run_request import RunRequest
from perennial.domain.times import format_time
from perennial.json_objects import put_once, stored_object
from perennial.ports import ModelRegistry, ObjectStore, RegisteredVersion
from perennial.spec.model import ModelSpec
from perennial.stages.frames import load_manifest
from perennial.stages.holdout import Contender, Holdout, check_times, load_holdout
from perennial.stages.judged_champion import judged_champion
from perennial.stages.scoring import Loaded, Scores, load_champion, score_models

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
METHOD_VERSION: Final = 1
"""Part of an evaluation's key: raise it when the same scores would give other figures."""
MAX_SLICE_VALUES: Final = 200
"""Values of one slice column that are reported, those with the most rows."""
_PARQUET: Final = "application/vnd.apache.parquet"
MISSING_VALUE: Final = "(missing)"


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

    The same snapshot, models, policy and seed give the same reference; what is stored already is not computed again.
    A run that is repeated judges the champion that it met the first time, also if it has itself moved the alias since.

    Raises:
        UnfairComparisonError: the holdout is not newer than a training plus the embargo, a key is in common with one,
            or twice in the holdout, or a training's keys are not on record.
        ChampionUnusableError: the champion cannot be loaded or cannot score the holdout.
        IntegrityError: the manifest's or a model's bytes are not the recorded ones.
        NoDataError: no row in the holdout window.
    """
    manifest = load_manifest(store, snapshot)
    champion = judged_champion(request, challenger, store=store, root=root, registry=registry)
    contenders = [Contender(title="challenger", model=challenger)]
    if champion is not None:
        contenders.append(Contender(title=f"champion version {champion.version}", model=champion.model))
    check_times(spec, manifest.windows.holdout, contenders)
    mine = Loaded(estimator=registry.load(challenger), features=spec.data.feature_columns)
    theirs = None if champion is None else load_champion(spec, champion, registry, tuple(manifest.schema))
    columns = tuple(dict.fromkeys((*spec.needed_columns, *(theirs.features if theirs is not None else ()))))
    holdout = load_holdout(spec, manifest, columns, contenders, store=store, root=root)
    key = _key(spec, holdout, challenger, champion)
    folder = f"{root}/evaluations/{spec.name}/{key}"
    if stored_object(store, f"{folder}/evaluation.json") is None:
        version = champion.version if champion is not None else None
        scores = score_models(spec, holdout.frame, mine, theirs, version)
        result = _measure(spec, holdout, scores, challenger, champion, seed=int(key[:16], 16))
        store.write(f"{folder}/scores.parquet", _scores_file(spec, holdout, scores), content_type=_PARQUET)
        put_once(store, f"{folder}/evaluation.json", canonical_json(asdict(result)))
    reference = _reference(store, folder)
    _log.info("%s %s evaluate: %d rows, %s", spec.name, request.run_id, reference.rows, reference.uri)
    return reference


def _key(spec: ModelSpec, holdout: Holdout, challenger: ModelRef, champion: RegisteredVersion | None) -> str:
    """Names everything that the evaluation's content depends on."""
    return digest_of(
        {
            "method": METHOD_VERSION,
            "task": spec.task,
            "challenger": challenger.to_dict(),
            "champion": None if champion is None else [champion.version, champion.model.to_dict()],
            "holdout": holdout.sha256,
            "label": spec.data.label_column,
            "features": list(spec.data.feature_columns),
            "evaluation": spec.evaluation.model_dump(mode="json"),
            "gate": spec.gate.model_dump(mode="json"),
            "seed": spec.training.seed,
        }
    )[:32]


def _reference(store: ObjectStore, folder: str) -> EvaluationRef:
    """From what is stored: of two runs at once, the first one's file stays, and both refer to it."""
    uri = f"{folder}/evaluation.json"
    content = store.read(uri)
    result = EvaluationResult.from_dict(json.loads(content))
    return EvaluationRef(
        uri=uri,
        sha256=sha256_of(content),
        scores_uri=f"{folder}/scores.parquet",
        holdout_sha256=result.holdout_sha256,
        rows=result.rows,
        champion_version=result.champion_version,
    )


def _measure(
    spec: ModelSpec,
    holdout: Holdout,
    scores: Scores,
    challenger: ModelRef,
    champion: RegisteredVersion | None,
    *,
    seed: int,
) -> EvaluationResult:
    clusters = _clusters(holdout.frame[spec.gate.cluster_by])
    confidence = 2 * spec.gate.rule.confidence - 1
    results = paired_bootstrap(
        spec.evaluation.all_metrics,
        scores.labels,
        scores.challenger,
        scores.champion,
        clusters,
        replicates=spec.gate.replicates,
        confidence=confidence,
        seed=seed,
    )
    notes = [*scores.notes, *_notes(results)]
    if champion is not None and champion.model.digest == challenger.digest:
        notes.append(f"The challenger is champion version {champion.version} itself: the same bytes.")
    slices, left_out = _slices(spec, holdout.frame, scores)
    return EvaluationResult(
        model=spec.name,
        champion_version=champion.version if champion is not None else None,
        rows=len(holdout.frame),
        clusters=int(clusters.max()) + 1,
        confidence=confidence,
        comparisons={name: result.comparison for name, result in results.items()},
        slices=tuple(slices),
        holdout=(format_time(holdout.interval.start), format_time(holdout.interval.end)),
        holdout_sha256=holdout.sha256,
        challenger=challenger.to_dict(),
        champion=champion.model.to_dict() if champion is not None else None,
        defects=scores.defects,
        notes=(*notes, *left_out),
    )


def _notes(results: dict[str, BootstrapResult]) -> list[str]:
    return [
        f"{name} is undefined in {result.undefined:,} of {result.replicates:,} bootstrap replicates."
        for name, result in results.items()
        if result.undefined
    ]


def _clusters(column: pd.Series) -> Codes:
    """Each row's cluster as 0..k-1, in the order of the values' text; missing values are a cluster of their own."""
    return np.unique(column.astype(str).to_numpy(dtype=str), return_inverse=True)[1]


def _slices(spec: ModelSpec, frame: pd.DataFrame, scores: Scores) -> tuple[list[SliceResult], list[str]]:
    """The primary metric by slice, largest first, and a note about those left out."""
    found, notes = [], []
    for column in spec.evaluation.slices:
        values = frame[column].astype(object).where(frame[column].notna(), MISSING_VALUE).astype(str)
        rows_by_value = values.groupby(values).indices
        by_size = sorted(rows_by_value.items(), key=lambda item: (-len(item[1]), item[0]))
        for value, rows in by_size[:MAX_SLICE_VALUES]:
            found.append(
                SliceResult(
                    column=column,
                    value=str(value),
                    rows=len(rows),
                    challenger=_point(spec, scores.labels[rows], scores.challenger[rows]),
                    champion=None
                    if scores.champion is None
                    else _point(spec, scores.labels[rows], scores.champion[rows]),
                )
            )
        if len(by_size) > MAX_SLICE_VALUES:
            notes.append(
                f"Of {len(by_size):,} values of {column}, the {MAX_SLICE_VALUES} with the most rows are shown."
            )
    return found, notes


def _point(spec: ModelSpec, labels: Any, scores: Any) -> float | None:
    return finite_or_none(metric(spec.evaluation.primary, labels, scores))


def _scores_file(spec: ModelSpec, holdout: Holdout, scores: Scores) -> bytes:
    """One row a holdout row: keys, time, cluster, slices, label, and each model's score (multiclass: one a class)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = spec.data
    names = (*data.key_columns, data.time_column, spec.gate.cluster_by, *spec.evaluation.slices, data.label_column)
    table = pa.Table.from_pandas(holdout.frame[list(dict.fromkeys(names))], preserve_index=False)
    table = table.replace_schema_metadata(None)
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
