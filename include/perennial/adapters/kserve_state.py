"""What an InferenceService is asked for, and what KServe and Knative say is in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from perennial.adapters.kserve_manifest import (
    CHAMPION,
    MANAGED_BY,
    MANAGER,
    MODE,
    MODEL,
    ROLLOUT,
    SERVERLESS,
    TEMPLATE,
    VERSION,
)
from perennial.domain.traffic import Role
from perennial.errors import TerminalError
from perennial.ports import DeploymentStatus

_WITH_REVISIONS: Final = frozenset({SERVERLESS, "Knative", ""})
"""Deployment modes in which KServe splits the requests between revisions; empty: it has not decided yet."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One of Knative's: pods of one version."""

    name: str
    version: str = ""
    template: str = ""
    failure: str = ""
    """Why it is not ready and will not be, in Knative's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """An InferenceService of Perennial's, and what it does."""

    resource_version: str
    version: str
    """The one that its template serves."""
    template: str
    rollout: str
    beside: str
    """Version that the template's was brought up beside, as a challenger."""
    percent: int | None
    """Of the requests to the newest revision that is ready; None: all."""
    created: Revision
    """The newest revision."""
    ready: Revision
    """The newest one that is ready: it gets `percent`."""
    last_good: Revision
    """The last one that got all the requests: it gets the rest."""
    traffic: Mapping[str, int]
    """Percent of the requests by version, as routed; empty: nothing is."""
    routed: bool
    """Whether the routes are in force."""
    mode: str
    """KServe's deployment mode."""

    @property
    def is_split(self) -> bool:
        """Whether the template's version is a challenger: on trial, or on its way to it."""
        return self.percent is not None and bool(self.rollout)

    @property
    def had_everything(self) -> bool:
        """Whether the challenger has had all the requests, or may yet: then it is KServe's last good revision."""
        return self.is_split and (self.percent == 100 or self.last_good.template == self.template)

    @property
    def has_revisions(self) -> bool:
        """Whether KServe runs it in a mode that can split requests."""
        return self.mode in _WITH_REVISIONS

    def status(self) -> DeploymentStatus:
        """As `Deployer.status` tells it.

        `status.observedGeneration` says nothing here: KServe copies it from Knative's service. So what is routed is
        compared with what is asked for.
        """
        if self.is_split:
            champion, share = self.beside, self.percent or 0
            wanted = {self.version: share, self.beside: 100 - share}
            up = self.ready.template == self.template
        else:
            champion, wanted = max(self.traffic, key=lambda name: self.traffic[name], default=""), {self.version: 100}
            # Taken back: the last good revision answers, whether the pods of its successor are up or not.
            up = self.percent is not None or self.ready.template == self.template
        in_force = {version: percent for version, percent in wanted.items() if percent} == dict(self.traffic)
        ready = up and in_force and self.routed and self.has_revisions
        return DeploymentStatus(
            champion=champion or None,
            challenger=self.version if self.is_split else None,
            role=Role.CANARY if self.is_split else None,
            share=float(self.percent or 0) if self.is_split else 0.0,
            rollout_id=self.rollout if self.is_split else None,
            ready=ready,
            problem="" if ready else self._problem(),
        )

    def _problem(self) -> str:
        if not self.has_revisions:
            return no_revisions(self.mode)
        if self.created.template == self.template and self.created.failure:
            return f"the pods of version {self.version} do not come up: {self.created.failure}"
        if self.is_split and self.last_good.version not in ("", self.beside, self.version):
            return (
                f"KServe sends requests to version {self.last_good.version}, which is not the champion that version "
                f"{self.version} is beside ({self.beside})"
            )
        return ""


def no_revisions(mode: str) -> str:
    """Why this deployment mode will not do."""
    return (
        f"KServe runs the InferenceService in its {mode} mode, in which it does not split requests between revisions; "
        f"delete it, and see that its annotation {MODE}: {SERVERLESS} is left as it is"
    )


def state_of(service: Mapping[str, Any], model: str, revision: Callable[[str], Mapping[str, Any] | None]) -> State:
    """Read an InferenceService, and the revisions that its status names.

    Raises:
        TerminalError: it is not Perennial's, or of another model.
    """
    metadata, wanted = service["metadata"], service["spec"]["predictor"]
    _require_ours(metadata, model)
    status = service.get("status") or {}
    component = (status.get("components") or {}).get("predictor") or {}
    seen: dict[str, Revision] = {}

    def look_up(name: str) -> Revision:
        if name not in seen:
            seen[name] = _revision(name, revision(name)) if name else Revision("")
        return seen[name]

    annotations = wanted.get("annotations") or {}
    return State(
        resource_version=metadata["resourceVersion"],
        version=(wanted.get("labels") or {}).get(VERSION, ""),
        template=annotations.get(TEMPLATE, ""),
        rollout=annotations.get(ROLLOUT, ""),
        beside=annotations.get(CHAMPION, ""),
        percent=wanted.get("canaryTrafficPercent"),
        created=look_up(component.get("latestCreatedRevision", "")),
        ready=look_up(component.get("latestReadyRevision", "")),
        last_good=look_up(component.get("latestRolledoutRevision", "")),
        traffic=_traffic(component.get("traffic") or (), look_up),
        routed=_condition(status, "PredictorRouteReady").get("status") == "True",
        mode=status.get("deploymentMode") or (metadata.get("annotations") or {}).get(MODE, ""),
    )


def _require_ours(metadata: Mapping[str, Any], model: str) -> None:
    manager = (metadata.get("labels") or {}).get(MANAGED_BY, "")
    owner = (metadata.get("annotations") or {}).get(MODEL, "")
    if (manager, owner) == (MANAGER, model):
        return
    found = f"{MANAGED_BY}={manager}, {MODEL}={owner}"
    raise TerminalError(
        f"the InferenceService {metadata['name']} in namespace {metadata.get('namespace')} is not Perennial's for the "
        f"model {model} ({found}), and is left alone. Rename or delete it, or choose another deployment.namespace"
    )


def _revision(name: str, found: Mapping[str, Any] | None) -> Revision:
    if found is None:
        return Revision(name)
    metadata = found["metadata"]
    ready = _condition(found.get("status") or {}, "Ready")
    failure = ""
    if ready.get("status") == "False":
        failure = ": ".join(filter(None, (ready.get("reason"), ready.get("message")))) or "no reason given"
    return Revision(
        name,
        version=(metadata.get("labels") or {}).get(VERSION, ""),
        template=(metadata.get("annotations") or {}).get(TEMPLATE, ""),
        failure=failure[:500],
    )


def _traffic(targets: Any, look_up: Callable[[str], Revision]) -> dict[str, int]:
    """By version; a revision that is none of ours goes by its own name."""
    found: dict[str, int] = {}
    for target in targets:
        if percent := target.get("percent") or 0:
            revision = look_up(target.get("revisionName", ""))
            version = revision.version or revision.name
            found[version] = found.get(version, 0) + percent
    return found


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((found for found in status.get("conditions") or () if found.get("type") == kind), {})
