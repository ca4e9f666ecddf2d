"""What is taken as JSON."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.domain.fingerprint import canonical_json
from perennial_airflow.webhook.bodies import MAX_DEPTH, parse_json
from perennial_airflow.webhook.signals import BadMessageError, cleaned, first_line, fitted, joined_id, time_or_none

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b'"\xc3"',
        "{}".encode("utf-16"),
        b"{",
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b"[" + b"9" * 5000 + b"]",
        b'{"rows": 100000000000000000000}',
        b"[9223372036854775808]",
        b"[-9223372036854775809]",
        b'["\\ud800"]',
        b'{"\\udfff": 1}',
        b'["a\\u0000"]',
        b'{"a\\u0000": 1}',
        b"[" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    ],
)
def test_what_no_store_keeps_is_refused(body: bytes) -> None:
    with pytest.raises(BadMessageError):
        parse_json(body)


def test_integers_of_64_bits_are_taken() -> None:
    assert parse_json(b"[9223372036854775807, -9223372036854775808]") == [2**63 - 1, -(2**63)]


def test_depth_up_to_the_limit_is_taken() -> None:
    body = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(parse_json(body)).encode() == body


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_bytes_are_json_that_can_be_kept_or_are_refused(body: bytes) -> None:
    try:
        value = parse_json(body)
    except BadMessageError:
        return
    assert json.loads(canonical_json(value)) == value
    msgspec.msgpack.encode(value)  # as a run's tasks are told of it


def test_evidence_is_cut_down_to_what_the_ledger_keeps_largest_parts_first() -> None:
    kept = fitted({"empty": "", "small": 1, "large": "x" * 9000, "medium": "x"})
    assert kept == {"small": 1, "left_out": True, "medium": "x"}


def test_passwords_in_addresses_are_taken_out_wherever_they_are() -> None:
    assert cleaned({"a": ["see https://u:p@host/", {"b": ("x://u:p@h",)}], "http://u:p@k": 1}) == {
        "a": ["see https://host/", {"b": ["x://h"]}],
        "http://k": 1,
    }
    assert "secret" not in first_line("x" * 485 + " http://u:secret" + "t" * 40 + "@host/")


def test_id_too_long_or_unprintable_becomes_its_digest() -> None:
    assert joined_id("a", "b") == "a:b"
    assert joined_id("a" * 200, "b").startswith("sha256:")
    assert joined_id("a\n").startswith("sha256:")
    assert joined_id("a" * 200, "b") != joined_id("a" * 200, "c")
    assert joined_id("urn:a", "b:1") != joined_id("urn:a:b", "1")
    assert joined_id("urn%3Aa", "1") != joined_id("urn:a", "1")
    assert joined_id("http://u:secret@host/", "1").startswith("sha256:")
    assert joined_id("a\n:b") != joined_id("a\n", "b")


@pytest.mark.parametrize("value", [None, 7, "", "soon", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
def test_time_that_says_nothing_is_none(value: object) -> None:
    assert time_or_none(value) is None
