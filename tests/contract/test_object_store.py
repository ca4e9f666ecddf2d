"""One suite for every object store: the folder that tests use, S3 as moto plays it, and S3 as rclone serves it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tests.contract.objects import BIG_BYTES, TEXT, s3_store, sha256

from perennial.errors import NotFoundError, TerminalError
from perennial.ports import ObjectStore
from perennial.testing import FolderStore

ODD_KEYS = ("a b+c&d=1.txt", "month=1/ümlaut %20.txt", "q'(1)!~*.txt", 'say "x" <y>.txt')


@pytest.fixture(params=["folder", "moto", "rclone"])
def store(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        folder = FolderStore(tmp_path / "store")
        folder.add_bucket(bucket)
        return folder
    return s3_store(request.getfixturevalue(f"{request.param}_running"), bucket)


def test_written_object_reads_back(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/a/b.txt"
    assert store.write(uri, b"0123456789", content_type=TEXT) is True
    assert store.read(uri) == b"0123456789"
    assert store.read(uri, start=2, end=5) == b"234"
    assert store.read(uri, start=7) == b"789"
    assert store.read(uri, start=8, end=99) == b"89"
    assert store.read(uri, start=10, end=20) == b""
    assert store.read(uri, start=4, end=4) == b""


def test_overwritten_object_has_another_etag(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/a.txt"
    store.write(uri, b"one", content_type=TEXT)
    before = store.head(uri)
    store.write(uri, b"two", content_type=TEXT)
    after = store.head(uri)
    assert before is not None
    assert after is not None
    assert before.etag != after.etag
    assert store.read(uri) == b"two"


def test_head_and_listing_agree(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/a.txt"
    store.write(uri, b"hello", content_type=TEXT)
    head = store.head(uri)
    (listed,) = store.list(f"s3://{bucket}/")
    assert head is not None
    assert (
        (head.uri, head.size_bytes, head.etag)
        == (listed.uri, listed.size_bytes, listed.etag)
        == (
            uri,
            5,
            "5d41402abc4b2a76b9719d911017c592",
        )
    )
    assert head.modified.tzinfo is not None
    assert listed.modified.tzinfo is not None


def test_listing_of_many_pages_has_every_object_once_by_key(store: ObjectStore, bucket: str) -> None:
    keys = [f"in/{n:02d}.txt" for n in range(11)] + ["in/0-x.txt", "in/0/x.txt", "in/00/x.txt", "in/Z.txt"]
    for key in [*keys, "out/a.txt", "into.txt"]:
        store.write(f"s3://{bucket}/{key}", b"x", content_type=TEXT)
    assert [info.uri for info in store.list(f"s3://{bucket}/in/")] == [f"s3://{bucket}/{key}" for key in sorted(keys)]
    assert len(list(store.list(f"s3://{bucket}/"))) == len(keys) + 2


def test_prefix_need_not_end_at_a_folder(store: ObjectStore, bucket: str) -> None:
    for key in ("2013-01/a", "2013-02/a", "2014-01/a"):
        store.write(f"s3://{bucket}/{key}", b"x", content_type=TEXT)
    assert len(list(store.list(f"s3://{bucket}/2013-"))) == 2
    assert list(store.list(f"s3://{bucket}/2015-")) == []


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_key_is_listed_as_it_was_written(store: ObjectStore, bucket: str, key: str) -> None:
    uri = f"s3://{bucket}/odd/{key}"
    store.write(uri, b"x", content_type=TEXT)
    assert [info.uri for info in store.list(f"s3://{bucket}/odd/")] == [uri]
    assert store.read(uri) == b"x"
    filesystem, path = store.arrow(uri)
    with filesystem.open_input_stream(path) as stream:
        assert stream.read() == b"x"


def test_write_if_absent_keeps_what_is_there(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/once.txt"
    assert store.write(uri, b"first", content_type=TEXT, if_absent=True) is True
    assert store.write(uri, b"second", content_type=TEXT, if_absent=True) is False
    assert store.read(uri) == b"first"


def test_deleted_object_is_gone_and_deleting_it_again_is_no_error(store: ObjectStore, bucket: str) -> None:
    for key in ("in/a.txt", "in/b.txt"):
        store.write(f"s3://{bucket}/{key}", b"x", content_type=TEXT)
    for _ in range(2):
        store.delete(f"s3://{bucket}/in/a.txt")
        assert [info.uri for info in store.list(f"s3://{bucket}/in/")] == [f"s3://{bucket}/in/b.txt"]
        assert store.head(f"s3://{bucket}/in/a.txt") is None
    store.delete(f"s3://{bucket}/never/was.txt")
    assert store.read(f"s3://{bucket}/in/b.txt") == b"x"


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_key_is_deleted(store: ObjectStore, bucket: str, key: str) -> None:
    uri = f"s3://{bucket}/odd/{key}"
    store.write(uri, b"x", content_type=TEXT)
    store.delete(uri)
    assert list(store.list(f"s3://{bucket}/odd/")) == []


def test_key_written_again_after_it_was_deleted_reads_back(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/again/a.txt"
    for content in (b"one", b"two", b"three"):
        store.write(uri, content, content_type=TEXT, if_absent=True)
        assert store.read(uri) == content
        store.delete(uri)
    assert store.write(uri, b"four", content_type=TEXT, if_absent=True) is True


@pytest.mark.parametrize("size_bytes", [0, 5, BIG_BYTES])
def test_uploaded_file_downloads_with_the_same_digest(
    store: ObjectStore, bucket: str, tmp_path: Path, size_bytes: int
) -> None:
    source, target, uri = tmp_path / "source", tmp_path / "new" / "target", f"s3://{bucket}/file.bin"
    source.write_bytes(os.urandom(size_bytes))
    store.upload(source, uri, content_type="application/octet-stream")
    facts = store.download(uri, target)
    assert sha256(target) == sha256(source)
    head = store.head(uri)
    assert head is not None
    assert (facts.etag, facts.size_bytes) == (head.etag, size_bytes)
    assert list(target.parent.iterdir()) == [target]


def test_arrow_reads_the_same_bytes(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/deep/er/a.bin"
    store.write(uri, b"0123456789", content_type=TEXT)
    filesystem, path = store.arrow(uri)
    with filesystem.open_input_file(path) as file:
        assert file.size() == 10
        file.seek(4)
        assert file.read(3) == b"456"


def test_missing_object_is_not_found(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/none.txt"
    assert store.head(uri) is None
    assert list(store.list(f"s3://{bucket}/none/")) == []
    with pytest.raises(NotFoundError, match=r"none\.txt"):
        store.read(uri)
    with pytest.raises(NotFoundError, match=r"none\.txt"):
        store.download(uri, tmp_path / "x")
    assert list(tmp_path.glob("x*")) == []
    filesystem, path = store.arrow(uri)
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_stream(path).read()


def test_missing_bucket_is_not_found(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}-none/a.txt"
    with pytest.raises(NotFoundError, match="bucket"):
        list(store.list(f"s3://{bucket}-none/"))
    with pytest.raises(NotFoundError):
        store.read(uri)
    with pytest.raises(NotFoundError, match="bucket"):
        store.write(uri, b"x", content_type=TEXT)
    with pytest.raises(NotFoundError):
        store.delete(uri)
    assert store.head(uri) is None


@pytest.mark.parametrize("uri", ["a/b.txt", "http://bucket/a", "s3://bucket", "s3:///a"])
def test_uri_of_another_shape_is_refused(store: ObjectStore, uri: str) -> None:
    with pytest.raises(TerminalError, match="expected s3://bucket/key"):
        store.read(uri)


def test_reader_that_meets_a_deletion_reads_all_or_is_told_not_found(store: ObjectStore, bucket: str) -> None:
    uri, read = f"s3://{bucket}/in/a.txt", []

    def write_and_delete() -> None:
        for _ in range(40):
            store.write(uri, b"whole", content_type=TEXT)
            store.delete(uri)

    writer = threading.Thread(target=write_and_delete)
    writer.start()
    while writer.is_alive():
        try:
            read.append(store.read(uri))
        except NotFoundError:
            read.append(b"none")
    assert set(read) <= {b"whole", b"none"}
