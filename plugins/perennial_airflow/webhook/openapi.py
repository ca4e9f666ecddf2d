"""What the OpenAPI document says of the webhook's routes, for people, generators of clients, and the fuzz test."""

from __future__ import annotations

from typing import Any, Final

from perennial.domain.alert import MAX_ID_LENGTH, MAX_SUMMARY_LENGTH

_TEXT: Final = {"type": "string"}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}
_OUTCOME: Final = {
    "type": "object",
    "description": "What became of an alert.",
    "properties": {
        "fate": {"type": "string", "enum": ["started", "coalesced", "deferred", "refused"]},
        "reason": _TEXT,
        "rule": _TEXT,
        "at": _TEXT,
        "run_id": _MAYBE_TEXT,
        "until": _MAYBE_TEXT,
    },
    "required": ["fate", "reason", "at"],
}
_MESSAGE: Final = {"type": "object", "properties": {"message": _TEXT}, "required": ["message"]}
_TOLD: Final = {
    "type": "object",
    "properties": {
        "model": _TEXT,
        "id": _TEXT,
        "key": _TEXT,
        "outcome": _OUTCOME,
        "duplicate": {"type": "boolean", "description": "it was on record; the outcome is that of the first time"},
    },
    "required": ["model", "id", "key", "outcome", "duplicate"],
}
_RESULTS: Final = {
    "type": "object",
    "properties": {
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "model": _MAYBE_TEXT,
                    "id": _TEXT,
                    "key": _MAYBE_TEXT,
                    "outcome": {"anyOf": [_OUTCOME, {"type": "null"}]},
                    "duplicate": {"type": "boolean"},
                    "message": _TEXT,
                },
                "required": ["model", "id", "key", "outcome", "duplicate", "message"],
            },
        }
    },
    "required": ["results"],
}
_OUTCOMES: Final = {
    "type": "object",
    "properties": {"outcomes": {"type": "array", "items": _OUTCOME}},
    "required": ["outcomes"],
}

_ALERT_BODY: Final = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": 63},
        "id": {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH, "description": "the same in each repeat"},
        "summary": {"type": "string", "minLength": 1, "maxLength": MAX_SUMMARY_LENGTH},
        "raised_at": {"type": "string", "format": "date-time"},
        "source": _TEXT,
        "evidence": {"type": "object"},
    },
    "required": ["model", "summary"],  # without an id, that of the header webhook-id counts
    "additionalProperties": False,
}
_GROUP: Final = {
    "type": "object",
    "properties": {
        "status": {"type": "string"},
        "alerts": {
            "type": "array",
            "maxItems": 100,
            "items": {
                "type": "object",
                "properties": {
                    "status": {"type": "string", "enum": ["firing", "resolved"]},
                    "labels": {
                        "type": "object",
                        "properties": {"perennial_model": _TEXT},
                        "additionalProperties": _TEXT,
                    },
                    "annotations": {"type": "object", "additionalProperties": _TEXT},
                    "startsAt": {"type": "string", "format": "date-time"},
                    "fingerprint": _TEXT,
                },
                "required": ["labels", "startsAt"],
            },
        },
    },
    "required": ["alerts"],
}
_EVENT: Final = {
    "type": "object",
    "properties": {
        "specversion": {"type": "string", "const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "minLength": 1},
        "subject": _TEXT,
        "time": _TEXT,
        "data": {},
    },
    "required": ["specversion", "id", "source", "type"],
}
_REGISTRY_EVENT: Final = {
    "type": "object",
    "properties": {"entity": _TEXT, "action": _TEXT, "timestamp": _TEXT, "data": {"type": "object"}},
    "required": ["entity", "action", "data"],
}
_SNS_FIELDS: Final = ("Type", "MessageId", "TopicArn", "Message", "Timestamp", "Signature", "SigningCertURL")
_NOTIFICATION: Final = {
    "type": "object",
    "properties": dict.fromkeys(_SNS_FIELDS, _TEXT),
    "required": list(_SNS_FIELDS),
}

_TROUBLE: Final = {
    400: "the message is not what it should be",
    401: "not authenticated",
    404: "no such model",
    408: "the body did not arrive in time",
    413: "the body is too large",
    429: "too many requests of this sender; see Retry-After",
    503: "not recorded, or not altogether; send it again",
}
_RETRY: Final = {"Retry-After": {"schema": {"type": "string"}, "required": True}}


def _said(description: str, schema: Any, **more: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}, **more}


def _documented(bodies: dict[str, Any], answers: dict[int, dict[str, Any]]) -> dict[str, Any]:
    trouble = {
        status: _said(text, _MESSAGE, **({"headers": _RETRY} if status in (429, 503) else {}))
        for status, text in _TROUBLE.items()
    }
    content = {media_type: {"schema": schema} for media_type, schema in bodies.items()}
    return {
        # FastAPI would add its own 422, of a shape that is never sent.
        "responses": {**trouble, **answers},
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "status_code": next(iter(answers)),
    }


ALERT: Final = _documented(
    {"application/json": _ALERT_BODY},
    {
        202: _said("a run was started, or is to be", _TOLD),
        200: _said("a run that was there already takes care of it", _TOLD),
        409: _said("recorded, and refused; or the id was used for another alert", {"anyOf": [_TOLD, _MESSAGE]}),
    },
)
TICK: Final = _documented(
    {"application/json": {"type": "object", "properties": {"model": _TEXT}, "required": ["model"]}},
    {200: _said("what became of the alerts that were due", _OUTCOMES)},
)
_ALL_RECORDED: Final = {
    200: _said("all are recorded, or ask for nothing", _RESULTS),
    422: _said("none could be recorded: see the messages", _RESULTS),
}
FORWARDED: Final = {
    "alertmanager": _documented({"application/json": _GROUP}, _ALL_RECORDED),
    "grafana": _documented({"application/json": _GROUP}, _ALL_RECORDED),
    "cloudevents": _documented({"application/cloudevents+json": _EVENT}, _ALL_RECORDED),
    "mlflow": _documented({"application/json": _REGISTRY_EVENT}, _ALL_RECORDED),
    "sns": _documented({"text/plain": _NOTIFICATION}, _ALL_RECORDED),
}
