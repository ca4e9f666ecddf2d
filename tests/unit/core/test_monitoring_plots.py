"""The drawings of a monitoring page: they show what was counted, within their frames."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.reports.histogram_plot import BASE, CELLS, SHOWN_LEVELS, WIDTH, Histogram, histogram
from perennial.reports.monitoring_steps import SIGNALS
from perennial.reports.over_time_plot import OverTime, over_time_plot
from tests.unit.core.monitoring_reports import DAY, END, Report, a_report, category, look, number, performance, ripe

finite = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


def drawing_of(column: Report, **bins: Any) -> Histogram:
    found = histogram({**column["bins"], **bins})
    assert found is not None
    return found


def heights(points: str) -> list[float]:
    """Of the bars, in px, from left to right."""
    pairs = [tuple(map(float, point.split(","))) for point in points.split()]
    tops = [BASE - y for x, y in pairs if y <= BASE]
    return tops[::2] if len(tops) == 2 * CELLS else tops[1:-1:2]


def test_equal_counts_in_equal_bins_are_a_flat_histogram() -> None:
    found = drawing_of(number("temp"), current=[25, 25, 25, 25])
    assert len(set(heights(found.outline))) == 1
    assert heights(found.area) == heights(found.outline)


def test_rows_that_moved_up_stand_on_the_right() -> None:
    bars = heights(drawing_of(number("temp"), current=[0, 0, 0, 100]).outline)
    assert bars[: CELLS * 3 // 4] == [0] * (CELLS * 3 // 4)
    assert min(bars[CELLS * 3 // 4 :]) > 0


def test_two_values_are_two_halves() -> None:
    found = drawing_of(number("flag"), edges=[1.0], lowest=0.0, highest=1.0, reference=[75, 25], current=[25, 75])
    bars = heights(found.outline)
    assert len(set(bars[: CELLS // 2])) == len(set(bars[CELLS // 2 :])) == 1
    assert bars[-1] == pytest.approx(3 * bars[0], rel=0.01)
    assert [text for _, text, _ in found.ticks] == ["0", "1"]


def test_one_far_value_does_not_press_the_others_together() -> None:
    found = drawing_of(number("fare"), highest=1e9)
    assert [text for _, text, _ in found.ticks] == ["0", "45"]


def test_window_without_values_shows_the_reference_alone() -> None:
    found = drawing_of(number("temp"), current=[0, 0, 0, 0])
    assert found.outline == ""
    assert found.area
    assert found.label.endswith("no value in this window")


@pytest.mark.parametrize(
    "bins",
    [
        {"edges": [], "lowest": 5.0, "highest": 5.0, "reference": [9], "current": [9]},
        {"edges": [], "lowest": None, "highest": None, "reference": [9], "current": [9]},
        {"reference": [0, 0, 0, 0]},
        {"edges": [5e-324], "lowest": 0.0, "highest": 1e-323, "reference": [5, 5], "current": [5, 5]},
    ],
)
def test_reference_without_a_spread_has_no_drawing(bins: Report) -> None:
    assert histogram({**number("temp")["bins"], **bins}) is None


@given(
    edges=st.lists(finite, min_size=1, max_size=12, unique=True).map(sorted),
    below=st.floats(0.001, 1e6),
    above=st.floats(0, 1e6),
    data=st.data(),
)
def test_every_row_is_drawn_and_nothing_leaves_the_frame(
    edges: list[float], below: float, above: float, data: st.DataObject
) -> None:
    counts = st.lists(st.integers(0, 1000), min_size=len(edges) + 1, max_size=len(edges) + 1).filter(any)
    bins = {
        "kind": "number",
        "edges": edges,
        "lowest": edges[0] - below,
        "highest": edges[-1] + above,
        "reference": data.draw(counts),
        "current": data.draw(counts),
    }
    found = histogram(bins)
    assert found is not None
    reference, current = heights(found.area), heights(found.outline)
    assert len(reference) == len(current) == CELLS
    assert math.isclose(sum(reference), sum(current), rel_tol=0.05, abs_tol=CELLS * 0.1)  # both have all their rows
    for point in f"{found.area} {found.outline}".split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= WIDTH
        assert 0 <= y <= BASE


def test_of_many_levels_those_that_changed_most_are_drawn_in_the_order_of_the_reference() -> None:
    levels = [f"l{place}" for place in range(30)]
    reference = [100 - place for place in range(30)]
    current = list(reference)
    current[20] += 500
    current[3] = 0
    found = drawing_of(category("c"), levels=levels, reference=[*reference, 0], current=[*current, 0])
    assert len(found.levels) == SHOWN_LEVELS
    names = [level.name for level in found.levels]
    assert {"l3", "l20"} <= set(names)
    assert names == sorted(names, key=levels.index)
    assert all(level.y + 12 <= found.height for level in found.levels)


def test_levels_that_the_profile_does_not_name_are_drawn_as_others() -> None:
    found = drawing_of(category("carrier"), current=[10, 10, 80])
    assert [level.name for level in found.levels] == ["UA", "DL", "(others)"]
    assert found.levels[-1].reference == 0
    assert "(others): 0.0\u202f% in training, 80.0\u202f% in this window" in found.label


def drawn(**given: Any) -> OverTime:
    found = over_time_plot(a_report(**given), SIGNALS)
    assert found is not None
    return found


def test_history_of_one_window_is_not_drawn() -> None:
    assert over_time_plot(a_report(history=[look(END)]), SIGNALS) is None


def test_readings_stand_at_their_windows_and_within_the_panel() -> None:
    found = drawn()
    places = [one.at[0] for one in found.realised]
    assert places == pytest.approx([5 + 10 * place for place in range(10)])
    for one in (*found.realised, *found.estimated):
        assert one.low is not None
        assert one.high is not None
        assert 0 < one.high < one.at[1] < one.low < found.panel_bottom
    assert found.holdout is not None
    assert found.limit == found.holdout[1]  # a loss of 0 is allowed beyond the holdout's interval


def test_windows_without_labels_have_an_estimate_alone() -> None:
    found = drawn(history=[look(END - DAY), look(END)], matured=[ripe(END - DAY)])
    assert (len(found.realised), len(found.estimated)) == (1, 2)
    assert "realised roc_auc from 0.700 to 0.700" in found.label


def test_without_any_performance_the_signals_are_drawn_alone() -> None:
    none = dict.fromkeys(("estimate", "estimate_low", "estimate_high"))
    found = drawn(history=[look(END - DAY, **none), look(END, **none)], matured=[])
    assert found.panel_bottom == 0
    assert found.y_ticks == ()
    assert len(found.strips) == len(SIGNALS)


def test_labels_that_take_longer_than_the_history_are_drawn_before_it() -> None:
    history = [look(END - DAY * back) for back in range(9, -1, -1)]
    found = drawn(history=history, matured=[ripe(END - 30 * DAY), ripe(END - 50 * DAY)])
    assert [(reading.at[0], reading.said[:14]) for reading in found.realised] == [(1.61, "realised 0.700")]
    assert found.estimated[0].at[0] == pytest.approx(100 * 21.5 / 31, abs=0.01)


def test_figures_in_another_metric_are_not_drawn() -> None:
    history = [look(END - DAY, metric="log_loss"), look(END)]
    found = drawn(history=history, matured=[ripe(END - DAY, metric="log_loss"), ripe(END)])
    assert (len(found.realised), len(found.estimated)) == (1, 1)


def test_promotions_and_alerts_are_marked_where_they_were() -> None:
    history = [look(END - DAY * back) for back in range(9, -1, -1)]
    history[7] = look(END - 2 * DAY, beyond=["data_drift"], opened=["data_drift"])
    history[6] = look(END - 3 * DAY, beyond=["data_drift"])
    promotions = [
        {"at": "2013-07-05T00:00:00Z", "version": "3", "how": "promotion"},
        {"at": "2013-01-05T00:00:00Z", "version": "2", "how": "promotion"},
    ]
    found = drawn(history=history, promotions=promotions)
    assert [(x, text) for x, text, _, _ in found.promotions] == [(50.0, "v3")]
    assert [x for x, _ in found.alerts] == [75.0]
    kinds = [kind for _, kind, _ in found.strips[0].marks]
    assert kinds[5:9] == ["quiet", "beyond", "opened", "quiet"]
    assert "data drift beyond its limit in 2 windows" in found.label
    assert found.label.endswith("1 alert opened")


def test_of_promotions_close_to_each_other_the_newest_has_its_name() -> None:
    changes = [("2013-07-09T10:00:00Z", "4"), ("2013-07-09T08:00:00Z", None), ("2013-07-04T00:00:00Z", "3")]
    found = drawn(promotions=[{"at": at, "version": version, "how": "rollback"} for at, version in changes])
    assert [text for _, text, _, _ in found.promotions] == ["v3", "", "v4"]
    assert found.promotions[1][3] == "rollback: none, 2013-07-09 08:00 UTC"


def test_window_that_was_not_judged_has_no_mark() -> None:
    found = drawn(history=[look(END - DAY, judged=False), look(END)])
    assert [kind for _, kind, _ in found.strips[0].marks] == ["none", "quiet"]


@pytest.mark.parametrize(("low", "high"), [(0.61, 0.75), (0.09, 0.9), (9.9, 10.1), (0.0, 1e6), (-3.0, -2.999)])
def test_axis_has_a_few_round_figures(low: float, high: float) -> None:
    matured = [ripe(END - DAY, value=low, low=low, high=low), ripe(END, value=high, low=high, high=high)]
    none = dict.fromkeys(("estimate", "estimate_low", "estimate_high"))
    history = [look(END - DAY, **none), look(END, **none)]
    nothing = {"value": None, "low": None, "high": None, "rows": None, "confidence": None}
    found = drawn(history=history, matured=matured, performance=performance(holdout=nothing, limit=None))
    assert 2 <= len(found.y_ticks) <= 5
    assert len({text for _, text in found.y_ticks}) == len(found.y_ticks)


def test_windows_of_seconds_are_told_with_their_clock() -> None:
    second = timedelta(seconds=1)
    history = [look(END - 20 * second), look(END)]
    found = drawn(history=history, matured=[], window_start=(END - 20 * second).isoformat())
    assert [text for _, text, _ in found.x_ticks] == ["2013-07-09 23:59:20 UTC", "2013-07-10 00:00 UTC"]
