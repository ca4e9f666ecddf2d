"""What the rows of one window say: of the features, the predictions, the service, and what it is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from perennial.domain.alarm import WindowVerdict
from perennial.domain.drift import ColumnDrift, compare
from perennial.domain.latencies import Latencies
from perennial.domain.monitoring_report import Finding
from perennial.domain.profile import ColumnCounts, ColumnProfile, HoldoutProfile, NumberProfile, Profile, SliceProfile
from perennial.domain.skew import ColumnSkew, compare_served
from perennial.domain.times import Interval, format_time
from perennial.domain.traffic import Role
from perennial.domain.wording import counted, duration, plain
from perennial.spec.model import ModelSpec
from perennial.spec.monitoring import Monitoring
from perennial.stages.profiles import stretch_of
from perennial.stages.window_counts import SliceCounts, VersionCounts

_WORST: Final = 5
"""Columns of a slice that a report tells of, at least; also all that have drifted."""
_MOST_UNREADABLE: Final = 20
"""Objects that a report names."""
NOBODY: Final = "No champion has answered a request."
"""Why a signal is not judged."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a version was trained on."""

    fingerprint: str
    start: datetime
    end: datetime
    """Of its rows' window, [start, end)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """What a version did in the window, and what it is compared with."""

    counts: VersionCounts
    profile: Profile | None
    holdout: HoldoutProfile | None
    why_not: str
    """Why there is no profile, a sentence; empty: there is one."""
    training: Training | None
    """None: Perennial did not register the version."""

    @property
    def role(self) -> str:
        """The one that most of its rows have."""
        return max(self.counts.roles, key=self.counts.roles.__getitem__, default="champion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report, and what it says of its signal."""

    content: Any
    finding: Finding


def champion_of(versions: Sequence[ServedVersion]) -> ServedVersion | None:
    """The version that the signals are about: the one that answered most as champion; None: none did.

    A canary may answer most of a window and is not the champion for that.
    """
    answered = [served for served in versions if served.counts.rows and served.counts.roles.get(Role.CHAMPION)]
    return max(answered, key=lambda served: served.counts.roles[Role.CHAMPION], default=None)


def not_judged(signal: str, window: Interval, why_not: str, *, version: str | None = None) -> Finding:
    """A finding that is passed over."""
    verdict = WindowVerdict(signal=signal, end=window.end, beyond=(), strength=0.0, enough=False, version=version)
    return Finding(verdict=verdict, says=why_not, why_not=why_not)


def data_drift(monitoring: Monitoring, window: Interval, champion: ServedVersion | None) -> tuple[Section, list[Any]]:
    """The served features against the champion's training: the section `data_drift`, and `slices`."""
    signal = "data_drift"
    why_not = _why_not(monitoring, champion)
    if champion is None or champion.profile is None:
        finding = not_judged(signal, window, why_not, version=_version(champion))
        return Section(content={**finding.section, "not_compared": [], "columns": []}, finding=finding), []
    counts = champion.counts
    why_not = why_not or _other_stretches(monitoring, counts.version, champion.profile.stretch_s)
    there, lacking = _compared(champion.profile.columns, counts.columns)
    lacking += _slices_without_reference(monitoring, champion.profile)
    found = compare(there, counts.columns, monitoring.drift)
    strengths, slices = {drift.column: drift.strength for drift in found}, []
    asked = [each for each in champion.profile.slices if each.column in monitoring.slices]
    for each in asked:
        inside = counts.slices.get((each.column, each.level))
        part, part_strengths = _slice(monitoring, each, inside, len(asked), why_not)
        slices.append(part)
        strengths |= part_strengths
    drifted = [{"name": drift.column, **_evidence(drift)} for drift in _worst_first(found) if drift.drifted]
    in_slices = [
        {"name": _within(part["column"], part["level"], column["column"]), **_told(column)}
        for part in slices
        if part["judged"]
        for column in part["columns"]
        if column["drifted"]
    ]
    verdict = WindowVerdict(
        signal=signal,
        end=window.end,
        beyond=tuple(each["name"] for each in (*drifted, *in_slices)),
        strength=max(strengths.values(), default=0.0),
        enough=not why_not,
        version=counts.version,
        strengths=strengths,
    )
    says = why_not or _drift_words(drifted, in_slices, len(found))
    finding = Finding(verdict=verdict, says=says, why_not=why_not, evidence=(*drifted, *in_slices))
    columns = [
        {**asdict(drift), "bins": bins(profile, counts.columns[profile.column])}
        for drift, profile in sorted(zip(found, there, strict=True), key=lambda pair: -pair[0].strength)
    ]
    content = {**finding.section, "not_compared": lacking, "columns": columns}
    return Section(content=content, finding=finding), slices


