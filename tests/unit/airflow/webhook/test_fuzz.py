"""Messages that nobody has thought of: every answer is documented, below 500, and tells nothing of the inside.

`make test` sends two hundred of each kind; ten thousand are sent by `make bench NAME=webhook_fuzz`, which sets
PERENNIAL_FUZZ_CASES.
"""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from schemathesis import checks

from perennial_airflow.webhook.intake import Message
from tests.unit.airflow.webhook.gate import BEARER, Gate, body_of, signed
from tests.unit.airflow.webhook.payloads import ALERTMANAGER, CLOUD_EVENT, GRAFANA, MLFLOW_TAG_SET, SNS_NOTIFICATION

pytestmark = pytest.mark.airflow
CASES: Final = int(os.environ.get("PERENNIAL_FUZZ_CASES", "200"))
"""Of schemathesis, over all operations and kinds; and as many of each hypothesis test."""
ROUTES: Final = (
    "/alerts",
    "/tick",
    *(f"/alerts/{name}" for name in ("alertmanager", "grafana", "cloudevents", "mlflow")),
)
KINDS: Final = [(path, mode) for path in ROUTES for mode in schemathesis.GenerationMode]
CHECKS: Final = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
INSIDE: Final = ("Traceback", 'File "', "site-packages", "/include/", "perennial/", ".py", "s3://")
EXAMPLES: Final = {
    "alertmanager": ALERTMANAGER,
    "grafana": GRAFANA,
    "cloudevents": CLOUD_EVENT,
    "mlflow": MLFLOW_TAG_SET,
}
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def bounded(cases: int) -> Any:
    return settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(("path", "mode"), KINDS)
def test_answer_to_whatever_the_document_allows_or_forbids_is_documented(
    gate: Gate, path: str, mode: schemathesis.GenerationMode
) -> None:
    api = schemathesis.openapi.from_asgi("/openapi.json", gate.app)
    statuses: Counter[int] = Counter()
    count = -(-CASES // len(KINDS))

    @seeded(len(path))
    @bounded(count)
    @given(case=api[path]["post"].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        found = case.call(headers=BEARER)
        statuses[found.status_code] += 1
        case.validate_response(found, checks=CHECKS)
        assert not [text for text in INSIDE if text in found.text], found.text

    ask()
    assert statuses.total() >= count
    assert set(statuses) <= {200, 202, 400, 404, 409, 413, 422}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value in a message."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in places(part, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn, example: Any) -> Any:
    """A real message of which up to three values are others, or gone."""
    message = copy.deepcopy(example)
    for _ in range(draw(st.integers(1, 3))):
        *before, last = draw(st.sampled_from(places(message)[1:] or [("none",)]))
        holder = message
        for key in before:
            holder = holder[key]
        if not isinstance(holder, (dict, list)):
            continue
        if isinstance(holder, dict) and draw(st.booleans()):
            holder.pop(last, None)
        elif isinstance(holder, dict) or last != "none":
            holder[last] = draw(JSON)
    return message


@pytest.mark.parametrize("form", EXAMPLES)
def test_message_with_anything_in_any_field_is_answered_below_500(gate: Gate, form: str) -> None:
    statuses: Counter[int] = Counter()
    content_type = "application/cloudevents+json" if form == "cloudevents" else "application/json"
    headers = [(name.lower(), value) for name, value in {**BEARER, "Content-Type": content_type}.items()]

    @seeded(1)
    @bounded(CASES)
    @given(mutated(EXAMPLES[form]))
    def ask(message: Any) -> None:
        body = json.dumps(message).encode()
        answer = gate.webhook.forwarded(form, Message(headers=headers, body=body))
        statuses[answer.status] += 1
        json.dumps(answer.content)

    ask()
    assert set(statuses) <= {200, 400, 422}
    assert statuses[200]
    assert gate.starter.confs
    for conf in gate.starter.confs.values():
        msgspec.msgpack.encode(conf)  # as a run's tasks are told of it


def test_native_alert_with_anything_in_any_field_is_answered_below_500(gate: Gate) -> None:
    statuses: Counter[int] = Counter()

    @seeded(1)
    @bounded(CASES)
    @given(mutated({**json.loads(body_of()), "evidence": {"psi": [0.4]}, "source": "monitor"}))
    def ask(message: Any) -> None:
        body = json.dumps(message).encode()
        statuses[gate.webhook.alert(Message(headers=list(signed(body).items()), body=body)).status] += 1
        for record in gate.records():
            msgspec.msgpack.encode(record.alert.to_dict())  # as a run's tasks are told of it

    ask()
    assert set(statuses) <= {200, 202, 400, 404, 409}
    assert statuses[400]


def test_nobody_without_a_key_changes_anything_or_gets_another_answer_than_401(gate: Gate) -> None:
    texts = st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=60)
    named = st.sampled_from([*signed(b""), "authorization", "x-mlflow-signature", "x-mlflow-timestamp", "ce-id"])
    forms = st.sampled_from([*EXAMPLES, "sns"])
    bodies = st.binary(max_size=60) | mutated(SNS_NOTIFICATION).map(lambda message: json.dumps(message).encode())

    @seeded(1)
    @bounded(CASES)
    @given(forms, st.lists(st.tuples(named, texts), max_size=5), bodies)
    def ask(form: str, headers: list[tuple[str, str]], body: bytes) -> None:
        message = Message(headers=headers, body=body)
        answers = [gate.webhook.forwarded(form, message), gate.webhook.alert(message), gate.webhook.tick(message)]
        assert {(answer.status, str(answer.content)) for answer in answers} == {
            (401, "{'message': 'not authenticated'}")
        }

    ask()
    assert gate.records() == gate.run_ids() == gate.visited == []
    assert not list(Path(gate.folder / "s3" / "bucket").rglob("*.json"))
