"""Wires the ports' real adapters together. The only place that knows which adapter serves which port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from perennial.champion_door import ChampionDoor
from perennial.ledger import Ledger
from perennial.ports import Clock, Deployer, ModelRegistry, ObjectStore, SmokeTester, Validator
from perennial.settings import Settings
from perennial.spec.deployment import ScoringService
from perennial.spec.platforms import SageMaker

if TYPE_CHECKING:
    import boto3

    from perennial.spec.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Everything that a cycle needs of the world."""

    store: ObjectStore
    registry: ModelRegistry
    validator: Validator
    smoke_tester: SmokeTester
    clock: Clock
    ledger: Ledger
    root: str
    """`s3://bucket/prefix` below which Perennial keeps everything it writes."""
    specs: Path
    """Folder of the specs; suites and users' code are found from it."""
    import_roots: tuple[Path, ...]
    airflow_url: str = ""
    """Address of Airflow's web server, for links to pages; empty if it is not known."""
    sagemaker_session: Callable[[], boto3.Session | None] | None = None
    """Whose credentials and region SageMaker is called with; None, or None from it: boto3's own look-up."""
    own_deployer: Deployer | None = None
    """In place of the one that the specs ask for. For tests: no setting leads here."""

    def deployer(self, spec: ModelSpec) -> Deployer:
        """Where the model serves, by its spec's `deployment`; without one, a deployer that does nothing."""
        deployment = spec.deployment
        if self.own_deployer is not None and deployment is not None:
            return self.own_deployer
        if deployment is None:
            from perennial.adapters.deploy_nothing import NoDeployer

            return NoDeployer()
        if isinstance(deployment, ScoringService):
            from perennial.adapters.deploy_scoring_service import ScoringServiceDeployer

            return ScoringServiceDeployer(self.store, self.root, self.clock)
        if isinstance(deployment, SageMaker):
            from perennial.adapters.deploy_sagemaker import SageMakerDeployer

            return SageMakerDeployer(deployment, self.sagemaker_session)
        from perennial.adapters.deploy_kserve import KServeDeployer

        return KServeDeployer(deployment)

    @property
    def door(self) -> ChampionDoor:
        """To production."""
        return ChampionDoor(
            store=self.store, root=self.root, registry=self.registry, ledger=self.ledger, clock=self.clock
        )


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Aware, UTC."""
        return datetime.now(UTC)


def build_runtime(
    settings: Settings,
    *,
    session: boto3.Session | None = None,
    sagemaker_session: Callable[[], boto3.Session | None] | None = None,
) -> Runtime:
    """The real thing. Credentials come from the sessions, else from boto3's and MLflow's own look-up."""
    from perennial.adapters.clean_process import CleanProcess
    from perennial.adapters.great_expectations import GreatExpectationsValidator
    from perennial.adapters.mlflow_registry import MlflowRegistry
    from perennial.adapters.s3 import S3Store

    store = S3Store.from_session(session, endpoint_url=settings.s3_endpoint)
    return Runtime(
        store=store,
        registry=MlflowRegistry(settings.mlflow_tracking_uri),
        validator=GreatExpectationsValidator(),
        smoke_tester=CleanProcess(settings.smoke_test_python, settings.import_roots),
        clock=SystemClock(),
        ledger=Ledger(store, settings.store, SystemClock()),
        root=settings.store,
        specs=settings.specs,
        import_roots=settings.import_roots,
        airflow_url=settings.airflow_url,
        sagemaker_session=sagemaker_session,
    )
