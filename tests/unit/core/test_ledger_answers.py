"""What was champion at a time, from entries alone."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perennial.domain.ledger_entry import LedgerEntry
from perennial.ledger_answers import ChampionAt, champion_at, quarantined_versions, why_no_champion

CLOCK = datetime(2026, 1, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)


def an_entry(
    kind: str, run: str, before: str | None, after: str | None, *, as_of: str, hours: float, **facts: Any
) -> LedgerEntry:
    return LedgerEntry(
        kind=kind,
        model="toy",
        recorded_at=CLOCK + hours * HOUR,
        request={"run_id": run, "as_of": as_of, "requested_by": facts.pop("requested_by", "")},
        evidence_sha256=f"{kind}-{run}",
        summary=f"{kind} of {run}",
        champion_before=before,
        champion_after=after,
        **facts,
    )


def a_promotion(run: str, before: str | None, after: str, *, as_of: str, hours: float) -> list[LedgerEntry]:
    references = {
        "snapshot": {"uri": f"s3://b/{run}.json", "sha256": f"data-{run}"},
        "model": {"digest": f"digest-{after}", "snapshot_sha256": f"data-{run}", "training_end": as_of},
        "decision": {"uri": f"s3://b/{run}/decision.json"},
    }
    shared: dict[str, Any] = {"as_of": as_of, "page_uri": f"s3://b/{run}/page.html", "references": references}
    return [
        an_entry("decision", run, before, before, hours=hours, verdict="PROMOTE", **shared),
        an_entry("approval", run, before, before, as_of=as_of, hours=hours + 0.1, approved=True, actor="grace"),
        an_entry("promotion", run, before, after, hours=hours + 0.2, digest=f"digest-{after}", **shared),
    ]


LEDGER = [
    *a_promotion("r1", None, "1", as_of="2013-04-01T06:00:00Z", hours=0),
    an_entry("decision", "r2", "1", "1", as_of="2013-05-01T06:00:00Z", hours=1, verdict="REJECT"),
    *a_promotion("r3", "1", "2", as_of="2013-06-01T06:00:00Z", hours=2),
    an_entry(
        "rollback",
        "back",
        "2",
        "1",
        as_of="2026-01-01T13:00:00Z",
        hours=3,
        actor="ada",
        digest="digest-1",
        references={"model": {"digest": "digest-1", "snapshot_sha256": "data-r1"}},
    ),
    an_entry("outside", "outside__x", "1", "7", as_of="2026-01-01T14:00:00Z", hours=4),
]


def ask(at: datetime | str, entries: list[LedgerEntry] = LEDGER) -> ChampionAt:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC) if isinstance(at, str) else at
    return champion_at("toy", entries, moment)


@pytest.mark.parametrize(
    ("hours", "version", "how"),
    [
        (0.19, None, None),
        (0.2, "1", "promotion"),
        (2.1, "1", "promotion"),
        (2.2, "2", "promotion"),
        (3, "1", "rollback"),
        (4, "7", "outside"),
        (1000, "7", "outside"),
    ],
)
def test_time_within_the_ledger_is_answered_by_the_clock(hours: float, version: str | None, how: str | None) -> None:
    answer = ask(CLOCK + hours * HOUR)
    told = answer.to_dict()
    assert (answer.by, answer.version, told["how"]) == ("recorded_at", version, how)


@pytest.mark.parametrize(
    ("at", "version"),
    [("2013-04-01T06:00:00", "1"), ("2013-05-31", "1"), ("2013-06-01T06:00:00", "2"), ("2025-12-31", "2")],
)
def test_time_before_the_ledger_is_answered_by_the_data_of_the_runs(at: str, version: str) -> None:
    answer = ask(at)
    assert (answer.by, answer.version) == ("data", version)
    assert "is before the ledger's first entry" in answer.sentence
    assert f"version {version}, judged on data up to 2013-" in answer.sentence
    assert answer.since is not None
    assert answer.since.year == 2013


def test_run_without_as_of_in_a_replay_stood_at_its_data() -> None:
    """The landing sensor's runs stand at now, and see last summer's data."""
    snapshot = {"snapshot": {"watermark": "2013-07-01T04:00:00Z", "uri": "s3://b/x", "sha256": "data"}}
    by_sensor = an_entry(
        "promotion", "r4", "2", "3", as_of="2026-01-01T12:30:00Z", hours=2.5, digest="digest-3", references=snapshot
    )
    entries = [*LEDGER[:-2], by_sensor]
    assert ask("2013-07-04", entries).version == "3"
    assert ask("2013-06-30", entries).version == "2"


def test_time_before_everything_has_no_champion_and_says_so() -> None:
    for answer in (ask("2013-03-31"), ask("2013-03-31", [])):
        assert (answer.by, answer.version) == ("recorded_at", None)
        assert answer.sentence == "The ledger knows no champion of toy at 2013-03-31T00:00:00Z."
        assert answer.to_dict()["version"] is None


def test_answer_names_data_decision_and_approver() -> None:
    told = ask(CLOCK + 2.5 * HOUR).to_dict()
    assert json.loads(json.dumps(told)) == told
    expected = {
        "since": "2026-01-01T12:12:00Z",
        "as_of": "2013-06-01T06:00:00Z",
        "recorded_at": "2026-01-01T12:12:00Z",
        "data_up_to": "2013-06-01T06:00:00Z",
        "snapshot_sha256": "data-r3",
        "snapshot_uri": "s3://b/r3.json",
        "digest": "digest-2",
        "verdict": "PROMOTE",
        "decision": "decision of r3",
        "decision_uri": "s3://b/r3/decision.json",
        "page_uri": "s3://b/r3/page.html",
        "approver": "grace",
        "why": "promotion of r3",
    }
    assert {name: told[name] for name in expected} == expected


def test_version_that_was_put_back_is_told_with_its_own_first_decision() -> None:
    told = ask(CLOCK + 3.5 * HOUR).to_dict()
    assert (told["version"], told["how"], told["moved_by"]) == ("1", "rollback", "ada")
    assert (told["snapshot_sha256"], told["snapshot_uri"]) == ("data-r1", "s3://b/r1.json")
    assert (told["decision"], told["approver"]) == ("decision of r1", "grace")


def test_version_that_perennial_never_promoted_has_no_decision() -> None:
    told = ask(CLOCK + 5 * HOUR).to_dict()
    assert (told["version"], told["how"]) == ("7", "outside")
    assert [told[name] for name in ("verdict", "decision", "approver", "snapshot_sha256", "digest")] == [None] * 5


def test_same_number_with_other_bytes_is_not_taken_for_the_promoted_version() -> None:
    """A deleted registry counts its versions anew."""
    moved = an_entry("outside", "o", "7", "2", as_of="2026-01-02T00:00:00Z", hours=20, digest="other")
    told = ask(CLOCK + 21 * HOUR, [*LEDGER, moved]).to_dict()
    assert (told["version"], told["digest"], told["verdict"]) == ("2", "other", None)


def test_alias_that_was_taken_away_leaves_no_champion() -> None:
    gone = an_entry("outside", "o", "7", None, as_of="2026-01-02T00:00:00Z", hours=20)
    assert ask(CLOCK + 21 * HOUR, [*LEDGER, gone]).version is None


def test_declined_approval_is_no_approver() -> None:
    first, no, *rest = a_promotion("r1", None, "1", as_of="2013-04-01T06:00:00Z", hours=0)
    declined = an_entry(
        "approval", "r1", None, None, as_of="2013-04-01T06:00:00Z", hours=0.05, approved=False, actor="x"
    )
    assert ask(CLOCK + HOUR, [first, declined, no, *rest]).to_dict()["approver"] == "grace"
    assert ask(CLOCK + HOUR, [first, declined, *rest]).to_dict()["approver"] is None


def test_model_without_moves_has_no_champion_yet() -> None:
    assert why_no_champion("toy", []) == "toy has no champion yet: no run has promoted one; perennial run toy runs it."
    refused = an_entry("refused", "r0", None, None, as_of="2013-04-01T06:00:00Z", hours=0)
    assert "perennial history toy tells what its runs came to" in why_no_champion("toy", [refused])


def test_alias_that_was_taken_away_is_told_with_when_and_the_way_out() -> None:
    unseen = why_no_champion("toy", LEDGER)
    gone = an_entry("outside", "o", "7", None, as_of="2026-01-02T00:00:00Z", hours=20)
    seen = why_no_champion("toy", [*LEDGER, gone])
    assert "found just now" in unseen
    assert "found and recorded at 2026-01-02T06:00:00Z" in seen
    for said in (unseen, seen):
        assert "It named version 7, since 2026-01-01T14:00:00Z." in said
        assert said.endswith("perennial rollback toy --to 7")


def test_versions_in_quarantine_are_named_until_they_are_put_back() -> None:
    back = an_entry(
        "rollback", "b1", "2", "1", as_of="2026-01-01T13:00:00Z", hours=3, digest="one", quarantined={"two": "Why."}
    )
    again = an_entry("rollback", "b2", "1", "2", as_of="2026-01-01T14:00:00Z", hours=4, digest="two", quarantined={})
    assert quarantined_versions(LEDGER) == {}
    assert quarantined_versions([*LEDGER[:-2], back]) == {"2": "Why."}
    assert quarantined_versions([*LEDGER[:-2], back, again]) == {}


def test_challenger_in_quarantine_is_named_by_its_own_version() -> None:
    reference = {"rollout": {"phase": "canary", "version": "3"}}
    ended = an_entry(
        "rollout", "r4", "2", "2", as_of="2026-01-01T13:00:00Z", hours=3, quarantined={"three": "Why."}, approved=False
    )
    ended = replace(ended, references=reference)
    assert quarantined_versions([*LEDGER[:-2], ended]) == {"3": "Why."}


def test_rollouts_that_led_to_a_promotion_are_told_with_it() -> None:
    decision, approval, promotion = a_promotion("r1", None, "1", as_of="2013-04-01T06:00:00Z", hours=0)
    ends = [
        replace(
            an_entry("rollout", run, None, None, as_of="2013-04-01T06:00:00Z", hours=0.15, approved=approved),
            references={"rollout": {"phase": phase, "version": "1"}},
        )
        for run, phase, approved in (("r1", "shadow", True), ("r1", "canary", True), ("r0", "canary", True))
    ]
    found = champion_at("toy", [decision, approval, *ends, promotion], CLOCK + HOUR)
    told = found.to_dict()["rollouts"]
    assert [rollout["phase"] for rollout in told] == ["shadow", "canary"]
    assert told[0]["summary"] == "rollout of r1"
