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
        (lambda d: d["gate"].update(rule={"kind": "coin_toss"}), "gate.rule", "superiority"),
        (lambda d: d["gate"]["rule"].update(confidence=1.0), "gate.rule.superiority.confidence", "less than 1"),
        (lambda d: d["gate"]["rule"].update(min_effect=float("nan")), "gate.rule.superiority.min_effect", "finite"),
        (lambda d: d.update(triggers={"schedule": "nightly"}), "triggers.schedule", "five fields"),
        (lambda d: d.update(triggers={"schedule": "0 24 * * *"}), "triggers.schedule", "hour 24 must be between 0"),
        (lambda d: d.update(triggers={"schedule": "*/5 2 1-32 * *"}), "triggers.schedule", "between 1 and 31"),
        (lambda d: d.update(name="Churn!"), "name", "pattern"),
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
