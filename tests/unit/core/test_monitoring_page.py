"""The page of a monitoring window: what is wrong first, nothing loaded from elsewhere, every value escaped."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from perennial.reports.monitoring_page import LEAST_SHOWN, MOST_FOLDED, monitoring_page
from tests.unit.core.monitoring_reports import (
    Report,
    a_report,
    alarmed,
    an_alert,
    category,
    columns,
    drifted,
    judged,
    not_judged,
    number,
    performance,
    service,
    signal,
    signals,
    skewed,
    unknown_performance,
)
from tests.unit.core.rolled_out import spec_of
from tests.unit.core.test_decision_page import section_of, text_of

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
MONITORING = {"label_delay": "1d"}


def html_of(report: Report, **spec: Any) -> str:
    return monitoring_page(spec_of(monitoring=MONITORING, **spec), report).decode()


def said(report: Report, **spec: Any) -> str:
    return _plain(html_of(report, **spec))


def next_of(report: Report, **spec: Any) -> str:
    return _plain(section_of(html_of(report, **spec), "What next"))


def section(report: Report, title: str) -> str:
    return _plain(section_of(html_of(report), title))


def _plain(html: str) -> str:
    """As people read it."""
    return re.sub(r" (?=[,.:;)])", "", unescape(text_of(html)).replace("\u202f", " "))


def test_what_is_open_and_what_to_do_come_before_the_figures() -> None:
    page = html_of(alarmed("data_drift"))
    text = _plain(page)
    opening = [
        "1 OPEN ALERT",
        "New alert: data drift. Data drift is beyond its limit.",
        "What next",
        "Window of 1d: 2013-07-09 00:00 UTC",
    ]
    places = [text.index(place) for place in opening]
    assert places == sorted(places)
    assert re.findall(r"<h2>([^<]+)</h2>", page) == [
        "What next",
        "Open alerts",
        "Signals",
        "Over time",
        "Performance",
        "Data drift",
        "Prediction drift",
        "Training-serving skew",
        "Service",
        "For the record",
    ]


@pytest.mark.parametrize(
    ("report", "badge"),
    [
        (a_report(), "WITHIN LIMITS"),
        (a_report(signals=signals(service=signal("service", is_beyond=True))), "BEYOND A LIMIT"),
        (alarmed("performance"), "1 OPEN ALERT"),
        (a_report(alerts=[an_alert("service", retrain=False), an_alert("skew", retrain=False)]), "2 OPEN ALERTS"),
        (a_report(data_drift={**not_judged(), "not_compared": [], "columns": []}), "NOT JUDGED"),
    ],
)
def test_badge_tells_the_gravest(report: Report, badge: str) -> None:
    assert f">{badge}</span>" in html_of(report)


def test_many_signals_are_named_without_their_figures() -> None:
    names = ("data_drift", "service", "skew")
    found = signals(**{name: signal(name, is_beyond=True) for name in names})
    lead = "Data drift, service and training-serving skew are beyond their limits."
    assert f'<p class="lead"><strong>{lead}</strong></p>' in html_of(a_report(signals=found))


def test_window_within_its_limits_asks_for_nothing() -> None:
    assert "Nothing has to be done." in next_of(a_report())


def test_alert_that_may_start_a_run_tells_where_to_see_what_became_of_it() -> None:
    drift = {"on_drift": {"cooldown": "6h"}}
    told = next_of(alarmed("data_drift"), triggers=drift)
    assert "perennial alert flights_delay --list tells what became of it" in told
    assert "`" not in told
    without = next_of(alarmed("data_drift"))
    assert "No run starts by itself, as triggers.on_drift is not set. perennial run flights_delay trains" in without
    assert "perennial run" not in next_of(alarmed("service", retrain=False))


def _with_drift() -> Report:
    found = signals(
        performance=signal("performance", is_beyond=True, is_open=True),
        data_drift=signal("data_drift", is_beyond=True),
    )
    return a_report(signals=found, alerts=[an_alert("performance")])


@pytest.mark.parametrize(
    ("report", "step"),
    [
        (alarmed("service", retrain=False), "what failed is in the scoring service's log"),
        (alarmed("skew", retrain=False, skew=[skewed("temp", "other_type")]), "repair what sends temp"),
        (alarmed("performance"), "roc_auc is worse though the columns are as in the training"),
        (alarmed("estimated_performance"), "The window's labels are due at 2013-07-11 00:00 UTC."),
        (alarmed("data_drift"), "do not show that the model is worse for it"),
        (a_report(closed=[an_alert("performance", opened_now=False)]), "The alert of realised performance is over."),
    ],
)
def test_each_signal_has_a_place_to_look_at(report: Report, step: str) -> None:
    assert step in next_of(report)


def test_worse_performance_with_drift_is_not_told_as_a_change_of_the_concept() -> None:
    assert "though the columns are as in the training" not in next_of(_with_drift())
    assert "No alert yet of data drift: it takes the same thing beyond its limit in 2 of the newest 3" in next_of(
        _with_drift()
    )


def test_drift_is_not_excused_by_performance_that_is_unknown() -> None:
    report = alarmed("data_drift")
    report["signals"][2] = signal("performance", **not_judged())
    assert "do not show that the model is worse" not in next_of(report)


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ({"champion": None, "reference": None, "rows": 0}, "No request of this window is in the prediction log."),
        ({"reference": None}, "There is nothing to compare with: perennial run flights_delay"),
        ({"rows": 12}, "12 rows in the window, and monitoring.min_rows asks for 500: drift was not judged."),
    ],
)
def test_window_that_is_not_judged_says_why_and_what_helps(given: Report, step: str) -> None:
    drift = {**not_judged("Because."), "not_compared": [], "columns": []}
    report = a_report(signals=signals(data_drift=signal("data_drift", **not_judged())), data_drift=drift, **given)
    assert step in next_of(report)
    assert "Because." in section(report, "Data drift")
    assert "NOT JUDGED" in said(report)


def test_empty_window_is_a_page_too() -> None:
    why = "No model has answered a request."
    nothing = dict.fromkeys(("error_rate", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "newest"))
    text = said(
        a_report(
            champion=None,
            reference=None,
            rows=0,
            judged=False,
            why_not=why,
            versions=[],
            data_drift={**not_judged(why), "not_compared": [], "columns": []},
            prediction_drift=[],
            skew=[],
            performance=unknown_performance(why),
            service=service(**nothing, requests=0, rows=0, errors=0, error_kinds={}, **not_judged(why)),
            signals=[signal(each["signal"], **not_judged(why)) for each in a_report()["signals"]],
            history=a_report()["history"][-1:],
        )
    )
    assert "No version answered requests." in text
    assert "Over time" not in text
    assert "Reference none" in text


def test_columns_that_drifted_come_first_and_are_seen_at_once() -> None:
    found = [number(f"quiet_{place}") for place in range(20)]
    found += [drifted(number(f"moved_{place}"), strength=2.0 + place) for place in range(6)]
    page = html_of(a_report(data_drift={**judged(beyond=True, says="."), "not_compared": [], "columns": found}))
    part = section_of(page, "Data drift")
    seen, folded = part.split("<details>")[0], part.split("<details>")[1]
    names = re.findall(r"<figcaption><strong>(\w+)</strong>", seen)
    assert names == [f"moved_{place}" for place in (5, 4, 3, 2, 1, 0)]
    assert seen.count("<tr role") == 1 + 6
    assert "20 more, none drifted" in folded
    assert folded.split("</details>")[0].count("<tr role") == 1 + 20


def test_without_drift_the_nearest_columns_are_seen_and_thousands_are_not() -> None:
    found = [number(f"c{place}", strength=place / 1000) for place in range(1000)]
    page = html_of(a_report(data_drift={**judged(says="."), "not_compared": [], "columns": found}))
    part = section_of(page, "Data drift")
    assert re.findall(r"<figcaption><strong>(\w+)", part)[:LEAST_SHOWN] == ["c999", "c998", "c997", "c996"]
    assert f"{1000 - LEAST_SHOWN - MOST_FOLDED} more are in the report." in part
    assert len(page) < 600_000


def test_column_tells_effect_interval_limit_and_what_is_missing() -> None:
    moved = drifted(number("temp", missing_share=0.31, missing_change=0.25, missing_low=0.2, unseen_share=0.02))
    found = section(a_report(data_drift={**judged(says="."), "not_compared": [], "columns": [moved]}), "Data drift")
    row = found[found.index("PSI") :]
    for text in ("temp DRIFTED moved by 0.40", "0.40 spreads [0.40, 0.44]", "0.10", "31.0 %", "+25.0 points", "2.0 %"):
        assert text in row
    assert "< 0.0001" in row


def test_effect_near_its_limit_has_digits_enough_to_tell_them_apart() -> None:
    near = number("temp", effect=0.1008, low=0.1004, high=0.1012, drifted=True, strength=1.004)
    found = section(a_report(data_drift={**judged(says="."), "not_compared": [], "columns": [near]}), "Data drift")
    assert "[0.1004, 0.1012]" in found
    assert "0.1000" in found


def test_column_with_nothing_to_compare_has_dashes_and_no_drawing_of_an_effect() -> None:
    nothing = dict.fromkeys(("effect", "low", "high", "distance", "psi", "shift", "p_value", "q_value", "strength"))
    constant = number("temp", **nothing)
    constant["bins"] = {
        **constant["bins"],
        "edges": [],
        "lowest": 5.0,
        "highest": 5.0,
        "reference": [9],
        "current": [0],
    }
    part = section_of(
        html_of(a_report(data_drift={**judged(), "not_compared": [], "columns": [constant]})), "Data drift"
    )
    assert 'class="effect' not in part
    assert "<figure" not in part
    assert _plain(part).count("\N{EN DASH}") == 4  # effect, unseen, q, PSI


def test_strongest_effect_stays_within_its_drawing() -> None:
    huge = drifted(number("temp"), strength=1e9)
    part = section_of(html_of(a_report(data_drift={**judged(), "not_compared": [], "columns": [huge]})), "Data drift")
    [drawing] = re.findall(r'<svg class="effect.*?</svg>', part)
    assert max(float(x) for x in re.findall(r'(?:x1|x2|cx)="([\d.]+)"', drawing)) <= 120


def test_columns_left_out_of_the_log_are_named() -> None:
    left_out = [{"column": "age", "why": "it is left out of the prediction log"}]
    found = section(a_report(data_drift={**judged(), "not_compared": left_out, "columns": columns()}), "Data drift")
    assert "Not compared: age (it is left out of the prediction log)." in found


def test_slices_tell_which_columns_drifted_within_them() -> None:
    moved = {key: value for key, value in drifted(number("temp")).items() if key != "bins"}
    jfk = {"column": "origin", "level": "JFK", "rows": 322, **judged(beyond=True), "columns": [moved]}
    lga = {"column": "origin", "level": "LGA", "rows": 12, **not_judged("There are 12 rows."), "columns": []}
    found = section(a_report(slices=[jfk, lga]), "Data drift")
    assert "DRIFTED origin = JFK temp: moved by 0.40 322" in found
    assert "not judged origin = LGA There are 12 rows. 12" in found


def test_each_serving_version_has_its_own_predictions() -> None:
    parts = [
        {"version": "3", "role": "champion", "rows": 800, **judged(), "columns": [drifted(number("score"))]},
        {"version": "4", "role": "canary", "rows": 90, **not_judged("There are 90 rows."), "columns": []},
    ]
    found = section(a_report(prediction_drift=parts), "Prediction drift")
    assert "Version 3 (champion, 800 rows)" in found
    assert "score DRIFTED" in found
    assert "Version 4 (canary, 90 rows) There are 90 rows." in found


def test_performance_stands_beside_the_holdouts() -> None:
    found = section(a_report(), "Performance")
    assert "on the holdout 0.708 [0.694, 0.723]" in found
    assert "realised roc_auc is 0.700. 0.700 [0.670, 0.730] WITHIN 870 of 890 labelled" in found
    assert "2013-07-08 00:00 UTC to 2013-07-09 00:00 UTC" in found
    assert "95 % intervals, of the holdout 90 %." in found


def test_performance_that_is_not_known_says_why() -> None:
    why = "It can be estimated of classifications only."
    estimated = {**performance()["estimated"], "value": None, "low": None, "high": None, **not_judged(why)}
    found = section(a_report(performance=performance(estimated=estimated)), "Performance")
    assert f"estimated {why} \N{EN DASH} not judged" in found
    assert "as if only the inputs had moved" not in found


def test_signal_tells_in_how_many_judged_windows_it_was_beyond() -> None:
    recent = ["beyond", "beyond", "not_judged", "quiet", "beyond"]
    found = section(a_report(signals=signals(data_drift=signal("data_drift", recent=recent))), "Signals")
    assert "Data drift data_drift says so. 2 of 3" in found


def test_windows_that_were_skipped_are_told() -> None:
    assert "12 windows before this one were not looked at" in section(a_report(skipped_windows=12), "Signals")
    assert "not looked at" not in section(a_report(), "Signals")


def test_page_links_to_that_of_the_window_before() -> None:
    assert '<a href="../20130709T000000Z/page.html">' in html_of(a_report())
    assert "<a href" not in html_of(a_report(history=a_report()["history"][-1:]))


def test_text_from_outside_stays_text_and_nothing_is_loaded() -> None:
    column = drifted(category(HOSTILE, says=HOSTILE))
    column["bins"] = {**column["bins"], "levels": [HOSTILE, "DL"]}
    page = html_of(
        alarmed(
            "data_drift",
            summary=HOSTILE,
            data_drift={
                **judged(says=HOSTILE),
                "not_compared": [{"column": HOSTILE, "why": HOSTILE}],
                "columns": [column],
            },
            service=service(error_kinds={HOSTILE: 3}, unreadable=[HOSTILE]),
            skew=[skewed(HOSTILE, HOSTILE)],
        )
    )
    assert HOSTILE not in page
    assert "<script" not in page.lower()
    assert "<img" not in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:|//|data:)""", page)
    assert page.count("&lt;script&gt;") > 10


