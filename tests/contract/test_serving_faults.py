"""Faults under load, with real processes: no wrong answer, no hang, errors only where docs/serving.md says so."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import pytest_asyncio
from tests.contract.serving_load import CLIENT_LIMIT_S, Load, load
from tests.contract.serving_stack import ServingStack
from tests.unit.core.serving.served import ROW, split

pytestmark = pytest.mark.asyncio
FLUSH = timedelta(seconds=5)
LABEL = {"labels": [{"request_id": "r", "label": 1}]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingStack]:
    with ServingStack(tmp_path_factory.mktemp("faults")).running() as stack:
        yield stack


@pytest_asyncio.fixture
async def stack(running: ServingStack) -> AsyncIterator[ServingStack]:
    """Serves a new champion, and has no traffic plan."""
    running.end_plan()
    await _promoted(running)
    yield running
    running.end_plan()


async def _promoted(stack: ServingStack, carrier: str = "", mood: str = "") -> str:
    version = await asyncio.to_thread(stack.promote, carrier, mood)
    await asyncio.to_thread(stack.until_serving, version)
    return version


async def _canary(stack: ServingStack, version: str, share: float) -> None:
    stack.plan(version, share=share)
    await _until(lambda: (stack.served().get("challenger") or {}).get("version") == version)


async def _until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """A bound on hanging, not a measurement."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.1)


async def _post(stack: ServingStack, path: str, body: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=stack.url, timeout=CLIENT_LIMIT_S, trust_env=False) as http:
        return await http.post(path, json=body)


def _check(stack: ServingStack, seen: Load, *statuses: int) -> None:
    """What holds whatever the fault: 0 stands for a connection that failed."""
    assert seen.wrong(stack.shifts) == []
    assert seen.hung() == []
    assert seen.told_secrets() == []
    assert set(seen.statuses) <= {200, *statuses}, seen.statuses


async def _check_log(stack: ServingStack, seen: Load, *, lost: tuple[datetime, datetime] | None = None) -> None:
    """Each answer is in the prediction log, as it was given; but for those between two times that a kill may lose."""
    wanted = {one.request_id: one for one in seen.answered}
    if lost is not None:
        late = {one.request_id for one in seen.answered if lost[0] < one.answered_at <= lost[1]}
        wanted = {name: one for name, one in wanted.items() if name not in late}
    found: dict[str, tuple[str, str, float]] = {}

    def arrived() -> bool:
        for version in seen.versions:
            rows = stack.logged(version)
            rows = rows[rows["error"].isna()]
            columns = rows[["request_id", "model_version", "role", "prediction"]].itertuples(index=False)
            found.update({name: (of, role, prediction) for name, of, role, prediction in columns})
        return set(wanted) <= set(found)

    try:
        await _until(arrived)
    except TimeoutError:
        missing = sorted(str(one.answered_at) for name, one in wanted.items() if name not in found)
        pytest.fail(f"{len(missing)} of {len(wanted)} rows are not in the log: {missing[0]} to {missing[-1]}, {lost=}")
    told = {name: (one.version, one.role, one.prediction[0]) for name, one in wanted.items()}
    assert {name: found[name] for name in told} == told


async def test_killed_service_loses_what_was_in_flight_and_serves_again_without_mlflow(stack: ServingStack) -> None:
    version = stack.champion_served()
    async with load(stack.url) as seen:
        began = datetime.now(UTC)
        await _until(lambda: datetime.now(UTC) - began > 1.5 * FLUSH)
        stack.stop_mlflow()
        await seen.more(20)
        _check(stack, seen)
        killed_at = datetime.now(UTC)
        stack.service.signal(signal.SIGKILL)
        await seen.more(1, status=0)
        gone_at = datetime.now(UTC)  # a client may read until then what the service sent before it died
        await seen.more(50)
        assert set(seen.versions) == {version}
        await asyncio.to_thread(stack.start_mlflow)
        newer = await _promoted(stack)
        await seen.more(50)
    _check(stack, seen, 0, 503)
    # Each of the four clients has one request in flight; those that come while nobody listens are refused.
    assert sum(one.status == 0 and one.fault != "ConnectError" for one in seen.asked) <= 4
    assert set(seen.versions) == {version, newer}
    assert stack.service.exit_codes[-1] == -signal.SIGKILL
    await _check_log(stack, seen, lost=(killed_at - FLUSH, gone_at))


