from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from perennial.errors import BadDataError, StoreUnavailableError
from perennial_airflow.errors import airflow_errors, is_terminal

pytestmark = pytest.mark.airflow


def outcome_of(error: BaseException) -> BaseException:
    with pytest.raises(BaseException) as caught, airflow_errors():  # noqa: PT011 - the type is what is asked
        raise error
    return caught.value


@pytest.mark.parametrize("error", [BadDataError("no"), ImportError("no"), TypeError("no"), KeyError("no")])
def test_error_that_would_come_again_fails_without_a_retry(error: Exception) -> None:
    raised = outcome_of(error)
    assert isinstance(raised, AirflowFailException)
    assert "no" in str(raised)
    assert raised.__cause__ is error


@pytest.mark.parametrize("error", [StoreUnavailableError("busy"), ConnectionResetError("busy"), TimeoutError("busy")])
def test_transient_error_is_retried(error: Exception) -> None:
    raised = outcome_of(error)
    assert type(raised) is AirflowException
    assert "tried again" in str(raised)


class GarbledAnswerError(OSError, ValueError):
    """As `requests` raises them."""


@pytest.mark.parametrize(
    "error",
    [
        BadDataError("a"),
        KeyError("a"),
        GarbledAnswerError("a"),
        StoreUnavailableError("a"),
        OSError("a"),
        MemoryError(),
    ],
)
def test_triggerer_and_worker_agree_on_which_errors_no_retry_helps(error: Exception) -> None:
    assert is_terminal(error) is isinstance(outcome_of(error), AirflowFailException)


@pytest.mark.parametrize("error", [AirflowSkipException("later"), MemoryError(), KeyboardInterrupt()])
def test_airflows_own_and_unknown_errors_pass(error: BaseException) -> None:
    assert outcome_of(error) is error
