"""What earlier snapshots found in landing files, so that an unchanged file is neither read nor copied again.

Only a cache, one object a model: without it, or with a damaged one, a run looks at every file anew.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from perennial.domain.fingerprint import canonical_json
from perennial.domain.manifest import UnusableFile
from perennial.domain.snapshot_plan import LandedFile
from perennial.domain.times import format_time, parse_time
from perennial.errors import NotFoundError
from perennial.ports import ObjectInfo, ObjectStore

VERSION: Final = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells one state of a landing file from another."""

    etag: str
    size_bytes: int
    modified: str

    @classmethod
    def of(cls, info: ObjectInfo) -> Stamp:
        """As a listing shows it."""
        return cls(info.etag, info.size_bytes, format_time(info.modified))


Findings = Mapping[str, tuple[Stamp, LandedFile | UnusableFile]]
"""By landing key."""


def load_index(store: ObjectStore, uri: str, time_column: str) -> Findings:
    """The findings recorded; none if there is no index, a damaged one, or one of another time column."""
    try:
        document = json.loads(store.read(uri))
        if document["version"] != VERSION or document["time_column"] != time_column:
            return {}
        schemas = [dict(schema) for schema in document["schemas"]]
        return {key: _finding(key, values, schemas) for key, values in document["files"].items()}
    except NotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        _log.warning("snapshot: %s is damaged (%s: %s); looking at every file anew", uri, type(error).__name__, error)
        return {}


def save_index(store: ObjectStore, uri: str, time_column: str, findings: Findings) -> None:
    """Replace the index. Of two runs at once the later one's stays, which costs the other's next run some reading."""
    schemas: dict[str, int] = {}
    files = {}
    for key, (stamp, found) in findings.items():
        values: dict[str, Any] = {"etag": stamp.etag, "size_bytes": stamp.size_bytes, "modified": stamp.modified}
        if isinstance(found, UnusableFile):
            values |= {"why": found.why, "detail": found.detail}
        else:
            values |= {
                "sha256": found.sha256,
                "rows": found.rows,
                "first_row": None if found.first_row is None else format_time(found.first_row),
                "last_row": None if found.last_row is None else format_time(found.last_row),
                "rows_without_time": found.rows_without_time,
                # Thousands of files share a handful of schemas.
                "schema": schemas.setdefault(json.dumps(dict(found.schema)), len(schemas)),
            }
        files[key] = values
    document = {
        "version": VERSION,
        "time_column": time_column,
        "schemas": [json.loads(schema) for schema in schemas],
        "files": files,
    }
    store.write(uri, canonical_json(document), content_type="application/json")


def _finding(
    key: str, values: Mapping[str, Any], schemas: list[dict[str, str]]
) -> tuple[Stamp, LandedFile | UnusableFile]:
    stamp = Stamp(values["etag"], values["size_bytes"], values["modified"])
    if "why" in values:
        return stamp, UnusableFile(key=key, why=values["why"], detail=values["detail"])
    first, last = values["first_row"], values["last_row"]
    return stamp, LandedFile(
        key=key,
        size_bytes=values["size_bytes"],
        sha256=values["sha256"],
        rows=values["rows"],
        first_row=None if first is None else parse_time(first),
        last_row=None if last is None else parse_time(last),
        rows_without_time=values["rows_without_time"],
        schema=schemas[values["schema"]],
    )
