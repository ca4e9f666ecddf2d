"""docs/deployment-kserve.md: what it tells people to write is what works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from perennial.spec import load_spec
from perennial.spec.platforms import KServe
from tests.unit.core.test_spec_loader import VALID

PAGE = Path(__file__).parents[3] / "docs/deployment-kserve.md"


def _blocks() -> list[Any]:
    found = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [document for block in found for document in yaml.safe_load_all(block)]


def test_spec_of_the_page_is_one_that_loads(tmp_path: Path) -> None:
    (part,) = [block for block in _blocks() if "deployment" in block]
    path = tmp_path / "churn.yaml"
    path.write_text(yaml.safe_dump({**VALID, **part}), encoding="utf-8")
    assert isinstance(load_spec(path).deployment, KServe)


def test_role_of_the_page_has_the_rights_that_are_asked_for_and_its_binding_names_it() -> None:
    role, binding = (block for block in _blocks() if "deployment" not in block)
    rights = {(rule["apiGroups"][0], rule["resources"][0]): rule["verbs"] for rule in role["rules"]}
    assert rights == {
        ("serving.kserve.io", "inferenceservices"): ["get", "create", "patch"],
        ("serving.knative.dev", "revisions"): ["get"],
    }
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
