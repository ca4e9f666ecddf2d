"""Models as folders of files: saved before they travel, compared before they are read.

A model is saved to a local folder first and its digest taken there, before a byte is uploaded: what the registry is
told is what was trained, not what arrived. Nothing is deserialised before the digest was compared (invariant 8), and
what skops may load is taken from our own record, not from the artifact (MLflow's loader believes the artifact).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlflow.pyfunc
import mlflow.sklearn
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.types import DataType
from mlflow.types.schema import AnyType

from perennial.domain.artifact import ArtifactFile, check_files, size_of_artifact
from perennial.domain.references import ModelRef
from perennial.domain.signature import ColumnType, InputColumn
from perennial.errors import IntegrityError, TerminalError
from perennial.ports import FittedTraining, LoadedModel

if TYPE_CHECKING:
    import pandas as pd

_REQUIREMENTS: Final = ("scikit-learn", "skops", "numpy", "pandas", "scipy", "mlflow")
_LIBRARY_TYPES: Final = ("sklearn.", "numpy.", "scipy.", "pandas.")
# scikit-learn itself makes partials (categorical features); skops looks at the function inside each on its own.
_HARMLESS_TYPES: Final = frozenset({"functools.partial"})


def save_model(training: FittedTraining, folder: Path, *, run_id: str, model_id: str) -> list[str]:
    """Write the model's files, and return the types that skops has to be told to trust when it is loaded.

    Raises:
        TerminalError: the model holds a type that nobody vouched for.
    """
    trusted = _types_to_trust(training)
    mlflow.sklearn.save_model(
        training.estimator,
        path=str(folder),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
        signature=infer_signature(training.input_example, training.output_example),
        input_example=training.input_example,
        pip_requirements=[f"{name}=={installed_version(name)}" for name in _REQUIREMENTS],
        pyfunc_predict_fn="predict" if training.task == "regression" else "predict_proba",
        skops_trusted_types=trusted,
    )
    return trusted


def files_in(folder: Path) -> dict[str, ArtifactFile]:
    """Every file below the folder."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = ArtifactFile(sha256=sha256, size_bytes=path.stat().st_size)
    return files


def open_folder(
    model: ModelRef,
    folder: Path,
    *,
    files_record: str | None,
    types_record: str | None,
    is_on_record: Callable[[], bool],
) -> LoadedModel:
    """Compare the files, then read them.

    Args:
        model: the reference, with the digest.
        folder: the files as downloaded.
        files_record: what the registry has of the single files, see `perennial.domain.artifact.record_of`.
        types_record: what the registry has of the types to trust, a JSON list.
        is_on_record: asks the registry whether it holds the digest; called only for what could run code when loaded.

    Raises:
        IntegrityError: files differ from the digest; or skops meets a type that is not on record; or the model is not
            a skops file, and its digest is not on record.
    """
    found = files_in(folder)
    check_files(model, found, files_record)
    described = Model.load(str(folder))
    # Before the example is read, which may take the signature away.
    columns, method = _columns(described), described.flavors.get(mlflow.pyfunc.FLAVOR_NAME, {}).get("predict_fn")
    sklearn = mlflow.sklearn.FLAVOR_NAME in described.flavors
    return LoadedModel(
        estimator=_read(model, folder, described, types_record, is_on_record),
        input_example=_input_example(described, folder),
        size_bytes=size_of_artifact(found),
        columns=columns,
        method=str(method) if sklearn and method else "predict",
    )


def _columns(described: Model) -> tuple[InputColumn, ...]:
    schema = described.get_input_schema()
    if schema is None or schema.is_tensor_spec() or not schema.has_input_names():
        return ()
    return tuple(
        InputColumn(name=str(column.name), type=_type_name(column.type), required=bool(column.required))
        for column in schema.inputs
    )


def _type_name(kind: Any) -> str:
    if isinstance(kind, AnyType):
        return ColumnType.ANY.value
    return str(kind.name) if isinstance(kind, DataType) else repr(kind)


def _read(
    model: ModelRef, folder: Path, described: Model, types_record: str | None, is_on_record: Callable[[], bool]
) -> Any:
    flavor = described.flavors.get(mlflow.sklearn.FLAVOR_NAME)
    if flavor and flavor.get("serialization_format") == mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS:
        return _read_skops(model, folder / flavor["pickled_model"], _recorded_types(types_record))
    if not is_on_record():
        raise IntegrityError(
            f"{model.model_uri} is no skops file, so loading it may run any code, and the registry does not have its "
            f"digest {model.digest} on record; it is not loaded. Train it with Perennial, which writes skops; or, if "
            f"you trust these very bytes, set the tag perennial.digest of its MLflow run or registered version to that "
            f"digest"
        )
    if flavor:
        return mlflow.sklearn.load_model(str(folder))
    return mlflow.pyfunc.load_model(str(folder))


def _read_skops(model: ModelRef, path: Path, trusted: Sequence[str]) -> Any:
    import skops.io

    strangers = sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted))
    if strangers:
        raise IntegrityError(
            f"{model.model_uri} holds types that are not on record as trusted: {', '.join(strangers)}; it is not "
            f"loaded. Its tag perennial.trusted_types in MLflow was lost or changed, or Perennial did not train it. "
            f"Restore the tag, or delete MLflow run {model.run_id} and start a new run, which trains anew"
        )
    return skops.io.load(path, trusted=list(trusted))


def _recorded_types(record: str | None) -> list[str]:
    try:
        names = json.loads(record or "[]")
    except ValueError:
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _input_example(described: Model, folder: Path) -> pd.DataFrame | None:
    import pandas as pd

    try:
        example = described.load_input_example(str(folder))
    except MlflowException:
        # A whole-number column with a missing value: MLflow writes it, but its own schema does not let it be read back.
        described.signature = None
        example = described.load_input_example(str(folder))
    return example if isinstance(example, pd.DataFrame) else None


def _types_to_trust(training: FittedTraining) -> list[str]:
    """Types in the model that skops does not trust by itself: libraries' own, and those that the spec names."""
    import skops.io

    found = [str(name) for name in skops.io.get_untrusted_types(data=skops.io.dumps(training.estimator))]
    vouched = _HARMLESS_TYPES.union(training.trusted_types)
    strangers = [name for name in found if not name.startswith(_LIBRARY_TYPES) and name not in vouched]
    if strangers:
        raise TerminalError(
            f"the trained model of {training.model} holds types that may not be loaded unseen: {', '.join(strangers)}. "
            f"If they are your own, list them in the spec under training.trusted_types"
        )
    return found
