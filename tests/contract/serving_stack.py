"""The scoring service as it is run: `perennial serve` under a supervisor, MLflow and S3 in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import pandas as pd
import yaml
from tests.contract.moody import TRUSTED, Moody
from tests.contract.registries import Mlflow, free_port, mlflow_server
from tests.contract.s3_servers import ACCESS_KEY, SECRET_KEY, Server, rclone_server
from tests.unit.core.serving.served import MODEL, training
from tests.unit.core.test_spec_loader import VALID

from perennial.adapters.s3 import S3Store
from perennial.domain.times import Interval
from perennial.domain.traffic import Role, TrafficPlan, plan_uri
from perennial.ports import ModelRegistry
from perennial.prediction_objects import OWN_COLUMNS, read_predictions

ROOT: Final = "s3://bucket/store"
REPOSITORY: Final = Path(__file__).parents[2]
SPEC: Final = {**VALID, "name": MODEL, "deployment": {"kind": "scoring_service"}}
"""The service reads no more of it than these two."""
LIMITS: Final = {"REQUEST_TIMEOUT_S": "5", "HANG_AFTER_S": "6", "POLL_INTERVAL_S": "0.2", "DRAIN_S": "0.3"}


class ServingStack:
    """All of it, with faults to be had. One model; versions are told apart by what they add."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.shifts: dict[str, float] = {}
        """What each version adds."""
        self._trained = 0
        self._s3_port, self._mlflow_port = free_port(), free_port()
        self._s3: AbstractContextManager[Server]
        self._mlflow: AbstractContextManager[Mlflow]

    @contextmanager
    def running(self) -> Iterator[Self]:
        """All of it, with a champion that serves."""
        for name in ("s3", "mlflow", "models"):
            (self.folder / name).mkdir()
        (self.folder / "models" / f"{MODEL}.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
        with ExitStack() as ends:
            self.start_s3()
            ends.callback(self.stop_s3)
            self.s3.add_bucket("bucket")
            self.start_mlflow()
            ends.callback(self.stop_mlflow)
            self.registry: ModelRegistry = self.mlflow.registry
            self.store: S3Store = self.s3.store()
            self.promote()
            self.service = Supervised(self._command(), self._environment(), self.folder / "service.log", self.url)
            ends.callback(self.service.end)
            self.until_serving()
            yield self

    def start_s3(self) -> None:
        self._s3 = rclone_server(self.folder / "s3", self._s3_port)
        self.s3 = self._s3.__enter__()

    def stop_s3(self) -> None:
        self._s3.__exit__(None, None, None)

    def start_mlflow(self) -> None:
        self._mlflow = mlflow_server(self.folder / "mlflow", self._mlflow_port)
        self.mlflow = self._mlflow.__enter__()

    def stop_mlflow(self) -> None:
        self._mlflow.__exit__(None, None, None)

    @contextmanager
    def frozen(self, server: Mlflow | Server) -> Iterator[None]:
        """It takes connections and answers nobody."""
        os.killpg(server.process_group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(server.process_group, signal.SIGCONT)

    def add_version(self, carrier: str = "", mood: str = "") -> str:
        """Train and register; another version adds something else."""
        self._trained += 1
        estimator = Moody(float(self._trained), carrier, mood)
        fitted = dataclasses.replace(training(estimator, number=self._trained), trusted_types=TRUSTED)
        version = self.registry.register(MODEL, self.registry.log_training(fitted), {})
        self.shifts[version] = estimator.shift
        return version

    def promote(self, carrier: str = "", mood: str = "") -> str:
        """A version that is the champion at once, as far as MLflow is concerned."""
        version = self.add_version(carrier, mood)
        self.point_champion(version)
        return version

    def point_champion(self, version: str) -> None:
        self.mlflow.client.set_registered_model_alias(MODEL, "champion", version)

    def plan(self, challenger: str, role: Role = Role.CANARY, share: float = 50.0, seconds: float = 600.0) -> None:
        now = datetime.now(UTC)
        plan = TrafficPlan(
            model=MODEL,
            challenger=challenger,
            role=role,
            share=share,
            rollout_id="salt",
            issued_at=now,
            expires_at=now + timedelta(seconds=seconds),
        )
        self.store.write(plan_uri(ROOT, MODEL), json.dumps(plan.to_dict()).encode(), content_type="application/json")

    def end_plan(self) -> None:
        self.store.delete(plan_uri(ROOT, MODEL))

    def served(self) -> dict[str, Any]:
        """What /models says of the model; empty if nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5) as answer:
                (found,) = json.load(answer)["models"]
        except OSError:
            return {}
        return dict(found)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def champion_served(self) -> str:
        return str((self.served().get("champion") or {}).get("version", ""))

    def until_serving(self, version: str = "", *, seconds: float = 60.0) -> None:
        """Until the service answers with this version as its champion, or with any."""
        end = time.monotonic() + seconds
        while not ((found := self.champion_served()) and found == (version or found)):
            assert time.monotonic() < end, f"{self.served()}\n{self.log()[-3000:]}"
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "service.log").read_text(encoding="utf-8", errors="replace")

    def logged(self, version: str) -> pd.DataFrame:
        """The version's rows in the prediction log."""
        now = datetime.now(UTC)
        during = Interval(now - timedelta(hours=1), now + timedelta(hours=1))
        return read_predictions(self.store, ROOT, MODEL, during, version=version, columns=OWN_COLUMNS)

    def _command(self) -> list[str]:
        program = Path(sys.executable).parent / "perennial"
        return [str(program), "serve", "--port", str(self.port)]

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **{f"PERENNIAL_SCORING_{name}": value for name, value in LIMITS.items()},
            "PERENNIAL_HOME": str(self.folder / "home"),
            "PERENNIAL_SPECS": str(self.folder / "models"),
            "PERENNIAL_STORE": ROOT,
            "MLFLOW_TRACKING_URI": self.mlflow.url,
            "AWS_ENDPOINT_URL_S3": self.s3.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "PYTHONPATH": str(REPOSITORY),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


class Supervised:
    """A process that is started again when it ends, and ended when it says that it hangs: as an orchestrator does."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, url: str) -> None:
        self._command, self._environment, self._log, self._url = command, environment, log, url
        self._over = threading.Event()
        self.exit_codes: list[int] = []
        """Of those that ended."""
        self.process = self._spawn()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def signal(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self.process.kill()
        self.process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            if (code := self.process.poll()) is not None:
                self.exit_codes.append(code)
                self.process = self._spawn()
            elif "hangs" in self._says():
                self.process.kill()

    def _says(self) -> str:
        """Why /ping is not 200."""
        try:
            with urllib.request.urlopen(f"{self._url}/ping", timeout=5):
                return ""
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""