async def test_service_restarts_while_mlflow_hangs_and_serves_what_served_last(stack: ServingStack) -> None:
    version = stack.champion_served()
    async with load(stack.url) as seen:
        with stack.frozen(stack.mlflow):
            await seen.more(100)
            _check(stack, seen)
            stack.service.signal(signal.SIGKILL)
            await seen.more(1, status=0)
            await seen.more(50)
        assert set(seen.versions) == {version}
        await _promoted(stack)
    _check(stack, seen, 0, 503)


async def test_s3_that_goes_down_costs_no_request_and_no_row_and_labels_are_refused(stack: ServingStack) -> None:
    async with load(stack.url) as seen:
        await seen.more(20)
        stack.stop_s3()
        await seen.more(100)
        assert (await _post(stack, "/labels", LABEL)).status_code in (503, 504)
        newer = await _promoted(stack)
        await seen.more(50)
        await asyncio.to_thread(stack.start_s3)
        assert (await _post(stack, "/labels", LABEL)).status_code == 200
    _check(stack, seen)
    assert seen.versions[newer] >= 50
    await _check_log(stack, seen)


async def test_s3_that_hangs_costs_no_request_and_no_row_and_the_canary_goes_on(stack: ServingStack) -> None:
    canary = stack.add_version()
    await _canary(stack, canary, 50)
    async with load(stack.url) as seen:
        with stack.frozen(stack.s3):
            await seen.more(100)
            before = seen.versions[canary]
            assert (await _post(stack, "/labels", LABEL)).status_code == 504
            newer = await _promoted(stack)
            await seen.more(50)
            assert seen.versions[canary] > before
            assert seen.versions[newer] > 0
        assert (await _post(stack, "/labels", LABEL)).status_code == 200
    _check(stack, seen)
    await _check_log(stack, seen)


async def test_champion_with_a_corrupt_artifact_is_not_served_and_the_last_good_one_stays(stack: ServingStack) -> None:
    good, bad = stack.champion_served(), stack.add_version()
    uri = stack.registry.version("toy", bad).model.model_uri
    content = stack.mlflow.files(uri)["model.skops"]
    stack.mlflow.write(uri, "model.skops", content[:-1] + b"?")
    async with load(stack.url) as seen:
        stack.point_champion(bad)
        await _until(lambda: f"version {bad} could not be loaded" in (stack.served().get("problem") or ""))
        await seen.more(50)
    _check(stack, seen)
    assert set(seen.versions) == {good}


@pytest.mark.parametrize(("mood", "status"), [("crash", 500), ("refuse", 422)])
async def test_rows_that_make_the_model_raise_fail_alone(stack: ServingStack, mood: str, status: int) -> None:
    await _promoted(stack, "ZZ", mood)
    async with load(stack.url, clients=6, carriers=("AA", "UA", "ZZ")) as seen:
        await seen.more(30, status=status)
        await seen.more(30)
    _check(stack, seen, status)
    assert {one.row["carrier"] for one in seen.asked if one.status == status} == {"ZZ"}
    assert {one.row["carrier"] for one in seen.answered} == {"AA", "UA"}
    await _check_log(stack, seen)


async def test_model_that_raises_for_all_rows_gives_500_until_the_next_champion(stack: ServingStack) -> None:
    bad = await _promoted(stack, "DL", "crash")
    async with load(stack.url, carriers=("DL",)) as seen:
        await seen.more(50, status=500)
        assert not seen.answered
        good = await _promoted(stack)
        await seen.more(50)
    _check(stack, seen, 500)
    assert set(seen.versions) == {good}
    await _until(lambda: len(stack.logged(bad)) == seen.statuses[500])
    assert set(stack.logged(bad)["error"]) == {"model: the model failed: RuntimeError"}