def prediction_drift(
    monitoring: Monitoring, window: Interval, versions: Sequence[ServedVersion], champion: ServedVersion | None
) -> Section:
    """Each version's predictions against those on its own holdout; the signal is the champion's."""
    found = {served.counts.version: _version_drift(monitoring, window, served) for served in versions}
    mine = None if champion is None else found[champion.counts.version].finding
    finding = mine or not_judged("prediction_drift", window, NOBODY)
    return Section(content=[each.content for each in found.values()], finding=finding)


def _version_drift(monitoring: Monitoring, window: Interval, served: ServedVersion) -> Section:
    """One version's predictions."""
    version, holdout = served.counts.version, served.holdout
    named = {"version": version, "role": served.role}
    if holdout is None:
        why_not = served.why_not or f"Version {version} has no profile of its holdout."
        finding = not_judged("prediction_drift", window, why_not, version=version)
        return Section(content={**named, "rows": 0, **finding.section, "columns": []}, finding=finding)
    scores = served.counts.scores
    found = compare(holdout.scores, scores, monitoring.drift)
    rows = max((drift.rows for drift in found), default=0)
    why_not = _too_few(monitoring, rows) or _other_stretches(monitoring, version, holdout.stretch_s)
    drifted = tuple({"name": drift.column, **_evidence(drift)} for drift in _worst_first(found) if drift.drifted)
    verdict = WindowVerdict(
        signal="prediction_drift",
        end=window.end,
        beyond=tuple(each["name"] for each in drifted),
        strength=max((drift.strength for drift in found), default=0.0),
        enough=not why_not,
        version=version,
        strengths={drift.column: drift.strength for drift in found},
    )
    says = why_not or _prediction_words(drifted)
    finding = Finding(verdict=verdict, says=says, why_not=why_not, evidence=drifted)
    columns = [
        {**asdict(drift), "bins": bins(profile, scores[profile.column])}
        for drift, profile in zip(found, holdout.scores, strict=True)
    ]
    return Section(content={**named, "rows": rows, **finding.section, "columns": columns}, finding=finding)


def skew(monitoring: Monitoring, window: Interval, champion: ServedVersion | None) -> Section:
    """What the service is sent against what the champion was trained on."""
    signal = "skew"
    why_not = _why_not(monitoring, champion)
    if champion is None or champion.profile is None:
        return Section(content=[], finding=not_judged(signal, window, why_not))
    there, _ = _compared(champion.profile.columns, champion.counts.columns)
    found = sorted(compare_served(there, champion.counts.columns), key=lambda each: -each.strength)
    skewed = [each for each in found if each.skewed]
    evidence = tuple(_skew_evidence(each) for each in skewed)
    verdict = WindowVerdict(
        signal=signal,
        end=window.end,
        beyond=tuple(each.column for each in skewed),
        strength=max((each.strength for each in found), default=0.0),
        enough=not why_not,
        strengths={each.column: each.strength for each in found},
    )
    says = " ".join(f"{each.column}: {each.says}." for each in skewed[:3])
    says = says or "Requests have the columns and values of the training."
    finding = Finding(verdict=verdict, says=why_not or says, why_not=why_not, evidence=evidence)
    return Section(content=[asdict(each) for each in found], finding=finding)


