"""Every error Perennial raises on purpose, and what a caller may do about it.

`TerminalError`: trying again with the same inputs gives the same error; fail at once.
`TransientError`: the world was in the way (a server down, a time-out); try again later.
`perennial_airflow.errors` maps the two to Airflow's exceptions, and nothing else does.

A message says what went wrong, where, the limit against what was found, and the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perennial.domain.alert import Outcome


class PerennialError(Exception):
    """Root of all errors raised on purpose."""


class TerminalError(PerennialError):
    """The same inputs will fail again."""


class TransientError(PerennialError):
    """Worth another try: a server did not answer, or answered that it is overloaded."""


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """One mistake in one spec file."""

    file: str
    field: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field} = {self.value}: {self.allowed}"


class SpecError(TerminalError):
    """A spec file, or what it points at, is not usable. Carries every problem found, not just the first."""

    def __init__(self, problems: Sequence[SpecProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnknownModelError(TerminalError):
    """No spec declares a model of this name."""


class RequestError(TerminalError):
    """A run was asked for with values that are not allowed (as_of, parameter overrides, reason)."""


class NoDataError(TerminalError):
    """The landing zone has no usable data for the windows that the spec asks for."""


class BadDataError(TerminalError):
    """Data was refused. The evidence was published before this was raised; `page_uri` is its page, for people."""

    def __init__(self, message: str, *, page_uri: str | None = None) -> None:
        self.page_uri = page_uri
        super().__init__(message)


class UnfairComparisonError(TerminalError):
    """Champion and challenger cannot be compared fairly (invariant 3)."""


class ChampionUnusableError(TerminalError):
    """The champion cannot be scored: it fails to load, or lacks a column. Not the same as scoring badly."""


class IntegrityError(TerminalError):
    """Bytes differ from the digest recorded for them (invariant 8)."""


class FenceError(TerminalError):
    """The alias `champion` is not where the decision saw it; someone else moved it meanwhile."""


class LedgerConflictError(TerminalError):
    """The ledger holds a different entry of the same id, or its end is damaged."""


class NotAllowedError(TerminalError):
    """The person who asked may not do this (approve, break the glass)."""


class ExpiredVerdictError(TerminalError):
    """The decision is older than `gate.verdict_expires`; the data may have changed since."""


class SmokeTestError(TerminalError):
    """A model, tried out before it serves, does not load or does not give the predictions that it should."""


class WebhookRefusedError(TerminalError):
    """The webhook does not take a message as it is, or what answered is no webhook of ours."""


class AlertConflictError(TerminalError):
    """An alert's id was used before, for an alert that says something else; `outcome` is that one's, None: not yet."""

    def __init__(self, message: str, *, outcome: Outcome | None = None) -> None:
        self.outcome = outcome
        super().__init__(message)


class UndecodableError(TerminalError):
    """An object is not what its name says: half of it, or something else."""


class NotFoundError(TerminalError):
    """An object, run or version that a reference names does not exist."""


class StoreUnavailableError(TransientError):
    """The object store did not answer, or asked to slow down."""


class RegistryUnavailableError(TransientError):
    """The MLflow server did not answer, or answered with a server error."""


class DeployerUnavailableError(TransientError):
    """What serves the models (SageMaker, Kubernetes) did not answer, or is busy with an earlier change."""


class WebhookUnavailableError(TransientError):
    """The webhook did not answer, or asked to try again later."""


class LockTimeoutError(TransientError):
    """Others held the model's lock, or used it all the time, for as long as we were willing to wait."""


class LockLostError(TransientError):
    """The lease on the model's lock ran out before the work was done; nothing more was moved."""
