"""The drawings: better is to the right, nothing leaves its frame, and what cannot be drawn is not."""

from __future__ import annotations

import pytest

from perennial.domain.evaluation import Curves
from perennial.reports.curve_plot import FRAME, calibration_plot, roc_plot
from perennial.reports.interval_plot import WIDTH, Line, interval_plot


def test_plot_puts_better_to_the_right_whatever_the_direction() -> None:
    zero = [Line(at=0.0, kind="zero")]
    up = interval_plot(0.02, 0.01, 0.03, lines=zero, higher_is_better=True, tone="ok")
    down = interval_plot(-0.02, -0.03, -0.01, lines=zero, higher_is_better=False, tone="ok")
    assert up == down
    assert up is not None
    assert up.lines == ((WIDTH / 2, "zero"),)
    assert WIDTH / 2 < up.low < up.value < up.high <= WIDTH


def test_plot_without_extent_or_interval_stays_within_the_drawing() -> None:
    flat = interval_plot(0.0, 0.0, 0.0, lines=[Line(at=0.0, kind="zero")], higher_is_better=True, tone="neutral")
    assert flat is not None
    assert flat.low == flat.high == flat.value == WIDTH / 2
    assert interval_plot(0.1, None, 0.2, lines=[], higher_is_better=True, tone="ok") is None
    assert interval_plot(0.1, float("-inf"), 0.2, lines=[], higher_is_better=True, tone="ok") is None


def test_plots_with_one_reach_have_one_scale() -> None:
    lines = [Line(at=0.0, kind="zero"), Line(at=-0.03, kind="limit")]
    drawn = [
        interval_plot(at, at - 0.01, at + 0.01, lines=lines, higher_is_better=True, tone="ok", reach=0.2)
        for at in (0.0, 0.1)
    ]
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert drawn[0].lines == drawn[1].lines
    assert round(drawn[0].high - drawn[0].low, 1) == round(drawn[1].high - drawn[1].low, 1)


def _curves(*calibration: tuple[float, float, int]) -> Curves:
    return Curves(roc=((0.0, 0.0), (0.2, 0.7), (1.0, 1.0)), calibration=calibration)


def _points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


def test_roc_goes_from_corner_to_corner_and_the_challenger_is_on_top() -> None:
    plot = roc_plot({"challenger": _curves(), "champion": _curves()}, {"challenger": 0.75, "champion": None})
    assert plot is not None
    assert [series.who for series in plot.series] == ["champion", "challenger"]
    points = _points(plot.series[0].points)
    assert points[0] == (FRAME["left"], FRAME["bottom"])
    assert points[-1] == (FRAME["right"], FRAME["top"])
    assert plot.reading == "area below it: challenger 0.750"


def test_calibration_has_one_scale_for_both_axes_and_models() -> None:
    plot = calibration_plot(
        {"challenger": _curves((0.1, 0.1, 50), (0.3, 0.41, 200)), "champion": _curves((0.2, 0.2, 100))}
    )
    assert plot is not None
    assert (
        [text for _, text in plot.x_ticks]
        == [text for _, text in plot.y_ticks]
        == ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]
    )
    size = FRAME["right"] - FRAME["left"]
    (champion, challenger) = plot.series
    assert champion.dots[0][:2] == (FRAME["left"] + size * 0.4, FRAME["bottom"] - size * 0.4)  # on the diagonal
    radii = [dot[2] for dot in challenger.dots]
    assert radii[1] == 2 * radii[0]  # four times the rows, four times the area
    assert challenger.dots[1][3] == "challenger: predicted 0.300, found 0.410, 200 rows"
    assert plot.reading == "50 to 200 rows a group"
    even = calibration_plot({"challenger": _curves((0.1, 0.1, 84), (0.3, 0.41, 84))})
    assert even is not None
    assert even.reading == "84 rows a group"


@pytest.mark.parametrize(
    ("most", "last"), [(0.03, "0.1"), (0.1, "0.1"), (0.11, "0.2"), (0.61, "0.6"), (0.95, "1"), (1.0, "1")]
)
def test_calibration_axis_ends_beyond_every_dot_at_a_round_tick(most: float, last: str) -> None:
    plot = calibration_plot({"challenger": _curves((most, most / 2, 10))})
    assert plot is not None
    assert plot.x_ticks[-1][1] == last
    assert 4 <= len(plot.x_ticks) <= 6
    assert all(FRAME["left"] <= x <= FRAME["right"] for x, _, _, _ in plot.series[0].dots)


def test_points_that_are_no_numbers_are_left_out() -> None:
    plot = calibration_plot({"challenger": _curves((float("nan"), 0.2, 5), (0.5, 0.5, 5))})
    assert plot is not None
    assert len(plot.series[0].dots) == 1
    assert calibration_plot({"challenger": _curves((float("nan"), 0.2, 5))}) is None
    assert calibration_plot({}) is None
    assert roc_plot({}, {}) is None
