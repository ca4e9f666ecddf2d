"""One suite for the registry's fake and for MLflow behind a real server: trainings, versions, aliases, notes."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion
from tests.contract.registries import Mlflow, Place, Registry, free_port, training

from perennial.adapters.mlflow_registry import _ALIAS_TIMEOUT_S, MlflowRegistry
from perennial.adapters.mlflow_tags import version_number
from perennial.domain.references import ModelRef
from perennial.errors import (
    ChampionUnusableError,
    NotFoundError,
    PerennialError,
    RegistryUnavailableError,
    TerminalError,
)
from perennial.lock import _MARGIN, CLOCK_TOLERANCE, LEASE


def test_training_of_a_fingerprint_is_found_again_with_every_field(registry: Registry, model: str) -> None:
    assert registry.find_training(model, "f" * 64) is None
    given = training(model)
    logged = registry.log_training(given)
    assert registry.find_training(model, "f" * 64) == logged
    assert registry.find_training(model, "0" * 64) is None
    assert (logged.training_start, logged.training_end) == (given.training_start, given.training_end)
    assert (logged.keys_sha256, logged.snapshot_sha256) == (given.keys_sha256, given.dataset_sha256)


def test_opened_model_predicts_as_the_fitted_one_and_has_its_example_and_size(place: Place, model: str) -> None:
    given = training(model)
    logged = place.registry.log_training(given)
    opened = place.registry.open_model(logged)
    np.testing.assert_array_equal(opened.estimator.predict_proba(given.input_example), given.output_example)
    pd.testing.assert_frame_equal(opened.input_example, given.input_example)
    assert opened.size_bytes == sum(len(content) for content in place.files(logged.model_uri).values())
    loaded = place.registry.load(logged)
    np.testing.assert_array_equal(loaded.predict_proba(opened.input_example), given.output_example)


def test_example_with_texts_times_and_missing_whole_numbers_is_read_back(registry: Registry, model: str) -> None:
    example = pd.DataFrame(
        {
            "carrier": ["AA", None, "UA"],
            "seats": pd.Series([150, None, 90], dtype="Int64"),
            "departure": pd.to_datetime(["2013-03-01T10:00:00Z"] * 3, utc=True),
        }
    )
    logged = registry.log_training(replace(training(model), input_example=example))
    found = registry.open_model(logged).input_example
    assert list(found.columns) == list(example.columns)
    assert found["carrier"].isna().tolist() == [False, True, False]
    assert found["seats"].astype("Int64").equals(example["seats"])
    assert (pd.to_datetime(found["departure"], utc=True) == example["departure"]).all()


def test_registering_one_digest_twice_gives_one_version(registry: Registry, model: str) -> None:
    first = registry.log_training(training(model))
    second = registry.log_training(training(model, fingerprint="e" * 64, seed=1))
    assert registry.register(model, first, {}) == "1"
    assert registry.register(model, second, {}) == "2"
    assert registry.register(model, first, {}) == "1"


def test_one_digest_registered_by_many_at_once_is_one_version_to_all_of_them(registry: Registry, model: str) -> None:
    logged = registry.log_training(training(model))
    barrier = threading.Barrier(4)

    def register(number: int) -> str:
        barrier.wait()
        return str(registry.register(model, logged, {}, description=f"by {number}"))

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(register, range(4)))
    # MLflow may hold a version too many; nobody is told of it.
    assert told == ["1"] * 4
    assert registry.register(model, logged, {}) == "1"
    assert all(tags["perennial.digest"] == logged.digest for tags in registry.version_tags(model).values())


def test_description_is_kept_unless_it_was_empty(place: Place, model: str) -> None:
    logged = place.registry.log_training(training(model))
    assert place.registry.register(model, logged, {}) == "1"
    assert place.description(model, "1") == ""
    place.registry.register(model, logged, {}, description="# A card")
    assert place.description(model, "1") == "# A card"
    place.registry.register(model, logged, {}, description="# Another")
    assert place.description(model, "1") == "# A card"
    other = place.registry.log_training(training(model, fingerprint="e" * 64, seed=1))
    place.registry.register(model, other, {}, description="# The other's")
    assert place.description(model, "2") == "# The other's"


def test_champion_is_none_until_the_alias_points_somewhere(registry: Registry, model: str) -> None:
    assert registry.champion(model) is None
    assert registry.champion_version(model) is None
    logged: ModelRef = registry.log_training(training(model))
    version = registry.register(model, logged, {"perennial.decision_uri": "s3://bucket/decision.json"})
    assert registry.champion(model) is None
    registry.point_alias(model, "champion", version)
    champion = registry.champion(model)
    assert (champion.name, champion.version, champion.model) == (model, version, logged)
    assert registry.version(model, version) == champion
    assert registry.champion_version(model) == version


@pytest.mark.parametrize("version", ["2", "three", ""])
def test_version_that_does_not_exist_is_not_found(registry: Registry, model: str, version: str) -> None:
    with pytest.raises(NotFoundError, match=model):
        registry.version(model, version)
    registry.register(model, registry.log_training(training(model)), {})
    with pytest.raises(NotFoundError, match=model):
        registry.version(model, version)
    with pytest.raises(NotFoundError, match=model):
        registry.tag_version(model, version, {"a": "b"})
    with pytest.raises(NotFoundError, match=model):
        registry.point_alias(model, "champion", version)


def test_version_registered_by_hand_is_told_as_unusable(place: Place, model: str) -> None:
    registry = place.registry
    registry.point_alias(model, "champion", place.register_by_hand(model))
    assert registry.champion_version(model) == "1"
    with pytest.raises(ChampionUnusableError, match="Perennial did not register it"):
        registry.champion(model)
    with pytest.raises(ChampionUnusableError, match=r"version 1 of .* cannot be used"):
        registry.version(model, "1")


def test_tags_of_all_versions_are_told_by_version(place: Place, model: str) -> None:
    registry = place.registry
    assert registry.version_tags(model) == {}
    logged = registry.log_training(training(model))
    registry.register(model, logged, {"perennial.decision_uri": "s3://bucket/decision.json"})
    place.register_by_hand(model)
    registry.tag_version(model, "2", {"perennial.note": "odd", "team": "ops"})
    registry.tag_version(model, "2", {"perennial.note": "odd"})
    registry.tag_version(model, "2", {"team": None, "was.never.there": None})
    assert "team" not in registry.version_tags(model)["2"]
    registry.tag_version(model, "2", {"team": "ops"})
    tags = registry.version_tags(model)
    assert list(tags) == ["1", "2"]
    assert tags["1"]["perennial.digest"] == logged.digest
    assert tags["1"]["perennial.decision_uri"] == "s3://bucket/decision.json"
    assert tags["2"] == {"perennial.note": "odd", "team": "ops"}


def test_run_url_and_annotations_are_accepted_for_a_finished_run(registry: Registry, model: str) -> None:
    logged = registry.log_training(training(model))
    registry.annotate(logged.run_id, metrics={"holdout_roc_auc": 0.7}, tags={"perennial.verdict": "PROMOTE"})
    registry.annotate(logged.run_id, metrics={"holdout_roc_auc": 0.7}, tags={"perennial.verdict": "PROMOTE"})
    assert logged.run_id in registry.run_url(logged.run_id)


def test_text_of_a_run_is_replaced_and_leaves_its_model_as_it_was(place: Place, model: str) -> None:
    logged = place.registry.log_training(training(model))
    for text in ("# Första\n", "# Zweite ±\n"):
        place.registry.log_text(logged.run_id, "perennial/card.md", text)
    assert place.text(logged.run_id, "perennial/card.md") == "# Zweite ±\n"
    assert place.registry.open_model(logged).size_bytes > 0


def test_type_that_nobody_vouched_for_is_refused_by_name(mlflow_place: Mlflow, model: str) -> None:
    given = training(model)
    given.estimator.note = _Stranger()
    with pytest.raises(TerminalError, match=r"_Stranger.*trusted_types"):
        mlflow_place.registry.log_training(given)


class _Stranger:
    """A type outside the libraries that skops has never heard of."""


def test_training_that_cannot_be_logged_leaves_a_failed_run(mlflow_place: Mlflow, model: str) -> None:
    given = training(model)
    given.estimator.note = _Stranger()
    with pytest.raises(TerminalError):
        mlflow_place.registry.log_training(given)
    experiment = mlflow_place.client.get_experiment_by_name(f"perennial/{model}")
    assert experiment is not None
    runs = mlflow_place.client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FAILED"]


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        ("perennial.training_end", "last Tuesday", "perennial.training_end is 'last Tuesday', not a time"),
        ("perennial.training_start", "2013-13-01T00:00:00Z", "perennial.training_start is '2013-13-01"),
        ("perennial.digest", "", "no tag perennial.digest"),
        ("perennial.keys_sha256", None, "no tag perennial.keys_sha256"),
    ],
)
def test_damaged_tag_of_a_version_is_told_with_version_tag_and_way_out(
    mlflow_place: Mlflow, model: str, tag: str, value: str | None, told: str
) -> None:
    registry, client = mlflow_place.registry, mlflow_place.client
    registry.point_alias(model, "champion", registry.register(model, registry.log_training(training(model)), {}))
    if value is None:
        client.delete_model_version_tag(model, "1", tag)
    else:
        client.set_model_version_tag(model, "1", tag, value)
    for ask in (lambda: registry.champion(model), lambda: registry.version(model, "1")):
        told_all = f"version 1 of {model}.*{told}.*perennial rollback {model} --to"
        with pytest.raises(ChampionUnusableError, match=told_all):
            ask()
    assert registry.champion_version(model) == "1"


def test_run_with_a_damaged_tag_is_passed_over_and_the_next_one_found(mlflow_place: Mlflow, model: str) -> None:
    first, second = (mlflow_place.registry.log_training(training(model)) for _ in range(2))
    assert mlflow_place.registry.find_training(model, "f" * 64) == first
    mlflow_place.client.set_tag(first.run_id, "perennial.training_end", "?")
    assert mlflow_place.registry.find_training(model, "f" * 64) == second
    mlflow_place.client.delete_tag(second.run_id, "perennial.keys_sha256")
    assert mlflow_place.registry.find_training(model, "f" * 64) is None


@pytest.mark.parametrize("number", ["", "two", "-1", "1.5", "\u0663"])
def test_version_that_is_no_number_is_told_with_model_and_value(number: str) -> None:
    with pytest.raises(TerminalError, match="MLflow says that churn has a version"):
        version_number(ModelVersion(name="churn", version=number, creation_timestamp=0))


def test_server_that_is_down_is_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailableError, match=r"did not answer|could not"):
        MlflowRegistry(f"http://127.0.0.1:{free_port()}").champion("anything")


@contextmanager
def _server_that_says(body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_monitoring_of_a_month_is_one_run_and_the_same_point_twice_is_one(place: Place, model: str) -> None:
    registry, november = place.registry, datetime(2026, 11, 30, 23, tzinfo=UTC)
    metrics = {"service/error_rate": 0.125, "data_drift/temp": 1.5}
    first = registry.log_monitoring(model, at=november, step=7, metrics=metrics)
    assert registry.log_monitoring(model, at=november, step=7, metrics=metrics) == first
    assert registry.log_monitoring(model, at=november + timedelta(minutes=30), step=8, metrics={"rows": 5.0}) == first
    second = registry.log_monitoring(model, at=november + timedelta(hours=1), step=9, metrics={"rows": 6.0})
    assert second != first
    assert place.monitored(model) == {
        f"monitoring {model} 2026-11": {**{name: [(7, value)] for name, value in metrics.items()}, "rows": [(8, 5.0)]},
        f"monitoring {model} 2026-12": {"rows": [(9, 6.0)]},
    }


def test_monitoring_beyond_what_one_request_takes_is_logged_whole(place: Place, model: str) -> None:
    metrics = {f"data_drift/column {number}": float(number) for number in range(1100)}
    place.registry.log_monitoring(model, at=datetime(2026, 11, 1, tzinfo=UTC), step=1, metrics=metrics)
    (found,) = place.monitored(model).values()
    assert len(found) == 1100


def test_monitoring_run_is_no_training(registry: Registry, model: str) -> None:
    registry.log_monitoring(model, at=datetime(2026, 11, 1, tzinfo=UTC), step=1, metrics={"rows": 1.0})
    assert registry.find_training(model, "f" * 64) is None


@contextmanager
def _server_that_counts(status: int | None) -> Iterator[tuple[str, list[str]]]:
    """A server that answers so, or (None) not at all; and what it was asked."""
    asked: list[str] = []
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(f"{self.path} {self.rfile.read(int(self.headers['Content-Length'])).decode()}")
            if status is None:
                over.wait(60)
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            over.set()
            server.shutdown()


def test_request_that_moves_the_alias_ends_before_others_take_its_holder_for_dead() -> None:
    left = LEASE * _MARGIN + CLOCK_TOLERANCE  # right after a look at the lease
    assert timedelta(seconds=2 * _ALIAS_TIMEOUT_S) <= left  # the connection, then the answer


@pytest.mark.parametrize("status", [503, None], ids=["unavailable", "no-answer"])
def test_alias_is_asked_for_once_and_not_for_long(status: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perennial.adapters.mlflow_registry._ALIAS_TIMEOUT_S", 0.5)
    with (
        _server_that_counts(status) as (url, asked),
        pytest.raises(RegistryUnavailableError, match="could not move the alias champion of churn"),
    ):
        MlflowRegistry(url).point_alias("churn", "champion", "2")
    assert len(asked) == 1
    assert '"version": "2"' in asked[0]


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"[]", b'{"model_version": 7}', b'{"model_version"'])
def test_answer_that_is_none_of_mlflows_is_an_error_that_says_what_was_asked(body: bytes) -> None:
    with _server_that_says(body) as url, pytest.raises(PerennialError, match="could not look up the champion of m"):
        MlflowRegistry(url).champion("m")


def test_credentials_in_the_servers_address_reach_neither_links_nor_errors(mlflow_place: Mlflow, model: str) -> None:
    registry = MlflowRegistry(mlflow_place.url.replace("://", "://joe:hunter2@"))
    logged = registry.log_training(training(model))
    assert "hunter2" not in registry.run_url(logged.run_id)
    with pytest.raises(Exception, match="could not") as caught:
        registry.run_url("0" * 32)
    assert "hunter2" not in str(caught.value)
