from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.alert import Alert, Fate, Outcome, one_line
from perennial.domain.fingerprint import canonical_json
from perennial.errors import RequestError
from tests.unit.core.alerting import NOW, alert_of

PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=200)


def test_alert_survives_its_way_through_the_store() -> None:
    alert = alert_of()
    assert Alert.from_dict(json.loads(canonical_json(alert.to_dict()))) == alert


@given(
    PRINTABLE, PRINTABLE, st.dictionaries(PRINTABLE, st.none() | st.booleans() | st.integers() | PRINTABLE, max_size=3)
)
def test_any_printable_alert_survives_its_way_through_the_store(alert_id: str, summary: str, evidence: Any) -> None:
    alert = alert_of(alert_id, summary=summary, evidence=evidence)
    assert Alert.from_dict(json.loads(canonical_json(alert.to_dict()))) == alert


def test_key_depends_on_model_and_id_alone() -> None:
    key = alert_of().key
    assert len(key) == 32
    assert alert_of(summary="other", source="sns", sender="other").key == key
    assert alert_of("other").key != key
    assert alert_of(model="other").key != key


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "Toy"}, "model = 'Toy'"),
        ({"model": "../toy"}, "model = '../toy'"),
        ({"model": 7}, "model = 7"),
        ({"alert_id": ""}, "id has 0 characters, allowed are 1 to 200"),
        ({"alert_id": "x" * 201}, "id has 201 characters"),
        ({"alert_id": "a\nb"}, "id has characters that cannot be printed"),
        ({"alert_id": "\ud800"}, "id has characters that cannot be printed"),
        ({"alert_id": None}, "id is NoneType, expected text"),
        ({"summary": ""}, "summary has 0 characters"),
        ({"summary": "x" * 501}, "summary has 501 characters, allowed are 1 to 500"),
        ({"summary": "a\x00b"}, "summary has characters"),
        ({"source": "pigeon"}, "source = 'pigeon' is not one of monitor, command"),
        ({"raised_at": datetime(2026, 1, 1)}, "raised_at 2026-01-01T00:00:00 has no timezone"),  # noqa: DTZ001
        ({"received_at": "now"}, "received_at is str, expected a time"),
        ({"evidence": []}, "evidence is list, expected an object"),
        ({"evidence": {"x": float("nan")}}, "evidence is not JSON"),
        ({"evidence": {"x": object()}}, "evidence is not JSON"),
        ({"evidence": {"x": "\ud800"}}, "evidence is not JSON"),
        ({"evidence": {"x": "y" * 8192}}, "evidence has 8201 bytes, at most 8192"),
    ],
)
def test_alert_that_is_not_as_described_is_refused_with_the_reason(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError) as caught:
        alert_of(**changes)
    assert told in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(RequestError, match=r"model = .*; id has .*; source ="):
        alert_of("", model="!", source="!")


def test_evidence_that_is_nested_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(RequestError, match="evidence is not JSON"):
        alert_of(evidence=deep)


def test_same_words_restate_an_alert_whenever_and_by_whichever_way_they_come() -> None:
    later = NOW + timedelta(hours=1)
    assert alert_of().restates(alert_of(raised_at=later, received_at=later, sender="other", source="queue"))
    assert not alert_of().restates(alert_of(summary="x is lower"))
    assert not alert_of().restates(alert_of(evidence={}))


@pytest.mark.parametrize("lacking", ["model", "alert_id", "source", "summary", "raised_at", "received_at"])
def test_what_is_no_alert_is_not_read_as_one(lacking: str) -> None:
    values = {name: value for name, value in alert_of().to_dict().items() if name != lacking}
    with pytest.raises(ValueError, match="not an alert"):
        Alert.from_dict(values)
    with pytest.raises(ValueError, match="not an alert"):
        Alert.from_dict({**values, lacking: 7})


def test_outcome_survives_its_way_through_the_store() -> None:
    outcome = Outcome(fate=Fate.DEFERRED, reason="later", at=NOW, until=NOW + timedelta(hours=1), rule="cooldown")
    started = replace(outcome, fate=Fate.STARTED, until=None, run_id="drift__first__0", rule="")
    for told in (outcome, started):
        assert Outcome.from_dict(json.loads(canonical_json(told.to_dict()))) == told


@pytest.mark.parametrize("changes", [{"fate": "lost"}, {"at": None}, {"until": 7}, {"reason": None, "fate": None}])
def test_what_is_no_outcome_is_not_read_as_one(changes: dict[str, Any]) -> None:
    values = Outcome(fate=Fate.REFUSED, reason="no", at=NOW).to_dict()
    with pytest.raises(ValueError, match=r"not an alert's outcome|is not a valid Fate"):
        Outcome.from_dict({**values, **changes})


def test_times_are_kept_in_utc() -> None:
    berlin = NOW.astimezone(timezone(timedelta(hours=1)))
    assert Alert.from_dict(alert_of(raised_at=berlin).to_dict()).raised_at.tzinfo is UTC


@given(st.text(max_size=2000))
def test_any_text_becomes_a_line_that_an_alert_takes(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 500
    assert not line or alert_of(summary=line).summary == line


def test_foreign_text_becomes_one_line() -> None:
    assert one_line(" a\n\tb\x00c  d ") == "a b c d"
    assert one_line("x" * 501) == "x" * 499 + "\N{HORIZONTAL ELLIPSIS}"
