"""What the operators have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow.sdk import BaseOperator

from perennial.domain.references import Reference
from perennial.errors import TerminalError
from perennial_airflow.hooks.runtime import MLFLOW_CONN_ID, S3_CONN_ID, PerennialHook
from perennial_airflow.links import StageLink
from perennial_airflow.request import run_request

if TYPE_CHECKING:
    from perennial.domain.run_request import RunRequest
    from perennial.runtime import Runtime
    from perennial.spec import ModelSpec

R = TypeVar("R", bound=Reference)

MAX_SUMMARY_BYTES: Final = 1000
"""Of a reference's summary in XCom, where all is JSON in ASCII and a letter takes up to 12 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """What a stage is called with."""

    runtime: Runtime
    spec: ModelSpec
    request: RunRequest


class StageOperator(BaseOperator):
    """Base: one stage of one model's cycle.

    Args:
        model: name of the spec.
        s3_conn_id: Airflow connection (`aws`) of the store.
        mlflow_conn_id: Airflow connection (`mlflow`) of the registry.
        **kwargs: BaseOperator's.
    """

    ui_color = "#e8f0e4"

    def __init__(
        self, *, model: str, s3_conn_id: str = S3_CONN_ID, mlflow_conn_id: str = MLFLOW_CONN_ID, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.s3_conn_id = s3_conn_id
        self.mlflow_conn_id = mlflow_conn_id

    def open(self, context: Mapping[str, Any]) -> StageRun:
        """Runtime, spec and request for this task.

        Raises:
            SpecError, UnknownModelError: the spec is not usable (any more).
            RequestError: the run was asked for with values that are not allowed.
            NotAllowedError: the run was asked to override the gate by somebody who may not.
        """
        from perennial.domain.run_request import require_break_glass_allowed

        runtime, spec = self.world()
        request = run_request(self.model, context)
        require_break_glass_allowed(spec, request)  # at the first task, not after hours of training
        self.log.info("%s, run %s: %s as of %s", self.model, request.run_id, self.task_id, request.as_of.isoformat())
        return StageRun(runtime=runtime, spec=spec, request=request)

    def hook(self) -> PerennialHook:
        """The connections of this task."""
        return PerennialHook(s3_conn_id=self.s3_conn_id, mlflow_conn_id=self.mlflow_conn_id)

    def world(self) -> tuple[Runtime, ModelSpec]:
        """Runtime and spec.

        Raises:
            SpecError, UnknownModelError: the spec is not usable (any more).
        """
        from perennial.spec import load_model

        runtime = self.hook().runtime()
        return runtime, load_model(runtime.specs, self.model)

    def given(self, kind: type[R], value: Any) -> R:
        """A reference that an earlier task left in XCom.

        Raises:
            TerminalError: it is missing, or of another kind.
        """
        if not isinstance(value, Mapping):
            raise TerminalError(
                f"{self.model}: {self.task_id} needs the {kind.kind} reference of an earlier task, got {value!r}. "
                f"Clear the earlier task and this one, or start a new run"
            )
        return kind.from_dict(value)

    def given_or_none(self, kind: type[R], value: Any) -> R | None:
        """The same of a task that may have been skipped, which leaves None."""
        return None if value is None else self.given(kind, value)

    def given_each(self, kind: type[R], values: Sequence[Any]) -> tuple[R, ...]:
        """The same of several tasks; those that were skipped are left out."""
        return tuple(self.given(kind, value) for value in values if value is not None)

    def remember(self, context: Mapping[str, Any], link: type[StageLink], url: str) -> None:
        """Keep an address for the task's button, whatever happens next, and tell the log on a line of its own."""
        if url:
            context["ti"].xcom_push(key=link.key, value=url)
            self.log.info("%s: %s", link().name, url)


def short(text: str) -> str:
    """Cut to `MAX_SUMMARY_BYTES`: what a person gives as a reason, or a column's name, may be in any script."""
    room = MAX_SUMMARY_BYTES
    for position, letter in enumerate(text):
        room -= len(json.dumps(letter)) - len('""')
        if room < 0:
            return f"{text[:position]}…"
    return text
