"""What the stages need of the world, as Protocols. Adapters implement them, and fakes that pass the same tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from perennial.domain.smoke_test import Fault
from perennial.domain.traffic import Role

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.fs as arrow_fs

    from perennial.domain.references import ModelRef
    from perennial.domain.signature import InputColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object as a listing shows it."""

    uri: str
    size_bytes: int
    etag: str
    modified: datetime


class ObjectStore(Protocol):
    """An S3-like store; uris are `s3://bucket/key`.

    Raises (all methods): StoreUnavailableError when it does not answer after its own retries (5xx, throttling,
    connection), NotFoundError when an object or bucket does not exist, TerminalError when access is denied.
    """

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        """Every object below the prefix, by key, all pages; folder markers left out."""
        ...

    def head(self, uri: str) -> ObjectInfo | None:
        """The object's facts, or None if there is none."""
        ...

    def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The object's bytes [start, end); meant for small objects and footers."""
        ...

    def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
        """Put the object. With `if_absent`, False and no change if one is there.

        The condition is sent to the store (If-None-Match), and a look before the put covers stores that ignore it.
        """
        ...

    def delete(self, uri: str) -> None:
        """Take the object away; no error if there is none. Only for locks, marks and remains, never for evidence."""
        ...

    def download(self, uri: str, path: Path) -> ObjectInfo:
        """Stream the object into a local file, in parts; memory stays flat.

        Returns the facts of the bytes downloaded, also if the object was replaced since it was listed.
        """
        ...

    def upload(self, path: Path, uri: str, *, content_type: str) -> None:
        """Stream a local file into the object, in parts; memory stays flat."""
        ...

    def arrow(self, uri: str) -> tuple[arrow_fs.FileSystem, str]:
        """A pyarrow filesystem and the path in it, for reading columns and row groups of large Parquet files."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """A version of a registered model, with what promotion and fair comparison need of it."""

    name: str
    version: str
    model: ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model whose every file had the digest recorded for it."""

    estimator: Any
    input_example: pd.DataFrame | None
    """Rows of features that were logged with it; None if there are none."""
    size_bytes: int
    """Of all its files."""
    columns: tuple[InputColumn, ...] = ()
    """Of the logged signature, in its order; empty if it has none, or none with names."""
    method: str = "predict"
    """Of the estimator: what a caller of the model gets, `predict` or `predict_proba`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecords:
    """What the registry holds of a model's files, beside the files; needed to open a copy of them later."""

    files: str | None
    """See `perennial.domain.artifact.record_of`."""
    trusted_types: str | None
    """JSON list of the types that skops may load."""
    digest_on_record: bool
    """Whether the registry vouches for the digest, which files other than skops' need."""


