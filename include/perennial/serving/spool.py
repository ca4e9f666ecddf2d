"""Files on the local disk that are on their way to the store: they survive the process, and a store that is down."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from perennial.errors import TerminalError
from perennial.ports import ObjectStore

_PART: Final = ".part"
"""Suffix of a file that is being written."""
_ABANDONED_S: Final = 600
"""An unfinished file that is older was left behind by a process that was killed."""
_SLASH: Final = "~"
"""Stands for `/` in a file's name: no folders, so none are left behind empty."""


class Spool:
    """A folder of finished files, each to become an object. Replicas may share one.

    One thread may put while another uploads.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Raises: TerminalError: the folder cannot be written to."""
        self._folder, self._max_bytes = folder, max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f"{os.getpid()}{_PART}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise TerminalError(f"cannot write to {folder}: {error}; give another folder, or the rights") from error

    @property
    def size_bytes(self) -> int:
        """Of all that waits."""
        return sum(size for _, _, size in self._waiting())

    def put(self, path: str, content: bytes) -> bool:
        """Keep a file under its relative path in the store; False if there is no room for it.

        Raises:
            OSError: the disk would not take it.
        """
        if self.size_bytes + len(content) > self._max_bytes:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
        target = self._folder / path.replace("/", _SLASH)
        unfinished = target.with_name(target.name + _PART)
        try:
            unfinished.write_bytes(content)
            os.replace(unfinished, target)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        return True

    def upload(self, store: ObjectStore, folder_uri: str, content_type: str) -> None:
        """Put what waits into the store below `folder_uri`, the oldest first.

        A file leaves the disk once the store has it. Put again after a crash in between, it is the same object.

        Raises:
            PerennialError: the store did not take one; it stays, and the rest too if the store does not answer.
        """
        refused: TerminalError | None = None
        self._tidy()
        for _, path, _ in self._waiting():
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # another replica was faster
                continue
            try:
                store.write(folder_uri + path.name.replace(_SLASH, "/"), content, content_type=content_type)
            except TerminalError as error:  # of this one object perhaps: the others must not wait behind it
                refused = refused or error
                continue
            path.unlink(missing_ok=True)
        if refused is not None:
            raise refused

    def _tidy(self) -> None:
        for path in self._folder.glob(f"*{_PART}"):
            with suppress(FileNotFoundError):  # another replica was faster
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()

    def _waiting(self) -> list[tuple[float, Path, int]]:
        """Time of the last change in seconds, path, and size in bytes of each finished file, the oldest first."""
        found = []
        for name in os.listdir(self._folder) if self._folder.is_dir() else ():
            path = self._folder / name
            if not name.endswith(_PART):
                with suppress(FileNotFoundError):  # another replica was faster
                    facts = path.stat()
                    found.append((facts.st_mtime, path, facts.st_size))
        return sorted(found)
