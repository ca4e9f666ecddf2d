"""A snapshot's manifest: which files, with which content, make up the data of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from perennial.domain.fingerprint import canonical_json, digest_of, sha256_of
from perennial.domain.times import Interval, format_time, parse_time
from perennial.domain.windows import DataWindows

PENDING: Final = frozenset({"still_being_written", "empty"})
REFUSED: Final = frozenset({"not_parquet", "schema_changed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """One landing file, and the content-addressed copy that the snapshot uses in its place."""

    key: str
    """Landing key, below the landing zone's prefix."""
    object_uri: str
    sha256: str
    size_bytes: int
    rows: int
    first_row: datetime
    last_row: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableFile:
    """A landing file that the snapshot left out, and why."""

    key: str
    why: str
    """One of `PENDING` (wait for it) or `REFUSED` (somebody has to look)."""
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Immutable. `sha256` over `to_bytes()` names the snapshot; `data_sha256` covers the usable data only."""

    model: str
    landing: str
    watermark: datetime
    windows: DataWindows
    schema: Mapping[str, str]
    """Arrow type by column, of the files."""
    files: tuple[ManifestFile, ...]
    unusable: tuple[UnusableFile, ...] = ()

    @property
    def refused(self) -> tuple[UnusableFile, ...]:
        """Unusable files that somebody has to look at."""
        return tuple(file for file in self.unusable if file.why in REFUSED)

    @property
    def rows(self) -> int:
        """Rows in all files, also those outside the windows."""
        return sum(file.rows for file in self.files)

    @property
    def data_sha256(self) -> str:
        """The same for the same data in the same windows, whatever else lies in the landing zone."""
        whole = self._content()
        return digest_of({name: whole[name] for name in ("model", "training", "holdout", "files")})

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self._content())

    @property
    def sha256(self) -> str:
        """Digest of `to_bytes()`."""
        return sha256_of(self.to_bytes())

    def _content(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "landing": self.landing,
            "watermark": format_time(self.watermark),
            "training": [format_time(self.windows.training.start), format_time(self.windows.training.end)],
            "holdout": [format_time(self.windows.holdout.start), format_time(self.windows.holdout.end)],
            "schema": dict(self.schema),
            "files": [
                {
                    "key": file.key,
                    "object_uri": file.object_uri,
                    "sha256": file.sha256,
                    "size_bytes": file.size_bytes,
                    "rows": file.rows,
                    "first_row": format_time(file.first_row),
                    "last_row": format_time(file.last_row),
                }
                for file in self.files
            ],
            "unusable": [{"key": file.key, "why": file.why, "detail": file.detail} for file in self.unusable],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `json.loads(manifest.to_bytes())`.

        Raises:
            KeyError, ValueError: not a manifest.
        """
        return cls(
            model=values["model"],
            landing=values["landing"],
            watermark=parse_time(values["watermark"]),
            windows=DataWindows(
                training=Interval(*(parse_time(text) for text in values["training"])),
                holdout=Interval(*(parse_time(text) for text in values["holdout"])),
            ),
            schema=values["schema"],
            files=tuple(
                ManifestFile(**{**f, "first_row": parse_time(f["first_row"]), "last_row": parse_time(f["last_row"])})
                for f in values["files"]
            ),
            unusable=tuple(UnusableFile(**f) for f in values["unusable"]),
        )
