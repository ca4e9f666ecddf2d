"""train: fits the challenger on the training window, or finds the model that the same training gave before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perennial import __version__
from perennial.domain.fingerprint import training_fingerprint
from perennial.domain.references import ModelRef, SnapshotRef
from perennial.domain.run_request import RunRequest, training_params
from perennial.domain.times import format_time
from perennial.errors import BadDataError, NoDataError, SpecError, SpecProblem
from perennial.ports import FittedTraining, ModelRegistry, ObjectStore
from perennial.spec.model import ModelSpec
from perennial.stages.estimator import build_estimator
from perennial.stages.frames import load_manifest, read_frame
from perennial.stages.keys import write_training_keys
from perennial.stages.profiles import write_training_profile

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_EXAMPLE_ROWS: Final = 5


def train_challenger(
    spec: ModelSpec,
    request: RunRequest,
    snapshot: SnapshotRef,
    *,
    store: ObjectStore,
    root: str,
    registry: ModelRegistry,
    import_roots: Sequence[Path],
    code_version: str,
) -> ModelRef:
    """The model of this (snapshot, spec, parameters, code, seed): found if it was trained before, else fitted now.

    The hashes of the training rows' keys, and their profile, are written before the model is logged, so that a model
    that can be found can also be compared fairly, and monitored.

    Raises:
        RequestError: parameter overrides that the spec does not allow.
        NoDataError: no row in the training window, or a single class.
        BadDataError: labels are missing in the training window.
        SpecError: the user's function is missing or fails, or the estimator cannot be fitted to the data.
    """
    params = training_params(spec, request)
    fingerprint = training_fingerprint(
        spec, snapshot_sha256=snapshot.data_sha256, params=params, code_version=code_version
    )
    known = registry.find_training(spec.name, fingerprint)
    if known is not None:
        _log.info("%s %s train: found %s of the same fingerprint", spec.name, request.run_id, known.model_uri)
        return known
    manifest = load_manifest(store, snapshot)
    window = manifest.windows.training
    columns = tuple(dict.fromkeys((*spec.data.key_columns, spec.data.time_column, *_learned_columns(spec))))
    frame = read_frame(store, manifest, columns, window, time_column=spec.data.time_column)
    _check(spec, frame, str(window))
    _, keys_sha256 = write_training_keys(store, root, spec, fingerprint, frame)
    write_training_profile(store, root, spec, fingerprint, frame)
    estimator = _fit(spec, build_estimator(spec, params, import_roots), frame)
    example = frame[list(spec.data.feature_columns)].head(_EXAMPLE_ROWS)
    return registry.log_training(
        FittedTraining(
            model=spec.name,
            task=spec.task,
            estimator=estimator,
            params={**params, "seed": spec.training.seed, "estimator": spec.training.estimator},
            metrics={"training_rows": float(len(frame))},
            tags={
                "perennial.owner": spec.owner,
                "perennial.airflow_run_id": request.run_id,
                "perennial.code_version": code_version,
                "perennial.version": __version__,
                "perennial.snapshot_uri": snapshot.uri,
            },
            input_example=example,
            output_example=estimator.predict(example)
            if spec.task == "regression"
            else estimator.predict_proba(example),
            dataset_uri=snapshot.uri,
            dataset_sha256=snapshot.sha256,
            dataset_rows=len(frame),
            fingerprint=fingerprint,
            keys_sha256=keys_sha256,
            training_start=window.start,
            training_end=window.end,
            trusted_types=spec.training.trusted_types,
            run_name=f"{spec.name} {format_time(window.end)[:10]}",
        )
    )


def _learned_columns(spec: ModelSpec) -> tuple[str, ...]:
    return (*spec.data.feature_columns, spec.data.label_column)


def _check(spec: ModelSpec, frame: pd.DataFrame, window: str) -> None:
    label = spec.data.label_column
    if frame.empty:
        raise NoDataError(f"{spec.name}: no row in the training window {window}; land older data or shorten the window")
    missing = int(frame[label].isna().sum())
    if missing:
        raise BadDataError(f"{spec.name}: {missing} of {len(frame)} training rows have no {label}; window {window}")
    if spec.task != "regression" and frame[label].nunique() < 2:
        raise NoDataError(f"{spec.name}: all {len(frame)} training rows have the same {label}; window {window}")


def _fit(spec: ModelSpec, estimator: Any, frame: pd.DataFrame) -> Any:
    try:
        return estimator.fit(frame[list(spec.data.feature_columns)], frame[spec.data.label_column])
    except (MemoryError, OSError):
        raise  # the machine's fault; another try may get through
    except Exception as error:  # the user's code may raise anything
        allowed = f"fit() must accept the spec's feature_columns; it raised {type(error).__name__}: {error}"
        problem = SpecProblem(f"{spec.name}.yaml", "training.estimator", repr(spec.training.estimator), allowed)
        raise SpecError([problem]) from error
