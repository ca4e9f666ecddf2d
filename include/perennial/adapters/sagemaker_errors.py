"""Maps what boto3 raises of SageMaker to Perennial's errors: what to try again, and what has to be changed first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
)

from perennial.errors import DeployerUnavailableError, PerennialError, TerminalError

_BUSY: Final = frozenset(
    {
        "ConflictException",
        "InternalFailure",
        "RequestLimitExceeded",
        "ResourceInUse",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException"})
"""The next try may have new credentials: an identity that is renewed by a role or by the trigger. It says nothing about
a challenger, so that it must not end its rollout."""
_GUIDE: Final = "docs/deployment-sagemaker.md"
_DENIED: Final = f"the credentials do not allow it; give them the policy of {_GUIDE}"
_NEXT_STEP: Final = {
    "AccessDenied": _DENIED,
    "AccessDeniedException": _DENIED,
    "IncompleteSignature": "the request was not signed right; check the connection's credentials",
    "InvalidClientTokenId": "AWS does not know this access key; check the connection's credentials",
    "InvalidSignatureException": "the secret key does not fit the access key; check the connection's credentials",
    "OptInRequired": "the account has no access to SageMaker in this region; check the connection's region",
    "ResourceLimitExceeded": "a quota of the account is used up; have it raised, or change instance_type or "
    "instance_count of the spec's deployment",
    "UnrecognizedClientException": "AWS does not know these credentials; check the connection",
    "ValidationException": f"see deployment in the model's spec, and {_GUIDE}",
}


@contextmanager
def mapped(operation: str) -> Iterator[None]:
    """Raise Perennial's errors for boto3's.

    Raises:
        DeployerUnavailableError: connection, time-out, throttling, 5xx, after boto3's own retries; or the endpoint is
            busy with an earlier change, or does not see yet what was created right before.
        TerminalError: anything else; the message tells the next step.
    """
    what = f"SageMaker, {operation}"
    try:
        yield
    except PerennialError:
        raise
    except ClientError as error:
        raise _of_answer(error, what) from error
    except (ConnectionError, HTTPClientError) as error:
        raise DeployerUnavailableError(f"{what}: no answer: {error}") from error
    except NoCredentialsError as error:
        raise TerminalError(
            f"{what}: there are no credentials; make the Airflow connection perennial_sagemaker (type aws), or set "
            f"AWS_PROFILE or AWS_ACCESS_KEY_ID"
        ) from error
    except NoRegionError as error:
        raise TerminalError(
            f"{what}: there is no region; set region_name in the Airflow connection perennial_sagemaker, or "
            f"AWS_DEFAULT_REGION"
        ) from error
    except BotoCoreError as error:
        raise TerminalError(f"{what}: {error}; see deployment in the model's spec, and {_GUIDE}") from error


def is_missing(error: ClientError) -> bool:
    """Whether there is nothing of this name. SageMaker has no code of its own for it."""
    return _code(error) == "ValidationException" and "Could not find" in _message(error)


def is_there_already(error: ClientError) -> bool:
    """Whether something of this name was created before."""
    return _code(error) == "ValidationException" and "already existing" in _message(error)


def _code(error: ClientError) -> str:
    """SageMaker's error code."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _message(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))


def _of_answer(error: ClientError, what: str) -> PerennialError:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code, message = _code(error), _message(error)
    told = f"{what}: {code}: {message}"
    if code in _BUSY or status == 429 or status >= 500:
        return DeployerUnavailableError(f"{told} (after retries)")
    if code in _EXPIRED:
        return DeployerUnavailableError(f"{told}: the session's credentials have run out; renew them")
    if "in-progress" in message or is_missing(error) or is_there_already(error):
        # Another change got in between, or SageMaker's tables, which are read with a delay, do not show it yet.
        return DeployerUnavailableError(f"{told}; try again")
    return TerminalError(f"{told}: {_NEXT_STEP.get(code, f'see {_GUIDE}')}")