def test_same_report_gives_the_same_bytes() -> None:
    spec = spec_of(monitoring=MONITORING)
    assert monitoring_page(spec, alarmed("data_drift")) == monitoring_page(spec, alarmed("data_drift"))


def test_page_can_be_read_by_those_who_do_not_see_it() -> None:
    page = html_of(alarmed("data_drift"))
    assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", page))
    drawings = re.findall(r'<svg[^>]*role="img" aria-label="([^"]+)">\s*<title>([^<]+)</title>', page)
    assert len(drawings) == 1 + 2 + 1  # over time, both columns, the score
    assert all(label == title for label, title in drawings)
    others = re.findall(r'<svg(?![^>]*role="img")[^>]*>', page)
    assert all('aria-hidden="true"' in tag or 'class="opened"' in tag for tag in others)
    assert "temp: median about 20 in training, about 32.9 in this window" in [label for label, _ in drawings]
    assert all(table.startswith('<table class="stack') for table in re.findall(r"<table[^>]*>", page))


def test_every_clock_on_the_page_is_in_utc() -> None:
    clocks = re.findall(r"\d\d:\d\d(?::\d\d)?(.{4})", text_of(html_of(alarmed("data_drift"))).replace("00:00:00Z", ""))
    assert len(clocks) > 8
    assert set(clocks) == {" UTC"}
