"""An object store on a local folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from perennial.errors import NotFoundError, TerminalError
from perennial.ports import ObjectInfo

if TYPE_CHECKING:
    import pyarrow.fs as arrow_fs

_UNFINISHED = ".unfinished"


class FolderStore:
    """An `ObjectStore` whose buckets are the folders in `root`: `s3://bucket/a/b` is the file `root/bucket/a/b`.

    The etag is the content's md5. Unlike on S3, a key cannot be both an object and the prefix of another.
    A bucket exists if its folder does (`add_bucket`).
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def add_bucket(self, name: str) -> None:
        """Create the bucket, unless it exists."""
        (self._root / name).mkdir(parents=True, exist_ok=True)

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        """Every object below the prefix, by key."""
        bucket, prefix = self._split(prefix_uri)
        top = self._bucket(bucket)
        # Only the folder that the prefix names, so that a listing costs what it lists.
        folder = top / prefix.rpartition("/")[0]
        keys = [path.relative_to(top).as_posix() for path in folder.rglob("*") if path.is_file()]
        for key in sorted(keys, key=str.encode):
            info = self.head(f"s3://{bucket}/{key}") if key.startswith(prefix) else None
            if info is not None:
                yield info

    def head(self, uri: str) -> ObjectInfo | None:
        """The object's facts, or None if there is none."""
        path = self._path(uri)
        try:
            with path.open("rb") as stream:
                facts = os.fstat(stream.fileno())
                etag = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        modified = datetime.fromtimestamp(facts.st_mtime, UTC)
        return ObjectInfo(uri=uri, size_bytes=facts.st_size, etag=etag, modified=modified)

    def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The object's bytes [start, end), fewer if it ends before."""
        try:
            with self._path(uri).open("rb") as stream:
                stream.seek(start)
                return stream.read() if end is None else stream.read(max(0, end - start))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise _missing(uri) from None  # no look beforehand: others delete meanwhile

    def write(self, uri: str, content: bytes, *, content_type: str, if_absent: bool = False) -> bool:
        """Put the object; atomic, also with `if_absent`."""
        del content_type  # a folder keeps none
        path = self._new(uri)
        with NamedTemporaryFile(dir=self._unfinished(), delete=False) as stream:
            stream.write(content)
        if not if_absent:
            os.replace(stream.name, path)
            return True
        try:
            os.link(stream.name, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(stream.name)
        return True

    def delete(self, uri: str) -> None:
        """Remove the object's file, if it is there."""
        self._bucket(self._split(uri)[0])
        path = self._path(uri)
        if not path.is_dir():
            path.unlink(missing_ok=True)

    def download(self, uri: str, path: Path) -> ObjectInfo:
        """Copy the object into a local file, and tell the facts of the bytes copied."""
        path.parent.mkdir(parents=True, exist_ok=True)
        info = self.head(uri)
        if info is None:
            raise _missing(uri)
        shutil.copyfile(self._existing(uri), path)
        return info

    def upload(self, path: Path, uri: str, *, content_type: str) -> None:
        """Copy a local file into the object."""
        del content_type
        target = self._new(uri)
        with NamedTemporaryFile(dir=self._unfinished(), delete=False) as stream, path.open("rb") as source:
            shutil.copyfileobj(source, stream)
        os.replace(stream.name, target)

    def arrow(self, uri: str) -> tuple[arrow_fs.FileSystem, str]:
        """Pyarrow's local filesystem, and the file's path."""
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self._path(uri))

    def _split(self, uri: str) -> tuple[str, str]:
        bucket, slash, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not bucket or not slash:
            raise TerminalError(f"{uri!r} is not an object's uri; expected s3://bucket/key")
        if ".." in key.split("/"):
            raise TerminalError(f"{uri!r} leads out of its bucket")
        return bucket, key

    def _path(self, uri: str) -> Path:
        bucket, key = self._split(uri)
        return self._root / bucket / key

    def _bucket(self, name: str) -> Path:
        top = self._root / name
        if not top.is_dir():
            raise NotFoundError(f"there is no bucket {name!r}; create it, or correct the uri")
        return top

    def _existing(self, uri: str) -> Path:
        path = self._path(uri)
        if not path.is_file():
            raise _missing(uri)
        return path

    def _new(self, uri: str) -> Path:
        self._bucket(self._split(uri)[0])
        path = self._path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _unfinished(self) -> Path:
        folder = self._root / _UNFINISHED
        folder.mkdir(exist_ok=True)
        return folder


def _missing(uri: str) -> NotFoundError:
    return NotFoundError(f"{uri}: there is no such object")
