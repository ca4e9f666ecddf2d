"""The stage that asks a person: approve."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.hitl import HITLUser

from perennial.domain.references import ApprovalRef, DecisionRef, ModelRef, Verdict
from perennial.errors import TerminalError, TransientError
from perennial.spec.fields import format_duration
from perennial_airflow.errors import airflow_errors
from perennial_airflow.links import DecisionLink, MlflowRunLink, page_url
from perennial_airflow.operators.stage import StageOperator, StageRun

RECORD_DELAYS_S: Final = (2, 4, 8, 16, 30, 60, 60, 60)
"""Between tries to put an answer on record: four minutes."""
LATEST: Final = 100
"""How many of the newest decisions are looked at."""


class ApproveOperator(StageOperator, ApprovalOperator):
    """Asks a person whether to promote, and records the answer. A No, or none in time, is a green task all the same.

    It waits without a slot (`awaiting_input`) and is shown as skipped where there is nothing to ask.

    The answer goes into the ledger before the task ends. If store or registry do not answer then, that is tried for
    minutes, because a retry asks again: only Airflow's own record of the answer says who gave it (what a task keeps for
    itself, everybody who may clear tasks can write), and the retry cannot read that. A Yes that is on record is not
    asked for again; a No is, if somebody clears the task, and the newest answer counts.

    `dag.test()` would wait for ever: give it `mark_success_pattern="approve"`. Without an answer on record nothing is
    promoted, so it ends with an error at a challenger that is good enough.

    Args:
        decision: `DecisionRef.to_dict()`.
        challenger: `ModelRef.to_dict()`.
        approvers: who may answer, by the id that the auth manager gives them: the user name with SimpleAuthManager, a
            number with FAB. Nobody named: whoever may answer tasks of this DAG.
        timeout: no answer within it is a No.
        **kwargs: StageOperator's.
    """

    template_fields: Sequence[str] = ("decision", "challenger")
    operator_extra_links = (DecisionLink(), MlflowRunLink())

    def __init__(
        self, *, decision: Any, challenger: Any, approvers: Sequence[str] = (), timeout: timedelta, **kwargs: Any
    ) -> None:
        super().__init__(
            subject="Promote the challenger?",
            defaults=self.REJECT,
            assigned_users=[HITLUser(id=name, name=name) for name in approvers],
            response_timeout=timeout,
            **kwargs,
        )
        self.decision = decision
        self.challenger = challenger

    def execute(self, context: Any) -> Any:
        """Ask, unless there is nothing to ask.

        Raises:
            TaskAwaitingInput: waits for the answer; `execute_complete` goes on.
            AirflowSkipException: the decision needs no answer.
        """
        from perennial import cycle

        with airflow_errors():
            run = self.open(context)
            decision = self.given(DecisionRef, self.decision)
            page = page_url(decision.page_uri, root=run.runtime.root, model=self.model)
            self.remember(context, DecisionLink, page)
            if decision.break_glass:
                raise AirflowSkipException("nobody is asked: the glass was broken, which overrides an approval too")
            if decision.verdict != Verdict.PROMOTE:
                raise AirflowSkipException(f"nobody is asked: {decision.verdict}: {decision.summary}")
            self._require_one_decision(run, decision)
            answered = cycle.approved_already(run.runtime, run.request, decision)
            if answered is not None:
                self.log.info("approved by %s already; recorded at %s", answered.by, answered.ledger_uri)
                return answered.to_dict()
            self._word_question(context, run, decision, page)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Record the answer.

        Returns:
            `ApprovalRef.to_dict()`.
        """
        with airflow_errors():
            # Not ApprovalOperator's: it would skip the promotion at a No, and nobody could read there why.
            given = super(ApprovalOperator, self).execute_complete(context, event)
            approved = given["chosen_options"] == [self.APPROVE]
            by = self._named_as_in_the_spec(given["responded_by_user"])
            decision = self.given(DecisionRef, self.decision)
            reference = self._record(self.open(context), decision, approved, by, given["responded_at"])
        said = "approved" if approved else "declined"
        self.log.info("%s by %s; recorded at %s", said, by or "nobody's answer in time", reference.ledger_uri)
        return reference.to_dict()

    def _record(
        self, run: StageRun, decision: DecisionRef, approved: bool, by: str | None, at: datetime
    ) -> ApprovalRef:
        from perennial import cycle

        for delay_s in (*RECORD_DELAYS_S, None):
            try:
                return cycle.approve(run.runtime, run.spec, run.request, decision, approved=approved, by=by, at=at)
            except (TransientError, OSError) as error:
                if delay_s is None:
                    raise
                self.log.warning("the answer is not on record yet, tried again in %d s: %s", delay_s, error)
                time.sleep(delay_s)
        raise AssertionError("the last try returns or raises")

    def _named_as_in_the_spec(self, user: Mapping[str, str] | None) -> str | None:
        """The user's name; or the id, where the spec goes by ids."""
        if user is None:
            return None
        named = {approver["id"] for approver in self.assigned_users or []}
        return user["id"] if user["id"] in named else user["name"]

    def _require_one_decision(self, run: StageRun, decision: DecisionRef) -> None:
        """A cleared task shows its first question again (Airflow keeps it): nobody may say Yes to another decision."""
        decided = run.runtime.ledger.newest(self.model, "decision", count=LATEST)
        others = {entry.evidence_sha256 for entry in decided if entry.run_id == run.request.run_id} - {decision.sha256}
        if others:
            raise TerminalError(
                f"{self.model}: this run has come to another decision before ({', '.join(sorted(others))[:60]}), and "
                f"Airflow might ask about that one instead of {decision.sha256[:12]}. Start a new run, with force"
            )

    def _word_question(self, context: Any, run: StageRun, decision: DecisionRef, page: str) -> None:
        challenger = self.given(ModelRef, self.challenger)
        training = run.runtime.registry.run_url(challenger.run_id)
        self.remember(context, MlflowRunLink, training)
        timeout = run.spec.approval.timeout
        until = run.runtime.clock.now() + timeout
        who = ", ".join(run.spec.approval.approvers) or "whoever may answer tasks of this DAG"
        champion = f"version {decision.champion_version}" if decision.champion_version else "none yet"
        self.subject = f"{self.model}: promote the challenger?"
        self.body = "\n".join(
            [
                f"**{decision.verdict}**: {decision.summary}",
                "",
                f"[Read the decision first]({page})",
                "",
                f"- model: `{self.model}`",
                f"- champion: {champion} → challenger: [MLflow run {challenger.run_id}]({training})",
                f"- may answer: {who}",
                f"- until: {until:%Y-%m-%d %H:%M} UTC ({format_duration(timeout)} after the question); "
                f"no answer by then is a No, and the champion stays",
            ]
        )
