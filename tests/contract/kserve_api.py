"""A Kubernetes API on 127.0.0.1 with InferenceServices and their revisions, and what KServe and Knative do to them.

The controllers do nothing by themselves: `step` is one round of each, `settle` goes on until nothing changes. What they
do follows KServe's `ksvc_reconciler.go` and `inference_service_status.go`, as read at 0.16 to 0.21.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from tests.contract.kserve_schema import Problems

Object = dict[str, Any]
_TOKEN: Final = "a-token"
_PATH: Final = re.compile(r"/apis/([^/]+)/([^/]+)/namespaces/([^/]+)/([^/?]+)(?:/([^/?]+))?(?:\?(.*))?$")
_LABEL: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_KINDS: Final = {("serving.kserve.io", "v1beta1", "inferenceservices"), ("serving.knative.dev", "v1", "revisions")}


class RefusedError(Exception):
    """What the API answers instead."""

    def __init__(self, status: int, message: str, *, kind: str = "", name: str = "") -> None:
        super().__init__(message)
        self.status, self.details = status, {"kind": kind, "name": name}


@dataclass
class KServeApi:
    """The cluster's state, and the server in front of it."""

    validate: Problems = lambda _service: []
    kinds: set[tuple[str, str, str]] = field(default_factory=lambda: set(_KINDS))
    namespaces: set[str] = field(default_factory=lambda: {"models"})
    services: dict[str, Object] = field(default_factory=dict)
    revisions: dict[str, Object] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    """Versions whose pods do not come up, and what Knative says of them."""
    answer: Callable[[], RefusedError | None] = lambda: None
    """What every call meets."""
    before_change: Callable[[], None] = lambda: None
    """Called before a change, as somebody who is faster."""
    calls: list[str] = field(default_factory=list)
    """Methods, in their order."""
    mode: str = ""
    """What KServe makes of the deployment mode; empty: what the annotation says."""
    routes: str = "True"
    """Whether the routes that are asked for are in force."""
    _clock: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Listen meanwhile."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def kubeconfig(self, *, token: str = _TOKEN) -> Object:
        """That leads here."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": token}}],
        }

    def handle(self, method: str, path: str, headers: Any, body: bytes) -> Object:
        """One request."""
        with self._lock:
            self.calls.append(method)
            if headers.get("Authorization", "").removeprefix("Bearer ") != _TOKEN:
                raise RefusedError(401, "Unauthorized")
            if refused := self.answer():
                raise refused
            matched = _PATH.match(path)
            if matched is None or (matched[1], matched[2], matched[4]) not in self.kinds:
                raise RefusedError(404, "")
            _, _, namespace, plural, name, query = matched.groups()
            kept = self.revisions if plural == "revisions" else self.services
            if method == "GET":
                return deepcopy(_found(kept, plural, name))
            assert plural == "inferenceservices"
            assert "fieldValidation=Strict" in (query or "")
            if namespace not in self.namespaces:
                raise RefusedError(404, f'namespaces "{namespace}" not found', kind="namespaces", name=namespace)
            self.before_change()
            return self._create(json.loads(body)) if method == "POST" else self._patch(name, headers, json.loads(body))

    def _create(self, service: Object) -> Object:
        name = service["metadata"]["name"]
        if name in self.services:
            raise RefusedError(409, f'inferenceservices "{name}" already exists')
        if not _NAME.fullmatch(name) or len(f"{name}-predictor-00001") > 63:
            raise RefusedError(422, f"metadata.name: Invalid value: {name!r}")
        self._accept({**service, "metadata": {**service["metadata"], "generation": 0}}, None)
        return deepcopy(self.services[name])

    def _patch(self, name: str, headers: Any, patch: Object) -> Object:
        if headers["Content-Type"] != "application/merge-patch+json":
            raise RefusedError(415, "the body of the request was in an unknown format")
        old = _found(self.services, "inferenceservices", name)
        wanted = patch["metadata"].pop("resourceVersion", None)
        if wanted is not None and wanted != old["metadata"]["resourceVersion"]:
            raise RefusedError(409, "the object has been modified; please apply your changes to the latest version")
        self._accept(_merged(old, patch), old)
        return deepcopy(self.services[name])

    def _accept(self, new: Object, old: Object | None) -> None:
        shown = {key: value for key, value in new.items() if key != "status"}
        if problems := self.validate(shown):
            raise RefusedError(422, "InferenceService is invalid: " + "; ".join(problems))
        predictor = new["spec"]["predictor"]
        for value in [*new["metadata"].get("labels", {}).values(), *predictor.get("labels", {}).values()]:
            if not _LABEL.fullmatch(value):
                raise RefusedError(422, f"metadata.labels: Invalid value: {value!r}")
        if old is not None and old == new:
            return
        if old is None or old["spec"] != new["spec"]:
            new["metadata"]["generation"] += 1
        self.touch(new)
        self.services[new["metadata"]["name"]] = new

    def touch(self, service: Object) -> None:
        """A new resourceVersion: somebody changed something."""
        self._clock += 1
        service["metadata"]["resourceVersion"] = str(self._clock)

    def settle(self) -> None:
        """Until nothing changes any more."""
        for _ in range(30):
            if not self.step():
                return
        raise AssertionError("the controllers do not come to rest")

    def step(self) -> bool:
        """One round of KServe's controller and Knative's, for each service; whether it changed anything."""
        changed = False
        with self._lock:
            for service in self.services.values():
                before = deepcopy(service.get("status"))
                self._reconcile(service)
                if service.get("status") != before:
                    self.touch(service)
                    changed = True
        return changed

    def _reconcile(self, service: Object) -> None:
        status = service.setdefault("status", {"components": {"predictor": {}}})
        status["deploymentMode"] = self.mode or service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
        if status["deploymentMode"] != "Serverless":
            return
        component, wanted = status["components"]["predictor"], service["spec"]["predictor"]
        targets = _targets(wanted.get("canaryTrafficPercent"), component.get("latestRolledoutRevision", ""))
        self._knative(service, component, targets)
        _remember_rolled_out(component)
        failed = any(condition["status"] == "False" for condition in self._conditions(component))
        routed = self.routes if component["traffic"] else "Unknown"
        status["conditions"] = [
            {"type": "PredictorRouteReady", "status": routed},
            {"type": "Ready", "status": "False" if failed else routed},
        ]

    def _conditions(self, component: Object) -> list[Object]:
        return list(self.revisions[component["latestCreatedRevision"]]["status"]["conditions"])

    def _knative(self, service: Object, component: Object, targets: list[Object]) -> None:
        """The newest revision becomes ready a round after it was created; routes go to what is ready."""
        wanted = {key: value for key, value in service["spec"]["predictor"].items() if key != "canaryTrafficPercent"}
        newest = self.revisions.get(component.get("latestCreatedRevision", ""))
        if newest is None or newest["spec"] != wanted:
            self._new_revision(service, component, wanted)
        elif newest["status"]["conditions"][0]["status"] == "Unknown":
            why = self.broken.get(wanted["labels"]["perennial/version"], "")
            ready = {"type": "Ready", "status": "False" if why else "True"}
            newest["status"]["conditions"] = [{**ready, "reason": "ExitCode1", "message": why} if why else ready]
            if not why:
                component["latestReadyRevision"] = newest["metadata"]["name"]
        latest = component.get("latestReadyRevision", "")
        component["traffic"] = [
            {"revisionName": latest, **target} if target["latestRevision"] else target for target in targets if latest
        ]

    def _new_revision(self, service: Object, component: Object, wanted: Object) -> None:
        number = 1 + int(component.get("latestCreatedRevision", "0").rpartition("-")[2])
        name = f"{service['metadata']['name']}-predictor-{number:05d}"
        self.revisions[name] = {
            "metadata": {"name": name, "labels": wanted["labels"], "annotations": wanted["annotations"]},
            "spec": deepcopy(wanted),
            "status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Deploying"}]},
        }
        component["latestCreatedRevision"] = name


def _targets(percent: int | None, last_good: str) -> list[Object]:
    if percent is None or not last_good:
        return [{"latestRevision": True, "percent": 100}]
    targets: list[Object] = [{"latestRevision": True, "percent": percent}]
    if percent < 100:
        rest = {"latestRevision": False, "revisionName": last_good, "percent": 100 - percent, "tag": "prev"}
        targets.append(rest)
    return targets


def _remember_rolled_out(component: Object) -> None:
    """What had all the requests last, and before that. One that falls below 100 percent counts as rolled back."""
    ready, last_good = component.get("latestReadyRevision", ""), component.get("latestRolledoutRevision", "")
    latest = next((target for target in component["traffic"] if target["latestRevision"]), None)
    if latest is None:
        return
    if last_good != ready and latest["percent"] == 100:
        component["previousRolledoutRevision"], component["latestRolledoutRevision"] = last_good, ready
    elif last_good == ready == component["latestCreatedRevision"] and latest["percent"] < 100:
        to_it = sum(target["percent"] for target in component["traffic"] if target["revisionName"] == ready)
        if to_it == 100 and component.get("previousRolledoutRevision"):
            component["latestRolledoutRevision"] = component["previousRolledoutRevision"]


def _found(kept: dict[str, Object], plural: str, name: str) -> Object:
    if name not in kept:
        raise RefusedError(404, f'{plural} "{name}" not found', kind=plural, name=name)
    return kept[name]


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    merged = dict(deepcopy(old)) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


class _Handler(BaseHTTPRequestHandler):
    api: KServeApi
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, found = 200, {}
        try:
            found = self.api.handle(self.command, self.path, self.headers, body)
        except RefusedError as error:
            status, message = error.status, str(error)
            found = {"kind": "Status", "status": "Failure", "message": message, "details": error.details}
        content = json.dumps(found).encode() if found.get("message") != "" else b"404 page not found"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
