"""What only S3 can get wrong, on moto and rclone: faults, retries, conditions, credentials, forks."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from tests.contract.objects import BIG_BYTES, TEXT, s3_store, sha256
from tests.contract.s3_servers import SECRET_KEY, Server, answer

from perennial.adapters.s3 import PART_BYTES
from perennial.errors import NotFoundError, StoreUnavailableError, TerminalError


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running: Server = request.getfixturevalue(f"{request.param}_running")
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    yield running
    running.before_send.clear()


def test_folder_marker_is_not_listed(moto_running: Server, bucket: str) -> None:
    # rclone keeps markers as plain files, so there is nothing to tell them by.
    store = s3_store(moto_running, bucket)
    for key in ("in/", "in/sub/", "in/sub/a.txt"):
        store.write(f"s3://{bucket}/{key}", b"", content_type=TEXT)
    assert [info.uri for info in store.list(f"s3://{bucket}/in/")] == [f"s3://{bucket}/in/sub/a.txt"]


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", ""])
def test_server_error_twice_is_retried(server: Server, bucket: str, code: str) -> None:
    store = s3_store(server, bucket)
    uri = f"s3://{bucket}/a.txt"
    left = []

    def fault(request: Any) -> AWSResponse | None:
        return answer(request, 503, code) if left and left.pop() else None

    server.before_send.append(fault)
    for call in (
        lambda: store.write(uri, b"x", content_type=TEXT),
        lambda: store.read(uri),
        lambda: list(store.list(f"s3://{bucket}/")),
        lambda: store.head(uri),
    ):
        left[:] = [True, True]
        assert call()
        assert not left


def test_server_error_that_stays_is_unavailable(server: Server, bucket: str, tmp_path: Path) -> None:
    store = s3_store(server, bucket)
    uri = f"s3://{bucket}/a.txt"
    big = tmp_path / "big"
    big.write_bytes(b"\0" * (PART_BYTES + 1))
    server.before_send.append(lambda request: answer(request, 503, "SlowDown"))
    for call in (
        lambda: store.write(uri, b"x", content_type=TEXT, if_absent=True),
        lambda: store.read(uri),
        lambda: store.head(uri),
        lambda: list(store.list(f"s3://{bucket}/")),
        lambda: store.download(uri, tmp_path / "x"),
        lambda: store.upload(big, uri, content_type=TEXT),
        lambda: store.delete(uri),
    ):
        with pytest.raises(StoreUnavailableError, match="503"):
            call()


def test_nobody_listening_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        store = Server(f"http://127.0.0.1:{probe.getsockname()[1]}").store()
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            store.read("s3://bucket/a")


def test_store_that_rejects_the_condition_is_written_without_it(server: Server, bucket: str) -> None:
    store = s3_store(server, bucket)
    uri = f"s3://{bucket}/a.txt"

    def fault(request: Any) -> AWSResponse | None:
        return answer(request, 501, "NotImplemented") if "If-None-Match" in request.headers else None

    server.before_send.append(fault)
    assert store.write(uri, b"first", content_type=TEXT, if_absent=True) is True
    assert store.write(uri, b"second", content_type=TEXT, if_absent=True) is False
    assert store.read(uri) == b"first"


def test_writer_that_came_between_is_not_overwritten(moto_running: Server, bucket: str) -> None:
    # rclone ignores the condition.
    store = s3_store(moto_running, bucket)
    uri = f"s3://{bucket}/a.txt"
    store.write(uri, b"first", content_type=TEXT)
    moto_running.before_send.append(lambda request: answer(request, 404, "") if request.method == "HEAD" else None)
    try:
        assert store.write(uri, b"second", content_type=TEXT, if_absent=True) is False
    finally:
        moto_running.before_send.clear()
    assert store.read(uri) == b"first"


def test_object_replaced_while_it_is_downloaded_is_tried_again_later(
    server: Server, bucket: str, tmp_path: Path
) -> None:
    store = s3_store(server, bucket)
    uri = f"s3://{bucket}/big.bin"
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1" * BIG_BYTES)
    second.write_bytes(b"2" * BIG_BYTES)
    store.upload(first, uri, content_type=TEXT)
    writer = server.store()
    ranges: list[str] = []

    def replace(request: Any) -> AWSResponse | None:
        if request.method == "GET" and "Range" in request.headers:
            ranges.append(request.headers["Range"])
            if len(ranges) == 1:
                server.before_send.clear()
                writer.upload(second, uri, content_type=TEXT)
        return None

    server.before_send.append(replace)
    with pytest.raises(StoreUnavailableError, match="replaced"):
        store.download(uri, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    store.download(uri, tmp_path / "got")
    assert sha256(tmp_path / "got") == sha256(second)


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "SignatureDoesNotMatch"])
def test_denied_access_tells_the_next_step(server: Server, bucket: str, code: str) -> None:
    store = s3_store(server, bucket)
    server.before_send.append(lambda request: answer(request, 403, code))
    with pytest.raises(TerminalError, match=r"credentials") as caught:
        store.read(f"s3://{bucket}/a.txt")
    assert not isinstance(caught.value, NotFoundError)
    assert SECRET_KEY not in str(caught.value)


def test_unknown_access_key_is_refused(rclone_running: Server, bucket: str) -> None:
    # moto takes any key.
    rclone_running.add_bucket(bucket)
    with pytest.raises(TerminalError, match="does not know this access key"):
        list(rclone_running.store(access_key="nobody").list(f"s3://{bucket}/"))


def test_store_used_before_a_fork_works_in_the_child(server: Server, bucket: str) -> None:
    store = s3_store(server, bucket)
    uri = f"s3://{bucket}/a.txt"
    store.write(uri, b"parent", content_type=TEXT)

    def child() -> None:
        store.write(uri, store.read(uri) + b" and child", content_type=TEXT)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert store.read(uri) == b"parent and child"


def test_making_a_store_connects_to_nothing_and_loads_no_arrow() -> None:
    program = (
        "import sys; from perennial.adapters.s3 import S3Store; "
        "S3Store.from_session(None, 'http://127.0.0.1:1'); assert 'pyarrow' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)
