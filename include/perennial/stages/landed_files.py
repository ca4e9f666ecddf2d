"""The landing zone's files: looked at once, and copied under the sha256 of their bytes when a run needs them.

Left out without a word: names with a part that starts with `_` or `.`, as Hive and Spark mark what is not data
(`_SUCCESS`, `_temporary/`, `.file.crc`), and Perennial's own store, should it lie below the landing zone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from perennial.domain.manifest import UnusableFile
from perennial.domain.snapshot_plan import LandedFile
from perennial.domain.times import format_time
from perennial.errors import NotFoundError
from perennial.ports import ObjectInfo, ObjectStore
from perennial.spec.fields import format_duration
from perennial.spec.model import ModelSpec
from perennial.stages.parquet_footer import FileFacts, facts_from_rows, facts_from_statistics, read_footer
from perennial.stages.snapshot_index import Stamp, load_index, save_index

UNFINISHED_SUFFIXES: Final = (".tmp", ".temp", ".inprogress", ".part", ".partial", ".crdownload", "._copying_")
PARQUET_TYPE: Final = "application/vnd.apache.parquet"
_AT_ONCE: Final = 16
_log = logging.getLogger(__name__)

_Finding = LandedFile | UnusableFile
_Found = tuple[ObjectInfo, _Finding]


def object_uri(root: str, sha256: str) -> str:
    """Where the content-addressed copy of these bytes lies."""
    return f"{root}/objects/{sha256[:2]}/{sha256}.parquet"


class LandedFiles:
    """One listing of a model's landing zone, and what is known of each file in it."""

    def __init__(self, spec: ModelSpec, *, store: ObjectStore, root: str, run_id: str, now: datetime) -> None:
        self._spec, self._store, self._root, self._run_id = spec, store, root, run_id
        self._index_uri = f"{root}/snapshots/{spec.name}/index.json"
        self._waiting: list[UnusableFile] = []
        self._found: dict[str, _Found] = {}
        self._copied: set[str] = set()
        self._survey(now)

    @property
    def readable(self) -> list[LandedFile]:
        """Files with a valid footer."""
        return [found for _, found in self._found.values() if isinstance(found, LandedFile)]

    @property
    def unusable(self) -> list[UnusableFile]:
        """Files without one, or not to be looked at yet."""
        return self._waiting + [found for _, found in self._found.values() if isinstance(found, UnusableFile)]

    def copy(self, files: Iterable[LandedFile]) -> None:
        """Copy the files' bytes as they are now; what was found out before is replaced by what the bytes say."""
        self._look({file.key: self._found[file.key][0] for file in files}, self._copy)

    def forget_lost_copies(self, files: Sequence[LandedFile]) -> bool:
        """Whether some of the files' copies are gone from the store; those have to be copied again."""
        old = [file for file in files if file.sha256 is not None and file.key not in self._copied]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            there = list(pool.map(self._has_copy, old))
        lost = [file for file, is_there in zip(old, there, strict=True) if not is_there]
        for file in lost:
            self._log("the copy of %s is gone from the store; copying it again", file.key)
            self._found[file.key] = (self._found[file.key][0], replace(file, sha256=None))
        return bool(lost)

    def _survey(self, now: datetime) -> None:
        landing = self._spec.data.landing
        known = load_index(self._store, self._index_uri, self._spec.data.time_column)
        new: dict[str, ObjectInfo] = {}
        for info in self._store.list(landing):
            key = info.uri.removeprefix(landing)
            waiting = not_yet(key, info, self._spec.data.settle, now)
            if is_hidden(key) or info.uri.startswith(f"{self._root}/"):
                continue
            if waiting is not None:
                self._waiting.append(waiting)
            elif key in known and known[key][0] == Stamp.of(info):
                self._found[key] = (info, known[key][1])
            else:
                new[key] = info
        self._log("%d files landed, %d of them new or changed", len(self._found) + len(new), len(new))
        self._look(new, self._inspect)
        if not new and len(known) > len(self._found):
            self._save()

    def _look(self, infos: dict[str, ObjectInfo], look: Callable[[str, ObjectInfo], _Found | None]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for key, found in zip(infos, pool.map(look, infos, infos.values()), strict=True):
                if found is None:
                    self._log("%s was removed from the landing zone meanwhile", key)
                    self._found.pop(key, None)
                else:
                    self._found[key] = found
        if infos:
            self._save()

    def _inspect(self, key: str, info: ObjectInfo) -> _Found | None:
        """Look at the footer; only a file without statistics has to be read for its times."""
        try:
            footer = read_footer(key, info.size_bytes, info.modified, partial(_read, self._store, info.uri))
        except NotFoundError:
            return None
        if isinstance(footer, UnusableFile):
            return info, footer
        facts = facts_from_statistics(footer, self._spec.data.time_column)
        if facts is None:
            return self._copy(key, info)
        return info, _landed(key, info.size_bytes, facts, sha256=None)

    def _copy(self, key: str, info: ObjectInfo) -> _Found | None:
        with TemporaryDirectory(prefix="perennial-") as folder:
            path = Path(folder) / "landed.parquet"
            try:
                got = self._store.download(info.uri, path)
            except NotFoundError:
                return None
            if got.etag != info.etag:
                self._log("%s was replaced since it was listed; the new content counts", key)
            # A listing's time may be finer than a download's.
            info = info if got.etag == info.etag else got
            found = self._of_local(key, info, path)
            if isinstance(found, LandedFile) and found.sha256 is not None:
                if not self._has_copy(found):
                    self._store.upload(path, object_uri(self._root, found.sha256), content_type=PARQUET_TYPE)
                self._copied.add(key)
        return info, found

    def _of_local(self, key: str, info: ObjectInfo, path: Path) -> _Finding:
        import pyarrow.parquet as pq

        if info.size_bytes == 0:
            return _empty(key)
        with path.open("rb") as stream:
            footer = read_footer(key, info.size_bytes, info.modified, partial(_read_local, path))
            if isinstance(footer, UnusableFile):
                return footer
            column = self._spec.data.time_column
            facts = facts_from_statistics(footer, column) or facts_from_rows(pq.ParquetFile(stream), column)
            stream.seek(0)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        placed = facts.first_row is not None and not facts.rows_without_time
        return _landed(key, info.size_bytes, facts, sha256=sha256 if placed else None)

    def _has_copy(self, file: LandedFile) -> bool:
        there = self._store.head(object_uri(self._root, str(file.sha256)))
        # Some stores show an object before its upload is complete.
        return there is not None and there.size_bytes == file.size_bytes

    def _save(self) -> None:
        findings = {key: (Stamp.of(info), found) for key, (info, found) in self._found.items()}
        save_index(self._store, self._index_uri, self._spec.data.time_column, findings)

    def _log(self, message: str, *values: object) -> None:
        _log.info("%s %s snapshot: " + message, self._spec.name, self._run_id, *values)


def is_hidden(key: str) -> bool:
    """Whether the name is one that Hive and Spark give to what is not data."""
    return any(part.startswith(("_", ".")) for part in key.split("/"))


def not_yet(key: str, info: ObjectInfo, settle: timedelta, now: datetime) -> UnusableFile | None:
    """Why the file is left alone for now, as far as the listing tells."""
    if key.lower().endswith(UNFINISHED_SUFFIXES):
        detail = "its name is that of an unfinished file; writers rename it when it is complete"
    elif info.size_bytes == 0:
        return _empty(key)
    elif settle > timedelta(0) and now - info.modified < settle:
        detail = f"written {format_time(info.modified)}; data.settle asks for {format_duration(settle)} of rest"
    else:
        return None
    return UnusableFile(key=key, why="still_being_written", detail=detail)


def _empty(key: str) -> UnusableFile:
    return UnusableFile(key=key, why="empty", detail="0 bytes")


def _landed(key: str, size_bytes: int, facts: FileFacts, *, sha256: str | None) -> LandedFile:
    return LandedFile(
        key=key,
        size_bytes=size_bytes,
        sha256=sha256,
        rows=facts.rows,
        first_row=facts.first_row,
        last_row=facts.last_row,
        rows_without_time=facts.rows_without_time,
        schema=facts.schema,
    )


def _read(store: ObjectStore, uri: str, start: int, end: int) -> bytes:
    return store.read(uri, start=start, end=end)


def _read_local(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - start)
