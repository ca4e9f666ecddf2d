"""What the story tells of canaries, and of the requests that are sent while it is told."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from tests.unit.demo import test_story
from tests.unit.demo.test_story import NOW, ROOT, Told, a_run

from perennial_demo.chapters import CHAPTERS, FIRST_MONTH, FLIGHTS, Chapter
from perennial_demo.errors import DemoError
from perennial_demo.traffic import Tally

told = test_story.told
"""The fixture."""


def test_run_whose_challenger_was_taken_back_shows_why_and_where_the_page_is(told: Told) -> None:
    def end() -> str:
        for kind, changes in (
            ("decision", {"verdict": "PROMOTE", "summary": "better by 0.05"}),
            (
                "rollout",
                {
                    "approved": False,
                    "summary": "Version 2 was taken back from its canary at 50 %: too far apart.",
                    "page_uri": f"{ROOT}/rollouts/{FLIGHTS}/abc/page.html",
                    "references": {"rollout": {"phase": "canary"}},
                },
            ),
        ):
            told.teller.runtime.ledger.append(test_story.an_entry(run_id, kind, **changes))
        return "success"

    run_id = f"manual__{NOW.isoformat()}"
    told.airflow.on_end[run_id] = end
    told.teller.tell(Chapter(title="Bad", model=FLIGHTS, land=lambda _: None, as_of=NOW))
    unwrapped = " ".join(told.output.split())
    assert "PROMOTE champion v1" in unwrapped
    assert "better by 0.05" in unwrapped
    assert "canary taken back Version 2 was taken back from its canary at 50 %: too far apart." in unwrapped
    page = f"http://airflow/perennial/ui/perennial__{FLIGHTS}__retrain/rollouts/abc/page.html"
    assert page in told.output.replace("\n", "")


def test_parameters_of_a_chapter_reach_the_run(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def trigger(_dag_id: str, *, conf: dict[str, Any]) -> Any:
        given.append(conf)
        raise DemoError("enough")

    monkeypatch.setattr(told.airflow, "trigger", trigger)
    for params in ({"learning_rate": 0.002}, {}):
        with pytest.raises(DemoError):
            told.teller.tell(Chapter(title="x", model=FLIGHTS, land=lambda _: None, as_of=NOW, params=params))
    assert [conf.get("params") for conf in given] == [{"learning_rate": 0.002}, None]


def test_requests_are_told_by_version_and_role(told: Told) -> None:
    tally = Tally(answers={("1", "champion"): 1500, ("2", "canary"): 200}, labels=340)
    told.teller.show_traffic(tally)
    assert "1,700 for flights of the weeks to come; 340 outcomes told; 0 failed" in told.output
    assert "1,500 answered by version 1 as champion" in told.output
    assert "200 answered by version 2 as canary" in told.output


@pytest.mark.parametrize(
    ("tally", "why"),
    [
        (Tally(answers={("1", "champion"): 1500}, failures={"POST /x: 503 draining": 1}), "1 x POST /x: 503 draining"),
        (Tally(), "none was answered"),
    ],
)
def test_request_that_failed_and_a_service_that_answered_nothing_fail_the_demo(
    told: Told, tally: Tally, why: str
) -> None:
    told.teller.stack.scoring_url = "http://scoring"  # type: ignore[misc]
    told.teller.stack.home.logs = told.teller.cache  # type: ignore[misc]
    with pytest.raises(DemoError, match=why):
        told.teller.show_traffic(tally)


def test_requests_are_sent_only_where_the_specs_deploy_the_model_to_the_service(told: Told) -> None:
    stack: Any = told.teller.stack
    stack.scoring_url = "http://scoring"
    assert told.teller.traffic() is not None
    stack.scoring_url = None
    assert told.teller.traffic() is None


def test_flights_that_requests_are_about_have_not_landed_yet(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [date.min]
    monkeypatch.setattr("flights.publisher.publish", lambda _first, end, *, cache: ends.append(end))
    monkeypatch.setattr("flights.publisher.publish_corrupted", lambda *_a, **_k: None)
    month, asked = FIRST_MONTH, set()
    for chapter in CHAPTERS:
        if chapter.model == FLIGHTS:
            month = chapter.live or month
            chapter.land(told.teller)
            assert max(ends) <= month, chapter.title
            asked.add(month)
    assert len(asked) == 6


def test_run_that_is_over_is_told_without_a_canary(told: Told) -> None:
    told.airflow.add(a_run("asset_triggered__1", "running"))
    told.ends("asset_triggered__1")
    told.teller.tell(told.sensor_chapter())
    assert "canary" not in told.output


def test_chapter_of_the_alert_is_left_out_where_nobody_sends_requests(told: Told) -> None:
    [chapter] = [chapter for chapter in CHAPTERS if chapter.by_alert]
    told.teller.tell(chapter)
    assert "there are no requests to look at" in told.output
    assert told.airflow.waited_for == []
