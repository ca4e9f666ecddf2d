"""What breaks at night: a killed process, MLflow down, S3 overloaded, a broken spec. Real servers, real Airflow."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import boto3
import pandas as pd
import pytest

from perennial.adapters.s3 import S3Store
from perennial.addresses import rollback_dag_id
from perennial.champion_door import anchors
from perennial_demo import process
from tests.system.conftest import LENIENT, World
from tests.unit.core.world import LANDING, day_frame
from tests.unit.core.world import World as Toy

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.usefixtures("landed")]
AS_OF = datetime(2013, 2, 18, 3, tzinfo=UTC).isoformat()
STAGES = {
    "snapshot_data": "snapshot",
    "validate_data": "validate",
    "train_challenger": "train",
    "evaluate_on_holdout": "evaluate",
    "decide": "decide",
    "promote_if_better": "promote",
}


def assert_one_promotion(world: World, model: str, run_id: str) -> None:
    assert world.versions(model) == ["1"]
    decision, promotion = world.runtime.ledger.entries(model)
    assert [decision.run_id, promotion.run_id] == [run_id, run_id]
    assert (decision.kind, decision.verdict, decision.champion_after) == ("decision", "PROMOTE", None)
    assert (promotion.kind, promotion.champion_before, promotion.champion_after) == ("promotion", None, "1")
    assert decision.evidence_sha256 == promotion.evidence_sha256
    champion = world.runtime.registry.champion(model)
    assert champion is not None
    assert champion.version == "1"
    assert champion.model.digest == promotion.digest


def test_process_killed_wherever_it_hurts_is_retried_to_the_same_end(world: World) -> None:
    dag_id = world.add_twin("killed_seven_times")
    points = [*STAGES.values(), "alias"]
    for point in points:
        (world.kills / f"killed_seven_times.{point}").touch()
    run = world.run(dag_id, as_of=AS_OF)
    assert run.state == "success", world.log_of(dag_id, run.run_id)
    tries = {task.task_id: task.try_number for task in world.stack.airflow.task_instances(dag_id, run.run_id)}
    assert tries == {**dict.fromkeys(STAGES, 2), "promote_if_better": 3}
    assert sorted(path.name for path in world.kills.glob("killed_seven_times.*")) == sorted(
        f"killed_seven_times.{point}.done" for point in points
    )
    assert_one_promotion(world, "killed_seven_times", run.run_id)


def test_rollback_killed_after_the_alias_moved_and_after_its_effects_goes_back_once(world: World) -> None:
    model = "killed_going_back"
    dag_id = world.add_twin(model, gate=LENIENT)
    for alpha in (1.0, 2.0, 3.0):
        run = world.run(dag_id, as_of=AS_OF, params={"alpha": alpha})
        assert run.state == "success", world.log_of(dag_id, run.run_id)
    for point in ("alias", "rollback"):
        (world.kills / f"{model}.{point}").touch()
    rollback_id = rollback_dag_id(model)
    run = world.run(rollback_id, reason="killed on the way")
    assert run.state == "success", world.log_of(rollback_id, run.run_id)
    killed = sorted(path.name for path in world.kills.glob(f"{model}.*"))
    assert killed == [f"{model}.alias.done", f"{model}.rollback.done"]
    (task,) = world.stack.airflow.task_instances(rollback_id, run.run_id)
    assert task.try_number == 3
    moves = [entry for entry in world.runtime.ledger.entries(model) if entry.moved]
    assert [(entry.kind, entry.champion_before, entry.champion_after) for entry in moves] == [
        ("promotion", None, "1"),
        ("promotion", "1", "2"),
        ("promotion", "2", "3"),
        ("rollback", "3", "2"),
    ]
    assert list(moves[-1].quarantined) == [moves[2].digest]
    assert world.runtime.registry.champion_version(model) == "2"


def test_mlflow_down_for_a_while_delays_the_run_and_nothing_else(world: World) -> None:
    dag_id = world.add_twin("mlflow_outage")
    process.stop(world.stack.home.root, {"mlflow"}, grace_s=2)
    try:
        run_id = world.stack.airflow.trigger(dag_id, conf={"as_of": AS_OF}).run_id
        deadline = time.monotonic() + 120
        while not (
            waiting := [t for t in world.stack.airflow.task_instances(dag_id, run_id) if t.state == "up_for_retry"]
        ):
            assert time.monotonic() < deadline, world.log_of(dag_id, run_id)
            time.sleep(0.25)
    finally:
        world.stack.up()
    assert waiting[0].task_id in STAGES
    run = world.stack.airflow.wait_for_run(dag_id, run_id, timeout_s=120)
    assert run.state == "success", world.log_of(dag_id, run_id)
    assert_one_promotion(world, "mlflow_outage", run_id)
    log = world.stack.airflow.task_log(dag_id, run_id, waiting[0].task_id)
    assert "MLflow did not answer" in log or "transient" in log


def test_spec_that_breaks_is_told_field_by_field_and_stops_no_other_model(world: World) -> None:
    dag_id = world.add_twin("healthy_neighbour")
    broken = world.mine / "models" / "mended_later.yaml"
    good = (world.mine / "models" / "healthy_neighbour.yaml").read_text().replace("healthy_neighbour", "mended_later")
    broken.write_text(good.replace("primary: rmse", "primary: rsme"))
    try:
        deadline = time.monotonic() + 60
        while not (problems := world.stack.airflow.import_errors()):
            assert time.monotonic() < deadline
            time.sleep(0.25)
        (problem,) = problems
        assert problem.filename.endswith("mended_later.yaml.py")
        assert "evaluation.primary = 'rsme': unknown metric rsme; there are" in problem.stack_trace
        assert world.run(dag_id, as_of=AS_OF).state == "success"
        broken.write_text(good)
        world.stack.airflow.wait_for_dag("perennial__mended_later__retrain", timeout_s=60)
        while world.stack.airflow.import_errors():
            assert time.monotonic() < deadline + 60
            time.sleep(0.25)
    finally:
        broken.unlink()


class Overloaded(BaseHTTPRequestHandler):
    """Hands requests on as they are, signature included; but of every other kind it answers the first two with 503.

    Of every kind would be too many in a row: boto3 stops trying for a while after a hundred.
    """

    protocol_version = "HTTP/1.1"
    target = ("", 0)
    first: int
    """Whether the first, third, fifth ... kind is refused (0), or the second, fourth, sixth (1)."""
    asked: dict[tuple[str, str, str | None], int]
    refused: Counter[tuple[str, str, str | None]]
    _lock = threading.Lock()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = (self.command, self.path, self.headers.get("Range"))
        with self._lock:
            number = list(self.asked).index(kind) if kind in self.asked else len(self.asked)
            self.asked[kind] = self.asked.get(kind, 0) + 1
            is_refused = number % 2 == self.first and self.asked[kind] <= 2
            self.refused[kind] += is_refused
        if is_refused:
            self._answer(503, [], b"<Error><Code>SlowDown</Code><Message>later</Message></Error>")
            return
        connection = HTTPConnection(*self.target, timeout=30)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(params=[0, 1], ids=["odd-requests", "even-requests"])
def overloaded(world: World, request: pytest.FixtureRequest) -> Iterator[tuple[str, type[Overloaded]]]:
    """A proxy in front of the stack's S3, and its handler, which counts."""
    address = urlsplit(world.stack.s3_url)
    own = {"target": (address.hostname, address.port), "first": request.param, "asked": {}, "refused": Counter()}
    handler = type("Handler", (Overloaded,), own)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_cycle_over_an_overloaded_s3_comes_to_the_same_end_as_without(
    services: World, overloaded: tuple[str, type[Overloaded]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.endpoint

    # boto3 waits some seconds before each try; that it does is boto3's own affair.
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _seconds: None))
    plain, troubled = Toy(tmp_path / "plain"), Toy(tmp_path / "troubled")
    url, proxy = overloaded
    troubled.store = emptied_store(services.stack.s3_url)
    sink = io.BytesIO()
    pd.concat([day_frame(day) for day in range(28)]).to_parquet(sink, index=False)
    for toy in (plain, troubled):
        toy.store.write(f"{LANDING}month.parquet", sink.getvalue(), content_type="application/octet-stream")
    troubled.store = S3Store.from_session(None, endpoint_url=url)
    expected, result = plain.run(), troubled.run()
    assert result == expected
    assert result.promotion is not None
    assert result.promotion.promoted
    refused = [kind for kind, count in proxy.refused.items() if count]
    assert len(refused) > 15
    assert {method for method, _, _ in refused} == {"GET", "HEAD", "PUT", "DELETE"}
    assert min(proxy.asked[kind] for kind in refused) >= 3
    assert [entry.kind for entry in troubled.runtime.ledger.entries("toy")] == ["decision", "promotion"]
    assert troubled.runtime.ledger.verify("toy", anchors(troubled.registry, "toy")).sound


def emptied_store(url: str) -> S3Store:
    """The S3, with an empty bucket `bucket`."""
    client = boto3.client("s3", endpoint_url=url)
    if "bucket" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="bucket")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="bucket", Key=item["Key"])
    return S3Store.from_session(None, endpoint_url=url)
