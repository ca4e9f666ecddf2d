from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.utils.file import list_py_file_paths

from perennial_airflow import bundle as module
from perennial_airflow.bundle import SpecBundle
from tests.unit.core.world import SPEC, SUITE

pytestmark = pytest.mark.airflow


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "toy.json").write_text(SUITE, encoding="utf-8")
    monkeypatch.setattr("airflow.dag_processing.bundles.base.get_bundle_storage_root_path", lambda: tmp_path / "store")
    return folder


def declare(specs: Path, name: str, suffix: str = ".yaml", **changes: Any) -> Path:
    path = specs / f"{name}{suffix}"
    path.write_text(yaml.safe_dump({**SPEC, "name": name, **changes}), encoding="utf-8")
    return path


def both(*models: str) -> set[str]:
    """Ids of the DAGs that each model has."""
    return {f"perennial__{model}__{what}" for model in models for what in ("retrain", "rollback")}


def make_bundle(specs: Path, **changes: Any) -> SpecBundle:
    return SpecBundle(name="perennial", specs=str(specs), **{"shards": 4, **changes})


def files(bundle: SpecBundle) -> set[str]:
    return {path.name for path in bundle.path.glob("*.py")}


def parsed(bundle: SpecBundle, file: str) -> tuple[set[str], dict[str, str]]:
    """DAG ids and import errors of a generated file, as Airflow finds them."""
    bag = BundleDagBag(
        dag_folder=str(bundle.path / file), bundle_path=bundle.path, bundle_name="perennial", load_op_links=False
    )
    return set(bag.dags), bag.import_errors


def everything(bundle: SpecBundle) -> tuple[set[str], dict[str, str]]:
    found = [parsed(bundle, file) for file in sorted(files(bundle))]
    return set().union(*(dags for dags, _ in found)), {k: v for _, errors in found for k, v in errors.items()}


def test_every_spec_becomes_two_dags_of_a_file_that_airflow_finds(specs: Path) -> None:
    for number in range(20):
        declare(specs, f"m{number}")
    bundle = make_bundle(specs)
    bundle.refresh()
    found = {Path(path).name for path in list_py_file_paths(bundle.path, safe_mode=True)}
    assert found == files(bundle)
    assert everything(bundle) == (both(*(f"m{number}" for number in range(20))), {})


def test_broken_spec_is_an_error_of_its_own_file_and_names_every_problem(specs: Path) -> None:
    declare(specs, "good")
    declare(specs, "bad", owner="", task="tarot")
    bundle = make_bundle(specs, shards=1)
    bundle.refresh()
    assert files(bundle) == {"shard_000.py", "bad.yaml.py"}
    dags, errors = everything(bundle)
    assert dags == both("good")
    [(file, message)] = errors.items()
    assert file == "bad.yaml.py"
    assert "bad.yaml: owner = ''" in message
    assert "bad.yaml: task = 'tarot'" in message


@pytest.mark.parametrize(
    ("breaks", "named"),
    [
        (lambda specs: declare(specs, "m", triggers={"schedule": "0 0 30 2 *"}), "triggers.schedule"),
        (lambda specs: declare(specs, "m", triggers={"schedule": "99 99 * * *"}), "triggers.schedule"),
        (lambda specs: declare(specs, "m", validation={"suite": "gone.json"}), "validation.suite"),
        (lambda specs: (specs / "m.yaml").write_text("{", encoding="utf-8"), "must be readable YAML"),
        (lambda specs: (specs / "m.yaml").write_bytes(b"\xff\xfe"), "must be readable YAML"),
        (lambda specs: declare(specs, "m", password="hush"), "(hidden)"),
    ],
)
def test_mistake_is_named_and_leaves_the_others_alone(
    specs: Path, breaks: Callable[[Path], object], named: str
) -> None:
    declare(specs, "good")
    breaks(specs)
    bundle = make_bundle(specs, shards=1)
    bundle.refresh()
    dags, errors = everything(bundle)
    assert dags == both("good")
    assert list(errors) == ["m.yaml.py"]
    assert named in errors["m.yaml.py"]
    assert "hush" not in errors["m.yaml.py"]


