"""The object store on S3, or on a server that speaks its protocol, through boto3.

Nothing is connected before the first call, and never across a fork: client and filesystem belong to the process that
made them, so that a store built in a parent process is safe to use in its children.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError

from perennial.adapters.s3_errors import code_of, mapped, status_of
from perennial.errors import NotFoundError, StoreUnavailableError, TerminalError
from perennial.ports import ObjectInfo

if TYPE_CHECKING:
    import pyarrow.fs as arrow_fs

PART_BYTES: Final = 16 * 1024 * 1024
"""Objects up to this size travel in one request, larger ones in parts of it."""
PARTS_AT_ONCE: Final = 4
CHUNK_BYTES: Final = 1024 * 1024
ATTEMPTS: Final = 4
"""Tries a call, the first included, with exponential back-off: at most about 7 seconds of waiting."""
CONNECTIONS: Final = 32
CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 60
_DEFAULT_REGION: Final = "us-east-1"


class S3Store:
    """An `ObjectStore` on S3. Use `from_session`; safe to share among threads."""

    def __init__(self, session: boto3.Session, endpoint_url: str | None, *, page_size: int = 1000) -> None:
        self._session = session
        self._endpoint_url = endpoint_url
        self._page_size = page_size
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._client: Any = None
        self._filesystems: dict[Any, arrow_fs.FileSystem] = {}

    @classmethod
    def from_session(cls, session: boto3.Session | None, endpoint_url: str | None) -> S3Store:
        """A store with the session's credentials and region (default: boto3's own look-up); connects at first use."""
        return cls(session or boto3.Session(), endpoint_url)

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        """Every object below the prefix, by key, all pages; folder markers left out."""
        bucket, prefix = split_uri(prefix_uri)
        with mapped("list", prefix_uri):
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": self._page_size}
            )
            # Read to the end before the first is given out: some stores order their pages by folder, not by key.
            found = [entry for page in pages for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")]
        for entry in sorted(found, key=lambda entry: entry["Key"].encode()):
            yield ObjectInfo(
                uri=f"s3://{bucket}/{entry['Key']}",
                size_bytes=entry["Size"],
                etag=entry["ETag"].strip('"'),
                modified=entry["LastModified"],
            )

    def head(self, uri: str) -> ObjectInfo | None:
        """The object's facts, or None if there is none (or no such bucket: S3's answer does not tell them apart)."""
        bucket, key = split_uri(uri)
        try:
            with mapped("look at", uri):
                return _info(uri, self._s3.head_object(Bucket=bucket, Key=key))
        except NotFoundError:
            return None

    def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The object's bytes [start, end), fewer if it ends before; meant for small objects and footers."""
        bucket, key = split_uri(uri)
        if end is not None and end <= start:
            return b""
        asked: dict[str, str] = {}
        if start or end is not None:
            asked["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        with mapped("read", uri):
            for attempt in range(ATTEMPTS):
                try:
                    return bytes(self._s3.get_object(Bucket=bucket, Key=key, **asked)["Body"].read())
                except ClientError as error:
                    if asked and status_of(error) == 416:
                        return b""
                    raise
                except (ResponseStreamingError, IncompleteReadError):
                    # botocore retries a request, but not a body that breaks off.
                    if attempt == ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
        """Put the object. With `if_absent`, False and no change if one is there.

        The condition is sent (If-None-Match), and a look before the put covers stores that ignore or reject it.
        """
        if not if_absent:
            self._put(uri, content, content_type)
            return True
        if self.head(uri) is not None:
            return False
        with mapped("write", uri):
            try:
                self._put_raw(uri, content, content_type, IfNoneMatch="*")
            except ClientError as error:
                if status_of(error) == 412:
                    return False
                if status_of(error) not in (400, 501) or code_of(error) not in _CONDITION_REJECTED:
                    raise
                self._put_raw(uri, content, content_type)
        return True

    def delete(self, uri: str) -> None:
        """Take the object away; no error if there is none."""
        bucket, key = split_uri(uri)
        with mapped("delete", uri):
            try:
                self._s3.delete_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if code_of(error) != "NoSuchKey":  # S3 answers 204, other stores may tell
                    raise

    def download(self, uri: str, path: Path) -> ObjectInfo:
        """Stream the object into a local file, in parts; memory stays flat.

        The file appears under its name when it is complete. The facts returned are those of the bytes downloaded,
        also if the object was replaced since it was listed.

        Raises:
            StoreUnavailableError: also if the object was replaced during the download.
        """
        bucket, key = split_uri(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False) as target:
            try:
                with mapped("download", uri):
                    info = self._stream(uri, bucket, key, target)
                target.close()
                os.replace(target.name, path)
            except BaseException:
                Path(target.name).unlink(missing_ok=True)
                raise
        return info

    def upload(self, path: Path, uri: str, *, content_type: str) -> None:
        """Stream a local file into the object, in parts; memory stays flat."""
        if path.stat().st_size <= PART_BYTES:
            with path.open("rb") as source:
                self._put(uri, source, content_type)
            return
        bucket, key = split_uri(uri)
        with mapped("upload", uri), self._transfers() as transfers:
            transfers.upload(str(path), bucket, key, extra_args={"ContentType": content_type}).result()

    def arrow(self, uri: str) -> tuple[arrow_fs.FileSystem, str]:
        """A pyarrow filesystem with the session's credentials as they are now, and the path in it."""
        bucket, key = split_uri(uri)
        with mapped("read credentials for", uri):
            credentials = self._session.get_credentials()
            frozen = credentials.get_frozen_credentials() if credentials else None
        if frozen is None:
            raise TerminalError(f"no credentials to read {uri}; set an AWS profile, role or AWS_ACCESS_KEY_ID")
        client = self._s3
        with self._lock:
            if frozen not in self._filesystems:
                # Renewed credentials: the filesystem of the old ones goes.
                self._filesystems = {frozen: self._new_filesystem(frozen, client.meta.endpoint_url)}
            return self._filesystems[frozen], f"{bucket}/{key}"

    @property
    def _s3(self) -> Any:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._client, self._filesystems = os.getpid(), self._new_client(), {}
            return self._client

    def _new_client(self) -> Any:
        options: dict[str, Any] = {}
        if self._endpoint_url:
            # Other stores: buckets are no host names there, and few know S3's newer trailing checksums.
            options = {
                "s3": {"addressing_style": "path"},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            **options,
        )
        region = self._session.region_name or _DEFAULT_REGION
        return self._session.client("s3", endpoint_url=self._endpoint_url, region_name=region, config=config)

    def _new_filesystem(self, frozen: Any, endpoint_url: str) -> arrow_fs.FileSystem:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        endpoint = urlsplit(endpoint_url)
        own = not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
        options = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme} if own else {}
        return S3FileSystem(
            access_key=frozen.access_key,
            secret_key=frozen.secret_key,
            session_token=frozen.token,
            region=self._session.region_name or _DEFAULT_REGION,
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=READ_TIMEOUT_S,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            **options,
        )

    def _put(self, uri: str, content: bytes | IO[bytes], content_type: str) -> None:
        with mapped("write", uri):
            self._put_raw(uri, content, content_type)

    def _put_raw(self, uri: str, content: bytes | IO[bytes], content_type: str, **condition: str) -> None:
        bucket, key = split_uri(uri)
        self._s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType=content_type, **condition)

    def _stream(self, uri: str, bucket: str, key: str, target: IO[bytes]) -> ObjectInfo:
        for attempt in range(ATTEMPTS):
            response = self._s3.get_object(Bucket=bucket, Key=key)
            info = _info(uri, response)
            if info.size_bytes > PART_BYTES:
                response["Body"].close()
                return self._in_parts(info, bucket, key, target)
            try:
                for chunk in response["Body"].iter_chunks(CHUNK_BYTES):
                    target.write(chunk)
                return info
            except (ResponseStreamingError, IncompleteReadError):
                if attempt == ATTEMPTS - 1:
                    raise
                target.seek(0)
                target.truncate()
        raise AssertionError("unreachable")

    def _in_parts(self, info: ObjectInfo, bucket: str, key: str, target: IO[bytes]) -> ObjectInfo:
        with self._transfers() as transfers:
            transfers.download(bucket, key, target).result()
        after = self.head(info.uri)
        if after is None or after.etag != info.etag:
            raise StoreUnavailableError(f"{info.uri} was replaced while it was downloaded; try again")
        return info

    def _transfers(self) -> Any:
        config = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )
        return create_transfer_manager(self._s3, config)


_CONDITION_REJECTED: Final = frozenset(
    {"NotImplemented", "InvalidArgument", "InvalidRequest", "UnsupportedOperation", "501", "400"}
)


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`.

    Raises:
        TerminalError: not such a uri.
    """
    bucket, slash, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not slash:
        raise TerminalError(f"{uri!r} is not an object's uri; expected s3://bucket/key")
    return bucket, key


def _info(uri: str, response: Any) -> ObjectInfo:
    return ObjectInfo(
        uri=uri,
        size_bytes=response["ContentLength"],
        etag=response["ETag"].strip('"'),
        modified=response["LastModified"],
    )
