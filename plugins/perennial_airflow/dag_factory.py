"""Makes the DAGs of a spec. The only module that knows which tasks a cycle has in Airflow, and in which order."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    CronTriggerTimetable,
    Param,
    get_parsing_context,
)
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.param import ParamsDict

from perennial.addresses import retrain_dag_id, rollback_dag_id
from perennial.domain.run_request import MAX_REASON_LENGTH
from perennial.errors import SpecError, SpecProblem
from perennial.settings import load_settings
from perennial.spec import ModelSpec, load_spec, load_suite, spec_paths
from perennial.spec.loader import SUFFIXES
from perennial.spec.parts import NewDataTrigger
from perennial_airflow.dag_docs import dag_doc, rollback_doc
from perennial_airflow.links import DAG_ID_PATTERN
from perennial_airflow.operators import (
    ApproveOperator,
    DecideOperator,
    EvaluateOperator,
    PromoteOperator,
    RollbackOperator,
    SnapshotOperator,
    TrainModelOperator,
    ValidateOperator,
)
from perennial_airflow.triggers.landing import LandingTrigger

log = logging.getLogger(__name__)

_ANY_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
RUN_TIMEOUT: Final = timedelta(hours=8)
"""Of a retraining, without the time that a person may take to answer."""
ROLLBACK_TIMEOUT: Final = timedelta(minutes=30)
ROLLBACK_TASK_TIMEOUT: Final = timedelta(minutes=5)
"""Of one try: a minute and a half of waiting for the model's lock, and room for a slow registry."""
ROLLBACK_RETRY_DELAY: Final = timedelta(seconds=5)
FIRST: Final = 1000
"""Priority of a rollback among the tasks that wait for a slot; a retraining's tasks have less than 10."""
MIN_POLL_S: Final = 1.0
MAX_POLL_S: Final = 30.0
"""The landing zone is listed twice in the time that it has to be quiet, within these bounds."""

RETRY_BACKOFF: Final = 2.0
LEAST_RETRIES: Final = 3
"""In place of 0, which `[core] default_task_retries` is in an Airflow that nobody has configured: a store that does not
answer for a moment would end the night. Errors that no retry can help are never tried again (errors.py)."""

_JSON_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


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
    _require_due(path.name, spec.triggers.schedule)
    return spec


def build_dag(spec: ModelSpec) -> DAG:
    """The retraining DAG of a model: six tasks, one after the other, or seven if a person has to agree.

    One run at a time, and one promotion task at a time even if that is raised: fewer runs wait for each other in vain.
    That promotions never overlap is the model's lock's doing. No pool is named: a pool that nobody created would leave
    the task unscheduled without a word.
    """
    patience = spec.approval.timeout if spec.approval.required else timedelta(0)
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
    dag.params = ParamsDict(_form(spec))
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
        retries=_retries(),
        retry_delay=ROLLBACK_RETRY_DELAY,
        priority_weight=FIRST,
    )
    dag.params = ParamsDict(_rollback_form())
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
    decision = DecideOperator(task_id="decide", evaluation=evaluation.output, **judged, **common)
    approval = None
    if spec.approval.required:
        approval = ApproveOperator(
            task_id="approve",
            decision=decision.output,
            challenger=challenger.output,
            approvers=spec.approval.approvers,
            timeout=spec.approval.timeout,
            **common,
        )
    promotion = PromoteOperator(
        task_id="promote_if_better",
        evaluation=evaluation.output,
        decision=decision.output,
        approval=approval.output if approval else None,
        max_active_tis_per_dag=1,
        # After a question that did not have to be asked, too (skipped): this task says what became of the challenger.
        trigger_rule="none_failed" if approval else "all_success",
        **judged,
        **common,
    )
    snapshot >> validated >> challenger >> evaluation >> decision >> promotion
    if approval:
        decision >> approval >> promotion


def _build(paths: Iterable[Path]) -> dict[str, DAG]:
    dags: dict[str, DAG] = {}
    for path in paths:
        try:
            spec = checked(path)
            made = [build_dag(spec), build_rollback_dag(spec)]
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


def _retries() -> int:
    return conf.getint("core", "default_task_retries", fallback=0) or LEAST_RETRIES


def _schedule(spec: ModelSpec) -> Any:
    cron = spec.triggers.schedule
    # A new model waits for its next night: no run for the one that has passed.
    clock = CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0)) if cron else None
    if spec.triggers.new_data is None:
        return clock
    landed = _landing_asset(spec, spec.triggers.new_data)
    return AssetOrTimeSchedule(timetable=clock, assets=landed) if clock else [landed]


def _require_due(file: str, cron: str | None) -> None:
    """A time that never comes (30 February) would break Airflow's look-ahead, for every DAG of the file."""
    from croniter import CroniterError, croniter  # type: ignore[import-untyped]

    if cron is None:
        return
    try:
        croniter(cron, _ANY_DAY).get_next()
    except (CroniterError, ValueError) as error:
        allowed = f"must be a cron expression of five fields that comes at some time: {error}"
        raise SpecError([SpecProblem(file, "triggers.schedule", repr(cron), allowed)]) from error


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


def _form(spec: ModelSpec) -> dict[str, Param]:
    """The form behind "Trigger"; also what the REST API takes as `conf`."""
    declared = spec.training.params
    properties = {name: _schema(declared[name]) for name in sorted(declared)}
    known = ", ".join(f"{name} ({declared[name]!r})" for name in sorted(declared)) or "none"
    form = {
        "reason": _text("Reason", "Kept in the ledger with the decision."),
        "as_of": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="As of",
            description="Time to stand at: nothing newer is used. Empty: when the run is due.",
        ),
        "force": Param(
            False, type="boolean", title="Judge again", description="Also if this very training was judged before."
        ),
        "params": Param(
            {},
            type="object",
            properties=properties,
            additionalProperties=False,
            title="Training parameters",
            description=f'For this run only, such as {{"name": value}}. Declared, with the spec\'s values: {known}.',
        ),
    }
    if spec.approval.break_glass:
        form["break_glass"] = _text(
            "Break the glass",
            "Why the challenger is to be promoted whatever the gate says, and without an approval. Only for "
            f"{', '.join(spec.approval.break_glass)}; kept in the ledger. Leave it empty to let the gate decide.",
        )
    return form


def _rollback_form() -> dict[str, Param]:
    """The form behind "Trigger" of a rollback. A reason is asked for, not demanded: nothing may hold a rollback up."""
    return {
        "to": Param(
            None,
            type=["null", "string"],
            pattern="^[1-9][0-9]*$",
            title="Back to version",
            description="Empty: the champion before the present one. Trigger acts at once: the version is tried out "
            "and becomes champion, and the one that it replaces goes into quarantine: it is not promoted again. A "
            "version in quarantine can be named too; that releases it, and takes a reason.",
        ),
        "reason": _text("Reason", "Kept in the ledger, and told with the quarantine."),
    }


def _text(title: str, description: str) -> Param:
    """A text field that may stay empty; with an empty text as its default, the form would insist on one."""
    return Param(None, type=["null", "string"], maxLength=MAX_REASON_LENGTH, title=title, description=description)


def _schema(value: Any) -> dict[str, Any]:
    kind = _JSON_TYPES.get(type(value))
    return {"type": [kind, "null"]} if kind else {}
