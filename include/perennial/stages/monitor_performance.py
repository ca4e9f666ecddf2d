"""How well the champion does: on rows whose labels have come, and, before that, as far as its scores tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from perennial.domain.alarm import WindowVerdict
from perennial.domain.comparison import compare
from perennial.domain.fingerprint import digest_of
from perennial.domain.metric_names import METRICS
from perennial.domain.metrics import metric
from perennial.domain.monitoring_report import Finding
from perennial.domain.performance_estimate import estimate_performance
from perennial.domain.performance_watch import judge_performance, performance_limit
from perennial.domain.profile import MetricValue
from perennial.domain.times import Interval, format_time
from perennial.domain.windows import WindowGrid
from perennial.domain.wording import counted
from perennial.ports import ObjectStore
from perennial.spec.model import ModelSpec
from perennial.spec.monitoring import Monitoring
from perennial.stages.monitor_reading import LogSample, ScoredRows
from perennial.stages.monitor_window import NOBODY, ServedVersion, not_judged

_CONFIDENCE: Final = 0.95
_REPLICATES: Final = 1000
_MOST_LABELLED: Final = 100_000
_MOST_ESTIMATED: Final = 20_000
"""Rows; of more a sample, whose interval is narrow enough to judge by."""
_FIGURES: Final = ("value", "low", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """The section `performance`, and its two signals."""

    content: dict[str, Any]
    realised: Finding
    estimated: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    content: dict[str, Any]
    finding: Finding


def measure_performance(
    spec: ModelSpec,
    monitoring: Monitoring,
    window: Interval,
    champion: ServedVersion | None,
    *,
    store: ObjectStore,
    root: str,
) -> Performance:
    """The champion's primary metric, realised and estimated, against its holdout's.

    Args:
        spec: the model's.
        monitoring: its part on monitoring.
        window: that is looked at.
        champion: of it; None: none answered.
        store: where log and labels lie.
        root: `s3://bucket/prefix`.
    """
    primary = spec.evaluation.primary
    holdout = None if champion is None else _on_holdout(champion, primary)
    cohort = WindowGrid(monitoring.window).ended(window.end - spec.outcome_delay)  # all its labels are known
    why_not = _why_not(champion, holdout, primary)
    if champion is None or champion.holdout is None or holdout is None:
        realised = _not_judged("performance", window, cohort, champion, why_not)
        estimated = _not_judged("estimated_performance", window, window, champion, why_not)
    else:
        log = LogSample(spec, store, root, champion.counts.version, champion.holdout.classes)
        realised = _realised(spec, monitoring, window, cohort, champion, holdout, log)
        estimated = _estimated(spec, monitoring, window, champion, holdout, log)
    rows = None if champion is None or champion.holdout is None else champion.holdout.rows
    confidence = None if champion is None or champion.holdout is None else champion.holdout.confidence
    figures = {name: None if holdout is None else getattr(holdout, name) for name in _FIGURES}
    content = {
        "metric": primary,
        "higher_is_better": METRICS[primary].higher_is_better,
        "holdout": {**figures, "rows": rows, "confidence": confidence},
        "limit": None if holdout is None else performance_limit(holdout, monitoring.performance.max_loss),
        "realised": realised.content,
        "estimated": estimated.content,
    }
    return Performance(content=content, realised=realised.finding, estimated=estimated.finding)


def _realised(
    spec: ModelSpec,
    monitoring: Monitoring,
    window: Interval,
    cohort: Interval,
    champion: ServedVersion,
    holdout: MetricValue,
    log: LogSample,
) -> _Part:
    signal, version, primary = "performance", champion.counts.version, spec.evaluation.primary
    rows = log.labelled(cohort, known_at=window.end, most=_MOST_LABELLED)
    found = _metrics(spec, rows, seed=_seed(spec, cohort, version))
    told = {**_named(cohort, champion), "rows": rows.drawn, "labelled": len(rows.labels), "others": found}
    value, low, high = (found.get(primary, {}).get(name) for name in _FIGURES)
    why_not = ""
    if len(rows.labels) < monitoring.min_rows:
        known = f"The labels of {counted(len(rows.labels), 'row')} are known"
        why_not = (
            f"{known}, of {rows.drawn:,} that version {version} answered; at least {monitoring.min_rows:,} are judged."
        )
    elif value is None:
        why_not = f"{primary} is not defined for these labels and scores."
    if why_not or value is None:
        finding = not_judged(signal, window, why_not, version=version)
        return _Part(content={**finding.section, **told, "value": value, "low": low, "high": high}, finding=finding)
    verdict = judge_performance(holdout, value, low, high, max_loss=monitoring.performance.max_loss)
    says = f"{primary} is {verdict.says}, on {counted(len(rows.labels), 'labelled row')}."
    finding = _finding(signal, window, version, primary, verdict.beyond, verdict.strength, says, (value, low, high))
    return _Part(content={**finding.section, **told, "value": value, "low": low, "high": high}, finding=finding)


def _estimated(
    spec: ModelSpec,
    monitoring: Monitoring,
    window: Interval,
    champion: ServedVersion,
    holdout: MetricValue,
    log: LogSample,
) -> _Part:
    signal, version, primary = "estimated_performance", champion.counts.version, spec.evaluation.primary
    calibration = () if champion.holdout is None else champion.holdout.calibration
    if not calibration or not all(each.scores for each in calibration):
        why_not = "It can be estimated of classifications only, and takes a calibration from the holdout."
        return _not_judged(signal, window, window, champion, why_not)
    rows = log.scored(window, most=_MOST_ESTIMATED)
    found = estimate_performance(primary, rows.scores, calibration, seed=_seed(spec, window, version))
    value, low, high = (None if found is None else getattr(found, name) for name in _FIGURES)
    figures = {**_named(window, champion), "rows": len(rows.scores), "value": value, "low": low, "high": high}
    why_not = ""
    if len(rows.scores) < monitoring.min_rows:
        why_not = f"There are {counted(len(rows.scores), 'score')}, at least {monitoring.min_rows:,} are judged."
    elif value is None:
        why_not = f"{primary} cannot be estimated from these scores."
    elif not monitoring.performance.estimate:
        why_not = "It is estimated only, and the spec says that this is no reason for an alert."
    if why_not or value is None:
        finding = not_judged(signal, window, why_not, version=version)
        return _Part(content={**finding.section, **figures}, finding=finding)
    verdict = judge_performance(holdout, value, low, high, max_loss=monitoring.performance.max_loss)
    says = f"{primary} is estimated at {verdict.says}, without labels."
    finding = _finding(signal, window, version, primary, verdict.beyond, verdict.strength, says, (value, low, high))
    return _Part(content={**finding.section, **figures}, finding=finding)


def _metrics(spec: ModelSpec, rows: ScoredRows, *, seed: int) -> dict[str, dict[str, float | None]]:
    """Of each metric of the evaluation the value, of the primary one the interval, too; those that are defined."""
    primary, found = spec.evaluation.primary, {}
    for name in spec.evaluation.all_metrics if len(rows.labels) else ():
        value = metric(name, rows.labels, rows.scores)
        if np.isfinite(value):
            found[name] = {"value": value, "low": None, "high": None}
    if primary in found:
        low, high = _interval(primary, rows, seed=seed)
        found[primary] = {**found[primary], "low": low, "high": high}
    return found


def _interval(name: str, rows: ScoredRows, *, seed: int) -> tuple[float | None, float | None]:
    """A bootstrap of stretches of time: rows near each other in time share what happened then."""
    pair = compare([name], rows.labels, rows.scores, None, rows.blocks, replicates=_REPLICATES, seed=seed)[name]
    estimate = pair.comparison(name, _CONFIDENCE).challenger
    return estimate.low, estimate.high


def _on_holdout(champion: ServedVersion, primary: str) -> MetricValue | None:
    known = () if champion.holdout is None else champion.holdout.performance
    return next((each for each in known if each.metric == primary), None)


def _why_not(champion: ServedVersion | None, holdout: MetricValue | None, primary: str) -> str:
    if champion is None:
        return NOBODY
    if champion.holdout is None:
        return champion.why_not or f"Version {champion.counts.version} has no profile of its holdout."
    return "" if holdout is not None else f"{primary} was not measured on its holdout."


def _not_judged(signal: str, window: Interval, rows_of: Interval, champion: ServedVersion | None, why: str) -> _Part:
    version = None if champion is None else champion.counts.version
    finding = not_judged(signal, window, why, version=version)
    counts = {"rows": 0, "labelled": 0, "others": {}} if signal == "performance" else {"rows": 0}
    nothing = dict.fromkeys(_FIGURES)
    return _Part(content={**finding.section, **_named(rows_of, champion), **counts, **nothing}, finding=finding)


def _named(window: Interval, champion: ServedVersion | None) -> dict[str, Any]:
    return {
        "window_start": format_time(window.start),
        "window_end": format_time(window.end),
        "version": None if champion is None else champion.counts.version,
    }


def _finding(
    signal: str,
    window: Interval,
    version: str,
    primary: str,
    beyond: bool,
    strength: float,
    says: str,
    figures: tuple[float | None, ...],
) -> Finding:
    names = (primary,) if beyond else ()
    verdict = WindowVerdict(signal=signal, end=window.end, beyond=names, strength=strength, version=version)
    evidence = {"name": primary, **dict(zip(_FIGURES, figures, strict=True)), "says": says}
    return Finding(verdict=verdict, says=says, evidence=(evidence,) if beyond else ())


def _seed(spec: ModelSpec, window: Interval, version: str) -> int:
    return int(digest_of([spec.name, format_time(window.end), version])[:16], 16)
