"""The smoke test's stage: what is asked, what is compared, what is published, and what another try does."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perennial.domain.references import EvaluationRef, SmokeTestRef
from perennial.domain.smoke_test import Fault
from perennial.errors import IntegrityError, SmokeTestError, SpecError
from perennial.ports import SmokeOutcome, SmokeTrial
from perennial.spec.model import ModelSpec
from perennial.stages.smoke_test import smoke_test_in_clean_process
from perennial.testing.smoke import InProcessSmokeTester
from tests.unit.core.deciding import Judging
from tests.unit.core.judging import ROOT, SPEC, Classes, Column, Predicting

DEPLOYED = {**SPEC, "deployment": {"kind": "scoring_service", "smoke_test": {"rows": 20}}}


class OfItsBatch(Column):
    """Its scores depend on how many rows it is given."""

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        score = frame[self.name].to_numpy(dtype=float) / (1 + len(frame) / 10_000)
        return np.column_stack([1 - score, score])


class Changed(InProcessSmokeTester):
    """Its answers are changed on the way."""

    def __init__(self, registry: Any, change: Any) -> None:
        super().__init__(registry)
        self._change = change

    def score(self, trial: SmokeTrial) -> SmokeOutcome:
        outcome = super().score(trial)
        assert outcome.predictions is not None, outcome.problem
        return replace(outcome, predictions=self._change(list(outcome.predictions)))


class Trying(Judging):
    """A bench whose challenger can be tried out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.spec = ModelSpec.model_validate(DEPLOYED)
        self.tester = InProcessSmokeTester(self.registry)

    def judge(self, challenger: Any = None) -> None:
        self.evaluation = self.evaluate(challenger or Column("good"))
        self.decision = self.decide(self.evaluation)

    def smoke_test(self, **changes: Any) -> SmokeTestRef:
        assert self.judged is not None
        snapshot, model = self.judged
        given: dict[str, Any] = {"evaluation": self.evaluation, "decision": self.decision, "tester": self.tester}
        return smoke_test_in_clean_process(
            changes.pop("spec", self.spec),
            changes.pop("request", self.request),
            snapshot=snapshot,
            model=model,
            store=self.store,
            root=ROOT,
            registry=self.registry,
            clock=self.clock,
            **{**given, **changes},
        )

    def reports(self) -> list[dict[str, Any]]:
        uris = sorted((item.uri for item in self.store.list(f"{ROOT}/smoke_tests/")), key=lambda uri: (len(uri), uri))
        return [json.loads(self.store.read(uri)) for uri in uris]


@pytest.fixture
def bench(tmp_path: Path) -> Trying:
    bench = Trying(tmp_path)
    bench.judge()
    return bench


def test_sound_challenger_passes_and_its_report_says_with_what(bench: Trying) -> None:
    reference = bench.smoke_test()
    assert (reference.passed, reference.rows, reference.digest) == (True, 20, bench.judged[1].digest)  # type: ignore[index]
    (report,) = bench.reports()
    assert report["passed"] is True
    assert report["largest_difference"] == 0.0
    assert report["limits"] == {"rows": 20, "tolerance": 1e-9, "timeout": "5m", "max_memory_mib": 4096}
    assert report["decision"] == bench.decision.uri
    assert SmokeTestRef.from_dict(reference.to_dict()) == reference


def test_rows_are_spread_over_the_holdout_and_limits_are_handed_on(bench: Trying) -> None:
    bench.smoke_test()
    (trial,) = bench.tester.trials
    sent = json.loads(trial.body)["dataframe_split"]
    assert sent["columns"] == ["good", "poor"]
    assert len(sent["data"]) == 20
    scores = pq.read_table(io.BytesIO(bench.store.read(bench.evaluation.scores_uri)))["challenger_score"].to_pylist()
    assert (sent["data"][0][0], sent["data"][-1][0]) == (scores[0], scores[-1])
    assert (trial.timeout_s, trial.max_memory_bytes) == (300.0, 4096 * 2**20)


def test_test_that_passed_is_not_made_again_by_the_same_run(bench: Trying) -> None:
    first = bench.smoke_test()
    assert bench.smoke_test() == first
    assert len(bench.tester.trials) == 1
    bench.smoke_test(request=replace(bench.request, run_id="manual__2"))
    assert len(bench.tester.trials) == 2


def test_scores_that_depend_on_the_batch_fail_with_both_figures_and_the_row(tmp_path: Path) -> None:
    bench = Trying(tmp_path)
    bench.judge(OfItsBatch("good"))
    with pytest.raises(SmokeTestError) as failed:
        bench.smoke_test()
    (report,) = bench.reports()
    assert report["fault"] == "scores"
    assert report["largest_difference"] > 1e-3
    message = str(failed.value)
    assert message.startswith(
        "flights_delay: the challenger models:/m-1 does not pass the smoke test (scores): 20 of 20"
    )
    assert "limit 1e-09" in message
    assert "evaluate had" in message
    assert "Nothing was moved. Its scores depend on something that is not part of it" in message
    assert f"{ROOT}/smoke_tests/flights_delay/" in message


