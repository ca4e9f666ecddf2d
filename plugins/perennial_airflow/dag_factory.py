"""Makes the DAGs of a spec. The only module that knows which tasks a cycle has in Airflow, and in which order."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    CronTriggerTimetable,
    chain,
    get_parsing_context,
)
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.param import ParamsDict

from perennial.addresses import monitor_dag_id, retrain_dag_id, rollback_dag_id
from perennial.errors import SpecError, SpecProblem
from perennial.settings import load_settings
from perennial.spec import ModelSpec, load_spec, load_suite, spec_paths
from perennial.spec.loader import SUFFIXES
from perennial.spec.parts import NewDataTrigger
from perennial_airflow.dag_docs import dag_doc, monitor_doc, rollback_doc
from perennial_airflow.dag_forms import monitor_form, retrain_form, rollback_form
from perennial_airflow.links import DAG_ID_PATTERN
from perennial_airflow.operators import (
    ApproveOperator,
    DecideOperator,
    EvaluateOperator,
    ObserveOperator,
    PromoteOperator,
    RollbackOperator,
    RolloutOperator,
    SendAlertsOperator,
    SmokeTestOperator,
    SnapshotOperator,
    TrainModelOperator,
    ValidateOperator,
)
from perennial_airflow.operators.rollout import walk_timeout
from perennial_airflow.operators.stage import StageOperator
from perennial_airflow.task_docs import observe_doc, promote_doc, rollout_doc, send_alerts_doc, smoke_test_doc
from perennial_airflow.triggers.landing import LandingTrigger

log = logging.getLogger(__name__)

_ANY_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
RUN_TIMEOUT: Final = timedelta(hours=8)
"""Of a retraining, without the time that a person may take to answer, and that shadow and canary may take."""
SMOKE_TEST_SLACK: Final = timedelta(minutes=10)
"""On top of the smoke test's own time limit: for reading the holdout's rows and publishing the report."""
ROLLBACK_TIMEOUT: Final = timedelta(hours=1)
ROLLBACK_TASK_TIMEOUT: Final = timedelta(minutes=5)
"""Of one try: a minute and a half of waiting for the model's lock, and room for a slow registry."""
ROLLBACK_RETRY_DELAY: Final = timedelta(seconds=5)
PLATFORM_RETRIES: Final = 60
PLATFORM_RETRY_DELAY: Final = timedelta(seconds=30)
"""Together half an hour: SageMaker takes no change while it makes another, and takes 5 to 15 minutes for each."""
MONITOR_TIMEOUT: Final = timedelta(hours=4)
LOOK_TIMEOUT: Final = timedelta(hours=2)
"""Of one try: two days of hourly windows, if the monitor was away so long."""
SEND_TIMEOUT: Final = timedelta(minutes=10)
TICK_SCHEDULE: Final = "*/15 * * * *"
"""Of a model that takes alerts and is not monitored: how often its deferred alerts are looked at."""
FIRST: Final = 1000
"""Priority of a rollback among the tasks that wait for a slot; a retraining's tasks have less than 10."""
MIN_POLL_S: Final = 1.0
MAX_POLL_S: Final = 30.0
"""The landing zone is listed twice in the time that it has to be quiet, within these bounds."""

RETRY_BACKOFF: Final = 2.0
LEAST_RETRIES: Final = 3
"""In place of 0, which `[core] default_task_retries` is in an Airflow that nobody has configured: a store that does not
answer for a moment would end the night. Errors that no retry can help are never tried again (errors.py)."""


def dags_of(folder: Path | None = None) -> dict[str, DAG]:
    """The DAGs of all good specs, by dag_id; for a DAG file's `globals().update(...)`.

    A broken spec is logged and left out: here nobody but the log can be told without failing the file, and with it
    every other model. `SpecBundle` does better: it shows each broken spec as an import error of its own.

    Args:
        folder: where the specs are; None stands for PERENNIAL_SPECS.
    """
    return _build(_needed(folder or load_settings().specs))


