"""Typed, frozen, strict models of a spec file, one class a concern, and the loader."""

from perennial.spec.loader import (
    json_schema,
    load_model,
    load_spec,
    load_suite,
    no_specs,
    require_known,
    spec_paths,
    suite_path,
)
from perennial.spec.model import ModelSpec

__all__ = [
    "ModelSpec",
    "json_schema",
    "load_model",
    "load_spec",
    "load_suite",
    "no_specs",
    "require_known",
    "spec_paths",
    "suite_path",
]
