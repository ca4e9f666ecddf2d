import json

import httpx
import pytest

from perennial_demo.airflow_api import AirflowApi
from perennial_demo.errors import AirflowApiError

RUN = {
    "dag_id": "d",
    "dag_run_id": "r",
    "state": "queued",
    "run_type": "manual",
    "conf": {"a": 1},
    "note": None,
    "triggered_by": "rest_api",
    "start_date": None,
    "end_date": None,
}


def client(handler):
    """An API server that gives out the tokens t1, t2, … and leaves the rest to `handler`."""
    tokens = iter(range(1, 10))

    def handle(request):
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": f"t{next(tokens)}"})
        return handler(request)

    return AirflowApi("http://airflow", transport=httpx.MockTransport(handle))


def test_trigger_sends_no_logical_date_and_returns_the_run():
    seen = []

    def handler(request):
        seen.append((request.url.path, json.loads(request.content), request.headers["authorization"]))
        return httpx.Response(200, json=RUN)

    run = client(handler).trigger("d", conf={"a": 1})
    assert seen == [("/api/v2/dags/d/dagRuns", {"logical_date": None, "conf": {"a": 1}}, "Bearer t1")]
    assert (run.run_id, run.state, run.conf, run.is_over) == ("r", "queued", {"a": 1}, False)


def test_token_that_expired_is_fetched_anew():
    def handler(request):
        ok = request.headers["authorization"] == "Bearer t2"
        return httpx.Response(200, json=RUN) if ok else httpx.Response(401)

    assert client(handler).run("d", "r").run_id == "r"


def test_refused_request_names_what_airflow_says():
    with pytest.raises(AirflowApiError, match=r"POST /dags/d/dagRuns: Airflow answers 409: .*exists"):
        client(lambda _: httpx.Response(409, json={"detail": "exists"})).trigger("d", run_id="r")


def test_server_that_went_away_is_one_error():
    def handler(request):
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(AirflowApiError, match="ConnectError"):
        client(handler).runs("d")


def test_run_id_with_a_plus_sign_is_quoted():
    seen = []

    def handler(request):
        seen.append(request.url.raw_path.decode())
        return httpx.Response(200, json=RUN)

    client(handler).run("d", "manual__2026-11-21T09:00:00+00:00")
    assert seen == ["/api/v2/dags/d/dagRuns/manual__2026-11-21T09%3A00%3A00%2B00%3A00"]


def test_wait_returns_when_the_run_is_over():
    states = iter(["queued", "running", "failed"])
    api = client(lambda _: httpx.Response(200, json={**RUN, "state": next(states)}))
    assert api.wait_for_run("d", "r", timeout_s=5, poll_s=0).state == "failed"


def test_wait_for_a_run_that_hangs_is_bounded():
    with pytest.raises(AirflowApiError, match="still queued"):
        client(lambda _: httpx.Response(200, json=RUN)).wait_for_run("d", "r", timeout_s=0.01, poll_s=0.02)


def test_wait_for_a_dag_that_cannot_be_imported_shows_the_import_error():
    def handler(request):
        if request.url.path.endswith("/importErrors"):
            return httpx.Response(200, json={"import_errors": [{"filename": "d.py", "stack_trace": "SyntaxError"}]})
        return httpx.Response(404)

    with pytest.raises(AirflowApiError, match=r"d.py: SyntaxError"):
        client(handler).wait_for_dag("d", timeout_s=0.01, poll_s=0.02)


QUESTION = {
    "task_instance": {"dag_id": "d", "dag_run_id": "r", "task_id": "approve", "map_index": -1},
    "subject": "promote?",
    "body": None,
    "assigned_users": [{"id": "ada", "name": "Ada"}],
}


def test_questions_of_a_run_are_those_that_still_wait():
    seen = []

    def handler(request):
        seen.append((request.url.path, dict(request.url.params)))
        return httpx.Response(200, json={"hitl_details": [QUESTION], "total_entries": 1})

    [question] = client(handler).pending_approvals("d", "r")
    waiting = {"response_received": "false", "state": "awaiting_input"}
    assert seen == [("/api/v2/dags/d/dagRuns/r/hitlDetails", waiting)]
    assert (question.task_id, question.subject, question.body, question.may_answer) == (
        "approve",
        "promote?",
        "",
        ("ada",),
    )


@pytest.mark.parametrize(("approve", "option"), [(True, "Approve"), (False, "Reject")])
def test_answer_goes_to_the_task_that_asked(approve, option):
    seen = []

    def handler(request):
        if request.method == "GET":
            return httpx.Response(200, json={"hitl_details": [QUESTION], "total_entries": 1})
        seen.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={})

    api = client(handler)
    api.answer_approval(api.pending_approvals("d", "r")[0], approve=approve)
    path = "/api/v2/dags/d/dagRuns/r/taskInstances/approve/-1/hitlDetails"
    assert seen == [("PATCH", path, {"chosen_options": [option]})]
