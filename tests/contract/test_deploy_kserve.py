"""What is KServe's own: 0 percent and 100, its way back, others who change the same object, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import incluster_config
from tests.contract.deployers import carry_out, registered, split_of
from tests.contract.kserve_api import KServeApi, RefusedError
from tests.contract.kserve_harness import SPEC, KServeHarness, kserve_harness
from tests.contract.kserve_schema import NotFetchedError, Problems

from perennial.adapters.deploy_kserve import KServeDeployer
from perennial.adapters.kserve_cluster import Cluster, connect
from perennial.adapters.kserve_manifest import inference_service
from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError, TerminalError

MODEL = "flights_delay"
NAME = "flights-delay"


@pytest.fixture
def empty(kserve_schema: Problems | NotFetchedError, tmp_path: Path) -> Iterator[KServeHarness]:
    """Without an InferenceService."""
    with kserve_harness(kserve_schema, tmp_path) as harness:
        yield harness


@pytest.fixture
def kserve(empty: KServeHarness) -> KServeHarness:
    """With version 3 as the champion."""
    _become_champion(empty, 3)
    return empty


def _become_champion(kserve: KServeHarness, version: int) -> None:
    carry_out(kserve, lambda deployer: deployer.promote(registered(MODEL, version)))


def _try_out(kserve: KServeHarness, version: int, share: float) -> None:
    split = split_of(MODEL, champion=3, challenger=version)
    carry_out(kserve, lambda deployer: deployer.deploy(split))
    carry_out(kserve, lambda deployer: deployer.shift(split, share))


def _service(kserve: KServeHarness) -> dict[str, Any]:
    return kserve.api.services[NAME]


def test_container_serves_the_one_version_with_everything_the_spec_says(kserve: KServeHarness) -> None:
    wanted = _service(kserve)["spec"]["predictor"]
    (container,) = wanted["containers"]
    environment = {item["name"]: item["value"] for item in container["env"]}
    assert environment == {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "PERENNIAL_SCORING_MODEL": MODEL,
        "PERENNIAL_SCORING_VERSION": "3",
        "PERENNIAL_STORE": "s3://bucket/store",
    }
    assert (container["image"], container["args"]) == (SPEC.image, ["serve"])
    assert container["envFrom"] == [{"secretRef": {"name": "scoring-s3"}}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/ping", "port": 8080}
    assert (wanted["serviceAccountName"], wanted["minReplicas"], wanted["maxReplicas"]) == ("scoring", 1, 3)
    assert _service(kserve)["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "perennial"


def test_promotion_of_the_challenger_starts_no_new_pods(kserve: KServeHarness) -> None:
    _try_out(kserve, 4, 50.0)
    kserve.deployer().promote(registered(MODEL, 4))
    kserve.settle()
    assert kserve.served(MODEL).answers == {"4": 100.0}
    assert len(kserve.api.revisions) == 2
    assert "canaryTrafficPercent" not in _service(kserve)["spec"]["predictor"]


def test_champion_that_is_not_up_on_kserve_is_brought_up_before_its_challenger(empty: KServeHarness) -> None:
    split = split_of(MODEL)
    with pytest.raises(DeployerUnavailableError, match="the champion, version 3, to have all requests"):
        empty.deployer().deploy(split)
    with pytest.raises(DeployerUnavailableError):
        empty.deployer().deploy(split)  # KServe knows no last good revision yet: the challenger would get all
    empty.settle()
    empty.deployer().deploy(split)
    empty.settle()
    assert empty.served(MODEL).answers == {"3": 100.0}


def test_challenger_answers_nobody_before_it_has_a_share_at_any_moment(kserve: KServeHarness) -> None:
    kserve.deployer().deploy(split_of(MODEL))
    for _ in range(6):
        kserve.api.step()
        assert kserve.served(MODEL).answers == {"3": 100.0}


@pytest.mark.parametrize("share", [0.0, 25.0, 99.0])
def test_roll_back_gives_the_champion_everything_at_once_and_at_every_moment_after(
    kserve: KServeHarness, share: float
) -> None:
    _try_out(kserve, 4, share)
    kserve.deployer().roll_back(registered(MODEL, 3))
    for _ in range(6):
        kserve.api.step()
        assert kserve.served(MODEL).answers == {"3": 100.0}
    status = kserve.deployer().status(MODEL)
    assert (status.champion, status.challenger, status.rollout_id, status.ready) == ("3", None, None, True)
    pods = _service(kserve)["status"]["components"]["predictor"]["latestReadyRevision"]
    assert kserve.api.revisions[pods]["metadata"]["labels"]["perennial/version"] == "3", (
        "the challenger's pods are gone"
    )


@pytest.mark.parametrize("seen", [True, False])
def test_challenger_with_everything_is_taken_back_by_kserves_own_way_back(kserve: KServeHarness, seen: bool) -> None:
    _try_out(kserve, 4, 50.0)
    kserve.deployer().shift(split_of(MODEL), 100.0)
    if seen:
        kserve.settle()
        assert kserve.served(MODEL).answers == {"4": 100.0}
        assert kserve.deployer().status(MODEL).champion == "3"
    with pytest.raises(DeployerUnavailableError, match="version 3 to have all requests again"):
        kserve.deployer().roll_back(registered(MODEL, 3))
    kserve.settle()
    assert kserve.served(MODEL).answers == {"3": 100.0}
    for _ in range(4):
        kserve.deployer().roll_back(registered(MODEL, 3))
        kserve.api.step()
        assert kserve.served(MODEL).answers == {"3": 100.0}
    assert kserve.deployer().status(MODEL).rollout_id is None


def test_challenger_that_was_taken_back_answers_nobody_while_the_champion_is_promoted_again(
    kserve: KServeHarness,
) -> None:
    _try_out(kserve, 4, 50.0)
    kserve.api.broken["3"] = "the image is gone"
    kserve.deployer().roll_back(registered(MODEL, 3))
    for _ in range(4):
        kserve.deployer().promote(registered(MODEL, 3))
        kserve.api.step()
        assert kserve.served(MODEL).answers == {"3": 100.0}


def test_third_version_is_promoted_without_the_challenger_ever_getting_more(kserve: KServeHarness) -> None:
    _try_out(kserve, 4, 50.0)
    seen = []
    for _ in range(12):
        with suppress(DeployerUnavailableError):
            kserve.deployer().promote(registered(MODEL, 5))
        kserve.api.step()
        seen.append(dict(kserve.served(MODEL).answers))
    assert seen[-1] == {"5": 100.0}
    assert all("4" not in answers for answers in seen)


def test_challenger_that_may_come_up_any_moment_is_held_back_while_another_is_promoted(kserve: KServeHarness) -> None:
    kserve.deployer().deploy(split_of(MODEL))
    kserve.api.step()
    with pytest.raises(DeployerUnavailableError, match="the pods of version 5; version 3 answers meanwhile"):
        kserve.deployer().promote(registered(MODEL, 5))
    assert _service(kserve)["spec"]["predictor"]["canaryTrafficPercent"] == 0


def test_challenger_waits_for_a_promotion_that_is_on_its_way(kserve: KServeHarness) -> None:
    kserve.deployer().promote(registered(MODEL, 5))
    with pytest.raises(DeployerUnavailableError, match="version 5 to have all requests"):
        kserve.deployer().deploy(split_of(MODEL))
    kserve.settle()
    assert kserve.served(MODEL).answers == {"5": 100.0}


def test_route_that_is_not_in_force_yet_is_not_ready(kserve: KServeHarness) -> None:
    kserve.api.routes = "Unknown"
    _try_out(kserve, 4, 25.0)
    status = kserve.deployer().status(MODEL)
    assert (status.share, status.ready, status.problem) == (25.0, False, "")


def test_promotion_of_a_version_that_does_not_come_up_ends_with_what_knative_says(kserve: KServeHarness) -> None:
    _try_out(kserve, 4, 50.0)
    kserve.api.broken["5"] = "there is no version 5 of flights_delay"
    with pytest.raises(TerminalError, match="there is no version 5"):
        carry_out(kserve, lambda deployer: deployer.promote(registered(MODEL, 5)))
    assert kserve.served(MODEL).answers == {"3": 100.0}


def test_pods_that_do_not_come_up_are_the_problem_in_knatives_words(kserve: KServeHarness) -> None:
    kserve.api.broken["4"] = "perennial: version 4 of flights_delay could not be loaded"
    kserve.deployer().deploy(split_of(MODEL))
    assert kserve.deployer().status(MODEL).problem == ""
    kserve.settle()
    status = kserve.deployer().status(MODEL)
    assert not status.ready
    assert status.problem == f"the pods of version 4 do not come up: ExitCode1: {kserve.api.broken['4']}"
    assert kserve.served(MODEL).answers == {"3": 100.0}


def test_kserve_that_falls_back_to_an_older_version_is_a_problem_and_can_be_taken_back(kserve: KServeHarness) -> None:
    _become_champion(kserve, 4)
    split = split_of(MODEL, champion=4, challenger=5)
    carry_out(kserve, lambda deployer: deployer.deploy(split))
    component = _service(kserve)["status"]["components"]["predictor"]
    component["latestRolledoutRevision"] = component["previousRolledoutRevision"]
    kserve.settle()
    assert "sends requests to version 3, which is not the champion" in kserve.deployer().status(MODEL).problem
    carry_out(kserve, lambda deployer: deployer.roll_back(registered(MODEL, 4)))
    assert kserve.served(MODEL).answers == {"4": 100.0}


def test_new_image_in_the_spec_makes_new_pods_of_the_same_version(kserve: KServeHarness) -> None:
    kserve.spec = SPEC.model_copy(update={"image": "registry.example/perennial:2"})
    kserve.deployer().promote(registered(MODEL, 3))
    assert not kserve.deployer().status(MODEL).ready
    kserve.settle()
    assert kserve.deployer().status(MODEL).ready
    assert len(kserve.api.revisions) == 2


def test_what_others_wrote_into_the_service_stays(kserve: KServeHarness) -> None:
    predictor_of = _service(kserve)["spec"]["predictor"]
    predictor_of["annotations"]["example.com/team"] = "ops"
    predictor_of["tolerations"] = [{"key": "gpu"}]
    kserve.settle()
    _try_out(kserve, 4, 5.0)
    predictor_of = _service(kserve)["spec"]["predictor"]
    assert predictor_of["annotations"]["example.com/team"] == "ops"
    assert predictor_of["tolerations"] == [{"key": "gpu"}]


def test_change_by_somebody_else_in_between_is_read_before_it_is_decided_again(kserve: KServeHarness) -> None:
    others = iter(range(2))

    def somebody() -> None:
        if next(others, None) is not None:
            kserve.api.touch(_service(kserve))

    kserve.api.before_change = somebody
    kserve.deployer().deploy(split_of(MODEL))
    assert _service(kserve)["spec"]["predictor"]["labels"]["perennial/version"] == "4"
    assert kserve.api.calls.count("PATCH") == 3 + kserve.api.calls[: kserve.api.calls.index("PATCH")].count("PATCH")


def test_changes_by_others_without_end_are_told_as_busy(kserve: KServeHarness) -> None:
    kserve.api.before_change = lambda: kserve.api.touch(_service(kserve))
    with pytest.raises(DeployerUnavailableError, match="changed by others at each of 5 tries"):
        kserve.deployer().deploy(split_of(MODEL))


def test_service_that_another_one_created_meanwhile_is_looked_at_again(empty: KServeHarness) -> None:
    api = empty.api

    def somebody() -> None:
        api.before_change = lambda: None
        api._accept({**inference_service(SPEC, registered(MODEL, 2)), "metadata": _metadata(MODEL)}, None)

    api.before_change = somebody
    empty.deployer().promote(registered(MODEL, 3))
    empty.settle()
    assert empty.served(MODEL).answers == {"3": 100.0}


def _metadata(model: str) -> dict[str, Any]:
    return {**inference_service(SPEC, registered(model, 2))["metadata"], "generation": 0}


@pytest.mark.parametrize(
    ("labels", "annotations"),
    [({}, {"perennial/model": MODEL}), ({"app.kubernetes.io/managed-by": "perennial"}, {"perennial/model": "other"})],
)
def test_service_of_somebody_else_is_left_alone(
    kserve: KServeHarness, labels: dict[str, str], annotations: dict[str, str]
) -> None:
    _service(kserve)["metadata"] |= {"labels": labels, "annotations": annotations}
    before = deepcopy(_service(kserve))
    for act in (
        lambda: kserve.deployer().status(MODEL),
        lambda: kserve.deployer().promote(registered(MODEL, 4)),
        lambda: kserve.deployer().roll_back(registered(MODEL, 3)),
        lambda: kserve.deployer().deploy(split_of(MODEL)),
    ):
        with pytest.raises(TerminalError, match="is not Perennial's for the model flights_delay"):
            act()
    assert _service(kserve) == before


@pytest.mark.parametrize("mode", ["RawDeployment", "Standard"])
def test_mode_without_revisions_is_refused_and_is_the_problem(kserve: KServeHarness, mode: str) -> None:
    kserve.api.mode = mode
    kserve.settle()
    status = kserve.deployer().status(MODEL)
    assert (status.ready, f"in its {mode} mode" in status.problem) == (False, True)
    with pytest.raises(TerminalError, match=f"in its {mode} mode"):
        kserve.deployer().deploy(split_of(MODEL))


def test_shadow_is_refused(kserve: KServeHarness) -> None:
    with pytest.raises(TerminalError, match="nothing can be in shadow"):
        kserve.deployer().deploy(split_of(MODEL, role=Role.SHADOW))


def test_split_that_is_no_longer_in_force_is_brought_up_again_before_it_gets_a_share(kserve: KServeHarness) -> None:
    with pytest.raises(DeployerUnavailableError, match="version 4 to come up"):
        kserve.deployer().shift(split_of(MODEL), 50.0)
    kserve.settle()
    assert kserve.served(MODEL).answers == {"3": 100.0}


def test_split_of_another_rollout_is_not_touched(kserve: KServeHarness) -> None:
    _try_out(kserve, 4, 25.0)
    with pytest.raises(DeployerUnavailableError, match="which tries out version 4; or stop it"):
        kserve.deployer().deploy(split_of(MODEL, challenger=5, rollout="b" * 64))
    assert kserve.served(MODEL).answers == {"4": 25.0, "3": 75.0}


@pytest.mark.parametrize(
    ("refused", "kind", "words"),
    [
        (RefusedError(401, "Unauthorized"), TerminalError, "credentials are wrong or have expired"),
        (
            RefusedError(403, 'User "x" cannot get resource'),
            TerminalError,
            "cannot get resource.*do not allow it: give them get",
        ),
        (RefusedError(403, 'admission webhook "x" denied the request: bad name'), TerminalError, "denied.*bad name$"),
        (RefusedError(422, "spec.predictor: bad"), TerminalError, "spec.predictor: bad"),
        (RefusedError(404, ""), TerminalError, "install KServe"),
        (RefusedError(429, "slow down"), DeployerUnavailableError, "slow down"),
        (RefusedError(500, "etcd"), DeployerUnavailableError, "etcd"),
        (RefusedError(504, "timeout"), DeployerUnavailableError, "timeout"),
    ],
)
def test_refusal_is_told_with_what_to_do(
    kserve: KServeHarness, refused: RefusedError, kind: type[Exception], words: str
) -> None:
    kserve.api.answer = lambda: refused
    with pytest.raises(kind, match=words) as caught:
        kserve.deployer().status(MODEL)
    assert type(caught.value) is kind


def test_namespace_that_is_missing_is_named(empty: KServeHarness) -> None:
    empty.api.namespaces.clear()
    with pytest.raises(TerminalError, match=r'namespaces "models" not found. Create the namespace'):
        empty.deployer().promote(registered(MODEL, 3))


def test_cluster_without_knative_is_told(kserve: KServeHarness) -> None:
    kserve.api.kinds = {kind for kind in kserve.api.kinds if kind[2] != "revisions"}
    with pytest.raises(TerminalError, match="with Knative for its Serverless mode"):
        kserve.deployer().status(MODEL)


def test_api_that_does_not_answer_is_unavailable(empty: KServeHarness, tmp_path: Path) -> None:
    closed = KServeApi()
    with closed.serving():
        pass
    harness = KServeHarness(closed, tmp_path / "closed")
    with pytest.raises(DeployerUnavailableError, match="did not answer"):
        harness.deployer().status(MODEL)


@pytest.mark.parametrize("content", [None, "", "clusters: [", "apiVersion: v1\nkind: Config\n"])
def test_no_cluster_to_be_found_is_told_with_where_it_was_looked_for(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(TerminalError, match="no Kubernetes cluster is known"):
        KServeDeployer(SPEC, lambda: Cluster(connect(str(file)), "models")).status(MODEL)


def test_kubeconfig_with_another_token_is_refused(kserve: KServeHarness) -> None:
    kserve.kubeconfig.write_text(yaml.safe_dump(kserve.api.kubeconfig(token="stale")), encoding="utf-8")
    with pytest.raises(TerminalError, match="renew them"):
        kserve.deployer().status(MODEL)


def test_process_in_a_pod_talks_to_its_own_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("TOKEN", "pods-token"), ("CERT", "a certificate")):
        file = tmp_path / name
        file.write_text(content, encoding="utf-8")
        monkeypatch.setattr(incluster_config, f"SERVICE_{name}_FILENAME", str(file))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    # A client would read the certificate, which is none.
    monkeypatch.setattr("perennial.adapters.kserve_cluster.client.ApiClient", lambda configuration: configuration)
    assert connect().host == "https://10.0.0.1:443"  # type: ignore[attr-defined]
