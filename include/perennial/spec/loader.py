"""Reads spec files. Every problem of a file is reported at once, as file, field, value and what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from perennial.errors import SpecError, SpecProblem, UnknownModelError
from perennial.spec.fields import format_duration
from perennial.spec.model import ModelSpec

SUFFIXES: Final = (".yaml", ".yml")
MAX_SPEC_BYTES: Final = 256 * 1024
MAX_NAMED: Final = 20
"""Models that a message lists."""
_WITH_KIND: Final = (("deployment",), ("gate", "rule"))
"""Parts of a spec of which there are several kinds."""
_SECRET_NAME: Final = re.compile(r"(?i)(^|_)(password|passwd|secret|token|api_?key|(access|secret)_?key|credentials?)$")
_SECRET_VALUE: Final = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}|://[^/\s:@]+:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY-----")
HIDDEN: Final = "(hidden)"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def spec_paths(folder: Path) -> list[Path]:
    """The spec files of a folder, by name; empty if there is no such folder."""
    return sorted(p for p in folder.glob("*") if p.suffix in SUFFIXES and not p.name.startswith(("_", ".")))


def load_spec(path: Path) -> ModelSpec:
    """One spec, checked.

    Raises:
        SpecError: with every problem found in the file.
    """
    document = _read_yaml(path)
    problems = list(_secrets(path.name, document, ()))
    try:
        spec = ModelSpec.model_validate(document)
    except ValidationError as error:
        hidden = {problem.field for problem in problems}
        found = [_problem(path.name, detail) for detail in error.errors(include_url=False)]
        if isinstance(document.get("name"), str) and not any(problem.field == "name" for problem in found):
            found += _misnamed(path, document["name"])
        raise SpecError([*problems, *(problem for problem in found if problem.field not in hidden)]) from None
    problems += _misnamed(path, spec.name)
    if problems:
        raise SpecError(problems)
    return spec


def load_model(folder: Path, name: str) -> ModelSpec:
    """The spec of the model `name`.

    Raises:
        UnknownModelError: no file of that name in the folder.
        SpecError: the file is not a valid spec.
    """
    return load_spec(require_known(folder, name))


def require_known(folder: Path, name: str) -> Path:
    """The file of the model's spec, which may be a broken one.

    Raises:
        UnknownModelError: no file of that name in the folder, or no such folder.
    """
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    known = [path.stem for path in spec_paths(folder)]
    if not known:
        raise UnknownModelError(f"no spec for model {name!r}: {no_specs(folder)}")
    more = f" and {len(known) - MAX_NAMED:,} more" if len(known) > MAX_NAMED else ""
    raise UnknownModelError(
        f"no spec for model {name!r} in {folder}; known models: {', '.join(known[:MAX_NAMED])}{more}"
    )


def no_specs(folder: Path) -> str:
    """What to say, and to do, where no spec was found."""
    found = "holds no spec (*.yaml)" if folder.is_dir() else "does not exist"
    return f"{folder} {found}; set PERENNIAL_SPECS to the folder of your specs"


def suite_path(folder: Path, spec: ModelSpec) -> Path:
    """Where the spec's expectation suite lies: beside the spec, else in `expectations/` beside the spec's folder.

    Raises:
        SpecError: in neither place.
    """
    candidates = (folder / spec.validation.suite, folder.parent / "expectations" / spec.validation.suite)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = " or ".join(str(candidate) for candidate in candidates)
    problem = SpecProblem(f"{spec.name}.yaml", "validation.suite", repr(spec.validation.suite), f"no file at {places}")
    raise SpecError([problem])


def load_suite(folder: Path, spec: ModelSpec) -> dict[str, Any]:
    """The expectation suite as a JSON object with a list `expectations`.

    Raises:
        SpecError: no such file, no JSON, or not the shape of a suite.
    """
    path = suite_path(folder, spec)
    try:
        suite = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SpecError([SpecProblem(path.name, "(file)", "", f"must be readable JSON: {error}")]) from error
    if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list) or not suite["expectations"]:
        raise SpecError([SpecProblem(path.name, "expectations", "", "must be a list with at least one expectation")])
    return suite


def json_schema() -> dict[str, Any]:
    """JSON schema of a spec file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Perennial model spec",
        **ModelSpec.model_json_schema(schema_generator=_SpecSchema),
    }


