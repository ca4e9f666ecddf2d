"""CloudEvents 1.0 over HTTP, structured, batched and binary: cloudevents/spec, bindings/http-protocol-binding.md."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from perennial_airflow.webhook.bodies import parse_json
from perennial_airflow.webhook.signals import (
    BadMessageError,
    Signal,
    first_line,
    fitted,
    joined_id,
    named_model,
    require,
    require_few,
    time_or_none,
)

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
_REQUIRED: Final = ("id", "source", "type")
_EXTENSION: Final = "perennialmodel"
"""Names of extension attributes are lower-case letters and digits."""
_SEVERAL: Final = "send fewer events at once"


def read(headers: Sequence[tuple[str, str]], body: bytes, *, signed: bool) -> list[Signal]:
    """The events of a request.

    Args:
        headers: names in lower case.
        body: as it came.
        signed: whether a signature covers the body. None covers the headers, in which a binary event has its id and
            source: such a message may be told again under another id, so it is not taken.

    Raises:
        BadMessageError: it is no CloudEvent of version 1.0, or a binary one that is signed.
    """
    media_type = dict(headers).get("content-type", "").partition(";")[0].strip().lower()
    if media_type == BATCH:
        events = parse_json(body)
        require(isinstance(events, list), "a batch is not a list of events")
        require_few(events, _SEVERAL)
        return [_signal(event) for event in events]
    if media_type == STRUCTURED:
        return [_signal(parse_json(body))]
    require(
        any(name == "ce-specversion" for name, _ in headers), f"this is no CloudEvent: neither {STRUCTURED} nor ce-"
    )
    require(not signed, "a signature does not cover a binary event's headers; send it structured, or with a token")
    return [_signal(_binary(headers, media_type, body))]


def _binary(headers: Sequence[tuple[str, str]], media_type: str, body: bytes) -> dict[str, Any]:
    names = [name for name, _ in headers if name.startswith("ce-")]
    require(len(names) == len(set(names)), "an attribute comes twice")
    # Percent-encoded UTF-8, which is quoted where it has spaces (section 3.1.3.2).
    attributes = {name[3:]: _decoded(value) for name, value in headers if name.startswith("ce-")}
    is_json = not body or media_type == "application/json" or media_type.endswith("+json")
    data = parse_json(body) if body and is_json else body.decode("utf-8", errors="replace").replace("\0", "")
    return {**attributes, "data": data}


def _decoded(value: str) -> str:
    text = re.sub(r"\\(.)", r"\1", value[1:-1]) if len(value) > 1 and value[0] == value[-1] == '"' else value
    decoded = unquote(text, errors="replace")
    require("\0" not in decoded, "an attribute holds a NUL character")
    return decoded


def _signal(event: Any) -> Signal:
    require(isinstance(event, Mapping), "an event is not an object")
    require(event.get("specversion") == "1.0", "an event's specversion is not 1.0")
    for name in _REQUIRED:
        require(isinstance(event.get(name), str) and bool(event[name]), f"an event has no text `{name}`")
    data = _data(event)
    said = data if isinstance(data, Mapping) else {}
    subject = event.get("subject")
    return Signal(
        model=named_model(said, {"model": event.get(_EXTENSION)}, {"model": subject}),
        alert_id=joined_id(event["source"], event["id"]),  # together unique, by the specification
        summary=first_line(said.get("summary"), said.get("message"), data, f"{event['type']} from {event['source']}"),
        raised_at=time_or_none(event.get("time")),
        source="cloudevents",
        evidence=fitted({"type": event["type"], "source": event["source"], "subject": subject, "data": data}),
        wanted=said.get("status") != "resolved",
    )


def _data(event: Mapping[str, Any]) -> Any:
    encoded = event.get("data_base64")
    if encoded is None:
        return event.get("data")
    try:
        content = base64.b64decode(encoded, validate=True)
        return parse_json(content)
    except BadMessageError:
        return None  # bytes that are no JSON
    except (TypeError, ValueError) as error:
        raise BadMessageError("an event's data_base64 is not base64") from error
