"""KServe as a deployer: one InferenceService a model, in Serverless mode; a challenger is its newest revision.

KServe sends `canaryTrafficPercent` of the requests to the newest revision that is ready, and the rest to the last one
that had all of them, its last good one. Without that field the newest ready one gets all. So the field is taken away
only when the newest ready revision may have all the requests. At 100 the challenger becomes the last good one; 0 after
that makes KServe go back to the one before, as long as the challenger is still the newest.

Each change is decided on what was just read and carries its resourceVersion, so nobody's change in between is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from perennial.adapters.kserve_cluster import Cluster, ConflictError, connect
from perennial.adapters.kserve_manifest import (
    inference_service,
    predictor,
    service_name,
    template_of,
)
from perennial.adapters.kserve_state import State, no_revisions, state_of
from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError, TerminalError
from perennial.ports import DeploymentStatus, RegisteredVersion, Split
from perennial.spec.platforms import KServe

_TRIES: Final = 5
_Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Step:
    """What to do next."""

    new: _Fields | None = None
    """The InferenceService to create."""
    predictor: _Fields | None = None
    """What to change of the one that is there."""
    waits_for: str = ""
    """What has to come about before the rest can be done; empty: there is no rest."""


_NOTHING: Final = _Step()


class KServeDeployer:
    """A `Deployer` on a Kubernetes cluster with KServe and Knative."""

    def __init__(self, spec: KServe, cluster: Callable[[], Cluster] | None = None) -> None:
        """Touch nothing yet.

        Args:
            spec: the model's `deployment`.
            cluster: connects; None: to the cluster around this process, or the kubeconfig's.
        """
        self._spec = spec
        self._connect = cluster or (lambda: Cluster(connect(), spec.namespace))
        self._cluster: Cluster | None = None

    def deploy(self, split: Split) -> None:
        """Make the challenger the newest revision, at 0 percent. A split of its own stays as it is."""
        if split.role is not Role.CANARY:
            raise TerminalError(f"{split.challenger.name}: KServe does not copy requests, so nothing can be in shadow")
        self._do(split.challenger.name, lambda state: self._to_deploy(state, split))

    def shift(self, split: Split, share: float) -> None:
        """Set the percentage, a whole one."""
        percent = round(share)

        def decide(state: State | None) -> _Step:
            if state is None or not self._is_of(state, split):
                step = self._to_deploy(state, split)
                version = split.challenger.version
                return _Step(step.new, step.predictor, step.waits_for or f"version {version} to come up")
            return _NOTHING if state.percent == percent else _Step(predictor={"canaryTrafficPercent": percent})

        self._do(split.challenger.name, decide)

    def status(self, model: str) -> DeploymentStatus:
        """What is asked for, and whether it is in force."""
        state = self._read(model)
        return DeploymentStatus(champion=None) if state is None else state.status()

    def promote(self, champion: RegisteredVersion) -> None:
        """Let the version have all the requests: at once if it is the challenger, else as soon as its pods are up."""
        self._do(champion.name, lambda state: self._to_promote(state, champion))

    def roll_back(self, champion: RegisteredVersion) -> None:
        """Give the last good revision all the requests at once, and put the champion in the challenger's place.

        The field stays, at 0, as long as the challenger is the newest revision that is ready.
        """

        def decide(state: State | None) -> _Step:
            if state is None:
                return _NOTHING
            answers_already = state.percent is not None and state.last_good.version == champion.version
            if answers_already and not state.had_everything:
                return self._without_challenger(state, champion)
            return self._to_promote(state, champion)

        self._do(champion.name, decide)

    def _to_deploy(self, state: State | None, split: Split) -> _Step:
        champion = split.champion
        if state is not None and state.is_split:
            if state.rollout != split.rollout_id:
                return _Step(waits_for=_others(state))
            if state.version == split.challenger.version:
                return _NOTHING
        if state is None or state.last_good.version != champion.version:
            step = self._to_promote(state, champion)
            return _Step(step.new, step.predictor, f"the champion, version {champion.version}, to have all requests")
        if state.percent is None and not self._is_settled(state):
            return _Step(waits_for=f"version {state.version} to have all requests")
        return _Step(predictor={**predictor(self._spec, split.challenger, split), "canaryTrafficPercent": 0})

    def _to_promote(self, state: State | None, champion: RegisteredVersion) -> _Step:
        if state is None:
            return _Step(new=inference_service(self._spec, champion))
        template = template_of(self._spec, champion)
        if state.percent is None and state.template == template:
            return _NOTHING
        if state.percent is not None and state.template == state.ready.template == template:
            return _Step(predictor={"canaryTrafficPercent": None})
        nobody_to_hold_back = state.created == state.ready == state.last_good and not state.had_everything
        if state.percent is None or nobody_to_hold_back:  # it takes over as soon as its pods are up
            return _Step(predictor={**predictor(self._spec, champion), "canaryTrafficPercent": None})
        return self._to_promote_past_challenger(state, champion)

    def _to_promote_past_challenger(self, state: State, champion: RegisteredVersion) -> _Step:
        """Another version is the newest one that is ready, or may be soon: it must get no more than it has."""
        if state.had_everything:
            change = None if state.percent == 0 else {"canaryTrafficPercent": 0}
            return _Step(predictor=change, waits_for=f"version {state.beside} to have all requests again")
        step = self._without_challenger(state, champion)
        if state.last_good.version == champion.version:
            return step
        template = template_of(self._spec, champion)
        if state.template == template and state.created.template == template and state.created.failure:
            raise TerminalError(
                f"{champion.name}: the pods of version {champion.version} do not come up ({state.created.failure}); "
                f"version {state.last_good.version} answers meanwhile"
            )
        waits_for = f"the pods of version {champion.version}; version {state.last_good.version} answers meanwhile"
        return _Step(predictor=step.predictor, waits_for=waits_for)

    def _without_challenger(self, state: State, champion: RegisteredVersion) -> _Step:
        if state.template == template_of(self._spec, champion):
            return _NOTHING if state.percent == 0 else _Step(predictor={"canaryTrafficPercent": 0})
        return _Step(predictor={**predictor(self._spec, champion), "canaryTrafficPercent": 0})

    def _is_of(self, state: State, split: Split) -> bool:
        ours = (state.rollout, state.version) == (split.rollout_id, split.challenger.version)
        return ours and state.is_split

    def _is_settled(self, state: State) -> bool:
        """Whether the template's revision is KServe's last good one. Without one a challenger would get everything."""
        return state.template == state.created.template == state.ready.template == state.last_good.template

    def _do(self, model: str, decide: Callable[[State | None], _Step]) -> None:
        """Decide on what is there, and change it; again, if somebody else did meanwhile."""
        name = service_name(model)
        for _ in range(_TRIES):
            state = self._read(model)
            if state is not None and not state.has_revisions:
                raise TerminalError(f"{model}: {no_revisions(state.mode)}")
            step = decide(state)
            try:
                self._carry_out(name, state, step)
            except ConflictError:
                continue
            if step.waits_for:
                raise DeployerUnavailableError(f"{model}: KServe is busy; waiting for {step.waits_for}")
            return
        raise DeployerUnavailableError(f"the InferenceService {name} was changed by others at each of {_TRIES} tries")

    def _carry_out(self, name: str, state: State | None, step: _Step) -> None:
        if step.new is not None:
            self._api().create(step.new)
        elif step.predictor is not None and state is not None:
            metadata = {"resourceVersion": state.resource_version}
            self._api().change(name, {"metadata": metadata, "spec": {"predictor": step.predictor}})

    def _read(self, model: str) -> State | None:
        api = self._api()
        found = api.read(service_name(model))
        return None if found is None else state_of(found, model, api.revision)

    def _api(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._connect()
        return self._cluster


def _others(state: State) -> str:
    return (
        f"the end of rollout {state.rollout}, which tries out version {state.version}; or stop it with "
        "`perennial rollback MODEL --challenger`"
    )