@pytest.mark.parametrize("mood", ["crash", "hang"])
async def test_canary_that_fails_costs_no_request(stack: ServingStack, mood: str) -> None:
    champion, canary = stack.champion_served(), stack.add_version("DL", mood)
    await _canary(stack, canary, 100)
    async with load(stack.url, carriers=("DL",)) as seen:
        await seen.more(100)
    _check(stack, seen)
    assert set(seen.versions) == {champion}
    await _until(lambda: len(stack.logged(canary)) == len(seen.asked))
    assert stack.logged(canary)["error"].notna().all()


async def test_champion_that_hangs_gives_504_and_503_until_its_restart(stack: ServingStack) -> None:
    version = await _promoted(stack, "ZZ", "hang")
    ended = len(stack.service.exit_codes)
    async with load(stack.url) as seen:
        await seen.more(20)
        assert (await _post(stack, "/invocations", split({**ROW, "carrier": "ZZ"}))).status_code == 504
        await _until(lambda: len(stack.service.exit_codes) > ended)  # /ping said so
        await seen.more(50)
    _check(stack, seen, 0, 503, 504)
    assert set(seen.versions) == {version}
    assert len(stack.service.exit_codes) == ended + 1


async def test_canary_in_force_survives_a_killed_service_and_ends_with_its_plan(stack: ServingStack) -> None:
    champion, canary = stack.champion_served(), stack.add_version()
    await _canary(stack, canary, 50)
    async with load(stack.url) as seen:
        await seen.more(100)
        assert set(seen.versions) == {champion, canary}
        theirs = {one.key for one in seen.answered if one.version == canary}
        assert theirs.isdisjoint(one.key for one in seen.answered if one.version == champion)
        stack.service.signal(signal.SIGKILL)
        await seen.more(1, status=0)
        before = seen.versions[canary]
        await _until(lambda: seen.versions[canary] > before + 20)
        stack.plan(canary, share=50, seconds=1)
        await _until(lambda: stack.served().get("challenger") is None)
        ended = len(seen.asked) + 4  # those in flight
        await seen.more(50)
    _check(stack, seen, 0, 503)
    assert {one.version for one in seen.asked[ended:]} == {champion}
    assert {one.key for one in seen.answered if one.version == canary} >= theirs
    assert theirs == {one.key for one in seen.answered if one.version == canary} or len(theirs) < 50


async def test_clients_that_send_garbage_hang_up_or_send_slowly_cost_the_others_nothing(stack: ServingStack) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    async with load(stack.url) as seen:
        await seen.more(20)
        for _ in range(10):  # who hangs up at once
            for content in (head, head + b'{"dataf', b"\x00\x01 garbage\r\n\r\n", head[:30], b""):
                (await _sends(stack, content))[1].close()
        slow = [await _sends(stack, content) for content in (head, head + b"{", head[:30]) for _ in range(50)]
        with_body = slow[:100]
        for _ in range(10):
            for _, writer in slow:
                writer.write(b" ")
            await seen.more(10)
        async with asyncio.timeout(CLIENT_LIMIT_S):
            answers = [await reader.readline() for reader, _ in with_body]
        assert set(answers) == {b"HTTP/1.1 408 Request Timeout\r\n"}
        await seen.more(20)
        for _, writer in slow:
            writer.close()
    _check(stack, seen)
    await _until(lambda: "perennial_serving_in_flight 0.0" in stack.metrics())


async def _sends(stack: ServingStack, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(content)
    await writer.drain()
    return reader, writer


async def test_sigterm_under_load_loses_no_answered_row(stack: ServingStack) -> None:
    async with load(stack.url) as seen:
        await seen.more(50)
        stack.service.signal(signal.SIGTERM)
        await seen.more(1, status=0)
        await seen.more(20)
    _check(stack, seen, 0, 503)
    assert stack.service.exit_codes[-1] == 0
    await _check_log(stack, seen)
