"""`perennial serve`."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from perennial.cli.terminal import EXIT_DONE
from perennial.errors import RequestError
from perennial.settings import Settings

if TYPE_CHECKING:
    from perennial.serving.settings import ServingSettings
    from perennial.spec.model import ModelSpec

_MLFLOW_DEFAULTS: Final = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""The next look comes a second later anyway; longer waits would only make the service late."""


def serve_models(arguments: argparse.Namespace, settings: Settings) -> int:
    """Serve the champions of the models, or one version of one model, until the process is told to end."""
    from perennial.runtime import build_runtime
    from perennial.serving.server import serve
    from perennial.serving.settings import ServingSettings
    from perennial.stages.estimator import make_importable

    given = {"host": arguments.host, "port": arguments.port, "default_model": arguments.default}
    serving = ServingSettings.from_environment(settings.scoring, **given, version=arguments.version)
    asked_for = arguments.models or ([serving.model] if serving.model else [])
    specs = [_pinned(asked_for, serving, settings)] if serving.version else _chosen(asked_for, settings)
    names = [spec.name for spec in specs]
    if serving.default_model and serving.default_model not in names:
        raise RequestError(f"the default model {serving.default_model!r} is none of those served: {', '.join(names)}")
    for name, value in _MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    make_importable(settings.import_roots)  # a model may hold types of the user's own code
    runtime = build_runtime(settings)
    serve(
        names,
        registry=runtime.registry,
        store=runtime.store,
        root=runtime.root,
        clock=runtime.clock,
        home=settings.home,
        settings=serving,
        policies={spec.name: spec.deployment.log for spec in specs if spec.deployment is not None},
    )
    return EXIT_DONE


def _pinned(names: Sequence[str], serving: ServingSettings, settings: Settings) -> ModelSpec:
    """The spec of the one model whose version is asked for; where it is deployed does not matter."""
    from perennial.spec import load_model

    if not (serving.version.isascii() and serving.version.isdecimal()):
        raise RequestError(f"the version to serve is {serving.version!r}; versions are whole numbers, such as 3")
    if len(names) != 1:
        given = ", ".join(names) or "none"
        raise RequestError(
            f"version {serving.version} of which model? Name one (given: {given}), as an argument or with "
            "PERENNIAL_SCORING_MODEL"
        )
    return load_model(settings.specs, names[0])


def _chosen(names: Sequence[str], settings: Settings) -> list[ModelSpec]:
    """The specs of these names; without names all that are deployed to the scoring service."""
    from perennial.spec import load_model, spec_paths

    specs = [load_model(settings.specs, name) for name in names or [path.stem for path in spec_paths(settings.specs)]]
    deployed = [spec for spec in specs if spec.deployment is not None and spec.deployment.kind == "scoring_service"]
    left_out = [spec.name for spec in specs if spec not in deployed]
    if names and left_out:
        raise RequestError(f"{', '.join(left_out)}: the spec has no deployment of kind scoring_service")
    if not deployed:
        raise RequestError(f"no spec in {settings.specs} has a deployment of kind scoring_service")
    return deployed
