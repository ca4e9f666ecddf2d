"""Who watches the streams of `drift_quality.py`: Perennial's signals, and the usual default beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from scipy.stats import chi2_contingency, ks_2samp

from perennial.domain.alarm import AlarmState, WindowVerdict, fold
from perennial.domain.closed_forms import closed_form
from perennial.domain.counting import build_category_profile, build_number_profile, count_categories, count_numbers
from perennial.domain.drift import ColumnDrift, compare, least_effect, least_missing_change, rarely_exceeded
from perennial.domain.performance_watch import judge_performance
from perennial.domain.profile import CategoryProfile, ColumnCounts, ColumnProfile, MetricValue, NumberProfile
from perennial.spec.monitoring import Monitoring
from streams.worlds import Codes, Floats, Rows

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
HOLDOUT_CONFIDENCE: Final = 0.90
"""Of the interval that the evaluation gives the holdout's figures with, by default."""
SIGNALS: Final = ("data_drift", "prediction_drift", "performance")


def together(windows: Sequence[Rows]) -> Rows:
    """All their rows."""
    return Rows(
        {name: np.concatenate([rows.numbers[name] for rows in windows]) for name in windows[0].numbers},
        {name: np.concatenate([rows.categories[name] for rows in windows]) for name in windows[0].categories},
        np.concatenate([rows.scores for rows in windows]),
        np.concatenate([rows.labels for rows in windows]),
    )


def _texts(codes: Codes) -> list[str]:
    return [str(code) for code in range(int(codes.max(initial=0)) + 1)]


def _counted(profile: ColumnProfile, values: Floats | Codes) -> ColumnCounts:
    if isinstance(profile, CategoryProfile):
        return count_categories(profile, values.astype(np.intp), _texts(values.astype(np.intp)))
    return count_numbers(profile, values.astype(np.float64))


def _varied(profile: ColumnProfile, parts: Sequence[Floats | Codes]) -> ColumnProfile:
    """With what it varies from window to window, as a training's profile has it."""
    counts = [_counted(profile, part) for part in parts]
    return replace(
        profile,
        varies_by=rarely_exceeded([least_effect(profile, each) or 0.0 for each in counts]),
        missing_varies_by=rarely_exceeded([least_missing_change(profile, each) for each in counts]),
    )


@dataclass
class Perennial:
    """The product's own code, on the product's own shapes; labels of a window are there at its end."""

    columns: Sequence[ColumnProfile]
    score: NumberProfile
    performance: MetricValue
    rules: Monitoring
    version: int = 1
    states: dict[str, AlarmState] = field(default_factory=lambda: {name: AlarmState(signal=name) for name in SIGNALS})
    found: dict[str, Sequence[ColumnDrift]] = field(default_factory=dict)

    @classmethod
    def trained(cls, training: Sequence[Rows], holdout: Sequence[Rows], rules: Monitoring) -> Perennial:
        """With the profiles of a model that these windows trained and judged."""
        whole, judged = together(training), together(holdout)
        columns: list[ColumnProfile] = []
        for name, values in whole.numbers.items():
            profile = build_number_profile(name, values)
            columns.append(_varied(profile, [rows.numbers[name] for rows in training]))
        for name, codes in whole.categories.items():
            levels = build_category_profile(name, codes, _texts(codes))
            columns.append(_varied(levels, [rows.categories[name] for rows in training]))
        score = _varied(build_number_profile("score", judged.scores), [rows.scores for rows in holdout])
        assert isinstance(score, NumberProfile)
        performance = _auc(judged.labels, judged.scores, HOLDOUT_CONFIDENCE)
        losses = [max(0.0, performance.value - (_auc(rows.labels, rows.scores, 0.95).high or 1.0)) for rows in holdout]
        performance = replace(performance, varies_by=rarely_exceeded(losses))
        return cls(columns, score, performance, rules)

    def look(self, window: int, rows: Rows) -> dict[str, bool]:
        """Which signals this window opens an alert of."""
        values: Mapping[str, Floats | Codes] = {**rows.numbers, **rows.categories}
        counts = {profile.column: _counted(profile, values[profile.column]) for profile in self.columns}
        self.found["data_drift"] = compare(self.columns, counts, self.rules.drift)
        scores = {"score": _counted(self.score, rows.scores)}
        self.found["prediction_drift"] = compare([self.score], scores, self.rules.drift)
        opened = {
            signal: self._fold(
                window,
                signal,
                [each.column for each in drifts if each.drifted],
                {each.column: each.strength for each in drifts},
            )
            for signal, drifts in self.found.items()
        }
        now = _auc(rows.labels, rows.scores, 0.95)
        allowed = self.rules.performance.max_loss
        verdict = judge_performance(self.performance, now.value, now.low, now.high, max_loss=allowed)
        opened["performance"] = self._fold(
            window, "performance", ["roc_auc"] if verdict.beyond else [], {"roc_auc": verdict.strength}
        )
        return opened

    def _fold(self, window: int, signal: str, beyond: Sequence[str], strengths: Mapping[str, float]) -> bool:
        verdict = WindowVerdict(
            signal=signal,
            end=EPOCH + window * timedelta(days=1),
            beyond=tuple(beyond),
            strength=max(strengths.values()),
            strengths=strengths,
            version=str(self.version),
        )
        self.states[signal], opened, _ = fold(self.states[signal], verdict, self.rules.alert)
        return opened


def _auc(labels: Floats, scores: Floats, confidence: float) -> MetricValue:
    found = closed_form("roc_auc", labels, scores, None).challenger.estimate(confidence)
    assert found.value is not None
    return MetricValue(metric="roc_auc", value=found.value, low=found.low, high=found.high)


@dataclass
class UsualDefault:
    """Each column tested at p < 0.05, numbers by Kolmogorov and Smirnov, categories by chi-square; half of them: drift.

    An alert is the first window of a row of windows with drift.
    """

    reference: Rows
    """A sample of the training rows, as such tools take one."""
    before: bool = False

    @classmethod
    def trained(cls, training: Sequence[Rows], rows: int = 5000) -> UsualDefault:
        """With a sample of these rows."""
        whole = together(training)
        taken = np.random.default_rng(0).choice(len(whole.labels), size=min(rows, len(whole.labels)), replace=False)
        return cls(
            Rows(
                {name: values[taken] for name, values in whole.numbers.items()},
                {name: codes[taken] for name, codes in whole.categories.items()},
                whole.scores[taken],
                whole.labels[taken],
            )
        )

    def look(self, rows: Rows) -> bool:
        """Whether this window opens an alert."""
        p_values = [_ks(self.reference.numbers[name], values) for name, values in rows.numbers.items()]
        p_values += [_chi2(self.reference.categories[name], codes) for name, codes in rows.categories.items()]
        drift = sum(p < 0.05 for p in p_values) >= len(p_values) / 2
        opened, self.before = drift and not self.before, drift
        return opened


def _ks(reference: Floats, values: Floats) -> float:
    mine, theirs = values[~np.isnan(values)], reference[~np.isnan(reference)]
    return float(ks_2samp(mine, theirs, method="asymp").pvalue) if len(mine) and len(theirs) else 1.0


def _chi2(reference: Codes, codes: Codes) -> float:
    levels = int(max(reference.max(), codes.max())) + 1
    table = np.stack([np.bincount(each, minlength=levels) for each in (codes, reference)])
    return float(chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)
