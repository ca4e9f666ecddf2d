"""What the suites of the object stores share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.contract.s3_servers import Server

from perennial.adapters.s3 import S3Store

TEXT = "text/plain"
BIG_BYTES = 20 * 1024 * 1024


def s3_store(server: Server, bucket: str) -> S3Store:
    server.add_bucket(bucket)
    return server.store(page_size=3)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
