"""The service over HTTP, without a server: MLflow's contract, roles, limits, errors that leak nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pandas as pd
import pytest
from mlflow.deployments import PredictionsResponse
from mlflow.utils.proto_json_utils import dump_input_data

from perennial.domain.traffic import Role
from perennial.errors import StoreUnavailableError
from perennial.serving.labels import LabelLog
from tests.unit.core.serving.served import MODEL, ROOT, ROW, Adding, ServedWorld, client, ready, split, until

pytestmark = pytest.mark.asyncio
URL = "/invocations"


@pytest.fixture
def world(tmp_path: Path) -> ServedWorld:
    return ServedWorld(tmp_path)


async def _serving(world: ServedWorld, **more: Any) -> httpx.AsyncClient:
    host = world.host()
    for name in world.names:
        await ready(host, name)
    return client(world, host, **more)


def _row(carrier: str) -> dict[str, Any]:
    return split({**ROW, "carrier": carrier})


def _metrics(world: ServedWorld) -> str:
    return world.metrics.exposition().decode()


async def test_answer_is_what_mlflows_client_reads_and_names_the_version(world: ServedWorld) -> None:
    version = world.promote(Adding(1.0))
    http = await _serving(world)
    body = dump_input_data(pd.DataFrame([ROW, ROW]))
    found = await http.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 200
    assert PredictionsResponse.from_json(found.text).get_predictions()[0].tolist() == [3.5, 3.5]
    assert found.json() == {"predictions": [3.5, 3.5]}
    assert (found.headers["x-perennial-version"], found.headers["x-perennial-role"]) == (version, "champion")
    assert found.headers["content-type"] == "application/json"
    again = await http.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert again.headers["x-request-id"] != found.headers["x-request-id"] != ""


async def test_csv_and_named_route_give_the_same(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)
    body = pd.DataFrame([ROW]).to_csv(index=False)
    found = await http.post(f"/models/{MODEL}/invocations", content=body, headers={"Content-Type": "text/csv"})
    assert found.json() == {"predictions": [3.5]}


async def test_request_id_of_the_client_is_kept_in_answer_and_log(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)
    found = await http.post(URL, json=split(ROW), headers={"X-Request-Id": "r-17"})
    assert found.headers["x-request-id"] == "r-17"
    (kept,) = world.log.requests
    assert (kept.request_id, kept.version, kept.role, kept.rows) == ("r-17", "1", Role.CHAMPION, 1)
    assert (kept.predictions, dict(kept.features), kept.error) == (
        [3.5],
        {name: [value] for name, value in ROW.items()},
        "",
    )
    assert kept.at == world.clock.now()
    assert kept.latency_ms > 0


@pytest.mark.parametrize("header", ["X-Request-Id", "X-Perennial-Key"])
@pytest.mark.parametrize("value", ["", "a b", "x" * 129])
async def test_ids_that_could_do_harm_in_logs_are_refused(world: ServedWorld, header: str, value: str) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)
    found = await http.post(URL, json=split(ROW), headers={header: value})
    assert found.status_code == 400
    assert header.lower() in found.json()["message"]


async def test_bad_body_is_told_by_column_and_not_logged_as_the_models_failure(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)
    found = await http.post(URL, json=split({**ROW, "n": "three"}))
    assert found.status_code == 400
    told = found.json()
    assert told["error_code"] == "BAD_REQUEST"
    assert "column 'n', row 0: got the text 'three'" in told["message"]
    assert told["detail"][0]["column"] == "n"
    assert told["request_id"] == found.headers["x-request-id"]
    assert world.log.requests == []
    assert 'requests_total{model="toy",role="",status="400",version=""} 1.0' in _metrics(world)


@pytest.mark.parametrize(("carrier", "status"), [("refuse", 422), ("crash", 500), ("exit", 500), ("few", 500)])
async def test_model_that_raises_fails_its_request_without_a_trace(
    world: ServedWorld, carrier: str, status: int
) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)
    found = await http.post(URL, json=_row(carrier))
    assert found.status_code == status
    for inside in ("Traceback", "secret", ".py"):
        assert inside not in found.text
    (kept,) = world.log.requests
    assert kept.predictions is None
    assert kept.error.startswith("model: ")
    assert 'errors_total{kind="model",model="toy",role="champion",version="1"} 1.0' in _metrics(world)
    assert (await http.post(URL, json=split(ROW))).status_code == 200


async def test_error_of_ours_is_a_plain_500(world: ServedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret of the inside")

    monkeypatch.setattr(world.log, "add", broken)
    found = await http.post(URL, json=split(ROW))
    assert found.status_code == 500
    assert found.json()["message"] == "internal error"
    assert "secret" not in found.text


async def test_model_that_hangs_costs_504_then_503_and_the_replica_says_so(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, request_timeout_s=0.5, hang_after_s=0.8)
    world.promote(Adding(1.0))
    http = await _serving(world)
    Adding.gate.clear()
    try:
        found = await http.post(URL, json=_row("hang"))
        assert found.status_code == 504
        while (found := await http.post(URL, json=split(ROW))).status_code == 504:
            pass
        assert found.status_code == 503
        assert found.headers["retry-after"] == "1"
        assert (await http.get("/ping")).status_code == 503
    finally:
        Adding.gate.set()


async def test_canary_answers_its_share_by_key_and_always_the_same_keys(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)), share=50)
    http = await _serving(world)

    async def versions() -> list[str]:
        keys = [{"X-Perennial-Key": f"customer-{number}"} for number in range(40)]
        found = [await http.post(URL, json=split(ROW), headers=key) for key in keys]
        for answer in found:
            expected = {"1": [3.5], "2": [4.5]}[answer.headers["x-perennial-version"]]
            assert answer.json()["predictions"] == expected
        return [answer.headers["x-perennial-version"] for answer in found]

    first = await versions()
    assert 8 < first.count("2") < 32
    assert await versions() == first


@pytest.mark.parametrize("carrier", ["crash", "few"])
async def test_canary_that_fails_costs_no_request_and_is_on_record(world: ServedWorld, carrier: str) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)))
    http = await _serving(world)
    world.break_challenger(carrier)
    found = await http.post(URL, json=split(ROW))
    assert found.json() == {"predictions": [3.5]}
    assert found.headers["x-perennial-role"] == "champion"
    answered, failed = world.log.requests
    assert (failed.role, failed.version, failed.predictions) == (Role.CANARY, "2", None)
    assert (answered.role, answered.version, answered.error) == (Role.CHAMPION, "1", "")
    assert 'errors_total{kind="model",model="toy",role="canary",version="2"} 1.0' in _metrics(world)


async def test_canary_that_hangs_costs_half_the_time_and_no_request(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path, request_timeout_s=2.0)
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)))
    http = await _serving(world)
    world.break_challenger("hang")
    Adding.gate.clear()
    try:
        found = await http.post(URL, json=split(ROW))
    finally:
        Adding.gate.set()
    assert found.json() == {"predictions": [3.5]}
    assert [kept.error.partition(":")[0] for kept in world.log.requests] == ["", "deadline"]


async def test_rows_that_both_refuse_do_not_count_against_the_canary(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)))
    http = await _serving(world)
    assert (await http.post(URL, json=_row("refuse"))).status_code == 422
    assert (await http.post(URL, json=split({"x": 1}))).status_code == 400
    assert {kept.role for kept in world.log.requests} == {Role.CHAMPION}
    world.log.requests.clear()
    world.break_challenger("refuse")
    assert (await http.post(URL, json=split(ROW))).status_code == 200
    assert [kept.role for kept in world.log.requests] == [Role.CHAMPION, Role.CANARY]


async def test_shadow_scores_a_copy_and_answers_nobody(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    world.plan(world.add_version(Adding(2.0)), Role.SHADOW)
    http = await _serving(world)
    found = await http.post(URL, json=split(ROW))
    assert (found.json(), found.headers["x-perennial-role"]) == ({"predictions": [3.5]}, "champion")
    await until(lambda: len(world.log.requests) == 2)
    answered, copy = world.log.requests
    assert (copy.role, copy.version, copy.predictions) == (Role.SHADOW, "2", [4.5])
    assert copy.request_id == answered.request_id
    world.break_challenger("crash")
    assert (await http.post(URL, json=split(ROW))).status_code == 200
    await until(lambda: len(world.log.requests) == 4)
    assert world.log.requests[-1].error.startswith("model")


async def test_large_bodies_and_answers_come_through(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)
    found = await http.post(URL, json=split(*[{**ROW, "x": float(number)} for number in range(6000)]))
    assert found.json()["predictions"] == [number + 3.0 for number in range(6000)]


async def test_unknown_model_and_route_and_method_are_json_errors(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)
    unknown = await http.post("/models/nope/invocations", json=split(ROW))
    assert unknown.status_code == 404
    assert "there are toy" in unknown.json()["message"]
    assert (await http.get("/nowhere")).json()["error_code"] == "BAD_REQUEST"
    wrong = await http.get(URL)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


async def test_several_models_need_a_name_or_a_default(tmp_path: Path) -> None:
    world = ServedWorld(tmp_path / "a", MODEL, "other")
    world.promote(Adding(1.0))
    world.promote(Adding(2.0), model="other")
    http = await _serving(world)
    assert (await http.post(URL, json=split(ROW))).status_code == 404
    assert (await http.post("/models/other/invocations", json=split(ROW))).json() == {"predictions": [4.5]}
    world.settings = type(world.settings)(default_model="other")
    assert (await (await _serving(world)).post(URL, json=split(ROW))).json() == {"predictions": [4.5]}


async def test_model_that_is_not_there_answers_503_with_the_reason(world: ServedWorld) -> None:
    http = await _serving(world)
    found = await http.post(URL, json=split(ROW))
    assert found.status_code == 503
    assert "has no champion" in found.json()["message"]
    assert (await http.get("/ping")).status_code == 503


async def test_operations_routes(world: ServedWorld) -> None:
    import mlflow

    world.promote(Adding(1.0))
    http = await _serving(world)
    for path in ("/ping", "/health"):
        assert ((await http.get(path)).status_code, (await http.get(path)).json()) == (200, {"status": "ok"})
    assert (await http.get("/version")).text == mlflow.__version__
    (told,) = (await http.get("/models")).json()["models"]
    assert (told["model"], told["champion"]["version"]) == (MODEL, "1")
    await http.post(URL, json=split(ROW))
    metrics = await http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    for line in (
        'perennial_serving_requests_total{model="toy",role="champion",status="200",version="1"} 1.0',
        'perennial_serving_latency_seconds_count{model="toy",role="champion",version="1"} 1.0',
        'perennial_serving_batch_rows_sum{model="toy"} 1.0',
        "perennial_serving_in_flight 0.0",
        'perennial_serving_queue_rows{model="toy"} 0.0',
    ):
        assert line in metrics.text


async def test_replica_on_its_way_out_says_so_and_still_answers(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    host = world.host()
    await ready(host)
    http = client(world, host)
    host.draining = True
    assert (await http.get("/ping")).status_code == 503
    found = await http.post(URL, json=split(ROW))
    assert (found.status_code, found.headers["connection"]) == (200, "close")


async def test_labels_are_kept_and_a_store_that_is_down_is_told(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world, labels=LabelLog(world.store, ROOT, world.clock))
    body = {"labels": [{"request_id": "r-17", "row": 0, "label": 1}]}
    assert (await http.post("/labels", json=body)).json() == {"labels": 1}
    assert len(list(world.store.list(f"{ROOT}/labels/{MODEL}/"))) == 1
    assert (await http.post("/models/nope/labels", json=body)).status_code == 404
    assert (await http.post("/labels", json={})).status_code == 400

    class NoStore:
        def write(self, *_: Any, **__: Any) -> bool:
            raise StoreUnavailableError("down")

    http = await _serving(world, labels=LabelLog(NoStore(), ROOT, world.clock))  # type: ignore[arg-type]
    assert (await http.post("/labels", json=body)).status_code == 503


async def test_openapi_names_every_status_that_scoring_can_answer(world: ServedWorld) -> None:
    http = await _serving(world, labels=LabelLog(world.store, ROOT, world.clock))
    document = (await http.get("/openapi.json")).json()
    for path in (URL, "/models/{name}/invocations"):
        route = document["paths"][path]["post"]
        assert set(route["responses"]) >= {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503", "504"}
        assert set(route["requestBody"]["content"]) == {"application/json", "text/csv"}
        assert {"X-Request-Id", "X-Perennial-Key"} <= {parameter["name"] for parameter in route["parameters"]}
    assert {"/ping", "/health", "/version", "/models", "/metrics", "/labels", "/models/{name}/labels"} < set(
        document["paths"]
    )
    json.dumps(document)


async def test_openapi_describes_the_columns_of_what_is_in_service(world: ServedWorld) -> None:
    world.promote(Adding(1.0))
    http = await _serving(world)
    document = (await http.get("/openapi.json")).json()
    schema = document["paths"]["/models/{name}/invocations"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for body in (split(ROW), {"dataframe_records": [ROW]}, {"instances": [ROW, ROW]}, {"inputs": ROW}):
        assert validator.is_valid(body)
        assert (await http.post(URL, json=body)).status_code == 200
    for body in (split({**ROW, "n": 1.5}), {"inputs": {"x": 1}}, {"instances": []}, {}):
        assert not validator.is_valid(body)
        assert (await http.post(URL, json=body)).status_code == 400
