"""The decision page for every reader: on a small screen, without seeing the drawings, in any time zone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.core import judged_figures as figures
from tests.unit.core.judging import Bench
from tests.unit.core.test_decision_page import section_of, text_of, told_page


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_page_can_be_read_by_those_who_do_not_see_it(bench: Bench) -> None:
    page = told_page(bench)
    assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", page))
    assert page.count("<th ") > 30
    drawings = re.findall(r'<svg[^>]*role="img" aria-label="([^"]+)">\s*<title>([^<]+)</title>', page)
    assert (
        len(drawings) == page.count("<svg") - page.count('aria-hidden="true"') == 3 + 3 + 2
    )  # metrics, slices, curves
    assert all(label == title for label, title in drawings)
    assert ("roc_auc: +0.036 [0.025, 0.047] (better)",) * 2 in drawings
    badges = re.findall(r'class="badge[^"]*">([^<]*)<', page)
    assert set(badges) <= {"PROMOTE", "REJECT", "INCONCLUSIVE", "PASS", "FAIL", "UNDECIDED"}  # never a bare colour


def test_interval_has_one_name_on_the_whole_page(bench: Bench) -> None:
    text = text_of(told_page(bench))
    assert text.count("90 % interval (each end one-sided at 95 %)") == 4  # rules, metrics, slices, gaps
    assert len(re.findall(r"\d % interval", text)) == 4
    assert "two-sided" not in text


def test_times_are_in_utc_and_without_microseconds(bench: Bench) -> None:
    odd = figures.NOW.replace(second=7, microsecond=123456)
    history = replace(figures.a_history(), as_of=odd)
    page = told_page(bench, request=replace(bench.request, as_of=odd), history=history)
    assert "123456" not in page
    clocks = re.findall(r"\d\d:\d\d(?::\d\d)?(.{4})", text_of(page))
    assert len(clocks) > 8
    assert set(clocks) == {" UTC"}


def test_every_table_fits_a_narrow_screen_stacked_or_in_a_box_that_scrolls(bench: Bench) -> None:
    page = told_page(bench)
    for table in re.finditer(r"<table[^>]*>", page):
        before = page[: table.start()].rstrip()
        boxed = re.search(r'<div class="scroll" role="region" tabindex="0" aria-label="[^"]+">$', before)
        assert boxed or table[0].startswith('<table class="stack'), before[-80:]
    assert page.count('<table class="stack') == 2
    assert "max-width: 40rem" in page


@pytest.mark.parametrize("title", ["What the gate asked, and what it found", "Metrics on the holdout"])
def test_stacked_cells_say_what_they_are(bench: Bench, title: str) -> None:
    section = section_of(told_page(bench), title)
    heads = re.findall(r'role="columnheader"[^>]*>([^<]+)<', section)
    for row in section.split('<tr role="row">')[2:]:
        named = re.findall(r'data-label="([^"]+)"', row)
        assert named == [head for head in heads if head in named]
        assert len(named) == 3
        assert row.count('role="rowheader"') == 1
        assert all('role="cell"' in cell for cell in re.findall(r"<td[^>]*>", row))
