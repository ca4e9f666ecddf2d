"""A model that misbehaves as it is told, in a module of its own: what a user's code may do in the clean process."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tests.contract.registries import training

from perennial.adapters.mlflow_models import files_in, save_model
from perennial.domain.artifact import digest_of_artifact, record_of
from perennial.domain.references import ModelRef
from perennial.ports import ModelRecords

MODULE = "wild_model_of_a_test"
_SOURCE = """
import os, sys
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

class Wild(RegressorMixin, BaseEstimator):
    def __init__(self, how=""):
        self.how = how

    def predict(self, frame):
        if self.how == "exit":
            sys.exit(3)
        if self.how == "gone":
            os._exit(0)
        if self.how == "segfault":
            import ctypes
            ctypes.string_at(0)
        if self.how == "allocate":
            self.block = np.ones(2**27)  # 1 GiB
        if "print" in self.how:
            for _ in range(3):
                print("x" * 2**20)
        if "thread" in self.how:
            import threading, time
            threading.Thread(target=time.sleep, args=(3600,)).start()
        if self.how == "raise":
            raise RuntimeError("secret of the inside")
        if self.how == "environment":
            print(sorted(os.environ))
        return frame["a"].to_numpy() + frame["b"].to_numpy()
"""


@dataclass(frozen=True)
class Saved:
    """A model's files, as the registry would give them."""

    model: ModelRef
    files: Path
    records: ModelRecords
    root: Path
    """Folder of the model's module."""


def save_wild(folder: Path, how: str = "") -> Saved:
    """A regressor that predicts a + b, and does something else beside."""
    root, files = folder / "root", folder / "files"
    root.mkdir()
    (root / f"{MODULE}.py").write_text(_SOURCE, encoding="utf-8")
    sys.path.insert(0, str(root))
    try:
        sys.modules.pop(MODULE, None)
        wild = importlib.import_module(MODULE).Wild(how)
        given = replace(
            training("wild", trusted_types=(f"{MODULE}.Wild",)),
            task="regression",
            estimator=wild,
            output_example=[1.0, 2.0],
        )
        trusted = save_model(given, files, run_id="run", model_id="m-1")
    finally:
        sys.path.remove(str(root))
        sys.modules.pop(MODULE, None)
    found = files_in(files)
    model = ModelRef(
        model_uri="models:/m-1",
        run_id="run",
        digest=digest_of_artifact(found),
        fingerprint="f",
        snapshot_sha256="s",
        training_start=given.training_start,
        training_end=given.training_end,
        keys_sha256="k",
    )
    records = ModelRecords(files=record_of(found), trusted_types=json.dumps(trusted), digest_on_record=True)
    return Saved(model, files, records, root)
