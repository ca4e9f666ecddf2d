"""JSON objects that are written once, under a key that their inputs determine.

A store without atomic puts may hold half an object after a crash. Under such a key that is as good as nothing: the next
writer, who has the same inputs, writes it again.
"""

from __future__ import annotations

import json
from typing import Any

from perennial.errors import NotFoundError
from perennial.ports import ObjectStore

JSON_TYPE = "application/json"


def stored_object(store: ObjectStore, uri: str) -> dict[str, Any] | None:
    """The JSON object at `uri`; None if there is none, or half of one."""
    try:
        content = json.loads(store.read(uri))
    except (NotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def put_once(store: ObjectStore, uri: str, content: bytes) -> bytes:
    """Write `content`, a JSON object, unless a whole one is there; the bytes that are there afterwards."""
    if store.write(uri, content, content_type=JSON_TYPE, if_absent=True):
        return content
    if stored_object(store, uri) is not None:
        return store.read(uri)
    store.write(uri, content, content_type=JSON_TYPE)
    return content
