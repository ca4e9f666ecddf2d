"""Finds the user's function that returns an estimator, and tells versions of its code apart."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from perennial.domain.fingerprint import digest_of
from perennial.errors import SpecError, SpecProblem
from perennial.spec.model import ModelSpec

_LIBRARIES: Final = ("scikit-learn", "numpy", "pandas", "scipy")


def make_importable(roots: Sequence[Path]) -> None:
    """Let `import` look in these folders too, after everything that is installed."""
    for root in roots:
        if str(root) not in sys.path:
            sys.path.append(str(root))


def build_estimator(spec: ModelSpec, params: Mapping[str, Any], roots: Sequence[Path]) -> Any:
    """The unfitted estimator that the spec's function returns for `params` and the spec's seed.

    Raises:
        SpecError: no such module or function, or it returned something without `fit` and `predict`, or it failed.
    """
    function = _find(spec, roots)
    try:
        estimator = function(random_state=spec.training.seed, **params)
    except Exception as error:  # the user's own code may raise anything; all of it is told as a spec problem
        raise _problem(
            spec, f"the function raised {type(error).__name__}: {error} (called with {_call(spec, params)})"
        ) from error
    missing = [name for name in ("fit", "predict") if not hasattr(estimator, name)]
    if missing:
        raise _problem(spec, f"must return a scikit-learn estimator; {type(estimator).__name__} has no {missing[0]}()")
    if spec.task != "regression" and not hasattr(estimator, "predict_proba"):
        raise _problem(spec, f"{spec.task} needs predict_proba(); {type(estimator).__name__} has none")
    return estimator


def code_version(spec: ModelSpec, roots: Sequence[Path]) -> str:
    """Digest of the estimator package's sources and of the versions of the libraries that fit it.

    Finds the package without importing it. The user's top-level package (all its .py files) counts, so that a change
    in a module that `training.py` imports is seen too.

    Raises:
        SpecError: there is no such package.
    """
    make_importable(roots)
    top_level = spec.training.estimator.split(":")[0].split(".")[0]
    importlib.invalidate_caches()
    found = importlib.util.find_spec(top_level)
    if found is None:
        raise _problem(spec, f"no module {top_level!r}; looked on Python's path and in {_shown(roots)}")
    sources: dict[str, str] = {}
    for folder in found.submodule_search_locations or ():
        for path in sorted(Path(folder).rglob("*.py")):
            sources[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    if not sources and found.origin and Path(found.origin).is_file():
        sources[Path(found.origin).name] = hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
    return digest_of({"sources": sources, "libraries": {name: _version(name) for name in _LIBRARIES}})[:16]


def _find(spec: ModelSpec, roots: Sequence[Path]) -> Callable[..., Any]:
    make_importable(roots)
    module_name, _, function_name = spec.training.estimator.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _problem(spec, f"{error}; looked on Python's path and in {_shown(roots)}") from error
    except Exception as error:  # importing the user's module runs the user's code
        raise _problem(spec, f"importing it raised {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise _problem(spec, f"module {module_name} has no function {function_name}")
    return function  # type: ignore[no-any-return]  # callable() narrows to an object that may return anything


def _problem(spec: ModelSpec, allowed: str) -> SpecError:
    return SpecError([SpecProblem(f"{spec.name}.yaml", "training.estimator", repr(spec.training.estimator), allowed)])


def _call(spec: ModelSpec, params: Mapping[str, Any]) -> str:
    return ", ".join([f"random_state={spec.training.seed}", *(f"{name}={value!r}" for name, value in params.items())])


def _shown(roots: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in roots)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