def service(spec: ModelSpec, monitoring: Monitoring, window: Interval, versions: Sequence[ServedVersion]) -> Section:
    """Requests, errors and times, of all versions together; copies for a shadow apart."""
    all_counts = [served.counts for served in versions]
    requests, failed = (sum(getattr(counts, name) for counts in all_counts) for name in ("requests", "failed"))
    errors = Counter[str]()
    latency = Latencies()
    for counts in all_counts:
        errors.update(counts.errors)
        latency = latency + counts.latency
    newest = max((counts.newest for counts in all_counts if counts.newest is not None), default=None)
    finding = _service_finding(spec, monitoring, window, requests, failed)
    content = {
        **finding.section,
        "requests": requests,
        "rows": sum(counts.rows for counts in all_counts),
        "errors": failed,
        "error_rate": failed / requests if requests else None,
        "max_error_rate": monitoring.service.max_error_rate,
        "min_requests": monitoring.service.min_requests,
        "latency_p50_ms": latency.quantile(0.5),
        "latency_p95_ms": latency.quantile(0.95),
        "latency_p99_ms": latency.quantile(0.99),
        "newest": None if newest is None else format_time(newest),
        "error_kinds": dict(errors.most_common(5)),
        "unreadable": [uri for counts in all_counts for uri in counts.unreadable][:_MOST_UNREADABLE],
    }
    return Section(content=content, finding=finding)


def bins(profile: ColumnProfile, counts: ColumnCounts) -> dict[str, Any]:
    """Reference and window side by side, for a plot."""
    both = {
        "current": [int(count) for count in counts.counts],
        "reference_missing": profile.missing,
        "current_missing": counts.missing,
    }
    if isinstance(profile, NumberProfile):
        ends = {"edges": list(profile.edges), "lowest": profile.lowest, "highest": profile.highest}
        return {"kind": "number", **ends, "reference": list(profile.counts), **both}
    levels = list(profile.levels)
    return {"kind": "category", "levels": levels, "reference": [*profile.counts, profile.other], **both}


