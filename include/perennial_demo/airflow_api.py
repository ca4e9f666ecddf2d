"""A small client for Airflow's public REST API (v2): what the demo, the tests and the benchmarks ask of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from perennial_demo.errors import AirflowApiError

TERMINAL_STATES: Final = frozenset({"success", "failed"})
_UNAUTHORIZED: Final = 401
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class DagRun:
    """One run of a DAG. `state` is queued, running, success or failed."""

    dag_id: str
    run_id: str
    state: str
    run_type: str
    conf: Mapping[str, Any]
    note: str | None
    triggered_by: str | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether it will not change any more."""
        return self.state in TERMINAL_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInstance:
    """One task of a run. `state` is None until the scheduler has looked at it."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a task asks of a person before it goes on: to approve, or to reject."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    subject: str
    body: str
    may_answer: tuple[str, ...]
    """Ids of users; empty: whoever may answer tasks of the DAG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportProblem:
    """A DAG file that could not be imported."""

    filename: str
    stack_trace: str


class AirflowApi:
    """Talks to one API server, with a token that it fetches when it needs one.

    The token needs no password: the demo's API server lets everyone on the loopback interface in.
    """

    def __init__(self, base_url: str, *, timeout_s: float = 30.0, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s, trust_env=False, transport=transport)
        self._token: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def trigger(
        self, dag_id: str, *, conf: Mapping[str, Any] | None = None, run_id: str | None = None, note: str | None = None
    ) -> DagRun:
        """Start a run without a logical date.

        Raises:
            AirflowApiError: the DAG does not exist, the conf is refused, or a run of this id exists.
        """
        body = {"logical_date": None, "conf": dict(conf or {}), "dag_run_id": run_id, "note": note}
        body = {key: value for key, value in body.items() if value is not None or key == "logical_date"}
        return _dag_run(self._call("POST", f"/dags/{quote(dag_id)}/dagRuns", json=body))

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """One run as it is now."""
        return _dag_run(self._call("GET", _run_path(dag_id, run_id)))

    def runs(self, dag_id: str, *, limit: int = 100) -> list[DagRun]:
        """The newest runs of a DAG, newest first."""
        parameters = {"order_by": "-run_after", "limit": limit}
        answer = self._call("GET", f"/dags/{quote(dag_id)}/dagRuns", params=parameters)
        return [_dag_run(item) for item in answer["dag_runs"]]

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout_s: float, poll_s: float = 0.25) -> DagRun:
        """Wait until a run has succeeded or failed, and return it.

        Raises:
            AirflowApiError: it was not over after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            run = self.run(dag_id, run_id)
            if run.is_over:
                return run
            if time.monotonic() > deadline:
                raise AirflowApiError(f"Run {run_id} of {dag_id} is still {run.state} after {timeout_s:.0f} s")
            time.sleep(poll_s)

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """The tasks of a run."""
        answer = self._call("GET", f"{_run_path(dag_id, run_id)}/taskInstances")
        return [_task_instance(item) for item in answer["task_instances"]]

    def pending_approvals(self, dag_id: str, run_id: str) -> list[Question]:
        """What the tasks of a run wait for a person to answer."""
        path = f"{_run_path(dag_id, run_id)}/hitlDetails"
        answer = self._call("GET", path, params={"response_received": False, "state": "awaiting_input"})
        return [_question(item) for item in answer["hitl_details"]]

    def answer_approval(self, question: Question, *, approve: bool) -> None:
        """Approve or reject, as the user whom the token names.

        Raises:
            AirflowApiError: it was answered before, or this user may not.
        """
        task = f"taskInstances/{quote(question.task_id)}/{question.map_index}/hitlDetails"
        chosen = {"chosen_options": ["Approve" if approve else "Reject"]}
        self._call("PATCH", f"{_run_path(question.dag_id, question.run_id)}/{task}", json=chosen)

    def task_log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """What a try of a task has logged so far, one event a line."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/logs/{try_number}"
        answer = self._call("GET", path, params={"map_index": map_index, "full_content": True})
        content = answer["content"]
        return "\n".join(item if isinstance(item, str) else str(item.get("event", "")) for item in content)

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value") -> Any:
        """A value that a task handed on."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/{quote(key)}"
        return self._call("GET", path, params={"deserialize": False})["value"]

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        """Pause a DAG, or let it run."""
        self._call("PATCH", f"/dags/{quote(dag_id)}", json={"is_paused": paused})

    def dag_ids(self) -> list[str]:
        """The DAGs that the DAG processor has stored, by name."""
        answer = self._call("GET", "/dags", params={"limit": 100, "order_by": "dag_id"})
        return [str(item["dag_id"]) for item in answer["dags"]]

    def wait_for_dag(self, dag_id: str, *, timeout_s: float, poll_s: float = 0.25) -> None:
        """Wait until the DAG processor has stored a DAG.

        Raises:
            AirflowApiError: it was not there after `timeout_s`; names the files that could not be imported.
        """
        deadline = time.monotonic() + timeout_s
        while self._request("GET", f"/dags/{quote(dag_id)}").status_code == _NOT_FOUND:
            if time.monotonic() > deadline:
                problems = "\n".join(f"{p.filename}: {p.stack_trace}" for p in self.import_errors())
                raise AirflowApiError(f"DAG {dag_id} has not appeared after {timeout_s:.0f} s. {problems}".rstrip())
            time.sleep(poll_s)

    def import_errors(self) -> list[ImportProblem]:
        """DAG files that could not be imported."""
        answer = self._call("GET", "/importErrors")
        return [
            ImportProblem(filename=item["filename"], stack_trace=item["stack_trace"])
            for item in answer["import_errors"]
        ]

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._request(method, path, **options)
        if answer.is_error:
            raise AirflowApiError(f"{method} {path}: Airflow answers {answer.status_code}: {answer.text[:500]}")
        content: dict[str, Any] = answer.json()
        return content

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._authorized(method, path, **options)
            if answer.status_code == _UNAUTHORIZED:  # the token is too old, or the server has a new key
                self._token = None
                answer = self._authorized(method, path, **options)
        except httpx.HTTPError as error:
            raise AirflowApiError(f"{method} {path}: {type(error).__name__}: {error}") from error
        return answer

    def _authorized(self, method: str, path: str, **options: Any) -> httpx.Response:
        if self._token is None:
            self._token = str(self._http.get("/auth/token").raise_for_status().json()["access_token"])
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        return self._http.request(method, f"/api/v2{path}", headers=headers, **options)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}"


def _dag_run(item: Mapping[str, Any]) -> DagRun:
    return DagRun(
        dag_id=item["dag_id"],
        run_id=item["dag_run_id"],
        state=item["state"],
        run_type=item["run_type"],
        conf=item.get("conf") or {},
        note=item.get("note"),
        triggered_by=item.get("triggered_by"),
        started_at=_time(item.get("start_date")),
        ended_at=_time(item.get("end_date")),
    )


def _task_instance(item: Mapping[str, Any]) -> TaskInstance:
    return TaskInstance(
        task_id=item["task_id"],
        map_index=item["map_index"],
        state=item["state"],
        try_number=item["try_number"],
        started_at=_time(item.get("start_date")),
        ended_at=_time(item.get("end_date")),
    )


def _question(item: Mapping[str, Any]) -> Question:
    task = item["task_instance"]
    return Question(
        dag_id=task["dag_id"],
        run_id=task["dag_run_id"],
        task_id=task["task_id"],
        map_index=task["map_index"],
        subject=item["subject"],
        body=item["body"] or "",
        may_answer=tuple(user["id"] for user in item["assigned_users"]),
    )


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
