"""Starting runs, on a real database of Airflow (SQLite) with a serialised DAG in it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow import settings
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.tasklog import LogTemplate
from airflow.sdk import DAG, BaseOperator
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.session import create_session
from sqlalchemy import delete, select, update
from sqlalchemy.exc import OperationalError

from perennial.errors import NotFoundError, RequestError
from perennial_airflow import runs
from perennial_airflow.runs import AirflowDatabaseError, AirflowStarter

pytestmark = pytest.mark.airflow
CONF = {"reason": "temp is higher", "alert": {"key": "k" * 32, "evidence": {"column": "temp"}}}
DAG_ID = "perennial__toy__retrain"


@pytest.fixture(scope="module", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Airflow's tables in a file of the module's own."""
    from airflow.models import import_all_models
    from airflow.models.base import Base

    path = tmp_path_factory.mktemp("airflow") / "airflow.db"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(settings, "SQL_ALCHEMY_CONN", f"sqlite:///{path}?timeout=30")
        patched.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", f"sqlite+aiosqlite:///{path}")
        settings.configure_orm()
        import_all_models()
        Base.metadata.create_all(settings.engine)
        with create_session(scoped=False) as session:
            session.add(LogTemplate(filename="log", elasticsearch_id="log"))
        yield path
        settings.dispose_orm()
    settings.configure_orm()


@pytest.fixture
def starter(database: Path) -> AirflowStarter:
    """A fresh DAG without runs."""
    with create_session(scoped=False) as session:
        for table in (DagRun, SerializedDagModel, DagModel, DagBundleModel):
            session.execute(delete(table))
        session.add(DagBundleModel(name="tests"))
        session.flush()
        session.add(DagModel(dag_id=DAG_ID, bundle_name="tests", is_paused=False, is_stale=False))
    with DAG(DAG_ID, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        BaseOperator(task_id="snapshot")
    with create_session(scoped=False) as session:
        SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="tests", session=session)
    return AirflowStarter()


def now() -> datetime:
    return datetime.now(UTC)


def end(run_id: str, state: str = "success", at: datetime | None = None) -> None:
    with create_session(scoped=False) as session:
        session.execute(update(DagRun).where(DagRun.run_id == run_id).values(_state=state, end_date=at or now()))


def stored(run_id: str) -> Any:
    with create_session(scoped=False) as session:
        run = session.scalar(select(DagRun).where(DagRun.run_id == run_id))
        return None if run is None else (run.conf, run.note, str(run.state), run.triggered_by.value)


def test_dag_without_runs_is_there_and_idle(starter: AirflowStarter) -> None:
    found = starter.look("toy", now())
    assert found is not None
    assert (found.paused, found.latest, found.active, found.last_ended, found.for_alerts) == (
        False,
        None,
        None,
        None,
        (),
    )
    assert starter.look("nothing", now()) is None


def test_started_run_is_queued_with_its_conf_and_note(starter: AirflowStarter) -> None:
    assert starter.start("toy", "drift__first__00000001", conf=CONF, note="an alert")
    assert stored("drift__first__00000001") == (CONF, "an alert", "queued", "rest_api")
    found = starter.look("toy", now())
    assert found is not None
    assert found.latest is not None
    assert found.latest == found.active == found.for_alerts[0] == starter.run("toy", "drift__first__00000001")
    assert (found.latest.started_for_alert, found.latest.alert_key) == (True, "k" * 32)
    assert found.latest.created_at.utcoffset() == timedelta(0)
    assert found.last_ended is None


def test_same_run_again_changes_nothing(starter: AirflowStarter) -> None:
    assert starter.start("toy", "drift__1", conf=CONF, note="first")
    assert not starter.start("toy", "drift__1", conf={"reason": "other"}, note="second")
    assert stored("drift__1")[:2] == (CONF, "first")


