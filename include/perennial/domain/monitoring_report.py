"""What a window's findings come to: alarms folded, history carried on, and the words for people. Pure.

The report is a JSON object, which `perennial.reports.monitoring_page` shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from perennial.domain.alarm import AlarmRules, AlarmState, WindowVerdict, fold
from perennial.domain.alert import MAX_EVIDENCE_BYTES, Alert, one_line
from perennial.domain.fingerprint import canonical_json
from perennial.domain.json_values import finite, json_ready
from perennial.domain.times import format_time, parse_time
from perennial.domain.wording import counted

FORMAT: Final = 1
HISTORY: Final = 60
"""Windows that a report tells of."""
RETRAINING: Final = ("data_drift", "prediction_drift", "performance", "estimated_performance")
"""Signals that may start a run; the others are for people only."""
SIGNALS: Final = (*RETRAINING, "service", "skew")
_MOST_EVIDENCE: Final = 10
_MOST_TOLD: Final = 3
_RECENT: Final = 6
"""Looks at a signal that are told at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one window says of one signal."""

    verdict: WindowVerdict
    says: str
    """Whole sentences, of one line."""
    why_not: str = ""
    """Why it is not judged, a sentence; empty: it is."""
    evidence: tuple[Mapping[str, Any], ...] = ()
    """What is beyond its limit, the worst first, each with its `name` as in the verdict and what it `says` after it;
    JSON-ready but for NaN; goes with an alert."""

    @property
    def section(self) -> dict[str, Any]:
        """What each part of a report begins with."""
        return {
            "judged": self.verdict.enough,
            "why_not": self.why_not,
            "beyond": self.verdict.enough and bool(self.verdict.beyond),
            "strength": self.verdict.strength,
            "says": self.says,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """The alarms after a window; JSON-ready but for the states."""

    signals: tuple[dict[str, Any], ...]
    """One a signal, in the order of `SIGNALS`."""
    states: Mapping[str, AlarmState]
    alerts: tuple[dict[str, Any], ...]
    """Open ones, with `opened_now`."""
    closed: tuple[dict[str, Any], ...]
    """Those that this window ended."""


def fold_signals(findings: Mapping[str, Finding], before: Mapping[str, Any] | None, rules: AlarmRules) -> Folded:
    """Fold a window's findings into the alarms.

    Args:
        findings: by signal, all of `SIGNALS`.
        before: the report of the window before; None: there is none.
        rules: when a signal becomes an alert.

    Raises:
        ValueError: the report before holds states that are none.
    """
    known = {} if before is None else before["states"]
    earlier = {} if before is None else {each["signal"]: each for each in before["signals"]}
    was_open = {} if before is None else {each["signal"]: each for each in before["alerts"]}
    signals, states, alerts, closed = [], {}, [], []
    for signal in SIGNALS:
        finding = findings[signal]
        earlier_state = AlarmState.from_dict(known[signal]) if signal in known else AlarmState(signal=signal)
        state, opened, ended = fold(earlier_state, finding.verdict, rules)
        states[signal] = state
        recent = [*earlier.get(signal, {}).get("recent", ()), _look(finding)][-max(rules.of, _RECENT) :]
        signals.append(_signal(signal, finding, state, recent, rules))
        if ended and signal in was_open:
            closed.append({**was_open[signal], "opened_now": False})
        if opened:
            alerts.append(_alert(signal, finding, state, () if ended else earlier_state.because))
        elif state.is_open and signal in was_open:
            alerts.append({**was_open[signal], "opened_now": False})
    return Folded(signals=tuple(signals), states=states, alerts=tuple(alerts), closed=tuple(closed))


def history_with(before: Mapping[str, Any] | None, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report's history: that of the one before, and this window's entry."""
    return [dict(each) for each in (*(() if before is None else before["history"]), entry)][-HISTORY:]


