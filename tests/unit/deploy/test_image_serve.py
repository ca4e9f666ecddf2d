"""`docker run IMAGE serve`, as SageMaker and KServe's pods call the image."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("more", [(), ("flights_delay", "--version", "3")])
def test_serve_listens_where_sagemaker_and_kserve_ask_and_hands_its_arguments_on(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    perennial = tmp_path / "perennial"
    perennial.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    perennial.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [str(REPOSITORY / "docker/serve"), *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["serve", "--host", "0.0.0.0", "--port", "8080", *more]  # noqa: S104 - not listened at


def test_image_has_serve_on_its_path() -> None:
    text = (REPOSITORY / "docker/Dockerfile").read_text(encoding="utf-8")
    assert "\nCOPY docker/serve /usr/local/bin/serve\n" in text
    assert (REPOSITORY / "docker/serve").stat().st_mode & 0o111 == 0o111
