"""Maps what boto3 raises to Perennial's errors: what to try again, and what somebody has to mend first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from s3transfer.exceptions import RetriesExceededError

from perennial.errors import NotFoundError, PerennialError, StoreUnavailableError, TerminalError

_BUSY: Final = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "InternalError",
        "OperationAborted",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "BadDigest",
    }
)
_NEXT_STEP: Final = {
    "InvalidAccessKeyId": "the store does not know this access key; check the connection's credentials",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; check the connection's credentials",
    "ExpiredToken": "the session's credentials have run out; renew them",
    "InvalidToken": "the session token is not valid; renew the credentials",
    "RequestTimeTooSkewed": "this machine's clock is off by more than the store allows; set it right",
    "PermanentRedirect": "the bucket is in another region; set the connection's region",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set the connection's region",
    "InvalidBucketName": "this is not a valid bucket name; check the uri",
}
_DENIED: Final = (
    "the credentials do not allow this; grant them s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject there"
)
_UNAVAILABLE: Final = (ConnectionError, HTTPClientError, IncompleteReadError, ChecksumError, FlexibleChecksumError)


@contextmanager
def mapped(action: str, uri: str) -> Iterator[None]:
    """Raise Perennial's errors for boto3's.

    Raises:
        StoreUnavailableError: connection, time-out, throttling, 5xx; after boto3's own retries.
        NotFoundError: no such object or bucket.
        TerminalError: anything else; the message tells the next step.
    """
    try:
        yield
    except PerennialError:
        raise
    except ClientError as error:
        raise _of_answer(error, action, uri) from error
    except (*_UNAVAILABLE, RetriesExceededError) as error:
        raise StoreUnavailableError(f"cannot {action} {uri}: the store did not answer in full: {error}") from error
    except NoCredentialsError as error:
        raise TerminalError(
            f"cannot {action} {uri}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
            f"profile, or in Airflow the connection"
        ) from error
    except BotoCoreError as error:
        raise TerminalError(f"cannot {action} {uri}: {error}") from error


def status_of(error: ClientError) -> int:
    """HTTP status of the answer; 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """S3's error code; the status as text where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _of_answer(error: ClientError, action: str, uri: str) -> PerennialError:
    status, code = status_of(error), code_of(error)
    told = f"cannot {action} {uri}: the store answered {status} {code}"
    if status == 412:
        return StoreUnavailableError(f"{told}: the object was replaced meanwhile; try again")
    if code in _BUSY or status == 429 or (status >= 500 and status != 501):
        return StoreUnavailableError(f"{told} after retries")
    if status == 404:
        bucket = f"bucket {uri.split('/')[2]!r}; create it, or correct the uri"
        return NotFoundError(f"{told}: there is no {bucket if code == 'NoSuchBucket' else 'such object'}")
    return TerminalError(f"{told}: {_NEXT_STEP.get(code, _DENIED if status == 403 else error)}")