def matured_with(before: Mapping[str, Any] | None, metric: str, realised: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report's realised performances, oldest first: those of the one before, and what has matured since.

    They are kept apart from the history, as labels may take longer than it reaches back.

    Args:
        before: the report of the window before; None: there is none.
        metric: what `realised` is measured in.
        realised: performance of an earlier window (or of this one), filed under its `window_end`; what is null there
            changes nothing.
    """
    known = [] if before is None else [dict(each) for each in before.get("matured", ())]
    if realised["value"] is None:
        return known
    figures = {name: realised[name] for name in ("window_end", "value", "low", "high")}
    others = [each for each in known if each["window_end"] != realised["window_end"]]
    return [*others, {"metric": metric, **figures}][-HISTORY:]


def alerts_to_send(report: Mapping[str, Any], *, report_uri: str, page: str) -> list[tuple[Alert, str, bool]]:
    """The alerts that a report's window opened: as the webhook takes them, their signal, and whether it gets them.

    Args:
        report: as it is stored.
        report_uri: where.
        page: address of its page.
    """
    return [
        (_as_sent(report, each, report_uri, page), str(each["signal"]), bool(each["retrain"]))
        for each in report["alerts"]
        if each["opened_now"]
    ]


def _as_sent(report: Mapping[str, Any], opened: Mapping[str, Any], report_uri: str, page: str) -> Alert:
    at = parse_time(str(report["window_end"]))
    return Alert(
        model=str(report["model"]),
        alert_id=opened["alert_id"],
        source="monitor",
        summary=opened["summary"],
        raised_at=at,
        received_at=at,
        evidence={
            "signal": opened["signal"],
            "window": [report["window_start"], report["window_end"]],
            "version": report["champion"],
            "beyond": opened["evidence"],
            "report": report_uri,
            "page": page,
        },
    )


def summary_of(rows: int, signals: Sequence[Mapping[str, Any]], alerts: Sequence[Mapping[str, Any]]) -> str:
    """What a window came to, in a sentence or two of at most 500 characters."""
    beyond = [each for each in signals if each["beyond"]]
    opened = [str(each["signal"]).replace("_", " ") for each in alerts if each["opened_now"]]
    judged, drift = sum(each["judged"] for each in signals), signals[0]
    if beyond:
        are = "is beyond its limit" if len(beyond) == 1 else "are beyond their limits"
        told = " ".join(str(each["says"]) for each in beyond)
        found = f"{len(beyond)} of {counted(judged, 'signal')} {are}. {told}"
    else:
        found = f"{counted(rows, 'row')}, and nothing beyond its limit."
    if not drift["judged"]:
        found = f"{found} Drift was not judged: {drift['why_not'][:1].lower()}{drift['why_not'][1:]}"
    new = f"New {'alert' if len(opened) == 1 else 'alerts'}: {', '.join(opened)}. " if opened else ""
    return one_line(new + found)


def _look(finding: Finding) -> str:
    if not finding.verdict.enough:
        return "not_judged"
    return "beyond" if finding.verdict.beyond else "quiet"


def _signal(
    signal: str, finding: Finding, state: AlarmState, recent: Sequence[str], rules: AlarmRules
) -> dict[str, Any]:
    return {
        "signal": signal,
        **finding.section,
        "open": state.is_open,
        "since": None if state.opened_at is None else format_time(state.opened_at),
        "recent": list(recent),
        "windows": rules.windows,
        "of": rules.of,
    }


def _alert(signal: str, finding: Finding, state: AlarmState, told: Sequence[str]) -> dict[str, Any]:
    """A new one; `told`: what the alert that it takes the place of was about."""
    opened_at: datetime = finding.verdict.end
    because = [each for each in finding.evidence if each["name"] in state.because]
    because.sort(key=lambda each: each["name"] in told)
    fresh = [each for each in because if each["name"] not in told]
    return {
        "alert_id": f"{signal}:{format_time(opened_at)}",
        "signal": signal,
        "since": format_time(opened_at),
        "opened_now": True,
        "retrain": signal in RETRAINING,
        "summary": one_line(_alert_words(finding, state, fresh)),
        "because": list(state.because),
        "evidence": _fitting(because or finding.evidence),
    }


def _alert_words(finding: Finding, state: AlarmState, fresh: Sequence[Mapping[str, Any]]) -> str:
    """Of what the alert is due to, which may be less than what is beyond in this window."""
    names = [str(each["name"]) for each in fresh]
    if not names or set(names) == set(finding.verdict.beyond):
        says = finding.says
    else:
        more = f" And {len(fresh) - _MOST_TOLD} more." if len(fresh) > _MOST_TOLD else ""
        says = " ".join(f"{each['name']}: {each['says']}." for each in fresh[:_MOST_TOLD]) + more
    windows = len(state.recent)
    if not names or windows == 1:
        return says
    times = sum(names[0] in beyond for beyond in state.recent)
    who = "So it was" if len(names) == 1 else f"{names[0]} was beyond its limit"
    return f"{says} {who} in {times} of the last {windows} windows."


def _fitting(evidence: Sequence[Mapping[str, Any]]) -> list[Any]:
    """As much as an alert can carry, the worst first; texts are of others' making, and may be long."""
    kept = [json_ready(finite(each)) for each in evidence[:_MOST_EVIDENCE]]
    while len(canonical_json(kept)) > MAX_EVIDENCE_BYTES // 2:
        kept.pop()
    return kept
