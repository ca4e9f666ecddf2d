"""MLflow's errors as Perennial's: what may pass, what will not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import requests
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]  # its stubs are a package of their own
from mlflow.exceptions import MlflowException

from perennial.errors import NotFoundError, RegistryUnavailableError, TerminalError

_TRANSIENT_CODES: Final = frozenset({"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"})


@contextmanager
def mlflow_answers(action: str) -> Iterator[None]:
    """Around calls of MLflow's client; `action` follows "could not" in the messages.

    Raises:
        RegistryUnavailableError: no answer, or a server error.
        NotFoundError: no such run, model or version.
        TerminalError: anything else that MLflow refuses, or an answer that is none of MLflow's.
    """
    try:
        yield
    except requests.RequestException as error:
        raise RegistryUnavailableError(f"could not {action}: MLflow did not answer ({type(error).__name__})") from error
    except ParseError as error:
        raise TerminalError(
            f"could not {action}: the answer is not MLflow's ({error}); does the tracking uri name an MLflow server?"
        ) from error
    except MlflowException as error:
        message = without_credentials(f"could not {action}: {str(error)[:500]}")
        if isinstance(error.__cause__, requests.RequestException):  # whose text goes on for lines
            unanswered = f"could not {action}: MLflow did not answer ({type(error.__cause__).__name__})"
            raise RegistryUnavailableError(unanswered) from error
        if error.error_code in _TRANSIENT_CODES:
            raise RegistryUnavailableError(message) from error
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFoundError(message) from error
        raise TerminalError(message) from error


def without_credentials(text: str) -> str:
    """Without user and password of any address in it (invariant 12)."""
    return re.sub(r"://[^/@\s]+@", "://", text)