def test_model_declared_twice_keeps_its_dags_and_shows_the_other_file(specs: Path) -> None:
    declare(specs, "m")
    declare(specs, "m", suffix=".yml")
    bundle = make_bundle(specs)
    bundle.refresh()
    dags, errors = everything(bundle)
    assert dags == both("m")
    assert list(errors) == ["m.yml.py"]
    assert "already declared by m.yaml" in errors["m.yml.py"]


def test_mended_added_and_removed_specs_show_at_the_next_refresh(specs: Path) -> None:
    declare(specs, "a", owner="")
    declare(specs, "b")
    bundle = make_bundle(specs)
    bundle.refresh()
    declare(specs, "a")
    declare(specs, "c")
    (specs / "b.yaml").unlink()
    bundle.refresh()
    assert everything(bundle) == (both("a", "c"), {})


def test_suite_that_appears_later_mends_its_spec(specs: Path) -> None:
    declare(specs, "m", validation={"suite": "late.json"})
    bundle = make_bundle(specs)
    bundle.refresh()
    assert files(bundle) == {"m.yaml.py"}
    shutil.copy(specs / "toy.json", specs / "late.json")
    bundle.refresh()
    assert everything(bundle) == (both("m"), {})
    (specs / "late.json").write_text("no json", encoding="utf-8")
    bundle.refresh()
    assert files(bundle) == {"m.yaml.py"}


def test_unchanged_specs_are_not_read_again_and_no_file_is_written(
    specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(specs, "m")
    bundle = make_bundle(specs)
    bundle.refresh()
    before = {path: path.stat().st_mtime_ns for path in bundle.path.iterdir() if path.is_file()}
    monkeypatch.setattr("perennial_airflow.dag_factory.checked", lambda _path: pytest.fail("read again"))
    bundle.refresh()
    assert {path: path.stat().st_mtime_ns for path in bundle.path.iterdir() if path.is_file()} == before


def test_changed_spec_changes_its_shards_file_so_that_airflow_parses_it_at_once(specs: Path) -> None:
    declare(specs, "m")
    bundle = make_bundle(specs)
    bundle.refresh()
    [file] = bundle.path.glob("*.py")
    before = file.read_text(encoding="utf-8")
    declare(specs, "m", description="Something else.")
    bundle.refresh()
    assert file.read_text(encoding="utf-8") != before


def test_worker_with_an_empty_disk_finds_any_models_shard(specs: Path) -> None:
    declare(specs, "m")
    processor = make_bundle(specs)
    processor.refresh()
    [shard] = files(processor)
    shutil.rmtree(processor.path)
    worker = make_bundle(specs)
    worker.initialize()
    assert parsed(worker, shard) == (both("m"), {})


def test_worker_does_not_look_at_the_specs(specs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(specs, "m")
    monkeypatch.setattr(module, "spec_paths", lambda _folder: pytest.fail("looked at the specs"))
    bundle = make_bundle(specs)
    bundle.initialize()
    bundle.initialize()
    assert len(files(bundle)) == 4


@pytest.mark.parametrize("what", ["retrain", "rollback"])
def test_tasks_process_reads_its_own_models_spec_only(specs: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    declare(specs, "mine")
    declare(specs, "other")
    bundle = make_bundle(specs, shards=1)
    bundle.refresh()
    read = []

    def load(path: Path) -> Any:
        from perennial.spec import load_spec

        read.append(path.name)
        return load_spec(path)

    monkeypatch.setattr("perennial_airflow.dag_factory.load_spec", load)
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", f"perennial__mine__{what}")
    assert parsed(bundle, "shard_000.py") == (both("mine"), {})
    assert read == ["mine.yaml"]


def test_refreshes_at_the_same_time_leave_whole_files(specs: Path) -> None:
    for number in range(10):
        declare(specs, f"m{number}")
    bundles = [make_bundle(specs) for _ in range(4)]
    threads = [threading.Thread(target=bundle.refresh) for bundle in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dags, errors = everything(bundles[0])
    assert dags == both(*(f"m{number}" for number in range(10)))
    assert errors == {}
    assert not list(bundles[0].path.glob("*.new"))


def test_another_specs_folder_has_files_of_its_own(specs: Path, tmp_path: Path) -> None:
    assert make_bundle(specs).path != make_bundle(tmp_path / "elsewhere").path


@pytest.mark.parametrize("shards", [0, 1001])
def test_number_of_shards_out_of_bounds_is_refused(specs: Path, shards: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1000"):
        make_bundle(specs, shards=shards)
