"""THE mapping of errors to what Airflow does with them. Nothing else in this package translates errors.

| raised | Airflow |
| --- | --- |
| TerminalError | fails at once: the same inputs will fail again |
| TransientError, OSError (connections, time-outs) | retries with backoff |
| errors of code, such as TypeError or ImportError | fails at once: stages are deterministic (invariant 2) |
| Airflow's own (skip, defer, …) | as it is |
| anything else | Airflow's default: retries |
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from perennial.errors import TerminalError, TransientError

log = logging.getLogger(__name__)

CODE_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    ValueError,
)


def is_terminal(error: BaseException) -> bool:
    """Whether no retry would help."""
    return isinstance(error, (TerminalError, AirflowFailException, *CODE_ERRORS)) and not isinstance(error, OSError)


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Let Perennial's errors leave the block as Airflow's.

    Raises:
        AirflowFailException: no retry would help.
        AirflowException: a retry may help.
    """
    try:
        yield
    except AirflowException:
        raise
    except TerminalError as error:
        log.error("%s", error)  # a line for people, above Airflow's traceback
        raise AirflowFailException(str(error)) from error
    except (TransientError, OSError) as error:
        log.warning("%s (transient: this task is tried again)", error)
        raise AirflowException(f"{error} (transient: this task is tried again)") from error
    except CODE_ERRORS as error:
        raise AirflowFailException(
            f"{type(error).__name__}: {error}. The same inputs would fail again; "
            f"see the traceback for the line in the model's own code, or report it if the line is Perennial's"
        ) from error
