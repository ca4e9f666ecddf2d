"""Specs: every mistake is told with file, field, value and what is allowed; all at once; no secret is repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from perennial.errors import SpecError, UnknownModelError
from perennial.spec import json_schema, load_model, load_spec, load_suite, spec_paths

VALID: dict[str, Any] = {
    "name": "churn",
    "description": "Will a customer leave?",
    "owner": "crm",
    "task": "binary_classification",
    "data": {
        "landing": "s3://bucket/landing/churn",
        "time_column": "seen_at",
        "label_column": "left",
        "key_columns": ["customer_id"],
        "feature_columns": ["age", "plan"],
        "label_delay": "1d",
        "windows": {"training": "60d", "holdout": "14d", "embargo": "1d"},
    },
    "validation": {"suite": "churn.json"},
    "training": {"estimator": "churn.training:build", "params": {"depth": 3}, "seed": 7},
    "evaluation": {"primary": "roc_auc", "metrics": ["brier"], "slices": ["plan"]},
    "gate": {"rule": {"kind": "superiority", "min_effect": 0.01}, "floors": {"roc_auc": 0.6}, "cluster_by": "day"},
}
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def _write(folder: Path, document: Any, name: str = "churn") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document), encoding="utf-8")
    return path


def _edited(edit: Edit) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(VALID))
    edit(document)
    return document


def test_valid_spec_loads_with_defaults_and_is_frozen(folder: Path) -> None:
    spec = load_spec(_write(folder, VALID))
    assert spec.data.landing == "s3://bucket/landing/churn/"
    assert spec.gate.replicates == 2000
    assert spec.needed_columns == ("customer_id", "seen_at", "left", "age", "plan", "day")
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("edit", "field", "allowed"),
    [
        (lambda d: d.pop("owner"), "owner", "required"),
        (lambda d: d.update(colour="red"), "colour", "no such field"),
        (lambda d: d["data"].update(landing="/data/x"), "data.landing", "pattern"),
        (lambda d: d["data"]["windows"].update(training="60"), "data.windows.training", "whole number and a unit"),
        (lambda d: d["data"]["windows"].update(holdout="0d"), "data.windows.holdout", "longer than 0s"),
        (lambda d: d["data"].update(feature_columns=[]), "data.feature_columns", "at least 1"),
        (lambda d: d["data"].update(feature_columns=["age", "age"]), "data.feature_columns", "twice"),
        (lambda d: d["data"].update(feature_columns=["left"]), "data", "leak"),
        (lambda d: d["training"].update(seed="7"), "training.seed", "integer"),
        (lambda d: d["training"].update(estimator="no_colon"), "training.estimator", "pattern"),
        (lambda d: d["evaluation"].update(primary="auc"), "evaluation.primary", "roc_auc"),
        (lambda d: d["evaluation"].update(primary="rmse"), "(whole spec)", "not defined for binary_classification"),
        (lambda d: d["gate"].update(floors={"log_loss": 1.0}), "(whole spec)", "not measured"),
        (lambda d: d["gate"].update(rule={"kind": "coin_toss"}), "gate.rule.kind", "superiority"),
        (lambda d: d["gate"]["rule"].update(confidence=1.0), "gate.rule.confidence", "less than 1"),
        (lambda d: d["gate"]["rule"].update(min_effect=float("nan")), "gate.rule.min_effect", "finite"),
        (lambda d: d.update(triggers={"schedule": "nightly"}), "triggers.schedule", "five fields"),
        (lambda d: d.update(triggers={"schedule": "0 24 * * *"}), "triggers.schedule", "hour 24 must be between 0"),
        (lambda d: d.update(triggers={"schedule": "*/5 2 1-32 * *"}), "triggers.schedule", "between 1 and 31"),
        (lambda d: d.update(name="Churn!"), "name", "pattern"),
        (lambda d: d["gate"].pop("cluster_by"), "gate.cluster_by", "required"),
        (lambda d: d["gate"].update(false_promotions={"budget": 0}), "gate.false_promotions.budget", "greater than 0"),
        (lambda d: d["gate"].update(false_promotions={"budget": 1}), "gate.false_promotions.budget", "less than 1"),
        (lambda d: d["gate"].update(slices={"margin": 0}), "gate.slices.margin", "greater than 0"),
        (lambda d: d["gate"].update(slices={}), "gate.slices.margin", "required"),
        (
            lambda d: d["gate"].update(slices={"margin": 0.1, "required": {"colour": ["red"]}}),
            "(whole spec)",
            "colour not among evaluation.slices (plan)",
        ),
        (
            lambda d: (d["evaluation"].pop("slices"), d["gate"].update(slices={"margin": 0.1})),
            "(whole spec)",
            "no evaluation.slices",
        ),
        (lambda d: d["gate"].update(fairness=[{"column": "plan", "groups": ["a", "b"]}]), "gate.fairness.0", "max_gap"),
        (
            lambda d: d["gate"].update(fairness=[{"column": "plan", "groups": ["a"], "max_gap": 0.1}]),
            "gate.fairness.0.groups",
            "at least 2",
        ),
        (
            lambda d: d["gate"].update(fairness=[{"column": "age", "groups": ["a", "b"], "max_gap": 0.1}]),
            "(whole spec)",
            "age is not among evaluation.slices (plan)",
        ),
        (
            lambda d: d["gate"].update(
                fairness=[{"column": "plan", "groups": ["a", "b"], "metric": "log_loss", "max_gap": 0.1}]
            ),
            "(whole spec)",
            "log_loss not measured",
        ),
        (lambda d: d["gate"].update(cost={"max_size_mib": 0}), "gate.cost.max_size_mib", "greater than 0"),
        (
            lambda d: d["gate"].update(max_promotions_per_week=0),
            "gate.max_promotions_per_week",
            "greater than or equal",
        ),
        (lambda d: d["gate"].update(min_tenure="three days"), "gate.min_tenure", "whole number and a unit"),
        (lambda d: d["gate"].update(verdict_expires="0s"), "gate.verdict_expires", "longer than 0s"),
        (lambda d: d.update(approval={"required": "yes"}), "approval.required", "boolean"),
        (lambda d: d.update(approval={"timeout": "0s"}), "approval.timeout", "at least 1m"),
        (lambda d: d.update(approval={"timeout": "59s"}), "approval.timeout", "at least 1m"),
        (lambda d: d.update(approval={"required": True, "approvers": "ada"}), "approval.approvers", "tuple"),
    ],
)
def test_one_mistake_is_told_with_field_and_what_is_allowed(folder: Path, edit: Edit, field: str, allowed: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(_write(folder, _edited(edit)))
    (problem,) = caught.value.problems
    assert problem.file == "churn.yaml"
    assert problem.field == field
    assert allowed in problem.allowed


def test_several_mistakes_are_all_told_at_once(folder: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        del document["owner"]
        document["data"]["windows"]["training"] = "soon"
        document["gate"]["min_rows"] = 0

    with pytest.raises(SpecError) as caught:
        load_spec(_write(folder, _edited(edit)))
    assert {p.field for p in caught.value.problems} == {"owner", "data.windows.training", "gate.min_rows"}


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["training"]["params"].update(db_password="hunter2hunter2"),
        lambda d: d["training"]["params"].update(source="postgres://joe:hunter2hunter2@db/x"),
        lambda d: d.update(api_key="hunter2hunter2"),
        # Inside a section that is wrong as a whole, which is shown too.
        lambda d: d.update(s3={"secret": "hunter2hunter2"}),
        lambda d: d["training"].update(seed={"token": "hunter2hunter2"}),
        lambda d: d["training"].update(extra=["postgres://joe:hunter2hunter2@db/x"]),
        lambda d: d["gate"]["rule"].update(password="hunter2hunter2"),
    ],
)
def test_secret_in_a_spec_is_refused_and_never_repeated(folder: Path, edit: Edit) -> None:
    with pytest.raises(SpecError, match="secrets have no place") as caught:
        load_spec(_write(folder, _edited(edit)))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [unclosed", "\x00", "just words"])
def test_file_that_is_no_mapping_is_told_by_name(folder: Path, text: str) -> None:
    with pytest.raises(SpecError, match=r"churn\.yaml: \(file\)"):
        load_spec(_write(folder, text))


def test_name_that_differs_from_the_file_is_refused(folder: Path) -> None:
    with pytest.raises(SpecError, match="must be the file's own name, 'other'"):
        load_spec(_write(folder, VALID, name="other"))


def test_yaml_that_would_run_code_is_refused(folder: Path) -> None:
    with pytest.raises(SpecError, match="readable YAML"):
        load_spec(_write(folder, "name: !!python/object/apply:os.system ['true']"))


def test_unknown_model_is_told_with_the_known_ones(folder: Path) -> None:
    _write(folder, VALID)
    with pytest.raises(UnknownModelError, match="known models: churn"):
        load_model(folder, "chrun")


def test_suite_is_found_beside_the_spec_or_in_expectations(folder: Path) -> None:
    spec = load_spec(_write(folder, VALID))
    with pytest.raises(SpecError, match="no file at"):
        load_suite(folder, spec)
    expectations = folder.parent / "expectations"
    expectations.mkdir()
    (expectations / "churn.json").write_text('{"expectations": [{"type": "a"}]}', encoding="utf-8")
    assert load_suite(folder, spec)["expectations"] == [{"type": "a"}]
    (folder / "churn.json").write_text('{"expectations": []}', encoding="utf-8")
    with pytest.raises(SpecError, match="at least one expectation"):
        load_suite(folder, spec)


def test_hidden_and_foreign_files_are_no_specs(folder: Path) -> None:
    _write(folder, VALID)
    for name in (".hidden.yaml", "_draft.yaml", "notes.txt"):
        (folder / name).write_text("x", encoding="utf-8")
    assert [path.name for path in spec_paths(folder)] == ["churn.yaml"]


def test_json_schema_names_every_top_level_field() -> None:
    schema = json_schema()
    assert {"name", "data", "gate", "triggers"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("schedule", ["0 2 * * *", "*/90 0-6/2 1,15 JAN-DEC mon#2", "30 23 31 12 7"])
def test_schedule_within_every_range_is_accepted(folder: Path, schedule: str) -> None:
    spec = load_spec(_write(folder, _edited(lambda d: d.update(triggers={"schedule": schedule}))))
    assert spec.triggers.schedule == schedule


def test_every_rule_of_the_gate_and_the_approval_is_read(folder: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["gate"] |= {
            "rule": {"kind": "non_inferiority", "margin": 0.01, "refresh_after_days": 30},
            "cluster_by": None,
            "false_promotions": {"budget": 0.1, "period_days": 30},
            "slices": {"margin": 0.02, "floor": 0.5, "min_rows": 50, "required": {"plan": ["basic", "plus"]}},
            "fairness": [{"column": "plan", "groups": ["basic", "plus"], "max_gap": 0.1, "max_increase": 0.02}],
            "cost": {"max_latency_p95_ms": 20, "max_latency_ratio": 2.0, "max_size_mib": 50, "max_size_ratio": 1.5},
            "min_tenure": "3d",
            "max_promotions_per_week": 2,
            "verdict_expires": "2d",
        }
        document["approval"] = {"required": True, "approvers": ["ada"], "timeout": "12h", "break_glass": ["grace"]}

    spec = load_spec(_write(folder, _edited(edit)))
    assert spec.gate.slices is not None
    assert spec.gate.slices.required == {"plan": ("basic", "plus")}
    assert spec.gate.fairness[0].groups == ("basic", "plus")
    assert spec.gate.cluster_by is None
    assert spec.needed_columns == ("customer_id", "seen_at", "left", "age", "plan")
    assert (spec.approval.approvers, spec.approval.break_glass) == (("ada",), ("grace",))


def test_gate_without_the_new_rules_has_none_of_them(folder: Path) -> None:
    gate = load_spec(_write(folder, VALID)).gate
    assert (gate.false_promotions, gate.slices, gate.fairness, gate.cost) == (None, None, (), None)
    assert gate.min_tenure.total_seconds() == 0
    assert gate.max_promotions_per_week is None