def shard_dags(folder: str, shard: int, of: int) -> dict[str, DAG]:
    """The DAGs of the good specs that belong to one shard, by dag_id. What a file that SpecBundle wrote calls."""
    return _build(path for path in _needed(Path(folder)) if shard_of(path.stem, of) == shard)


def shard_of(model: str, shards: int) -> int:
    """Which shard a model belongs to: the same on every machine, and whatever other models there are."""
    return int.from_bytes(hashlib.sha256(model.encode()).digest()[:4], "big") % shards


def raise_problems(path: str) -> None:
    """What the DAG file of a broken spec calls: the error becomes Airflow's import error.

    Raises:
        SpecError: every problem of the spec.
    """
    checked(Path(path))


def checked(path: Path) -> ModelSpec:
    """A spec file's spec, after everything was checked that a DAG needs. Cheap: no DAG is made.

    Raises:
        SpecError: every problem of the spec, of its suite, or of its schedule.
    """
    spec = load_spec(path)
    if path.suffix != ".yaml" and path.with_suffix(".yaml").is_file():
        twin = path.with_suffix(".yaml").name
        raise SpecError([SpecProblem(path.name, "name", repr(spec.name), f"is already declared by {twin}; delete one")])
    load_suite(path.parent, spec)
    _require_due(path.name, "triggers.schedule", spec.triggers.schedule)
    if spec.monitoring is not None:
        _require_due(path.name, "monitoring.schedule", spec.monitoring.schedule)
    return spec


def build_dag(spec: ModelSpec) -> DAG:
    """The retraining DAG of a model: six tasks, one after the other, and a task more for each of these: a person's
    approval, and with a `deployment` the smoke test, a shadow, a canary.

    One run at a time, and one promotion task at a time even if that is raised: fewer runs wait for each other in vain.
    That promotions never overlap is the model's lock's doing. No pool is named: a pool that nobody created would leave
    the task unscheduled without a word.
    """
    patience = spec.approval.timeout if spec.approval.required else timedelta(0)
    for rollout in spec.deployment.rollouts.values() if spec.deployment else ():
        patience += walk_timeout(rollout)
    dag = DAG(
        dag_id=retrain_dag_id(spec.name),
        description=_first_line(spec.description),
        doc_md=dag_doc(spec),
        schedule=_schedule(spec),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=RUN_TIMEOUT + patience,
        tags=_tags(spec),
        default_args={
            "owner": spec.owner,
            "execution_timeout": timedelta(hours=1),
            # How long to wait is Airflow's own setting: [core] default_task_retry_delay, max_task_retry_delay.
            "retries": _retries(),
            "retry_exponential_backoff": RETRY_BACKOFF,
        },
        auto_register=False,
    )
    _add_cycle(dag, spec)
    # Last: each task would get a copy of its own, and every copy is checked against its JSON schema time and again,
    # which is nine tenths of what a DAG costs to parse.
    dag.params = ParamsDict(retrain_form(spec))
    return dag


def build_rollback_dag(spec: ModelSpec) -> DAG:
    """The DAG that puts an earlier version back: one task, which goes before all others and is soon tried again."""
    dag = DAG(
        dag_id=rollback_dag_id(spec.name),
        description=f"Puts an earlier version of {spec.name} back into production",
        doc_md=rollback_doc(spec),
        schedule=None,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=ROLLBACK_TIMEOUT,
        tags=_tags(spec),
        auto_register=False,
    )
    RollbackOperator(
        task_id="roll_back",
        dag=dag,
        model=spec.name,
        owner=spec.owner,
        execution_timeout=ROLLBACK_TASK_TIMEOUT,
        priority_weight=FIRST,
        **{"retries": _retries(), "retry_delay": ROLLBACK_RETRY_DELAY, **_patience(spec)},
    )
    dag.params = ParamsDict(rollback_form())
    return dag


def is_watched(spec: ModelSpec) -> bool:
    """Whether the model has a monitor: it is watched itself, or its alerts may have to wait for their time."""
    return spec.monitoring is not None or spec.triggers.on_drift is not None


