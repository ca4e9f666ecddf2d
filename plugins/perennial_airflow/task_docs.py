"""What the tasks after the decision do, for whoever is on call. The same spec gives the same bytes."""

from __future__ import annotations

from typing import Final

from perennial.domain.canary import GUARDRAILS
from perennial.spec import ModelSpec
from perennial.spec.deployment import ScoringService
from perennial.spec.fields import format_duration
from perennial_airflow.dag_docs import rollout_in_words

_SKIPPED: Final = "The log's last line says why: "


def smoke_test_doc(spec: ModelSpec) -> str:
    """Markdown: the smoke test; empty without a deployment."""
    if spec.deployment is None:
        return ""
    test = spec.deployment.smoke_test
    return _paragraphs(
        f"Loads the challenger in a clean process, scores its input example and {test.rows} rows of the holdout, and "
        f"compares with the scores that it was judged by. At most {format_duration(test.timeout)} and "
        f"{test.max_memory_mib} MiB. No request gets to the challenger before.",
        "**Red:** it would not serve as it was judged; the log names the difference and the report. Production is "
        "untouched. Mend what the log names (mostly versions of packages, or code that only the training could "
        "import) and clear this task.",
        f"**Skipped:** {_SKIPPED}the verdict is not PROMOTE, or a person said No.",
    )


def rollout_doc(spec: ModelSpec, phase: str) -> str:
    """Markdown: the shadow or the canary; empty if there is none."""
    rollout = spec.deployment.rollouts.get(phase) if spec.deployment else None
    if rollout is None:
        return ""
    what = "answers" if phase == "canary" else "scores a copy of the requests, and answers nobody, for"
    limits = "; ".join(
        f"{title} at most {limit.max:g}"
        for name, (title, _) in GUARDRAILS.items()
        if (limit := getattr(rollout.guardrails, name)) is not None
    )
    unwatched = (
        "the split ends by itself within 3 minutes, the champion answers, and the step begins anew"
        if isinstance(spec.deployment, ScoringService)
        else "the split stays as it is until they are back: if that takes long, use the command below"
    )
    return _paragraphs(
        f"The challenger {what} {rollout_in_words(rollout)}, beside the champion. Every few seconds somebody looks: "
        f"{limits}. A breach, or a reading that is missing, gives everything back to the champion at once.",
        "**Deferred:** it is being walked, by the triggerer; the log says what the last look saw. While triggerer or "
        f"store are down, {unwatched}.",
        "**Green:** it is over. The button *Rollout* says whether the challenger passed or was taken back, and why. "
        "Nobody has to do anything.",
        f"**To take the challenger back:** `perennial rollback {spec.name} --challenger --reason TEXT`. It goes into "
        "quarantine, and this task ends by itself. *Mark as failed* gives everything back to the champion, too, and "
        "leaves the rollout open: if this task is cleared, it goes on.",
        "**Red:** something has to be mended first; the log says what. The champion answers. Clear this task: it goes "
        "on where it stood.",
        f"**Skipped:** {_SKIPPED}nothing to promote, no champion to compare with, or somebody broke the glass.",
    )


def promote_doc(spec: ModelSpec) -> str:
    """Markdown: the promotion."""
    serves = "" if spec.deployment is None else ", and lets that version answer all requests"
    pages = "*Decision*" if spec.deployment is None else "*Decision* and *Rollout*"
    return _paragraphs(
        f"Moves the alias `champion` to the challenger{serves}. Once only: a retry finds what is on record.",
        f"**Skipped:** the champion stays. The log's last line and the buttons {pages} say why.",
        "**Red:** the log says what stood in the way, and whether anything was moved. If the champion was moved by "
        "somebody else meanwhile, or the verdict is too old, start a new run; else mend it and clear this task.",
    )


def observe_doc(spec: ModelSpec) -> str:
    """Markdown: the look at the windows that have ended."""
    delay = format_duration(spec.outcome_delay)
    return _paragraphs(
        "Reads the prediction log of each window that has ended since the last look, and the labels that are known by "
        f"then ({delay} after a request). Compares with the profile that training has left; writes a report and a page "
        "a window, once, and leaves alerts for `send_alerts`.",
        "**Green:** looked. Whether something was found, the log's last line and the button *Monitoring report* say.",
        "**Red:** mostly the store or MLflow was away, and the log says so. Clear this task, or wait for the next run: "
        "it looks at every window that was missed.",
    )


def send_alerts_doc(spec: ModelSpec) -> str:
    """Markdown: alerts on their way."""
    asks = (
        "posts them, signed, to the webhook, which may start a retraining (the button *Retraining*), and"
        if spec.triggers.on_drift is not None
        else "starts no retraining, as the spec has no `triggers.on_drift`, and"
    )
    waiting = "Lets the webhook come back to alerts that had to wait. " if spec.triggers.on_drift is not None else ""
    return _paragraphs(
        f"{waiting}Takes the alerts out of the outbox, oldest first: {asks} tells those whom `monitoring.notify` "
        "names. The same alert twice starts nothing twice.",
        "**Red:** some alert is not where it has to be; the log says which, and why. It is kept and tried again at "
        "the next run. `did not accept the key`: the connection `perennial_webhook` and the key that tasks sign with "
        "differ.",
    )


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(texts)