def test_many_at_once_start_one(starter: AirflowStarter) -> None:
    def start(number: int) -> bool:
        return starter.start("toy", "drift__1", conf=CONF, note=str(number))

    with ThreadPoolExecutor(12) as pool:
        assert sorted(pool.map(start, range(24))) == [False] * 23 + [True]
    with create_session(scoped=False) as session:
        assert len(session.scalars(select(DagRun)).all()) == 1


def test_look_tells_latest_oldest_active_and_last_ended_apart(starter: AirflowStarter) -> None:
    for name in ("drift__1", "manual__2", "drift__3", "manual__4"):
        assert starter.start("toy", name, conf=CONF if name.startswith("drift") else {}, note="")
    end("manual__2", at=now() - timedelta(hours=1))
    end("drift__1", "failed", at=now() - timedelta(hours=2))
    found = starter.look("toy", now())
    assert found is not None
    assert found.latest is not None
    assert found.active is not None
    assert found.last_ended is not None
    assert (found.latest.run_id, found.active.run_id, found.last_ended.run_id) == ("manual__4", "drift__3", "manual__2")
    assert [run.run_id for run in found.for_alerts] == ["drift__1", "drift__3"]
    later = starter.look("toy", now() + timedelta(hours=25))
    assert later is not None
    assert later.for_alerts == ()


def test_look_takes_one_query(starter: AirflowStarter) -> None:
    from sqlalchemy import event

    starter.start("toy", "drift__1", conf=CONF, note="")
    statements = []

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(settings.engine, "before_cursor_execute", count)
    try:
        starter.look("toy", now())
    finally:
        event.remove(settings.engine, "before_cursor_execute", count)
    assert len(statements) == 1


def test_paused_and_removed_dags_are_told_apart(starter: AirflowStarter) -> None:
    for change, paused in (({"is_paused": True}, True), ({"is_stale": True}, None)):
        with create_session(scoped=False) as session:
            session.execute(update(DagModel).values(**change))
        found = starter.look("toy", now())
        assert (None if found is None else found.paused) is paused


def test_unknown_dag_or_impossible_run_id_says_so(starter: AirflowStarter) -> None:
    with pytest.raises(NotFoundError, match="perennial__nothing__retrain"):
        starter.start("nothing", "drift__1", conf=CONF, note="")
    with pytest.raises(RequestError, match="drift__/"):
        starter.start("toy", "drift__/", conf=CONF, note="")
    with pytest.raises(RequestError, match="reserved"):
        starter.start("toy", "scheduled__1", conf=CONF, note="")


def test_notes_are_appended_until_the_column_is_full(starter: AirflowStarter) -> None:
    starter.start("toy", "drift__1", conf=CONF, note="first")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: starter.add_note("toy", "drift__1", f"line {n}"), range(8)))
    assert sorted(stored("drift__1")[1].splitlines()) == sorted(["first", *(f"line {n}" for n in range(8))])
    starter.add_note("toy", "drift__1", "x" * 2000)
    assert len(stored("drift__1")[1]) == 1000


def test_run_without_a_note_gets_one_and_a_missing_run_none(starter: AirflowStarter) -> None:
    starter.start("toy", "manual__1", conf={}, note="")
    with create_session(scoped=False) as session:
        session.execute(delete(runs.DagRunNote))
    starter.add_note("toy", "manual__1", "a line")
    starter.add_note("toy", "nothing", "a line")
    assert stored("manual__1")[1] == "a line"


def test_database_away_is_transient_and_a_note_then_lost(
    starter: AirflowStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_options: Any) -> Any:
        raise OperationalError("select 1", {}, Exception("password=secret"))

    monkeypatch.setattr(runs, "create_session", away)
    monkeypatch.setattr(settings, "Session", away)
    for call in (
        lambda: starter.look("toy", now()),
        lambda: starter.run("toy", "drift__1"),
        lambda: starter.start("toy", "drift__1", conf=CONF, note=""),
        runs.require_database,
    ):
        with pytest.raises(AirflowDatabaseError) as caught:
            call()
        assert "secret" not in str(caught.value)
    starter.add_note("toy", "drift__1", "a line")