def build_monitor_dag(spec: ModelSpec) -> DAG:
    """The DAG that watches a model: looks at the windows that have ended, and sends alerts on their way.

    Without `monitoring` there is nothing to look at, only deferred alerts of others to come back to.
    """
    schedule = spec.monitoring.schedule if spec.monitoring is not None else TICK_SCHEDULE
    dag = DAG(
        dag_id=monitor_dag_id(spec.name),
        description=f"Watches {spec.name} while it serves"
        if spec.monitoring is not None
        else f"Comes back to deferred alerts of {spec.name}",
        doc_md=monitor_doc(spec),
        schedule=_clock(schedule),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=MONITOR_TIMEOUT,
        tags=_tags(spec),
        default_args={"owner": spec.owner, "retries": _retries(), "retry_exponential_backoff": RETRY_BACKOFF},
        auto_register=False,
    )
    common: dict[str, Any] = {"dag": dag, "model": spec.name}
    sending: dict[str, Any] = {"task_id": "send_alerts", "execution_timeout": SEND_TIMEOUT, **common}
    if spec.monitoring is None:
        SendAlertsOperator(doc_md=send_alerts_doc(spec), **sending)
        return dag
    look = ObserveOperator(task_id="observe", doc_md=observe_doc(spec), execution_timeout=LOOK_TIMEOUT, **common)
    # Also after a look that failed: it may have left alerts, and earlier ones have to be come back to.
    send = SendAlertsOperator(observed=look.output, doc_md=send_alerts_doc(spec), trigger_rule="all_done", **sending)
    chain(look, send)
    dag.params = ParamsDict(monitor_form())
    return dag


def _add_cycle(dag: DAG, spec: ModelSpec) -> None:
    common: dict[str, Any] = {"dag": dag, "model": spec.name}
    snapshot = SnapshotOperator(task_id="snapshot_data", **common)
    validated = ValidateOperator(task_id="validate_data", snapshot=snapshot.output, **common)
    challenger = TrainModelOperator(
        task_id="train_challenger", snapshot=snapshot.output, execution_timeout=timedelta(hours=4), **common
    )
    judged = {"snapshot": snapshot.output, "challenger": challenger.output}
    evaluation = EvaluateOperator(task_id="evaluate_on_holdout", **judged, **common)
    judged["evaluation"] = evaluation.output
    decision = DecideOperator(task_id="decide", **judged, **common)
    judged["decision"] = decision.output
    optional: list[StageOperator] = []
    if spec.approval.required:
        approval = ApproveOperator(
            task_id="approve",
            decision=decision.output,
            challenger=challenger.output,
            approvers=spec.approval.approvers,
            timeout=spec.approval.timeout,
            **common,
        )
        judged["approval"] = approval.output
        optional.append(approval)
    trials = _trials(spec, judged, common)
    if trials:
        smoke, *rollouts = trials
        optional += trials
        judged.update(smoke=smoke.output, rollouts=[rollout.output for rollout in rollouts])
    promotion = PromoteOperator(
        task_id="promote_if_better",
        doc_md=promote_doc(spec),
        max_active_tis_per_dag=1,
        # After what was not needed (skipped), too: this task says what became of the challenger.
        trigger_rule="none_failed" if optional else "all_success",
        **_patience(spec),
        **judged,
        **common,
    )
    chain(snapshot, validated, challenger, evaluation, decision, *optional, promotion)


def _trials(spec: ModelSpec, judged: Mapping[str, Any], common: Mapping[str, Any]) -> list[StageOperator]:
    """Smoke test, shadow and canary, as far as the spec asks for them. Each says itself why it is skipped."""
    if spec.deployment is None:
        return []
    trials: list[StageOperator] = [
        SmokeTestOperator(
            task_id="smoke_test",
            doc_md=smoke_test_doc(spec),
            execution_timeout=spec.deployment.smoke_test.timeout + SMOKE_TEST_SLACK,
            trigger_rule="none_failed",
            **judged,
            **common,
        )
    ]
    seen = {name: judged[name] for name in ("challenger", "decision", "approval") if name in judged}
    for phase, rollout in spec.deployment.rollouts.items():
        walk = RolloutOperator(
            task_id=phase,
            phase=phase,
            doc_md=rollout_doc(spec, phase),
            # Airflow 3.3 does not count the deferral; a version that does must not end the walk.
            execution_timeout=walk_timeout(rollout),
            trigger_rule="none_failed",
            rollouts=[earlier.output for earlier in trials[1:]],
            **seen,
            **common,
        )
        trials.append(walk)
    return trials


