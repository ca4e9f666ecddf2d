"""KServe for the deployers' suite: the fake Kubernetes API, and deployers that reach it with the real client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiClient
from tests.contract.deployers import Crash, Fault, Served
from tests.contract.kserve_api import KServeApi, RefusedError
from tests.contract.kserve_schema import NotFetchedError, Problems

from perennial.adapters.deploy_kserve import KServeDeployer
from perennial.adapters.kserve_cluster import Cluster, connect
from perennial.adapters.kserve_manifest import VERSION, service_name
from perennial.domain.traffic import Role
from perennial.spec.platforms import KServe

SPEC = KServe(
    kind="kserve",
    image="registry.example/perennial:1",
    namespace="models",
    service_account="scoring",
    environment={"MLFLOW_TRACKING_URI": "http://mlflow:5000", "PERENNIAL_STORE": "s3://bucket/store"},
    environment_secrets=("scoring-s3",),
)
_FAULTS = {
    Fault.DOWN: RefusedError(503, "the server is currently unable to handle the request"),
    Fault.THROTTLED: RefusedError(429, "too many requests, please try again later"),
    Fault.DENIED: RefusedError(403, 'User "dags" cannot get resource "inferenceservices" in API group'),
}


@dataclass
class _Crashing:
    """At which call of the client the process dies."""

    at: int
    after: bool
    seen: int = 0

    def call(self, send: Any) -> Any:
        number, self.seen = self.seen, self.seen + 1
        if number == self.at and not self.after:
            raise Crash
        answer = send()
        if number == self.at:
            raise Crash
        return answer


class KServeHarness:
    """`tests.contract.deployers.Harness`."""

    roles = (Role.CANARY,)

    def __init__(self, api: KServeApi, kubeconfig: Path, spec: KServe = SPEC) -> None:
        self.api, self.spec, self.kubeconfig = api, spec, kubeconfig
        kubeconfig.write_text(yaml.safe_dump(api.kubeconfig()), encoding="utf-8")
        self._crash: _Crashing | None = None

    @property
    def calls(self) -> int:
        return len(self.api.calls)

    @property
    def changes(self) -> int:
        counts = Counter(self.api.calls)
        return counts["POST"] + counts["PATCH"]

    def deployer(self) -> KServeDeployer:
        return KServeDeployer(self.spec, self._cluster)

    def _cluster(self) -> Cluster:
        client = connect(str(self.kubeconfig))
        if self._crash is not None:
            _die_at(client, self._crash)
        return Cluster(client, self.spec.namespace)

    def settle(self) -> None:
        self.api.settle()

    def move_alias(self, model: str, version: str) -> None:
        """KServe does not follow it."""

    def served(self, model: str) -> Served:
        service = self.api.services.get(service_name(model))
        if service is None:
            return Served()
        answers: Counter[str] = Counter()
        for target in service.get("status", {}).get("components", {}).get("predictor", {}).get("traffic", ()):
            answers[self.api.revisions[target["revisionName"]]["metadata"]["labels"][VERSION]] += target["percent"]
        return Served(answers={version: float(percent) for version, percent in answers.items() if percent})

    @contextmanager
    def play(self, fault: Fault) -> Iterator[None]:
        self.api.answer = lambda: _FAULTS[fault]
        try:
            yield
        finally:
            self.api.answer = lambda: None

    @contextmanager
    def crash(self, at: int, *, after: bool) -> Iterator[None]:
        self._crash = _Crashing(at, after)
        try:
            yield
        finally:
            self._crash = None


def _die_at(client: ApiClient, crash: _Crashing) -> None:
    send = client.call_api
    client.call_api = lambda *args, **more: crash.call(lambda: send(*args, **more))  # type: ignore[method-assign]


@contextmanager
def kserve_harness(schema: Problems | NotFetchedError, folder: Path) -> Iterator[KServeHarness]:
    """A cluster with KServe and nothing in it; it takes what the real schema takes, if that can be had."""
    api = KServeApi()
    if not isinstance(schema, NotFetchedError):
        api.validate = schema
    with api.serving():
        yield KServeHarness(api, folder / "kubeconfig")
