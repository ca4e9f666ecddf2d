"""Schemathesis on the service's own OpenAPI: every answer is documented, and none tells anything of the inside.

For each operation bodies that the document allows and bodies that it forbids. `make test` sends a thousand; ten
thousand are sent by `make bench NAME=serving_fuzz`, which sets PERENNIAL_FUZZ_CASES.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from schemathesis import checks
from tests.unit.core.serving.served import EXAMPLE, MODEL, NOW, ROOT, ServedWorld, training

from perennial.serving.app import build_app
from perennial.serving.labels import LabelLog

CASES: Final = int(os.environ.get("PERENNIAL_FUZZ_CASES", "1000"))
"""Requests with a body, spread evenly over operations and kinds."""
BODIES: Final = [
    (path, mode)
    for path in ("/invocations", "/models/{name}/invocations", "/labels", "/models/{name}/labels")
    for mode in schemathesis.GenerationMode
]
CHECKS: Final = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
INSIDE: Final = ("Traceback", 'File "', "site-packages", "/include/", "perennial/", ".py")


class Sum:
    """Has no moods: what goes wrong is the service's doing."""

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return frame["x"].to_numpy() + frame["n"].to_numpy()


@pytest.fixture
def api(tmp_path: Path) -> Any:
    """The document of a service that canary and champion answer by halves, with a column of each type."""
    world = ServedWorld(tmp_path, poll_interval_s=0.2)
    columns = {"small": np.array([1, 2], dtype=np.int32), "ratio": np.array([0.5, np.nan], dtype=np.float32)}
    example = EXAMPLE.assign(**columns, flag=[True, False], at=pd.to_datetime([NOW, NOW]).tz_localize(None))
    for number in (1, 2):
        trained = world.registry.log_training(replace(training(Sum(), number=number), input_example=example))
        world.registry.register(MODEL, trained, {})
    world.registry.point_alias(MODEL, "champion", "1")
    world.plan("2", share=50)
    app = build_app(world.host(), log=world.log, labels=LabelLog(world.store, ROOT, world.clock))
    end = time.monotonic() + 60
    while not _serves(app):
        assert time.monotonic() < end
        time.sleep(0.05)
    return schemathesis.openapi.from_asgi("/openapi.json", app)  # which names the columns now


def _serves(app: Any) -> bool:
    found = schemathesis.openapi.from_asgi("/openapi.json", app)["/models"]["get"].Case().call().json()
    return found["models"][0]["challenger"] is not None


@pytest.mark.parametrize(("path", "mode"), BODIES)
def test_body_that_is_allowed_is_taken_one_that_is_not_is_refused_and_no_answer_tells_of_the_inside(
    api: Any, path: str, mode: schemathesis.GenerationMode
) -> None:
    statuses: Counter[int] = Counter()
    count = -(-CASES // len(BODIES))

    @seeded(len(path))
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=api[path]["post"].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        found = case.call()
        statuses[found.status_code] += 1
        case.validate_response(found, checks=CHECKS)
        assert not [text for text in INSIDE if text in found.text], found.text
        # JSON's schemas have no word for a time from 1678 to 2261, and none at all for what is in a CSV.
        said_all = case.media_type == "application/json" and "column 'at'" not in found.text
        if said_all and not _has_unknown_columns(case.body):
            assert (found.status_code == 200) is mode.is_positive, f"{found.text} {case.body}"

    ask()
    assert statuses.total() >= count
    assert set(statuses) <= {200, 400, 404, 413}


def _has_unknown_columns(body: Any) -> bool:
    """They are ignored, as by MLflow, whatever is in them."""
    inputs = body.get("inputs") if isinstance(body, dict) else None
    return isinstance(inputs, dict) and not set(inputs) <= {*EXAMPLE.columns, "small", "ratio", "flag", "at"}


@pytest.mark.parametrize("path", ["/ping", "/health", "/models", "/version", "/metrics"])
def test_operation_without_a_body_answers_as_documented(api: Any, path: str) -> None:
    case = api[path]["get"].Case()
    case.validate_response(case.call(), checks=CHECKS)


def test_every_operation_of_the_document_is_asked(api: Any) -> None:
    assert {operation.ok().path for operation in api.get_all_operations()} == {
        *(path for path, _ in BODIES),
        *("/ping", "/health", "/models", "/version", "/metrics"),
    }
