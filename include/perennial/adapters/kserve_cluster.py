"""The Kubernetes API as far as InferenceServices need it: reading, creating and changing one; errors as Perennial's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from perennial.errors import DeployerUnavailableError, TerminalError

_GROUP, _VERSION, _PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
_KNATIVE: Final = ("serving.knative.dev", "v1")
_REVISIONS: Final = "revisions"
_TIMEOUT_S: Final = (5, 15)
"""For the connection, and for the answer."""
_MERGE: Final = "application/merge-patch+json"
_MANAGER: Final = "perennial"
_RIGHTS: Final = (
    "Its rights do not allow it: give them get, create and patch on inferenceservices (serving.kserve.io), and get on "
    "revisions (serving.knative.dev); docs/deployment-kserve.md has the Role"
)


class ConflictError(Exception):
    """The object changed since it was read, or was created or deleted meanwhile."""


def connect(kubeconfig: str | None = None) -> client.ApiClient:
    """A client for the cluster that the process runs in, or else for the kubeconfig's current context.

    Args:
        kubeconfig: file, whatever is around the process; None: KUBECONFIG, or else ~/.kube/config.

    Raises:
        TerminalError: there is neither.
    """
    configuration = client.Configuration()
    configuration.retries = 1
    outside = "not asked for"
    if kubeconfig is None:
        try:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the client is not typed
            return client.ApiClient(configuration)
        except config.ConfigException as error:
            outside = str(error)
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]  # likewise
            config_file=kubeconfig, client_configuration=configuration, persist_config=False
        )
    except (config.ConfigException, OSError, yaml.YAMLError) as error:
        raise TerminalError(
            f"no Kubernetes cluster is known: this is no pod ({outside}), and there is no usable kubeconfig ({error}). "
            "Set KUBECONFIG to a file, or run in a pod with a service account"
        ) from error
    return client.ApiClient(configuration)


class Cluster:
    """One namespace of a cluster. All methods block, for 20 s at most."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._objects = client.CustomObjectsApi(api)

    def read(self, name: str) -> dict[str, Any] | None:
        """The InferenceService; None if there is none.

        Raises:
            DeployerUnavailableError, TerminalError: as `_answers`.
        """
        with self._answers(f"read the InferenceService {name}"):
            try:
                found = self._objects.get_namespaced_custom_object(
                    _GROUP, _VERSION, self.namespace, _PLURAL, name, _request_timeout=_TIMEOUT_S
                )
            except ApiException as error:
                if error.status == 404 and _is_about(error, _PLURAL):
                    return None
                raise
        return cast("dict[str, Any]", found)

    def create(self, manifest: dict[str, Any]) -> None:
        """Create the InferenceService.

        Raises:
            ConflictError: there is one of this name by now.
            DeployerUnavailableError, TerminalError: as `_answers`.
        """
        with self._answers(f"create the InferenceService {manifest['metadata']['name']}"):
            self._objects.create_namespaced_custom_object(
                _GROUP,
                _VERSION,
                self.namespace,
                _PLURAL,
                manifest,
                field_manager=_MANAGER,
                field_validation="Strict",
                _request_timeout=_TIMEOUT_S,
            )

    def change(self, name: str, patch: dict[str, Any]) -> None:
        """Merge the patch, whose `metadata.resourceVersion` says on which state it was decided.

        Raises:
            ConflictError: the object has another state by now.
            DeployerUnavailableError, TerminalError: as `_answers`.
        """
        with self._answers(f"change the InferenceService {name}"):
            try:
                self._objects.patch_namespaced_custom_object(
                    _GROUP,
                    _VERSION,
                    self.namespace,
                    _PLURAL,
                    name,
                    patch,
                    field_manager=_MANAGER,
                    field_validation="Strict",
                    _content_type=_MERGE,
                    _request_timeout=_TIMEOUT_S,
                )
            except ApiException as error:
                if error.status == 404 and _is_about(error, _PLURAL):
                    raise ConflictError from error
                raise

    def revision(self, name: str) -> dict[str, Any] | None:
        """A revision of Knative's; None if there is none (any more).

        Raises:
            DeployerUnavailableError, TerminalError: as `_answers`.
        """
        with self._answers(f"read the revision {name}"):
            try:
                found = self._objects.get_namespaced_custom_object(
                    *_KNATIVE, self.namespace, _REVISIONS, name, _request_timeout=_TIMEOUT_S
                )
            except ApiException as error:
                if error.status == 404 and _is_about(error, _REVISIONS):
                    return None
                raise
        return cast("dict[str, Any]", found)

    @contextmanager
    def _answers(self, action: str) -> Iterator[None]:
        """Around calls; `action` follows "could not" in the messages.

        Raises:
            ConflictError: 409.
            DeployerUnavailableError: no answer, 429 or a server error.
            TerminalError: anything else that Kubernetes refuses, with its own words.
        """
        try:
            yield
        except urllib3.exceptions.HTTPError as error:
            raise DeployerUnavailableError(
                f"could not {action}: the Kubernetes API did not answer ({type(error).__name__})"
            ) from error
        except ApiException as error:
            if error.status == 409:
                raise ConflictError from error
            raise self._refusal(action, error) from error

    def _refusal(self, action: str, error: ApiException) -> Exception:
        status, said = int(error.status or 0), _message(error)
        head = f"could not {action} in namespace {self.namespace}: {said}"
        if status in (0, 429) or status >= 500:  # 0: TLS failed
            return DeployerUnavailableError(head)
        if status == 401:
            return TerminalError(f"{head}. The Kubernetes credentials are wrong or have expired; renew them")
        if status == 403 and "admission webhook" not in said:
            return TerminalError(f"{head}. {_RIGHTS}")
        if status == 404 and _is_about(error, "namespaces"):
            return TerminalError(
                f"{head}. Create the namespace, or name another one in the spec's deployment.namespace"
            )
        if status == 404:
            return TerminalError(
                f"{head}. The cluster knows no such kind: install KServe, with Knative for its Serverless mode"
            )
        return TerminalError(head)


def _is_about(error: ApiException, kind: str) -> bool:
    """Whether it is an object of this kind that is not there, and not the kind itself."""
    details = _status(error).get("details")
    return isinstance(details, dict) and details.get("kind") == kind and bool(details.get("name"))


def _message(error: ApiException) -> str:
    return str(_status(error).get("message") or error.reason or f"status {error.status}")[:1000]


def _status(error: ApiException) -> dict[str, Any]:
    """The object of kind Status that the API answers refusals with; empty if it is something else."""
    try:
        found = json.loads(error.body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