class _SpecSchema(GenerateJsonSchema):
    """Writes a default duration as a spec does: `PT10M`, pydantic's way, would not pass the field's own pattern."""

    def encode_default(self, dft: Any) -> Any:
        """As JSON."""
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def _misnamed(path: Path, name: str) -> list[SpecProblem]:
    allowed = f"must be the file's own name, {path.stem!r}"
    return [] if name == path.stem else [SpecProblem(path.name, "name", repr(name), allowed)]


def _read_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_SPEC_BYTES:
            limit = f"a spec has at most {MAX_SPEC_BYTES} bytes"
            raise SpecError([SpecProblem(path.name, "(file)", f"{path.stat().st_size} bytes", limit)])
        with path.open(encoding="utf-8") as stream:
            document = yaml.load(stream, Loader=_LOADER)  # noqa: S506 - a SafeLoader, in C where there is one
    except FileNotFoundError:
        raise SpecError([SpecProblem(path.name, "(file)", str(path.absolute()), "there is no such file")]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError([SpecProblem(path.name, "(file)", "", f"must be readable YAML: {error}")]) from error
    if not isinstance(document, dict):
        allowed = "must be a mapping of fields, starting with `name:`"
        raise SpecError([SpecProblem(path.name, "(file)", type(document).__name__, allowed)])
    return document


def _problem(file: str, detail: ErrorDetails) -> SpecProblem:
    field = ".".join(_as_written(detail["loc"])) or "(whole spec)"
    if detail["type"] == "union_tag_not_found":
        return SpecProblem(file, f"{field}.kind", "(missing)", "this field is required")
    if detail["type"] == "union_tag_invalid":
        given = detail["ctx"]
        return SpecProblem(file, f"{field}.kind", repr(given["tag"]), f"must be one of {given['expected_tags']}")
    if detail["type"] == "missing":
        return SpecProblem(file, field, "(missing)", "this field is required")
    # Of a whole section that is wrong, a secret may be one part.
    value = (
        HIDDEN if detail["loc"] and _SECRET_NAME.search(str(detail["loc"][-1])) else _short(_masked(detail["input"]))
    )
    if detail["type"] == "extra_forbidden":
        return SpecProblem(file, field, value, "there is no such field")
    return SpecProblem(file, field, value, detail["msg"].removeprefix("Value error, "))


def _as_written(location: tuple[int | str, ...]) -> list[str]:
    """The fields' names as the file has them: pydantic puts a part's `kind` between the part and its fields."""
    parts = [str(part) for part in location]
    for union in _WITH_KIND:
        if tuple(parts[: len(union)]) == union and len(parts) > len(union):
            del parts[len(union)]
    return parts


def _short(value: Any) -> str:
    text = type(value).__name__ if isinstance(value, ModelSpec) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _masked(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: HIDDEN if _SECRET_NAME.search(str(key)) else _masked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_masked(value) for value in node]
    return HIDDEN if isinstance(node, str) and _SECRET_VALUE.search(node) else node


def _secrets(file: str, node: Any, where: tuple[str, ...]) -> Iterator[SpecProblem]:
    """Fields that look like secrets. Their values are never repeated in the message (invariant 12)."""
    allowed = "secrets have no place in a spec; use an Airflow connection or the environment"
    if isinstance(node, dict):
        for key, value in node.items():
            inner = (*where, str(key))
            if _SECRET_NAME.search(str(key)):
                yield SpecProblem(file, ".".join(inner), HIDDEN, allowed)
            else:
                yield from _secrets(file, value, inner)
    elif isinstance(node, list):
        for position, value in enumerate(node):
            yield from _secrets(file, value, (*where, str(position)))
    elif isinstance(node, str) and _SECRET_VALUE.search(node):
        yield SpecProblem(file, ".".join(where), HIDDEN, allowed)
