"""What is on record of a model's files: it names the file at fault, and vouches for nothing by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.artifact import (
    ArtifactFile,
    check_files,
    digest_of_artifact,
    files_on_record,
    record_of,
    size_of_artifact,
)
from perennial.domain.references import ModelRef
from perennial.errors import IntegrityError

FILES = {path: ArtifactFile.of(content) for path, content in [("MLmodel", b"a"), ("code/x y.py", b"bc")]}
NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
MODEL = ModelRef(
    model_uri="models:/m-1",
    run_id="r1",
    digest=digest_of_artifact(FILES),
    fingerprint="f",
    snapshot_sha256="s",
    training_start=NOON,
    training_end=NOON.replace(hour=13),
    keys_sha256="k",
)

contents = st.dictionaries(st.text(min_size=1, max_size=9), st.binary(max_size=9), max_size=4)


@given(contents)
def test_record_is_read_back_for_its_own_digest_only(files: dict[str, bytes]) -> None:
    found = {path: ArtifactFile.of(content) for path, content in files.items()}
    record = record_of(found)
    assert "\n" not in record
    assert files_on_record(record, digest_of_artifact(found)) == found
    assert files_on_record(record, "0" * 64) is None
    assert size_of_artifact(found) == sum(map(len, files.values()))


@given(contents, contents)
def test_files_pass_exactly_if_they_are_those_that_were_recorded(
    recorded: dict[str, bytes], found: dict[str, bytes]
) -> None:
    before = {path: ArtifactFile.of(content) for path, content in recorded.items()}
    now = {path: ArtifactFile.of(content) for path, content in found.items()}
    model = replace(MODEL, digest=digest_of_artifact(before))
    check_files(model, before, record_of(before))
    if recorded == found:
        check_files(model, now, record_of(before))
        return
    with pytest.raises(IntegrityError) as caught:
        check_files(model, now, record_of(before))
    at_fault = {path for path in {*recorded, *found} if recorded.get(path) != found.get(path)}
    for path in at_fault:
        assert any(f"{path} {what}" in str(caught.value) for what in ("was changed", "is missing", "was added"))


@given(st.none() | st.text(max_size=20) | st.just(record_of({"MLmodel": ArtifactFile.of(b"other")})))
def test_intact_files_pass_whatever_became_of_the_record(record: str | None) -> None:
    check_files(MODEL, FILES, record)


@pytest.mark.parametrize("record", [None, "", "[", "[1]", '"text"', '{"MLmodel": 1}', '{"MLmodel": {"sha256": "a"}}'])
def test_changed_files_are_refused_whatever_became_of_the_record(record: str | None) -> None:
    with pytest.raises(IntegrityError, match="cannot be told"):
        check_files(MODEL, {"MLmodel": ArtifactFile.of(b"z")}, record)