@pytest.mark.parametrize("by", [1e-10, 1e-8])
def test_difference_counts_from_the_tolerance_on(bench: Trying, by: float) -> None:
    tester = Changed(bench.registry, lambda given: [[given[0][0], given[0][1] + by], *given[1:]])
    if by < 1e-9:
        assert bench.smoke_test(tester=tester).passed
    else:
        with pytest.raises(SmokeTestError, match=r"1 of 20 holdout rows score otherwise"):
            bench.smoke_test(tester=tester)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: [[None, None], *given[1:]], r"1 of 20 holdout rows.*\[None, None\]"),
        (lambda given: given[1:], r"have the shape \(19, 1\), evaluate's scores \(20, 1\)"),
        (lambda given: [[*row, 0.0] for row in given], r"have the shape \(20, 3\)"),
        (lambda given: [["a", "b"] for _ in given], "cannot be compared"),
        (lambda given: [row[:1] for row in given], "20 of 20 holdout rows"),
    ],
)
def test_answers_that_are_no_scores_fail(bench: Trying, change: Any, words: str) -> None:
    with pytest.raises(SmokeTestError, match=words):
        bench.smoke_test(tester=Changed(bench.registry, change))


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.INTEGRITY])
def test_fault_of_the_machine_is_tried_again_and_one_of_the_model_stands(bench: Trying, fault: Fault) -> None:
    bench.tester.fault = fault
    with pytest.raises(SmokeTestError, match=rf"smoke test \({fault}\): a {fault}, as the test wants it\. Nothing"):
        bench.smoke_test()
    bench.tester.fault = None
    if fault.stands:
        with pytest.raises(SmokeTestError, match=rf"\({fault}\)"):
            bench.smoke_test()
        assert len(bench.tester.trials) == 1
        return
    assert bench.smoke_test().uri.endswith("/report-2.json")
    assert bench.smoke_test().passed
    assert [report["fault"] for report in bench.reports()] == [fault, None]
    assert len(bench.tester.trials) == 2


def test_broken_glass_gives_a_reference_that_says_it_failed(bench: Trying) -> None:
    bench.tester.fault = Fault.TIME
    reference = bench.smoke_test(decision=replace(bench.decision, break_glass=True))
    assert (reference.passed, reference.rows) == (False, 20)
    assert json.loads(bench.store.read(reference.uri))["fault"] == "time"


@pytest.mark.parametrize("glass", [False, True])
def test_files_that_were_changed_stop_the_run_whatever_the_glass(bench: Trying, glass: bool) -> None:
    bench.tester.fault = Fault.INTEGRITY
    with pytest.raises(IntegrityError, match="Nobody may override this"):
        bench.smoke_test(decision=replace(bench.decision, break_glass=glass))
    assert [report["fault"] for report in bench.reports()] == ["integrity"]


def test_scores_of_other_rows_stop_the_run(bench: Trying) -> None:
    uri = bench.evaluation.scores_uri
    table = pq.read_table(io.BytesIO(bench.store.read(uri)))
    sink = io.BytesIO()
    pq.write_table(table.take(pa.array(range(len(table) - 1, -1, -1))), sink)
    bench.store.write(uri, sink.getvalue(), content_type="")
    with pytest.raises(IntegrityError, match="has the scores of 840 other rows"):
        bench.smoke_test()
    bench.store.write(uri, b"no Parquet", content_type="")
    with pytest.raises(IntegrityError, match="does not hold the scores"):
        bench.smoke_test()
    assert bench.tester.trials == []


@pytest.mark.parametrize("field", ["sha256", "holdout_sha256"])
def test_evaluation_or_holdout_that_was_changed_stops_the_run(bench: Trying, field: str) -> None:
    changed: EvaluationRef = replace(bench.evaluation, **{field: "0" * 64})
    with pytest.raises(IntegrityError, match="changed afterwards"):
        bench.smoke_test(evaluation=changed)
    assert bench.tester.trials == []


def test_model_without_a_deployment_is_none_of_its(bench: Trying) -> None:
    with pytest.raises(SpecError, match="deployment"):
        bench.smoke_test(spec=ModelSpec.model_validate(SPEC))


def test_several_classes_are_compared_by_class(tmp_path: Path) -> None:
    bench = Trying(tmp_path)
    evaluation = {"primary": "log_loss", "slices": []}
    gate = {**SPEC["gate"], "rule": {"kind": "non_inferiority", "margin": 0.1}, "floors": {}}
    bench.spec = ModelSpec.model_validate(
        {**DEPLOYED, "task": "multiclass_classification", "evaluation": evaluation, "gate": gate}
    )
    bench.judge(Classes(("0", "2", "1"), trust=0.6))
    assert bench.smoke_test().passed
    turned = Changed(bench.registry, lambda given: [[row[1], row[0], *row[2:]] for row in given])
    with pytest.raises(SmokeTestError, match="holdout rows score otherwise"):
        bench.smoke_test(tester=turned, request=replace(bench.request, run_id="again"))


def test_regression_is_compared_by_its_prediction(tmp_path: Path) -> None:
    bench = Trying(tmp_path)
    evaluation = {"primary": "mae", "slices": []}
    gate = {**SPEC["gate"], "rule": {"kind": "non_inferiority", "margin": 0.1}, "floors": {}}
    bench.spec = ModelSpec.model_validate({**DEPLOYED, "task": "regression", "evaluation": evaluation, "gate": gate})
    bench.judge(Predicting("good"))
    assert bench.smoke_test().passed