def _slice(
    monitoring: Monitoring, profile: SliceProfile, counts: SliceCounts | None, of: int, why_not: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """One of so many slices, among which the rate of false discoveries is shared out; strengths by name if judged."""
    rows = 0 if counts is None else counts.rows
    why_not = why_not or _too_few(monitoring, rows)
    found: tuple[ColumnDrift, ...] = ()
    if counts is not None and rows:
        rate = monitoring.drift.false_discovery_rate / of
        limits = monitoring.drift.model_copy(update={"false_discovery_rate": rate})
        others = [column for column in profile.columns if column.column != profile.column]
        found = _worst_first(compare(_compared(others, counts.columns)[0], counts.columns, limits))
    shown = [asdict(drift) for place, drift in enumerate(found) if place < _WORST or drift.drifted]
    beyond = not why_not and any(drift.drifted for drift in found)
    named = {"column": profile.column, "level": profile.level, "rows": rows}
    strengths = {_within(profile.column, profile.level, drift.column): drift.strength for drift in found}
    content = {**named, "judged": not why_not, "why_not": why_not, "beyond": beyond, "columns": shown}
    return content, {} if why_not else strengths


def _within(column: str, level: str, drifted: str) -> str:
    """The name of a column within a slice."""
    return f"{column}={level}: {drifted}"


def _compared(
    profiles: Sequence[ColumnProfile], counts: Mapping[str, ColumnCounts]
) -> tuple[list[ColumnProfile], list[dict[str, str]]]:
    there = [profile for profile in profiles if profile.column in counts]
    why = "It is left out of the prediction log."
    return there, [{"column": each.column, "why": why} for each in profiles if each.column not in counts]


def _service_finding(spec: ModelSpec, monitoring: Monitoring, window: Interval, requests: int, failed: int) -> Finding:
    from scipy.stats import binomtest

    rules, log = monitoring.service, None if spec.deployment is None else spec.deployment.log
    if requests == 0 and rules.min_requests == 0:
        return not_judged("service", window, "There was no request.")
    asked = requests if log is None else requests * 100 / log.percent
    evidence: list[dict[str, Any]] = []
    strengths: dict[str, float] = {}
    says = f"{failed:,} of {counted(requests, 'request')} could not be scored."
    if requests:
        least = float(binomtest(failed, requests).proportion_ci(0.95, method="wilson").low)
        strengths["error_rate"] = least / rules.max_error_rate if rules.max_error_rate > 0 else float(failed)
        if least > rules.max_error_rate:
            says = f"{says[:-1]}: more than {plain(100 * rules.max_error_rate)} %."
            found = {"name": "error_rate", "value": failed / requests, "limit": rules.max_error_rate}
            evidence.append({**found, "says": says[:-1]})
    if rules.min_requests > 0:
        strengths["requests"] = rules.min_requests / max(asked, 1.0)
    if asked < rules.min_requests:
        few = f"{counted(int(asked), 'request')} came, at least {rules.min_requests:,} should"
        says = f"{few}. {says}"
        evidence.append({"name": "requests", "value": asked, "limit": rules.min_requests, "says": few})
    verdict = WindowVerdict(
        signal="service",
        end=window.end,
        beyond=tuple(each["name"] for each in evidence),
        strength=max(strengths.values(), default=0.0),
        strengths=strengths,
    )
    return Finding(verdict=verdict, says=says, evidence=tuple(evidence))


def _why_not(monitoring: Monitoring, served: ServedVersion | None) -> str:
    """Why the features are not judged; empty: they are."""
    if served is None:
        return NOBODY
    return served.why_not if served.profile is None else _too_few(monitoring, served.counts.rows)


def _other_stretches(monitoring: Monitoring, version: str, stretch_s: float | None) -> str:
    """Why a reference's natural differences are not those of today's windows; empty: as far as is known they are."""
    asked = stretch_of(monitoring)
    if stretch_s is None or stretch_s == asked.total_seconds():
        return ""
    return (
        f"The reference of version {version} tells what stretches of {duration(timedelta(seconds=stretch_s))} differ "
        f"by, and the spec now asks for {duration(asked)}. Train again on newer data."
    )


def _slices_without_reference(monitoring: Monitoring, profile: Profile) -> list[dict[str, str]]:
    known = monitoring.slices if profile.slice_columns is None else profile.slice_columns
    why = "The champion was trained before the spec asked for them; train again on newer data."
    return [{"column": f"slices of {column}", "why": why} for column in monitoring.slices if column not in known]


def _too_few(monitoring: Monitoring, rows: int) -> str:
    least = monitoring.min_rows
    return "" if rows >= least else f"There are {counted(rows, 'row')}, at least {least:,} are judged."


def _version(served: ServedVersion | None) -> str | None:
    return None if served is None else served.counts.version


def _worst_first(found: Sequence[ColumnDrift]) -> tuple[ColumnDrift, ...]:
    return tuple(sorted(found, key=lambda drift: -drift.strength))


def _evidence(drift: ColumnDrift) -> dict[str, Any]:
    return _told(asdict(drift))


def _told(drift: Mapping[str, Any]) -> dict[str, Any]:
    return {name: drift[name] for name in ("effect", "low", "high", "limit", "says")}


def _skew_evidence(found: ColumnSkew) -> dict[str, Any]:
    return {"name": found.column, "finding": found.finding, "share": found.share, "says": found.says}


def _drift_words(drifted: Sequence[Mapping[str, Any]], in_slices: Sequence[Mapping[str, Any]], columns: int) -> str:
    if drifted:
        have = "has" if len(drifted) == 1 else "have"
        return f"{len(drifted)} of {counted(columns, 'column')} {have} drifted, {_most(drifted)}."
    if in_slices:
        return f"No column has drifted on the whole, but within slices some have, {_most(in_slices)}."
    return f"None of {counted(columns, 'column')} has drifted."


def _most(drifted: Sequence[Mapping[str, Any]]) -> str:
    return f"{drifted[0]['name']} most: {drifted[0]['says']}"


def _prediction_words(drifted: Sequence[Mapping[str, Any]]) -> str:
    return f"The predictions have drifted, {_most(drifted)}." if drifted else "The predictions are as on the holdout."
