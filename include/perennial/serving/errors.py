"""Everything that a request can be refused with. Each knows its HTTP status; its text is all that a client sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from perennial.errors import PerennialError


class ServingError(PerennialError):
    """A request that gets no prediction."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_ERROR"
    """MLflow's name of the error, as in its own scoring server's answers."""
    kind: ClassVar[str] = "internal"
    """Label of the errors' counter."""
    retry_after_s: int | None = None


class BadRequestError(ServingError):
    """The body is not what the model takes.

    Args:
        message: for people: what came, where, and what is expected.
        status: 400; 404, 408, 413 or 415 where HTTP has a word of its own.
        detail: one JSON object for each column or row at fault.
    """

    code = "BAD_REQUEST"
    kind = "request"

    def __init__(self, message: str, *, status: int = 400, detail: Sequence[dict[str, Any]] = ()) -> None:
        self.status = status  # type: ignore[misc]  # of this one request
        self.detail = tuple(detail)
        super().__init__(message)


class UnscorableRowsError(ServingError):
    """The rows fit the signature, and the model refuses them (ValueError and its like)."""

    status = 422
    code = "INVALID_PARAMETER_VALUE"
    kind = "model"


class ModelFailedError(ServingError):
    """The model raised what has nothing to do with the rows, or gave something that is no prediction."""

    kind = "model"


class QueueFullError(ServingError):
    """More rows wait than the limit allows."""

    status = 429
    code = "REQUEST_LIMIT_EXCEEDED"
    kind = "queue_full"
    retry_after_s = 1


class UnavailableError(ServingError):
    """No model is loaded, or the one that is hangs, or the replica is on its way out."""

    status = 503
    code = "TEMPORARILY_UNAVAILABLE"
    kind = "unavailable"
    retry_after_s = 1


class DeadlineError(ServingError):
    """No prediction within the time limit."""

    status = 504
    code = "DEADLINE_EXCEEDED"
    kind = "deadline"


class HungUpError(ServingError):
    """The client did not wait for the answer. Nobody sees the status; the metrics and the log do."""

    status = 499
    code = "CANCELLED"
    kind = "hung_up"
