"""The decision page: verdict first, nothing loaded from elsewhere, every value escaped, drawings that cannot lie."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perennial.domain.evaluation import EvaluationResult, MetricComparison, MetricEstimate, SliceResult
from perennial.domain.gate import decide
from perennial.domain.references import EvaluationRef
from perennial.domain.wording import digits_for, number, plain
from perennial.reports.decision_page import SHOWN_SLICES, decision_page
from perennial.reports.interval_plot import WIDTH, Line, interval_plot
from tests.unit.core.judging import Bench

MODEL = {
    "model_uri": "models:/m-1",
    "run_id": "run-1",
    "digest": "d" * 64,
    "training_start": "2013-01-01T00:00:00Z",
    "training_end": "2013-02-28T00:00:00Z",
}
REFERENCE = EvaluationRef(
    uri="s3://b/e.json",
    sha256="e" * 64,
    scores_uri="s3://b/s.parquet",
    holdout_sha256="h" * 64,
    rows=9000,
    champion_version="3",
)


def _compared(metric: str, value: float, base: float, reach: float | None = 0.01) -> MetricComparison:
    def estimate(at: float) -> MetricEstimate:
        low, high = (None, None) if reach is None else (at - reach, at + reach)
        return MetricEstimate(value=at, low=low, high=high)

    return MetricComparison(
        metric=metric, challenger=estimate(value), champion=estimate(base), difference=estimate(value - base)
    )


def _evaluation(**given: Any) -> EvaluationResult:
    values: dict[str, Any] = {
        "model": "flights_delay",
        "champion_version": "3",
        "rows": 9000,
        "clusters": 14,
        "confidence": 0.9,
        "comparisons": {
            "brier": _compared("brier", 0.18, 0.2),
            "roc_auc": _compared("roc_auc", 0.712, 0.676),
            "log_loss": _compared("log_loss", 0.6, 0.55),
        },
        "slices": (SliceResult(column="origin", value="<b>JFK</b>", rows=4500, challenger=0.71, champion=None),),
        "holdout": ("2013-03-01T00:00:00Z", "2013-03-15T00:00:00Z"),
        "holdout_sha256": "h" * 64,
        "challenger": {**MODEL, "digest": "c" * 64},
        "champion": MODEL,
    }
    return EvaluationResult(**{**values, **given})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _page(bench: Bench, evaluation: EvaluationResult, run_url: str | None = None) -> str:
    decision = decide(bench.spec.gate, evaluation, primary="roc_auc")
    content = decision_page(
        bench.spec, bench.request, reference=REFERENCE, evaluation=evaluation, decision=decision, run_url=run_url
    )
    return content.decode()


def _text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.rsplit("</style>", maxsplit=1)[-1]))


def test_verdict_meaning_and_first_reason_come_first(bench: Bench) -> None:
    text = _text(_page(bench, _evaluation()))
    assert text.index("PROMOTE") < text.index("is to take over from champion version 3")
    assert text.index("take over") < text.index("Challenger&#39;s roc_auc is 0.712") < text.index("What the gate asked")


@pytest.mark.parametrize(
    ("comparison", "meaning"),
    [
        (_compared("roc_auc", 0.712, 0.676), "is to take over from champion version 3"),
        (_compared("roc_auc", 0.62, 0.676), "Champion version 3 stays."),
        (_compared("roc_auc", 0.68, 0.676), "does not decide, so champion version 3 stays"),
    ],
)
def test_each_verdict_says_what_happens_to_production(bench: Bench, comparison: MetricComparison, meaning: str) -> None:
    comparisons = {**_evaluation().comparisons, "roc_auc": comparison}
    assert meaning in _text(_page(bench, _evaluation(comparisons=comparisons)))


def test_page_without_a_champion_has_no_column_for_one(bench: Bench) -> None:
    alone = MetricComparison(
        metric="roc_auc", challenger=MetricEstimate(value=0.7, low=0.6, high=0.8), champion=None, difference=None
    )
    page = _page(bench, _evaluation(champion_version=None, champion=None, comparisons={"roc_auc": alone}))
    assert "There was no champion; the challenger is to become the first." in page
    assert "Difference" not in page
    assert "against its floor" in page


def test_page_loads_and_runs_nothing(bench: Bench) -> None:
    page = _page(bench, _evaluation(), run_url="https://mlflow.example/#/runs/1")
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="([^"]+)"', page) == ["https://mlflow.example/#/runs/1"]
    assert "url(" not in page
    assert "default-src 'none'" in page or "default-src &#39;none&#39;" in page


def test_values_are_escaped(bench: Bench) -> None:
    bench.request = replace(bench.request, reason="<script>alert(1)</script>", requested_by='"><img src=x>')
    page = _page(bench, _evaluation(notes=("<i>note</i>",)))
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>JFK" not in page
    assert "<i>note" not in page


@pytest.mark.parametrize("url", ["javascript:alert(1)", "memory://runs/1"])
def test_run_url_that_is_no_web_page_is_text(bench: Bench, url: str) -> None:
    assert "href" not in _page(bench, _evaluation(), run_url=url)


def test_same_inputs_give_the_same_bytes(bench: Bench) -> None:
    assert _page(bench, _evaluation()) == _page(bench, _evaluation())


def test_metrics_stand_in_the_specs_order_and_say_which_way_is_better(bench: Bench) -> None:
    text = _text(_page(bench, _evaluation())).split("Metrics on the holdout")[1]
    assert text.index("roc_auc primary") < text.index("log_loss") < text.index("brier")
    assert "worse" in text[text.index("log_loss") : text.index("brier")]
    assert "better" in text[text.index("brier") :]


def test_missing_values_and_intervals_are_said_to_be_missing(bench: Bench) -> None:
    lost = MetricComparison(
        metric="roc_auc",
        challenger=MetricEstimate(value=None, low=None, high=None),
        champion=MetricEstimate(value=0.6, low=None, high=None),
        difference=MetricEstimate(value=None, low=None, high=None),
    )
    text = _text(_page(bench, _evaluation(comparisons={"roc_auc": lost})))
    assert "INCONCLUSIVE" in text
    assert "not available" in text
    assert "no interval" in text


def test_of_many_slices_the_page_shows_the_largest_and_counts_the_rest(bench: Bench) -> None:
    slices = tuple(
        SliceResult(column="origin", value=f"airport {n}", rows=500 - n, challenger=0.7, champion=0.6)
        for n in range(60)
    )
    text = _text(_page(bench, _evaluation(slices=slices)))
    assert "airport 0" in text
    assert f"airport {SHOWN_SLICES}" not in text
    assert f"{60 - SHOWN_SLICES} more values" in text


def test_defects_and_notes_are_shown(bench: Bench) -> None:
    text = _text(_page(bench, _evaluation(defects=("One score for all.",), notes=("Labels are missing.",))))
    assert "REJECT" in text
    assert "One score for all." in text
    assert "Labels are missing." in text


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


@pytest.mark.parametrize(
    ("values", "apart_from", "digits"),
    [
        ([0.025, 0.036, 0.048], 0.002, 3),
        ([0.00201, 0.01, 0.02], 0.002, 5),
        ([0.0004, 0.0005, 0.0006], None, 5),
        ([12.0, 35.0, 61.0], None, 3),
        ([1200.0, 3500.0], None, 1),
        ([None, float("nan")], 0.5, 3),
        ([0.5], 0.5, 3),
        ([0.1 + 0.2], 0.3, 3),
    ],
)
def test_numbers_have_the_digits_that_tell_them_apart(
    values: list[float | None], apart_from: float | None, digits: int
) -> None:
    assert digits_for(values, apart_from=apart_from) == digits


def test_numbers_read_well() -> None:
    assert number(-0.0001, 3, sign=True) == "+0.000"
    assert number(12345.678, 1) == "12,345.7"
    assert number(None, 3) == number(float("nan"), 3) == "not available"
    assert [plain(x) for x in (0.002, 1.0, 0.00001, -0.5, 1200.0)] == ["0.002", "1", "0.00001", "-0.5", "1200"]