class ModelRegistry(Protocol):
    """Tracking and registry (MLflow).

    Raises (all methods): RegistryUnavailableError when the server does not answer or answers 5xx after retries.
    """

    def find_training(self, model: str, fingerprint: str) -> ModelRef | None:
        """The finished training of this fingerprint, if there is one, whoever ran it."""
        ...

    def log_training(self, training: FittedTraining) -> ModelRef:
        """Log parameters, metrics, signature, input example, dataset, tags and the model; finish the run."""
        ...

    def load(self, model: ModelRef) -> Any:
        """The fitted estimator alone; see `open_model`."""
        ...

    def open_model(self, model: ModelRef) -> LoadedModel:
        """The fitted estimator, after each of its files was compared with its recorded digest.

        Raises:
            IntegrityError: a file is changed, missing or added (says which, with both digests); or it is a pickle
                whose digest the registry does not have on record.
            NotFoundError: there is no such model.
        """
        ...

    def fetch(self, model: ModelRef, folder: Path) -> ModelRecords:
        """Download the model's files into the folder, which exists and is empty. They are not compared with anything.

        Raises:
            NotFoundError: there is no such model.
        """
        ...

    def open_fetched(self, model: ModelRef, folder: Path, records: ModelRecords) -> LoadedModel:
        """`open_model` of files that were fetched before; the server need not answer.

        Raises:
            IntegrityError: as `open_model`.
        """
        ...

    def champion(self, model: str) -> RegisteredVersion | None:
        """The version that the alias `champion` names, or None."""
        ...

    def champion_version(self, model: str) -> str | None:
        """The version that the alias `champion` names, whoever registered it and put it there; or None."""
        ...

    def register(self, model: str, trained: ModelRef, tags: Mapping[str, str], *, description: str = "") -> str:
        """The version that holds this digest: the one already there, else a new one."""
        ...

    def version(self, model: str, version: str) -> RegisteredVersion:
        """One version.

        Raises:
            NotFoundError: there is none of this number.
            ChampionUnusableError: Perennial did not register it, so its digest is unknown.
        """
        ...

    def version_tags(self, model: str) -> Mapping[str, Mapping[str, str]]:
        """The tags of every version of a model, by version; empty if there is no such model."""
        ...

    def tag_version(self, model: str, version: str, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version, or (None) take them away; the same again changes nothing."""
        ...

    def log_text(self, run_id: str, path: str, text: str) -> None:
        """Keep a text file with a run (not with its model: that would change the digest).

        The same path again replaces it.
        """
        ...

    def point_alias(self, model: str, alias: str, version: str) -> None:
        """Move the alias. Last writer wins: only the promote stage calls this for `champion`."""
        ...

    def annotate(self, run_id: str, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Add metrics and tags to a run, finished or not. The same again changes nothing that matters."""
        ...

    def run_url(self, run_id: str) -> str:
        """Where a person looks at the run."""
        ...

    def log_monitoring(self, model: str, *, at: datetime, step: int, metrics: Mapping[str, float]) -> str:
        """Add a point of time to the model's monitoring run of that month; the run's id.

        One run a model and calendar month (UTC), named `monitoring <model> <yyyy-mm>`, made when it is needed. The same
        values of the same `step` again change nothing.

        Args:
            model: its name.
            at: the point in time, aware.
            step: its number, the larger the later.
            metrics: finite values by name.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A challenger beside the champion on live traffic."""

    champion: RegisteredVersion
    challenger: RegisteredVersion
    role: Role
    """CANARY: answers a share of the requests. SHADOW: scores a copy of them."""
    rollout_id: str
    """Whose split it is; also the salt that says which keys are in the share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStatus:
    """What serves a model, as far as the platform tells."""

    champion: str | None
    """Registry version that answers all that the challenger does not; None: none, or the platform follows the alias."""
    challenger: str | None = None
    role: Role | None = None
    """The challenger's."""
    share: float = 0.0
    """Percent of the requests that the challenger gets, or of which it gets a copy."""
    rollout_id: str | None = None
    """Whose split is in force; None: nobody's."""
    ready: bool = True
    """Whether what was asked for last is in force."""
    problem: str = ""
    """Why it will never be; empty: it is, or is on the way."""


class Deployer(Protocol):
    """Where a model serves. Each method may be called again with the same arguments and then changes nothing.

    Raises (all methods): DeployerUnavailableError when the platform does not answer, or asks to slow down, or is busy
    with an earlier change; TerminalError when it refuses (says what to change).
    """

    def deploy(self, split: Split) -> None:
        """Bring the challenger up beside the champion, without a share. Returns at once; `status` tells when it is."""
        ...

    def shift(self, split: Split, share: float) -> None:
        """Give the challenger this percentage of the requests, or of their copies. Called at each look: also renews."""
        ...

    def status(self, model: str) -> DeploymentStatus:
        """What is in force."""
        ...

    def promote(self, champion: RegisteredVersion) -> None:
        """Let this version answer everything, and take every other one out of service. Also for a first champion."""
        ...

    def roll_back(self, champion: RegisteredVersion) -> None:
        """Let this version, which answers already, answer everything at once; take the challenger out of service."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTraining:
    """Everything worth logging of one training."""

    model: str
    task: str
    estimator: Any
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    input_example: pd.DataFrame
    """5 rows of features."""
    output_example: Any
    """What predict (or predict_proba) gave for them; the signature is inferred from both."""
    dataset_uri: str
    dataset_sha256: str
    dataset_rows: int
    fingerprint: str
    keys_sha256: str
    training_start: datetime
    training_end: datetime
    trusted_types: Sequence[str]
    run_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectationResult:
    """One expectation's outcome."""

    expectation: str
    """Its type, such as `expect_column_values_to_not_be_null`."""
    column: str | None
    success: bool
    detail: Mapping[str, Any]
    """JSON-ready: `kwargs` with parameters filled in, and `observed`: `element_count`, `missing_count`,
    `observed_value`, `lowest` and `highest` value at fault, `example_counts`; each only where it has a meaning."""
    unexpected_count: int = 0
    examples: Sequence[Any] = ()
    """Up to 10 different values at fault, the most frequent first, JSON-ready."""
    notes: str = ""
    error: str = ""
    """Why it could not be evaluated (then success is False)."""
    rows: Sequence[int] = ()
    """Positions (0-based) of the rows at fault, ascending; empty for expectations on a whole column or table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """A suite's outcome, and the positions of the rows at fault."""

    success: bool
    results: Sequence[ExpectationResult]
    faulty_rows: Sequence[int]
    """Positions (0-based) in the frame, ascending, none twice."""


class Validator(Protocol):
    """Runs an expectation suite (Great Expectations)."""

    def validate(self, frame: pd.DataFrame, suite: Mapping[str, Any], parameters: Mapping[str, Any]) -> SuiteResult:
        """Check the frame. `parameters` fill the suite's `{"$PARAMETER": name}`.

        Raises:
            SpecError: the suite is not a valid suite.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeTrial:
    """What a model has to do before any traffic."""

    model: ModelRef
    files: Path
    """Folder, as `ModelRegistry.fetch` filled it."""
    records: ModelRecords
    body: bytes
    """Rows in `dataframe_split`, as a client sends them."""
    timeout_s: float
    max_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeOutcome:
    """What came of it."""

    predictions: Sequence[Any] | None
    """What the client would get, one a row; None if there is a fault."""
    fault: Fault | None
    problem: str
    """What the fault is, as part of a sentence."""
    took_s: float
    peak_memory_bytes: int | None
    """Resident; None if it is not known."""
    facts: Mapping[str, Any]
    """JSON-ready, for the report: interpreter, installed packages, what was printed."""


class SmokeTester(Protocol):
    """Loads and scores a model where nothing of this process can help it."""

    def score(self, trial: SmokeTrial) -> SmokeOutcome:
        """Compare the files with their digest, load them, score the input example and answer the request.

        Whatever the model does is told by the outcome.

        Raises:
            TerminalError: the test itself cannot be done, such as without the interpreter that was asked for.
        """
        ...


class Clock(Protocol):
    """The wall clock, as an argument (invariant 9)."""

    def now(self) -> datetime:
        """Aware, UTC."""
        ...
