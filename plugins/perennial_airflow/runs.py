"""Starts retraining runs from within Airflow's API server, and looks at them: the only module that uses Airflow's ORM.

`airflow.api.common.trigger_dag` is not documented as public; `POST /api/v2/dags/{dag_id}/dagRuns` does the same from
outside. Runs are unique by DAG and id in Airflow's database, and that is what keeps two alerts from starting two.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from airflow.exceptions import DagNotFound, DagRunAlreadyExists, ParamValidationError
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun, DagRunNote
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import and_, func, literal, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from perennial.addresses import retrain_dag_id
from perennial.errors import NotFoundError, RequestError, TransientError
from perennial.retrain_runs import RetrainDag, RetrainRun
from perennial_airflow.request import DRIFT_RUN_PREFIX

log = logging.getLogger(__name__)

DAY: Final = timedelta(hours=24)
MAX_NOTE_LENGTH: Final = 1000
"""Of Airflow's column."""
_ACTIVE: Final = ("queued", "running")
_ENDED: Final = ("success", "failed")


class AirflowDatabaseError(TransientError):
    """Airflow's database did not answer, or was too busy."""


class AirflowStarter:
    """A `RunStarter` on the database of this Airflow. Safe to share among threads: each call has its own session."""

    def look(self, model: str, now: datetime) -> RetrainDag | None:
        """The retraining of a model, in one query; None if Airflow has no such DAG (yet)."""
        with _session() as session:
            rows = session.execute(_look_at(retrain_dag_id(model), now - DAY)).all()
        if not rows:
            return None
        runs = [_run(row) for row in sorted(rows, key=lambda row: row.id or 0) if row.run_id is not None]
        ended = [run for run in runs if run.state in _ENDED and run.ended_at is not None]
        return RetrainDag(
            paused=bool(rows[0].is_paused),
            latest=runs[-1] if runs else None,
            active=next((run for run in runs if run.active), None),
            last_ended=max(ended, key=lambda run: run.ended_at or run.created_at, default=None),
            for_alerts=tuple(run for run in runs if run.started_for_alert and run.created_at >= now - DAY),
        )

    def run(self, model: str, run_id: str) -> RetrainRun | None:
        """One run; None if there is none of this id."""
        with _session() as session:
            row = session.execute(
                select(*_COLUMNS).where(DagRun.dag_id == retrain_dag_id(model), DagRun.run_id == run_id)
            ).first()
        return None if row is None else _run(row)

    def start(self, model: str, run_id: str, *, conf: Mapping[str, Any], note: str) -> bool:
        """Create the run; False and no change if there is one of this id already.

        Raises:
            NotFoundError: Airflow has no such DAG.
            RequestError: Airflow does not take the id or the conf.
        """
        from airflow.api.common.trigger_dag import trigger_dag

        dag_id = retrain_dag_id(model)
        try:
            with _database_errors():
                # Its own session, Airflow's scoped one, which it uses throughout: with ours it would take two.
                trigger_dag(
                    dag_id,
                    triggered_by=DagRunTriggeredByType.REST_API,
                    run_id=run_id,
                    conf=dict(conf),
                    note=note[:MAX_NOTE_LENGTH],
                )
        except (DagRunAlreadyExists, _LostRaceError) as error:
            if self.run(model, run_id) is None:  # another constraint, or that run was deleted meanwhile
                raise AirflowDatabaseError(f"Airflow could not create {run_id} of {dag_id}: {error}") from error
            return False
        except DagNotFound as error:
            raise NotFoundError(f"Airflow has no DAG {dag_id}; is the spec new, or its DAG file broken?") from error
        except (ParamValidationError, ValueError) as error:
            raise RequestError(f"Airflow does not create {run_id} of {dag_id}: {error}") from error
        return True

    def add_note(self, model: str, run_id: str, line: str) -> None:
        """Append a line to the run's note; best effort: a note that cannot be written is no reason to lose an alert."""
        run = select(DagRun.id).where(DagRun.dag_id == retrain_dag_id(model), DagRun.run_id == run_id)
        longer = func.substr(func.coalesce(DagRunNote.content, "") + literal(f"\n{line}"), 1, MAX_NOTE_LENGTH)
        try:
            with _session() as session:
                changed = session.execute(
                    # In the database, so that of two lines at once none is lost.
                    update(DagRunNote)
                    .where(DagRunNote.dag_run_id.in_(run))
                    .values(content=longer)
                    .execution_options(synchronize_session=False)
                )
                run_key = None if changed.rowcount else session.scalar(run)
                if run_key is not None:
                    made = DagRunNote(content=line[:MAX_NOTE_LENGTH])
                    made.dag_run_id = run_key
                    session.add(made)
        except (AirflowDatabaseError, _LostRaceError) as error:
            log.warning("could not note %r on %s of %s: %s", line, run_id, model, error)


def require_database() -> None:
    """Make sure that Airflow's database answers.

    Raises:
        AirflowDatabaseError: it does not.
    """
    with _session() as session:
        session.execute(select(literal(1)))


class _LostRaceError(Exception):
    """Somebody else wrote the same unique value first."""


@contextmanager
def _session() -> Iterator[Any]:
    with _database_errors(), create_session(scoped=False) as session:
        yield session


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise _LostRaceError(str(error.orig)) from error
    except SQLAlchemyError as error:
        raise AirflowDatabaseError(f"Airflow's database does not answer ({type(error).__name__})") from error


_COLUMNS: Final = (
    DagRun.id,
    DagRun.run_id,
    DagRun.state.label("run_state"),
    DagRun.created_at,
    DagRun.run_after,
    DagRun.end_date,
    DagRun.conf,
)


def _look_at(dag_id: str, since: datetime) -> Any:
    """The DAG with its runs that matter, a row each; one row without a run if there is none; none without a DAG."""
    newest = select(func.max(DagRun.id)).where(DagRun.dag_id == dag_id).scalar_subquery()
    last_ended = (
        select(DagRun.id)
        .where(DagRun.dag_id == dag_id, DagRun.state.in_(_ENDED), DagRun.end_date.is_not(None))
        .order_by(DagRun.end_date.desc())
        .limit(1)
        .scalar_subquery()
    )
    matters = or_(
        DagRun.id == newest,
        DagRun.id == last_ended,
        DagRun.state.in_(_ACTIVE),
        and_(DagRun.created_at >= since, DagRun.run_id.startswith(DRIFT_RUN_PREFIX, autoescape=True)),
    )
    return (
        select(DagModel.is_paused, *_COLUMNS)
        .select_from(DagModel)
        .outerjoin(DagRun, and_(DagRun.dag_id == DagModel.dag_id, matters))
        .where(DagModel.dag_id == dag_id, DagModel.is_stale.is_(False))
    )


def _run(row: Any) -> RetrainRun:
    alert = (row.conf or {}).get("alert") if isinstance(row.conf, Mapping) else None
    key = alert.get("key") if isinstance(alert, Mapping) else None
    return RetrainRun(
        run_id=row.run_id,
        state=str(row.run_state),
        started_for_alert=row.run_id.startswith(DRIFT_RUN_PREFIX),
        created_at=(row.created_at or row.run_after).astimezone(UTC),  # of runs made before Airflow 3.2: no created_at
        ended_at=row.end_date.astimezone(UTC) if row.end_date is not None else None,
        alert_key=key if isinstance(key, str) else None,
    )
