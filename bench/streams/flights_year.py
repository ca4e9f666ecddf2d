"""The flights, day by day, with a model that is trained anew whenever an alert says so; for `drift_quality.py`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flights.source import FIRST_DAY, WEATHER_COLUMNS, read_flights
from flights.training import CATEGORICAL_COLUMNS, build_estimator
from perennial.domain.metrics import metric
from perennial.spec.monitoring import Monitoring
from streams.detectors import Perennial, UsualDefault, together
from streams.worlds import Rows

if TYPE_CHECKING:
    import pandas as pd

TRAINING_DAYS: Final = 60
HOLDOUT_DAYS: Final = 14
NUMBERS: Final = ("distance", "weekday", "sched_dep_minute", "sched_arr_minute", *WEATHER_COLUMNS)


class Flights:
    """A year's days, and models of the days before any of them."""

    def __init__(self) -> None:
        table = read_flights().to_pandas()
        self.codes = {name: table[name].astype("category").cat.codes for name in CATEGORICAL_COLUMNS}
        self.table = table
        days = [(FIRST_DAY + timedelta(days=day)).isoformat() for day in range(365)]
        rows = table.groupby("service_date").indices
        self.days = [rows[day] for day in days if day in rows]

    def model(self, day: int) -> Any:
        """Fitted on the 60 days before the 14 before that day."""
        first = day - TRAINING_DAYS - HOLDOUT_DAYS
        frame = self._features(np.concatenate(self.days[first : day - HOLDOUT_DAYS]))
        labels = self.table["is_late"].to_numpy()[np.concatenate(self.days[first : day - HOLDOUT_DAYS])]
        return build_estimator(random_state=7).fit(frame, labels)

    def rows(self, model: Any, days: Sequence[int]) -> list[Rows]:
        """Days as the model sees them."""
        places = np.concatenate([self.days[day] for day in days])
        frame = self._features(places)
        numbers = {name: frame[name].to_numpy(dtype=np.float64) for name in NUMBERS}
        categories = {name: codes.to_numpy()[places].astype(np.intp) for name, codes in self.codes.items()}
        scores, labels = model.predict_proba(frame)[:, 1], self.table["is_late"].to_numpy(dtype=np.float64)[places]
        ends = np.cumsum([len(self.days[day]) for day in days])
        return [
            Rows(
                {name: values[start:end] for name, values in numbers.items()},
                {name: codes[start:end] for name, codes in categories.items()},
                scores[start:end],
                labels[start:end],
            )
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]

    def before(self, model: Any, day: int) -> tuple[list[Rows], list[Rows]]:
        """Training and holdout windows of a model of that day."""
        first = day - TRAINING_DAYS - HOLDOUT_DAYS
        found = self.rows(model, range(first, day))
        return found[:TRAINING_DAYS], found[TRAINING_DAYS:]

    def _features(self, places: np.ndarray) -> pd.DataFrame:
        return self.table.iloc[places][[*CATEGORICAL_COLUMNS, *NUMBERS]]


def flights_year(rules: Monitoring) -> dict[str, Any]:
    """Alerts of the year, each followed by a training; what that gained on the next 14 days; the usual default beside.

    Whether an alert of the flights is false nobody knows: weather and delays do change with the season. `gain` is the
    new model's AUC less the old one's.
    """
    flights, start = Flights(), TRAINING_DAYS + HOLDOUT_DAYS
    model = flights.model(start)
    ours, usual = _watchers(flights, model, start, rules)
    alerts: list[dict[str, Any]] = []
    usual_drift = 0
    for day in range(start, len(flights.days)):
        rows = flights.rows(model, [day])[0]
        opened = [name for name, is_open in ours.look(day, rows).items() if is_open]
        usual.look(rows)
        usual_drift += usual.before
        if opened and day + HOLDOUT_DAYS < len(flights.days):
            newer = flights.model(day + 1)
            because = {name: list(ours.states[name].because) for name in opened}
            alerts.append({"day": day, "because": because, "gain": _gain(flights, model, newer, day + 1)})
            model = newer
            ours, usual = _watchers(flights, model, day + 1, rules)
    return {
        "days": len(flights.days) - start,
        "alerts": alerts,
        "usual_windows_with_drift": usual_drift,
    }


def _watchers(flights: Flights, model: Any, day: int, rules: Monitoring) -> tuple[Perennial, UsualDefault]:
    training, holdout = flights.before(model, day)
    return Perennial.trained(training, holdout, rules), UsualDefault.trained(training)


def _gain(flights: Flights, older: Any, newer: Any, day: int) -> float:
    def auc(model: Any) -> float:
        rows = together(flights.rows(model, range(day, day + HOLDOUT_DAYS)))
        return metric("roc_auc", rows.labels, rows.scores)

    return round(auc(newer) - auc(older), 4)
