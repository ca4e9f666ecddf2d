"""When windows become an alert and when it ends: a table, and what no sequence of windows may lead to."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.alarm import AlarmState, WindowVerdict, fold
from perennial.spec.monitoring import AlertRules

START = datetime(2026, 1, 1, tzinfo=UTC)
RULES = AlertRules()  # 2 of 3, closed after 2 below 0.8
NEW = AlarmState(signal="data_drift")


def _verdict(at: int, word: str, version: str | None = "1") -> WindowVerdict:
    """`t`, `w`: temp, wind beyond; `.` calm; `~` within, but above 0.8; `-` too few rows; `?` NaN."""
    return WindowVerdict(
        signal="data_drift",
        end=START + timedelta(days=at),
        beyond=tuple({"t": "temp", "w": "wind"}[letter] for letter in word if letter in "tw"),
        strength={".": 0.1, "~": 0.9, "?": math.nan}.get(word, 2.0),
        enough=word != "-",
        version=version,
    )


def _walk(words: str, rules: AlertRules = RULES) -> str:
    """For each window `O` opened, `C` closed, `o` open, or `.`."""
    state, said = NEW, ""
    for at, word in enumerate(words.split()):
        state, opened, closed = fold(state, _verdict(at, word), rules)
        said += "O" if opened else "C" if closed else "o" if state.is_open else "."
    return said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(". . . .", "....", id="nothing"),
        pytest.param("t . . t . .", "......", id="one window at a time"),
        pytest.param("t t", ".O", id="two in a row"),
        pytest.param("t . t", "..O", id="two of three"),
        pytest.param("t . . t", "....", id="two of four"),
        pytest.param("t w t", "..O", id="another column between"),
        pytest.param("t w w", "..O", id="each its own count"),
        pytest.param("t w", "..", id="not the same column"),
        pytest.param("t tw .", ".Oo", id="one of several"),
        pytest.param("t t w w w w", ".OoOoo", id="another column while one is open"),
        pytest.param("t t tw t tw", ".OooO", id="another column now and then while one is open"),
        pytest.param("t - - - t", "....O", id="windows without rows are passed over"),
        pytest.param("- - -", "...", id="only windows without rows"),
        pytest.param("t t t t", ".Ooo", id="no second alert while one is open"),
        pytest.param("t t . .", ".OoC", id="closed after two calm ones"),
        pytest.param("t t . ~ . .", ".OoooC", id="within the limit is not calm enough"),
        pytest.param("t t . ? . .", ".OoooC", id="an unknown strength is not calm"),
        pytest.param("t t . - .", ".OooC", id="a window without rows is neither calm nor not"),
        pytest.param("t t . t . .", ".OoooC", id="beyond again while open"),
        pytest.param("t t . . t", ".OoC.", id="after the end one window is not enough"),
        pytest.param("t t . . t t", ".OoC.O", id="opened anew"),
    ],
)
def test_windows_lead_to_alerts_as_the_table_says(words: str, said: str) -> None:
    assert _walk(words) == said


def test_one_of_one_opens_and_closes_at_once() -> None:
    assert _walk("t . t", AlertRules(windows=1, of=1, close_after=1)) == "OCO"


def test_new_alert_while_one_is_open_is_about_both_and_ends_when_both_are_calm() -> None:
    state = NEW
    for at, word in enumerate(["t", "t", "w", "w"]):
        state, opened, closed = fold(state, _verdict(at, word), RULES)
    assert (opened, closed) == (True, False)
    assert (state.because, state.opened_at) == (("temp", "wind"), START + timedelta(days=3))


def _of(at: int, **strengths: float) -> WindowVerdict:
    beyond = tuple(name for name, strength in strengths.items() if strength > 1)
    strength = max(strengths.values())
    return replace(_verdict(at, "."), beyond=beyond, strength=strength, strengths=strengths)


@pytest.mark.parametrize(
    ("temp", "wind", "closed"),
    [
        pytest.param(0.1, 0.9, True, id="another column is near its limit"),
        pytest.param(0.9, 0.1, False, id="the alert's own is near its limit"),
        pytest.param(0.1, math.nan, True, id="another's strength is not known"),
    ],
)
def test_alert_closes_by_the_strength_of_what_it_is_about(temp: float, wind: float, closed: bool) -> None:
    state = NEW
    for at in range(2):
        state, _, _ = fold(state, _of(at, temp=2.0, wind=0.1), RULES)
    for at in (2, 3):
        state, _, ended = fold(state, _of(at, temp=temp, wind=wind), RULES)
    assert ended is closed


def test_another_column_beyond_once_keeps_no_alert_open_and_its_count_goes_on() -> None:
    state = NEW
    windows = [{"temp": 2.0, "wind": 0.1}] * 2 + [{"temp": 0.1, "wind": 0.1}, {"temp": 0.1, "wind": 2.0}]
    for at, strengths in enumerate(windows):
        state, _, closed = fold(state, _of(at, **strengths), RULES)
    assert closed
    state, opened, _ = fold(state, _of(4, temp=0.1, wind=2.0), RULES)
    assert (opened, state.because) == (True, ("wind",))


def test_alert_names_what_was_beyond_often_enough() -> None:
    state, _, _ = fold(NEW, _verdict(0, "t"), RULES)
    state, opened, _ = fold(state, _verdict(1, "tw"), RULES)
    assert opened
    assert state.because == ("temp",)
    assert state.opened_at == START + timedelta(days=1)


@pytest.mark.parametrize("word", [".", "t", "-"])
def test_another_version_ends_an_open_alert(word: str) -> None:
    state = NEW
    for at in range(2):
        state, _, _ = fold(state, _verdict(at, "t"), RULES)
    state, opened, closed = fold(state, _verdict(2, word, version="2"), RULES)
    assert (opened, closed, state.is_open, state.version) == (False, True, False, "2")


def test_another_version_forgets_the_windows_before() -> None:
    state, _, _ = fold(NEW, _verdict(0, "t"), RULES)
    state, opened, closed = fold(state, _verdict(1, "t", version="2"), RULES)
    assert (opened, closed) == (False, False)
    _, opened, _ = fold(state, _verdict(2, "t", version="2"), RULES)
    assert opened


def test_window_about_no_version_keeps_what_is_known() -> None:
    state, _, _ = fold(NEW, _verdict(0, "t"), RULES)
    state, _, _ = fold(state, _verdict(1, "-", version=None), RULES)
    _, opened, _ = fold(state, _verdict(2, "t"), RULES)
    assert opened


@pytest.mark.parametrize("at", [0, 1])
def test_window_that_is_not_newer_changes_nothing(at: int) -> None:
    state, _, _ = fold(NEW, _verdict(1, "t"), RULES)
    assert fold(state, _verdict(at, "t", version="2"), RULES) == (state, False, False)


def test_verdict_on_another_signal_is_an_error() -> None:
    with pytest.raises(ValueError, match="a verdict on service can't go into the state of data_drift"):
        fold(NEW, replace(_verdict(0, "t"), signal="service"), RULES)


WORDS = st.sampled_from(["t", "w", "tw", ".", "~", "-", "?"])
WINDOWS = st.lists(st.tuples(WORDS, st.sampled_from(["1", "2", None]), st.integers(-1, 3)), max_size=40)


@st.composite
def _rules(draw: st.DrawFn) -> AlertRules:
    of = draw(st.integers(1, 6))
    return AlertRules(windows=draw(st.integers(1, of)), of=of, close_after=draw(st.integers(1, 4)))


@given(WINDOWS, _rules())
def test_alerts_open_and_close_in_turn_and_survive_the_store(
    windows: list[tuple[str, str | None, int]], rules: AlertRules
) -> None:
    state, at, was_open = NEW, 0, False
    for word, version, step in windows:
        at += step
        verdict, told = _verdict(at, word, version), set(state.because)
        state, opened, closed = fold(state, verdict, rules)
        fresh = set(state.because) - (set() if closed else told)
        assert state.is_open == (opened or (was_open and not closed))
        assert not closed or was_open
        assert opened == bool(fresh)
        assert not opened or (verdict.enough and fresh <= set(verdict.beyond))
        assert bool(state.because) == state.is_open
        assert len(state.recent) <= rules.of
        assert AlarmState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
        was_open = state.is_open


@given(WINDOWS, _rules())
def test_windows_seen_again_change_nothing(windows: list[tuple[str, str | None, int]], rules: AlertRules) -> None:
    state, at, seen = NEW, 0, []
    for word, version, step in windows:
        at += abs(step) + 1
        seen.append(_verdict(at, word, version))
        state, _, _ = fold(state, seen[-1], rules)
    for verdict in seen:
        assert fold(state, verdict, rules) == (state, False, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal": ""}, "signal: is '', has to be a text"),
        ({"version": 3}, "version: is 3, has to be a text or null"),
        ({"calm": -1}, "calm: is -1, has to be a whole number"),
        ({"calm": True}, "calm: is True, has to be a whole number"),
        ({"last": "yesterday"}, "last: is 'yesterday', has to be an ISO 8601 time or null"),
        ({"opened_at": 5}, "opened_at: is 5, has to be an ISO 8601 time or null"),
        ({"recent": "temp"}, "recent: is 'temp', has to be a list of lists of texts"),
        ({"recent": [[1]]}, r"recent: holds \[1\], has to be a list of texts"),
        ({"because": None}, "because: holds None, has to be a list of texts"),
        ({"more": 1}, "an alarm's state has the fields"),
    ],
)
def test_state_that_is_none_is_refused_with_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlarmState.from_dict({**NEW.to_dict(), **change})