def _build(paths: Iterable[Path]) -> dict[str, DAG]:
    dags: dict[str, DAG] = {}
    for path in paths:
        try:
            spec = checked(path)
            made = [build_dag(spec), build_rollback_dag(spec)]
            if is_watched(spec):
                made.append(build_monitor_dag(spec))
        except SpecError as error:
            log.warning("%s declares no DAG until it is mended:\n%s", path, error)
        except Exception:  # one model must not stop the others
            log.exception("%s is a good spec, but no DAG could be made of it; please report this", path)
        else:
            dags.update((dag.dag_id, dag) for dag in made)
    return dags


def _needed(folder: Path) -> list[Path]:
    """The specs that this process needs: a task's own, without a look at the others; in the DAG processor all."""
    wanted = get_parsing_context().dag_id
    if not wanted:
        return spec_paths(folder)
    match = DAG_ID_PATTERN.fullmatch(wanted)
    candidates = [folder / f"{match[1]}{suffix}" for suffix in SUFFIXES] if match else []
    return [path for path in candidates if path.is_file()][:1]


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:250]


def _tags(spec: ModelSpec) -> list[str]:
    return sorted({"perennial", spec.task, f"owner:{spec.owner}"[:100]})


def _patience(spec: ModelSpec) -> dict[str, Any]:
    """How often a task that changes what a platform serves is tried, where the platform takes its time."""
    if spec.deployment is None or spec.deployment.kind == "scoring_service":
        return {}
    return {"retries": PLATFORM_RETRIES, "retry_delay": PLATFORM_RETRY_DELAY, "retry_exponential_backoff": 0}


def _retries() -> int:
    return conf.getint("core", "default_task_retries", fallback=0) or LEAST_RETRIES


def _schedule(spec: ModelSpec) -> Any:
    clock = _clock(spec.triggers.schedule)
    if spec.triggers.new_data is None:
        return clock
    landed = _landing_asset(spec, spec.triggers.new_data)
    return AssetOrTimeSchedule(timetable=clock, assets=landed) if clock else [landed]


def _clock(cron: str | None) -> CronTriggerTimetable | None:
    # A new model waits for its next night: no run for the one that has passed.
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0)) if cron else None


def _require_due(file: str, field: str, cron: str | None) -> None:
    """A time that never comes (30 February) would break Airflow's look-ahead, for every DAG of the file."""
    from croniter import CroniterError, croniter  # type: ignore[import-untyped]  # has no stubs

    if cron is None:
        return
    try:
        croniter(cron, _ANY_DAY).get_next()
    except (CroniterError, ValueError) as error:
        allowed = f"must be a cron expression of five fields that comes at some time: {error}"
        raise SpecError([SpecProblem(file, field, repr(cron), allowed)]) from error


def _landing_asset(spec: ModelSpec, new_data: NewDataTrigger) -> Asset:
    # A file younger than `settle` would be left out by the snapshot.
    quiet_s = max(new_data.quiet, spec.data.settle).total_seconds()
    trigger = LandingTrigger(
        model=spec.name,
        landing=spec.data.landing,
        quiet_s=quiet_s,
        poll_s=max(MIN_POLL_S, min(MAX_POLL_S, quiet_s / 2)),
    )
    return Asset(
        # A scheme of our own: an asset's uri must be unique, and two models may share a landing zone.
        name=f"perennial landing {spec.name}",
        uri=f"x-perennial://landing/{spec.name}",
        group="perennial",
        extra={"landing": spec.data.landing},
        watchers=[AssetWatcher(name=f"landing_{spec.name}", trigger=trigger)],
    )
